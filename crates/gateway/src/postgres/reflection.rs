//! What tools that reflect tables ask of the catalog, as SQLAlchemy's inspector does, and what DataFusion does not plan of it or the
//! emulation answers too broadly: which tables need no schema, what columns have beside their type, keys of constraints and indexes.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, JoinOperator, Query,
    Select, SelectItem, SetExpr, TableFactor, TableWithJoins, Value, ValueWithSpan, Visit, Visitor,
};

use super::{
    rewrite::{last, parsed, query_of},
    route::folded,
};
use crate::scan;

/// Schemas whose tables are found without naming them.
const SEARCH_PATH: &str =
    "SELECT path_schema.oid FROM pg_catalog.pg_namespace AS path_schema WHERE path_schema.nspname IN ('pg_catalog', 'public')";

/// To the emulation every table is visible. A condition upon `pg_table_is_visible(c.oid)` becomes one upon the schema of `c`.
pub fn keep_visible(select: &mut Select) {
    let classes: Vec<String> = select.from.iter().flat_map(relations).filter_map(class).collect();
    if let Some(condition) = &mut select.selection {
        ask_schema(condition, &classes);
    }
}

fn relations(from: &TableWithJoins) -> impl Iterator<Item = &TableFactor> {
    std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
}

/// What columns of a `pg_class` are qualified with.
fn class(table: &TableFactor) -> Option<String> {
    match table {
        TableFactor::Table { name, alias, .. } if last(name) == "pg_class" => {
            Some(alias.as_ref().map_or_else(|| name.to_string(), |alias| alias.name.to_string()))
        }
        _ => None,
    }
}

fn ask_schema(condition: &mut Expr, classes: &[String]) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            ask_schema(left, classes);
            ask_schema(right, classes);
        }
        Expr::Nested(inner) => ask_schema(inner, classes),
        Expr::Function(function) if last(&function.name) == "pg_table_is_visible" => {
            let FunctionArguments::List(list) = &function.args else { return };
            let [argument] = list.args.as_slice() else { return };
            let argument = argument.to_string();
            let Some(class) = argument.strip_suffix(".oid") else { return };
            let short = format!(".{class}");
            if classes.iter().any(|known| known == class || known.ends_with(&short))
                && let Some(asked) = parsed(&format!("{class}.relnamespace IN ({SEARCH_PATH})"))
            {
                *condition = asked;
            }
        }
        _ => {}
    }
}

/// Only a backslash escapes in DataFusion's patterns: one with another ESCAPE is changed, whatever it is made of.
pub fn escape_by_backslash(pattern: &mut Expr, escape: &mut Option<ValueWithSpan>) {
    let Some(ValueWithSpan { value: Value::SingleQuotedString(character), .. }) = escape.as_ref() else { return };
    if character == "\\" || character.chars().count() != 1 {
        return;
    }
    let (one, two) = (scan::quoted(character), scan::quoted(&character.repeat(2)));
    // What escapes itself waits as a character that no name has.
    let literal = format!("replace({pattern}, chr(92), chr(92) || chr(92))");
    let changed = format!("replace(replace(replace({literal}, {two}, chr(1)), {one}, chr(92)), chr(1), {one})");
    if let Some(changed) = parsed(&changed) {
        *pattern = changed;
        *escape = None;
    }
}

/// Of what these tables list, no column has any: default values, collations other than its type's, identities.
const OF_COLUMNS: [&str; 3] = ["pg_attrdef", "pg_collation", "pg_sequence"];

/// A value that such a table would have for a column of the outer query.
pub fn is_of_no_column(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let [TableWithJoins { relation: TableFactor::Table { name, .. }, .. }] = select.from.as_slice() else { return false };
    // A count is 0 where there is nothing.
    if select.projection.iter().any(|item| item.to_string().starts_with("count(")) {
        return false;
    }
    let condition = select.selection.as_ref().map(ToString::to_string).unwrap_or_default();
    OF_COLUMNS.contains(&last(name).as_str()) && (condition.contains("attrelid") || condition.contains("attcollation"))
}

/// The columns that a key is made of, as texts: `{3,1}` and `3 1`.
const KEY_COLUMNS: [&str; 2] = ["conkey", "indkey"];

/// The numbers in such a text.
fn key_of(function: &Function) -> Option<String> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let column = match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts))) => parts.last()?,
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(name))) => name,
        _ => return None,
    };
    let is_key = KEY_COLUMNS.contains(&folded(column).as_str());
    is_key.then(|| format!("string_to_array(translate(btrim({}, '{{}}'), ' ', ','), ',')", list.args[0]))
}

