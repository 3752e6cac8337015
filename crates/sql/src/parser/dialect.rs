//! The generic dialect of sqlparser, in which `->`, `->>` and `||` bind more tightly than comparisons, as in PostgreSQL, and which reads SQL's
//! own words in JSON_OBJECT and its like, `IS JSON`, `BETWEEN SYMMETRIC`, Flink's `MAP['a', 1]`, and `TRIM(LEADING FROM s)`, where what is
//! trimmed is left out.
use std::any::TypeId;

use datafusion::sql::sqlparser::{
    ast::{BinaryOperator, Expr},
    dialect::{Dialect, GenericDialect},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::Token,
};

use super::{building::MAX_REPEATED, json_clauses};

/// Below `+` and `-`, above everything else. What takes a step goes before what joins texts, so that `'a' || json ->> 'b'` is what it looks like.
const STEP: u8 = 27;
const JOINED: u8 = 26;

const SIDES: &[Keyword] = &[Keyword::LEADING, Keyword::TRAILING, Keyword::BOTH];

#[derive(Debug)]
pub(crate) struct Generic;

macro_rules! as_generic {
    ($($ability:ident)*) => {
        $(fn $ability(&self) -> bool {
            GenericDialect {}.$ability()
        })*
    };
}

impl Dialect for Generic {
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        GenericDialect {}.is_delimited_identifier_start(character)
    }

    fn is_identifier_start(&self, character: char) -> bool {
        GenericDialect {}.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        GenericDialect {}.is_identifier_part(character)
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        match parser.peek_token_ref().token {
            Token::Arrow | Token::LongArrow => Some(Ok(STEP)),
            Token::StringConcat => Some(Ok(JOINED)),
            _ => None,
        }
    }

    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        let [Token::Word(word), bracket @ (Token::LParen | Token::LBracket)] = parser.peek_tokens() else { return None };
        if word.quote_style.is_some() {
            return None;
        }
        if bracket == Token::LBracket {
            let is_map = word.value.eq_ignore_ascii_case("map") && json_clauses::has_items(parser);
            return is_map.then(|| json_clauses::map_of(parser));
        }
        if word.value.eq_ignore_ascii_case("ceiling") {
            parser.advance_token();
            return Some(parser.parse_ceil_floor_expr(true));
        }
        if word.value.eq_ignore_ascii_case("trim") && trims_spaces(parser) {
            return Some(trim_of_spaces(parser));
        }
        json_clauses::read(&word.value, parser)
    }

    fn parse_infix(&self, parser: &mut Parser<'_>, left: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        let keyword = match &parser.peek_token_ref().token {
            Token::Word(word) => word.keyword,
            _ => return None,
        };
        match keyword {
            Keyword::IS => json_clauses::is_json(parser, left).map(Ok),
            Keyword::BETWEEN | Keyword::NOT => symmetric(parser, left).transpose(),
            _ => None,
        }
    }

    // All that the generic dialect says of itself.
    as_generic! {
        supports_unicode_string_literal
        supports_partition_by_after_order_by
        supports_array_join_syntax
        supports_group_by_expr
        supports_group_by_with_modifier
        supports_left_associative_joins_without_parens
        supports_connect_by
        supports_match_recognize
        supports_pipe_operator
        supports_start_transaction_modifier
        supports_window_function_null_treatment_arg
        supports_dictionary_syntax
        supports_window_clause_named_window_reference
        supports_parenthesized_set_variables
        supports_select_wildcard_except
        support_map_literal_syntax
        allow_extract_custom
        allow_extract_single_quotes
        supports_extract_comma_syntax
        supports_create_view_comment_syntax
        supports_parens_around_table_factor
        supports_values_as_table_factor
        supports_create_index_with_clause
        supports_explain_with_utility_options
        supports_limit_comma
        supports_update_order_by
        supports_from_first_select
        supports_projection_trailing_commas
        supports_asc_desc_in_column_definition
        supports_try_convert
        supports_bitwise_shift_operators
        supports_comment_on
        supports_load_extension
        supports_named_fn_args_with_assignment_operator
        supports_struct_literal
        supports_empty_projections
        supports_nested_comments
        supports_multiline_comment_hints
        supports_user_host_grantee
        supports_string_escape_constant
        supports_array_typedef_with_brackets
        supports_match_against
        supports_set_names
        supports_comma_separated_set_assignments
        supports_filter_during_aggregation
        supports_select_wildcard_exclude
        supports_data_type_signed_suffix
        supports_interval_options
        supports_quote_delimited_string
        supports_select_wildcard_replace
        supports_select_wildcard_ilike
        supports_select_wildcard_rename
        supports_optimize_table
        supports_install
        supports_detach
        supports_prewhere
        supports_with_fill
        supports_limit_by
        supports_interpolate
        supports_settings
        supports_select_format
        supports_comment_optimizer_hint
        supports_constraint_keyword_without_name
        supports_key_column_option
        supports_comma_separated_trim
        supports_cte_without_as
        supports_select_item_multi_column_alias
        supports_xml_expressions
    }
}

