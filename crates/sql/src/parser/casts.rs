//! `SELECT CAST(n AS INT) FROM t ORDER BY n` orders by what is selected, which is named `n` as in PostgreSQL. To DataFusion the cast and the column have one name, and it finds no order
//! then: so the cast is given the name that it has. Casts to ROW and MAP, which sqlparser does not read, are refused.
use std::{convert::Infallible, ops::ControlFlow};

use datafusion::sql::sqlparser::{
    ast::{Expr, Ident, Query, Select, SelectItem, SetExpr, VisitorMut},
    tokenizer::{Token, TokenWithSpan},
};

use crate::{error::SqlError, walk::visit_mut};

/// Refuses `CAST(x AS ROW<…>)`, `CAST(x AS ROW(a INT))`, `x::MAP<…>` and arrays of them.
pub(super) fn refuse_nested(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let is_word = |token: &Token, words: &[&str]| match token {
        Token::Word(word) => word.quote_style.is_none() && words.iter().any(|known| word.value.eq_ignore_ascii_case(known)),
        _ => false,
    };
    let words: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    for (place, three) in words.windows(3).enumerate() {
        let is_cast = is_word(&three[0].token, &["AS"]) || three[0].token == Token::DoubleColon;
        // A name of a table's alias may be followed by names of columns, but not by their types.
        let has_fields = || words[place + 3..].iter().take(2).filter(|token| matches!(token.token, Token::Word(_))).count() == 2;
        let is_nested = match three[2].token {
            Token::Lt => is_cast || three[0].token == Token::Lt,
            Token::LParen => is_cast && is_word(&three[1].token, &["ROW"]) && has_fields(),
            _ => false,
        };
        if is_nested && is_word(&three[1].token, &["ROW", "MAP"]) {
            let message = format!(
                "a cast to {} is not supported; build it of casts: named_struct('a', CAST(x AS INT)) for a ROW, map(keys, values) for a MAP, or declare the table's column so",
                three[1].token
            );
            return Err(SqlError::unsupported_at(three[1].span.start.into(), message));
        }
    }
    Ok(())
}

pub(super) fn name(query: &mut Query) {
    let done = visit_mut(query, &mut Casts);
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

struct Casts;

impl VisitorMut for Casts {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Infallible> {
        // HAVING would mean the cast by that name, too.
        if query.order_by.is_some()
            && let SetExpr::Select(select) = query.body.as_mut()
            && select.having.is_none()
        {
            name_casts(select);
        }
        ControlFlow::Continue(())
    }
}

fn name_casts(select: &mut Select) {
    let names: Vec<Option<Ident>> = select.projection.iter().map(name_of).collect();
    for (place, item) in select.projection.iter_mut().enumerate() {
        let (SelectItem::UnnamedExpr(expression), Some(name)) = (&*item, &names[place]) else { continue };
        let is_column = matches!(expression, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        if !is_column && names.iter().filter(|other| other.as_ref() == Some(name)).count() == 1 {
            *item = SelectItem::ExprWithAlias { expr: expression.clone(), alias: name.clone() };
        }
    }
}

fn name_of(item: &SelectItem) -> Option<Ident> {
    match item {
        SelectItem::UnnamedExpr(expression) => column(expression),
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        _ => None,
    }
}

/// What a column is named after: casts leave the name.
pub(crate) fn beneath(expression: &Expr) -> &Expr {
    match expression {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => beneath(expr),
        other => other,
    }
}

/// The column that an expression is, or casts.
pub(super) fn column(expression: &Expr) -> Option<Ident> {
    match beneath(expression) {
        Expr::Identifier(name) => Some(name.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().cloned(),
        _ => None,
    }
}