/// `unnest` of a key, and its `generate_subscripts`, of which only the order matters.
pub fn key_taken_apart(function: &Function) -> Option<Expr> {
    match last(&function.name).as_str() {
        "unnest" => parsed(&format!("CAST(unnest({}) AS SMALLINT)", key_of(function)?)),
        "generate_subscripts" => parsed(&format!("CAST(unnest(range(array_length({}))) AS INTEGER)", key_of(function)?)),
        _ => None,
    }
}

/// Of these tables every row is that of a primary key.
const KEYS: [&str; 2] = ["pg_constraint", "pg_index"];

/// A query that takes indexes apart, which is not planned: it has no rows, as tables have no indexes beside those of their keys. It names every
/// column.
pub fn of_no_indexes(query: &Query) -> Option<Box<Query>> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    if !has_no_rows(select) || !query.to_string().contains("generate_subscripts(") || query.visit(&mut Indexes).is_continue() {
        return None;
    }
    let columns = select.projection.iter().map(|item| Some(format!("'' AS {}", column(item)?)));
    let columns: Vec<String> = columns.collect::<Option<_>>()?;
    query_of(&format!("SELECT {} WHERE false", columns.join(", ")))
}

fn column(item: &SelectItem) -> Option<Ident> {
    let name = match item {
        SelectItem::ExprWithAlias { alias, .. } => alias,
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => name,
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last()?,
        _ => return None,
    };
    Some(Ident::with_quote('"', folded(name)))
}

/// It reads keys, and does not count them all in one row.
fn has_no_rows(select: &Select) -> bool {
    let is_grouped = matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if !keys.is_empty());
    let mut counting = Counting(false);
    let _ = select.projection.visit(&mut counting);
    (is_grouped || !counting.0) && select.from.iter().any(reads_keys)
}

fn reads_keys(from: &TableWithJoins) -> bool {
    let mut found = are_keys(&from.relation);
    for join in &from.joins {
        match join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) => found |= are_keys(&join.relation),
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => {}
            _ => return false,
        }
    }
    found
}

fn are_keys(table: &TableFactor) -> bool {
    match table {
        TableFactor::Table { name, .. } => KEYS.contains(&last(name).as_str()),
        TableFactor::Derived { subquery, .. } => match subquery.body.as_ref() {
            SetExpr::Select(select) => has_no_rows(select),
            _ => false,
        },
        _ => false,
    }
}

/// Breaks where more is taken apart than a key.
struct Indexes;

impl Visitor for Indexes {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expression else { return ControlFlow::Continue(()) };
        let is_of_indexes = match last(&function.name).as_str() {
            "pg_get_indexdef" => true,
            "unnest" | "generate_subscripts" => key_of(function).is_none(),
            _ => false,
        };
        if is_of_indexes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Whether a function is called that may be an aggregate.
struct Counting(bool);

impl Visitor for Counting {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expression {
            let name = last(&function.name);
            self.0 |= !name.starts_with("pg_") && name != "unnest" && name != "generate_subscripts";
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        prelude::SessionContext,
        sql::sqlparser::{dialect::PostgreSqlDialect, parser::Parser},
    };

    use super::*;
    use crate::postgres::rewrite::rewrite;

    fn rewritten(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        rewrite(&mut statement);
        statement.to_string()
    }

    #[test]
    fn tables_of_the_search_path_are_visible() {
        for (sql, qualifier) in [
            ("SELECT 1 FROM pg_catalog.pg_class AS c WHERE c.relkind = 'r' AND (pg_table_is_visible(c.oid) AND true)", "c"),
            (
                "SELECT 1 FROM pg_namespace JOIN pg_catalog.pg_class ON true WHERE pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)",
                "pg_catalog.pg_class",
            ),
            ("SELECT 1 FROM pg_catalog.pg_class WHERE pg_table_is_visible(pg_class.oid)", "pg_class"),
        ] {
            let expected = format!("{qualifier}.relnamespace IN ({SEARCH_PATH})");
            assert!(rewritten(sql).contains(&expected), "{}", rewritten(sql));
        }
        for sql in [
            "SELECT pg_table_is_visible(c.oid) FROM pg_class AS c",
            "SELECT 1 FROM pg_class AS c WHERE pg_table_is_visible(t.oid)",
            "SELECT 1 FROM pg_class AS c WHERE pg_table_is_visible(c.oid) OR c.relkind = 'v'",
        ] {
            assert_eq!(rewritten(sql), sql);
        }
    }