/// `x [NOT] BETWEEN SYMMETRIC a AND b`, whose bounds stand in any order; ASYMMETRIC says nothing. `None`: something else.
fn symmetric(parser: &mut Parser<'_>, value: &Expr) -> Result<Option<Expr>, ParserError> {
    let is = |token: &Token, keyword: Keyword| matches!(token, Token::Word(word) if word.keyword == keyword);
    let [first, second, third, fourth] = parser.peek_tokens();
    let negated = is(&first, Keyword::NOT);
    let (between, word, next) = if negated { (second, third, fourth) } else { (first, second, third) };
    let is_asymmetric = is(&word, Keyword::ASYMMETRIC);
    // A column may have that name.
    if !is(&between, Keyword::BETWEEN) || !(is_asymmetric || is(&word, Keyword::SYMMETRIC)) || is(&next, Keyword::AND) {
        return Ok(None);
    }
    for _ in 0..if negated { 3 } else { 2 } {
        parser.advance_token();
    }
    if is_asymmetric {
        return parser.parse_between(value.clone(), negated).map(Some);
    }
    let Expr::Between { expr, low, high, .. } = parser.parse_between(value.clone(), false)? else { return Ok(None) };
    if expr.to_string().len() + low.to_string().len() + high.to_string().len() > MAX_REPEATED {
        let message = format!("what BETWEEN SYMMETRIC compares is longer than {MAX_REPEATED} bytes; compute it in a subquery");
        return Err(ParserError::ParserError(message));
    }
    let not = if negated { "NOT " } else { "" };
    let written =
        json_clauses::said(&[&expr, &low, &high], |said| format!("{} {not}BETWEEN SYMMETRIC {} AND {}", said[0], said[1], said[2]));
    let between = |low: &Expr, high: &Expr| {
        Box::new(Expr::Between { expr: expr.clone(), negated: false, low: Box::new(low.clone()), high: Box::new(high.clone()) })
    };
    let either = Expr::BinaryOp { left: between(&low, &high), op: BinaryOperator::Or, right: between(&high, &low) };
    Ok(Some(json_clauses::meant(&written, either, negated)))
}

/// Whether `TRIM([LEADING | TRAILING | BOTH] FROM s)` comes, which does not say what is trimmed.
fn trims_spaces(parser: &Parser<'_>) -> bool {
    let is = |token: &Token, keywords: &[Keyword]| matches!(token, Token::Word(word) if keywords.contains(&word.keyword));
    let [_, _, first, second] = parser.peek_tokens();
    is(&first, &[Keyword::FROM]) || is(&first, SIDES) && is(&second, &[Keyword::FROM])
}

fn trim_of_spaces(parser: &mut Parser<'_>) -> Result<Expr, ParserError> {
    parser.advance_token();
    parser.expect_token(&Token::LParen)?;
    let trim_where = if parser.parse_keyword(Keyword::FROM) {
        None
    } else {
        let side = parser.parse_trim_where()?;
        parser.expect_keyword_is(Keyword::FROM)?;
        Some(side)
    };
    let expr = Box::new(parser.parse_expr()?);
    parser.expect_token(&Token::RParen)?;
    Ok(Expr::Trim { trim_where, trim_what: None, expr, trim_characters: None })
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use regex::Regex;

    use super::*;
    use crate::walk::visit_expressions_mut;

    #[test]
    fn steps_into_json_are_taken_before_they_are_compared() {
        let places = Regex::new(r"Span\(Location\(\d+,\d+\)\.\.Location\(\d+,\d+\)\)").unwrap();
        for (written, meant) in [
            ("p ->> 'a' = 'x' AND q", "((p ->> 'a') = 'x') AND q"),
            ("'x' = p ->> 'a'", "'x' = (p ->> 'a')"),
            ("a.p ->> 'k' = b.p ->> 'k'", "(a.p ->> 'k') = (b.p ->> 'k')"),
            ("p -> 'a' ->> 'b' LIKE 'x%'", "((p -> 'a') ->> 'b') LIKE 'x%'"),
            ("p ->> 'a' IS NULL", "(p ->> 'a') IS NULL"),
            ("p ->> 'a' IN ('x')", "(p ->> 'a') IN ('x')"),
            ("p ->> 'a' BETWEEN 'x' AND 'y'", "(p ->> 'a') BETWEEN 'x' AND 'y'"),
            ("p ->> 'k' || '!'", "(p ->> 'k') || '!'"),
            ("'p=' || p ->> 'k' || '!'", "('p=' || (p ->> 'k')) || '!'"),
            ("p -> n - 1", "p -> (n - 1)"),
            ("'a' || n + 1 = 'b'", "('a' || (n + 1)) = 'b'"),
            ("p ->> 'n'::int", "p ->> ('n'::int)"),
        ] {
            let tree = |sql: &str| {
                let parsed = Parser::new(&Generic).try_with_sql(sql).and_then(|mut parser| parser.parse_expr());
                let tree = format!("{:?}", without_brackets(parsed.unwrap()));
                places.replace_all(&tree, "").into_owned()
            };
            assert_eq!(tree(written), tree(meant), "{written}");
        }
    }

    #[test]
    fn spaces_are_trimmed_where_nothing_else_is_said() {
        for (written, meant) in [
            ("TRIM(LEADING FROM s)", "TRIM(LEADING s)"),
            ("trim(both FROM s || 'x')", "TRIM(BOTH s || 'x')"),
            ("TRIM(TRAILING FROM s) = 'a'", "TRIM(TRAILING s) = 'a'"),
            ("TRIM(FROM s)", "TRIM(s)"),
            ("TRIM(LEADING 'x' FROM s)", "TRIM(LEADING 'x' FROM s)"),
            ("TRIM(s)", "TRIM(s)"),
        ] {
            let parsed = Parser::new(&Generic).try_with_sql(written).and_then(|mut parser| parser.parse_expr());
            assert_eq!(parsed.unwrap().to_string(), meant, "{written}");
        }
    }

    fn without_brackets(mut expression: Expr) -> Expr {
        let _: ControlFlow<()> = visit_expressions_mut(&mut expression, |expression| {
            if let Expr::Nested(inner) = expression {
                *expression = inner.as_ref().clone();
            }
            ControlFlow::Continue(())
        });
        expression
    }
}