    #[tokio::test]
    async fn patterns_have_any_escape() {
        let session = SessionContext::new();
        for (text, pattern, matches) in [
            ("pg_x", "pg/_%", true),
            ("pgax", "pg/_%", false),
            ("a/b", "a//b", true),
            ("a/_b", "a///_b", true),
            ("a/xb", "a///_b", false),
            ("a\\b", "a\\b", true),
            ("ab", "a\\b", false),
            ("10%", "10/%", true),
            ("101", "10/%", false),
        ] {
            let sql = rewritten(&format!("SELECT '{text}' LIKE '{pattern}' || '' ESCAPE '/'"));
            let rows = session.sql(&sql).await.unwrap().collect().await.unwrap();
            let shown = datafusion::arrow::util::display::array_value_to_string(rows[0].column(0), 0).unwrap();
            assert_eq!(shown, matches.to_string(), "{text} {pattern}: {sql}");
        }
        assert_eq!(rewritten("SELECT a LIKE 'b' ESCAPE '\\' FROM t"), "SELECT a LIKE 'b' ESCAPE '\\' FROM t");
    }

    #[test]
    fn columns_have_no_default_no_identity_and_no_collation() {
        for (sql, expected) in [
            (
                "SELECT CASE WHEN a.atthasdef THEN (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d WHERE d.adrelid = a.attrelid) ELSE NULL END FROM a",
                "SELECT CASE WHEN a.atthasdef THEN NULL ELSE NULL END FROM a",
            ),
            (
                "SELECT CASE WHEN a.b THEN (SELECT json_build_object('name', c.collname) FROM pg_catalog.pg_collation AS c JOIN n ON true WHERE c.oid = a.attcollation) END FROM a",
                "SELECT CASE WHEN a.b THEN NULL END FROM a",
            ),
            ("SELECT (SELECT count(*) FROM pg_collation) FROM a", "SELECT (SELECT count(*) FROM pg_collation) FROM a"),
            (
                "SELECT (SELECT count(*) FROM pg_attrdef AS d WHERE d.adrelid = a.attrelid) FROM a",
                "SELECT (SELECT count(*) FROM pg_attrdef AS d WHERE d.adrelid = a.attrelid) FROM a",
            ),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }

    const KEYS_OF_TABLES: &str =
        "SELECT k.conrelid AS conrelid, unnest(i.indkey) AS attnum, generate_subscripts(i.indkey, 1) AS ord
        FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_index AS i ON k.conindid = i.indexrelid";

    fn named(keys: &str) -> String {
        format!(
            "SELECT attr.conrelid, array_agg(CAST(attr.attname AS TEXT) ORDER BY attr.ord) AS cols FROM
             (SELECT con.conrelid, a.attname, con.ord FROM pg_attribute AS a JOIN ({keys}) AS con ON a.attrelid = con.conrelid) AS attr
             GROUP BY attr.conrelid ORDER BY attr.conrelid"
        )
    }

    #[tokio::test]
    async fn keys_are_taken_apart() {
        let keys = rewritten(&named(KEYS_OF_TABLES));
        assert!(keys.contains("CAST(unnest(string_to_array(") && !keys.contains("generate_subscripts"), "{keys}");
        let session = SessionContext::new();
        for (key, expected) in [("indkey", "3 1"), ("conkey", "{3,1}")] {
            let of = format!("FROM (VALUES ('{expected}')) AS i ({key})");
            let sql = rewritten(&format!("SELECT unnest(i.{key}) AS attnum, generate_subscripts(i.{key}, 1::INTEGER) AS ord {of}"));
            let rows = session.sql(&format!("SELECT attnum * 10 + ord FROM ({sql}) AS k ORDER BY ord")).await.unwrap();
            let rows = rows.collect().await.unwrap();
            let shown = |row| datafusion::arrow::util::display::array_value_to_string(rows[0].column(0), row).unwrap();
            assert_eq!([shown(0), shown(1)], ["30", "11"], "{sql}");
        }
        assert_eq!(rewritten("SELECT unnest(a) FROM t"), "SELECT unnest(a) FROM t");
    }

    #[test]
    fn there_are_no_indexes_to_take_apart() {
        let indexes = KEYS_OF_TABLES.replace("generate_subscripts", "unnest(i.indclass) AS class, generate_subscripts");
        assert_eq!(rewritten(&named(&indexes)), "SELECT '' AS \"conrelid\", '' AS \"cols\" WHERE false");
        let defined = KEYS_OF_TABLES.replace("k.conrelid AS", "pg_get_indexdef(i.indexrelid) AS");
        assert_eq!(rewritten(&named(&defined)), "SELECT '' AS \"conrelid\", '' AS \"cols\" WHERE false");
        for sql in [
            format!("SELECT count(*) AS n FROM ({indexes}) AS con"),
            format!("SELECT c.relname AS n FROM pg_class AS c LEFT JOIN ({indexes}) AS con ON c.oid = con.conrelid"),
            "SELECT i.indrelid AS n FROM pg_index AS i".to_owned(),
        ] {
            assert!(!rewritten(&sql).ends_with("WHERE false"), "{}", rewritten(&sql));
        }
    }
}
