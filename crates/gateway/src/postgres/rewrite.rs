//! What PostgreSQL's clients write and DataFusion does not plan, rewritten after the emulation's own rules: arrays made of a query, single
//! values taken from a query, the text of a view.
use std::{collections::HashSet, ops::ControlFlow};

use datafusion::sql::sqlparser::{
    ast::{
        DataType, Expr, FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName, Query, Select, SelectItem, SetExpr,
        Statement, TableFactor, TableWithJoins, Value, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut, visit_relations,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};
use polybolos_tables::plain::shortened;

use super::{
    functions::{EXISTING, SETTINGS, setting},
    reflection::{escape_by_backslash, is_of_no_column, keep_visible, key_taken_apart, of_no_indexes},
};
use crate::scan;

pub fn rewrite(statement: &mut Statement) {
    if let Statement::ShowVariable { variable } = statement {
        match variable.as_mut_slice() {
            [name] if name.value.eq_ignore_ascii_case("timezone") => *variable = vec![Ident::new("TIME"), Ident::new("ZONE")],
            [name] => {
                if let Some(shown) = shown(&name.value) {
                    *statement = Statement::Query(shown);
                }
            }
            [transaction, isolation, _]
                if transaction.value.eq_ignore_ascii_case("transaction") && isolation.value.eq_ignore_ascii_case("isolation") =>
            {
                if let Some(shown) = shown("transaction_isolation") {
                    *statement = Statement::Query(shown);
                }
            }
            _ => {}
        }
    }
    if let Statement::Query(query) = statement
        && let Some(empty) = list_of_none(query).or_else(|| of_no_indexes(query))
    {
        *statement = Statement::Query(empty);
    }
    let _ = statement.visit(&mut Rewriter);
}

/// Values that a query of no table selects are called as the engine calls them: as they are written, shortened, and where another
/// has that name with their place behind it. To DataFusion `1` is `Int64(1)`.
pub fn name_values(statement: &mut Statement) {
    if let Statement::Query(query) = statement {
        name_items(query);
    }
}

fn name_items(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    match (select.projection.as_slice(), select.from.as_mut_slice()) {
        (_, []) => {}
        ([SelectItem::Wildcard(_)], [TableWithJoins { relation: TableFactor::Derived { subquery, .. }, joins }])
            if joins.is_empty() =>
        {
            return name_items(subquery);
        }
        _ => return,
    }
    let alias = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        _ => None,
    };
    let mut known: HashSet<String> = select.projection.iter().filter_map(alias).collect();
    for (place, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let written = shortened(&expr.to_string());
        // The statement becomes a text again, in which not every quote within quotes is the same.
        if asks_a_table(expr) || written.contains('"') {
            continue;
        }
        let twin = format!("{written} ({})", place + 1);
        if let Some(name) = [written, twin].into_iter().find(|name| known.insert(name.clone())) {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', name) };
        }
    }
}

/// The emulation writes queries of its own in place of casts to `regclass` and its like.
fn asks_a_table(expression: &Expr) -> bool {
    visit_relations(expression, |_| ControlFlow::Break(())).is_break()
}

/// Of what these tables list, nobody can make anything here.
const NONE: [&str; 5] = ["pg_collation", "pg_description", "pg_event_trigger", "pg_language", "pg_statistic_ext"];

/// The lists of psql over such a table ask for much that is not planned; they have no rows, whatever they compute. They name every column.
fn list_of_none(query: &Query) -> Option<Box<Query>> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let is_none = |table: &TableFactor| matches!(table, TableFactor::Table { name, .. } if NONE.contains(&last(name).as_str()));
    let mut of_none = false;
    for from in &select.from {
        of_none |= is_none(&from.relation);
        for join in &from.joins {
            match join.join_operator {
                JoinOperator::Join(_) | JoinOperator::Inner(_) => of_none |= is_none(&join.relation),
                JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => {}
                _ => return None,
            }
        }
    }
    if !of_none || query.order_by.is_none() {
        return None;
    }
    let name = |item: &SelectItem| match item {
        // A count has a row also where there is nothing.
        SelectItem::ExprWithAlias { expr, alias } if alias.quote_style.is_some() && !expr.to_string().starts_with("count(") => {
            Some(format!("'' AS {alias}"))
        }
        _ => None,
    };
    let columns: Vec<String> = select.projection.iter().map(name).collect::<Option<_>>()?;
    query_of(&format!("SELECT {} WHERE false", columns.join(", ")))
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        keep_visible(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        match expression {
            Expr::Function(function) => {
                let replacement = match (last(&function.name).as_str(), &function.args) {
                    ("array", FunctionArguments::Subquery(query)) => array_of(query),
                    ("pg_get_viewdef", FunctionArguments::List(list)) => {
                        list.args.first().and_then(|view| view_text(&view.to_string()))
                    }
                    ("to_regtype", FunctionArguments::List(list)) => {
                        list.args.first().and_then(|name| type_number(&name.to_string()))
                    }
                    _ => key_taken_apart(function),
                };
                if let Some(replacement) = replacement {
                    *expression = replacement;
                }
            }
            Expr::Cast { expr, data_type, .. } => {
                let is_oid = matches!(data_type, DataType::Custom(name, _) if last(name) == "oid");
                take_first(expr);
                if is_oid && let Some(existing) = existing(expr) {
                    **expr = existing;
                }
            }
            Expr::BinaryOp { left, right, .. } => {
                compare_by_name(left, right);
                compare_by_name(right, left);
                take_first(left);
                take_first(right);
            }
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                escape_by_backslash(pattern, escape_char);
            }
            Expr::Subquery(query) if is_of_no_column(query) => *expression = Expr::Value(Value::Null.with_empty_span()),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// SHOW of what nothing changes; what SET changes is shown by who keeps it.
fn shown(name: &str) -> Option<Box<Query>> {
    let sql = if name.eq_ignore_ascii_case("all") {
        let row = |(name, value): &(&str, &str)| format!("({}, {}, '')", scan::quoted(name), scan::quoted(value));
        let rows = SETTINGS.iter().map(row).collect::<Vec<_>>().join(", ");
        format!("SELECT name, setting, description FROM (VALUES {rows}) AS settings (name, setting, description)")
    } else {
        let name = name.to_ascii_lowercase();
        let value = setting(&name).filter(|_| name != "search_path")?;
        format!("SELECT {} AS {name}", scan::quoted(value))
    };
    query_of(&sql)
}

pub fn query_of(sql: &str) -> Option<Box<Query>> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).and_then(|mut parser| parser.parse_query()).ok()
}

pub fn last(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(|ident| ident.value.to_lowercase()).unwrap_or_default()
}

/// `ARRAY(SELECT x …)`.
fn array_of(query: &Query) -> Option<Expr> {
    if is_of_nothing(query) {
        return parsed("arrow_cast(make_array(), 'List(Utf8)')");
    }
    aggregated(query, "array_agg")
}

/// Policies and the options of tables do not exist here, and what is asked about them is not planned.
fn is_of_nothing(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let [from] = select.from.as_slice() else { return false };
    let relation = from.relation.to_string().to_ascii_lowercase();
    let relation = relation.strip_prefix("pg_catalog.").unwrap_or(&relation);
    relation.starts_with("pg_policy ") || relation.starts_with("unnest(") && relation.contains("reloptions)")
}

/// A query in place of a value needs an aggregate, or DataFusion does not believe that it brings one row.
fn take_first(expression: &mut Expr) {
    let Expr::Subquery(query) = expression else { return };
    if !calls_something(query)
        && let Some(first) = aggregated(query, "first_value")
    {
        *expression = first;
    }
}

/// Perhaps an aggregate.
fn calls_something(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return true };
    select.projection.iter().any(|item| item.to_string().contains('('))
}

fn aggregated(query: &Query, function: &str) -> Option<Expr> {
    let mut query = query.clone();
    if query.with.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
        return None;
    }
    let order = query.order_by.take().map(|order| order.to_string());
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let is_whole = matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    if !is_whole || select.distinct.is_some() {
        return None;
    }
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] = select.projection.as_mut_slice() else {
        return None;
    };
    let order = match order.as_deref() {
        Some("ORDER BY 1") => format!(" ORDER BY {item}"),
        Some(order) => format!(" {order}"),
        None => String::new(),
    };
    *item = parsed(&format!("{function}({item}{order})"))?;
    Some(Expr::Subquery(Box::new(query)))
}

/// `'name'::regclass::oid`, already a query, fails where nothing has that name.
fn existing(expression: &Expr) -> Option<Expr> {
    let Expr::Subquery(query) = expression else { return None };
    parsed(&format!("{EXISTING}({expression}, {})", scan::quoted(&first_text(query)?)))
}

fn first_text(query: &Query) -> Option<String> {
    let mut text = FirstText(None);
    let _ = query.visit(&mut text);
    text.0
}

struct FirstText(Option<String>);

impl Visitor for FirstText {
    type Break = ();

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<()> {
        match &value.value {
            Value::SingleQuotedString(text) => {
                self.0 = Some(text.clone());
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// In these columns of `pg_type` PostgreSQL has numbers of procedures, and the emulation their names.
const PROCEDURES: [&str; 6] = ["typinput", "typmodin", "typmodout", "typoutput", "typreceive", "typsend"];

/// What such a column is compared with: the number of a procedure, or `'name'::regproc`, already a query.
fn compare_by_name(column: &Expr, other: &mut Expr) {
    let name = match column {
        Expr::Identifier(name) => Some(name),
        Expr::CompoundIdentifier(parts) => parts.last(),
        _ => None,
    };
    if !name.is_some_and(|name| PROCEDURES.contains(&name.value.to_lowercase().as_str())) {
        return;
    }
    match other {
        Expr::CompoundIdentifier(parts) => {
            if let Some(part) = parts.last_mut()
                && part.value.eq_ignore_ascii_case("oid")
            {
                *part = Ident::new("proname");
            }
        }
        Expr::Subquery(query) => {
            let literal =
                first_text(query).and_then(|name| parsed(&scan::quoted(name.strip_prefix("pg_catalog.").unwrap_or(&name))));
            if let Some(literal) = literal {
                *other = literal;
            }
        }
        _ => {}
    }
}

fn type_number(name: &str) -> Option<Expr> {
    parsed(&format!("(SELECT first_value(named_type.oid) FROM pg_catalog.pg_type AS named_type WHERE named_type.typname = {name})"))
}

fn view_text(oid: &str) -> Option<Expr> {
    parsed(&format!(
        "(SELECT first_value(view_text.definition) FROM pg_catalog.pg_class AS view_class
          JOIN pg_catalog.pg_namespace AS view_schema ON view_schema.oid = view_class.relnamespace
          JOIN pg_catalog.pg_views AS view_text ON view_text.viewname = view_class.relname AND view_text.schemaname = view_schema.nspname
          WHERE view_class.oid = {oid})"
    ))
}

pub fn parsed(expression: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(expression).and_then(|mut parser| parser.parse_expr()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_become_values() {
        for (sql, expected) in [
            (
                "SELECT ARRAY(SELECT b.rolname FROM m JOIN b ON m.roleid = b.oid WHERE m.member = r.oid) FROM r",
                "SELECT (SELECT array_agg(b.rolname) FROM m JOIN b ON m.roleid = b.oid WHERE m.member = r.oid) FROM r",
            ),
            ("SELECT array(SELECT a FROM t ORDER BY b, c)", "SELECT (SELECT array_agg(a ORDER BY b, c) FROM t)"),
            ("SELECT array(SELECT a FROM t ORDER BY 1)", "SELECT (SELECT array_agg(a ORDER BY a) FROM t)"),
            ("SELECT array(SELECT DISTINCT a FROM t)", "SELECT array(SELECT DISTINCT a FROM t)"),
            (
                "SELECT array(SELECT x FROM unnest(c.reloptions) AS x), ARRAY(SELECT polname FROM pg_catalog.pg_policy AS pol)",
                "SELECT arrow_cast(make_array(), 'List(Utf8)'), arrow_cast(make_array(), 'List(Utf8)')",
            ),
            (
                "SELECT 1 FROM t WHERE t.a = 0 OR (SELECT c.b = 'c' FROM c WHERE c.a = t.a)",
                "SELECT 1 FROM t WHERE t.a = 0 OR (SELECT first_value(c.b = 'c') FROM c WHERE c.a = t.a)",
            ),
            ("SELECT 1 FROM t WHERE t.a = (SELECT max(a) FROM c)", "SELECT 1 FROM t WHERE t.a = (SELECT max(a) FROM c)"),
            (
                "SELECT l.lanname AS \"Name\", d.description AS \"Description\" FROM pg_catalog.pg_language AS l LEFT JOIN pg_catalog.pg_description AS d ON d.classoid = l.tableoid ORDER BY 1",
                "SELECT '' AS \"Name\", '' AS \"Description\" WHERE false",
            ),
            (
                "SELECT tt.name AS \"Name\" FROM (SELECT 1) AS tt JOIN pg_catalog.pg_description AS d ON tt.oid = d.objoid ORDER BY 1",
                "SELECT '' AS \"Name\" WHERE false",
            ),
            (
                "SELECT a.attname AS \"Name\" FROM a LEFT JOIN pg_description AS d ON a.oid = d.objoid ORDER BY 1",
                "SELECT a.attname AS \"Name\" FROM a LEFT JOIN pg_description AS d ON a.oid = d.objoid ORDER BY 1",
            ),
            ("SELECT count(*) AS \"n\" FROM pg_language ORDER BY 1", "SELECT count(*) AS \"n\" FROM pg_language ORDER BY 1"),
            (
                "SELECT 1 FROM pg_type AS t JOIN pg_proc AS p ON p.oid = t.typreceive WHERE t.oid = p.oid",
                "SELECT 1 FROM pg_type AS t JOIN pg_proc AS p ON p.proname = t.typreceive WHERE t.oid = p.oid",
            ),
            (
                "SELECT typinput = (SELECT oid FROM p WHERE proname = 'pg_catalog.array_in') FROM pg_type",
                "SELECT typinput = 'array_in' FROM pg_type",
            ),
            (
                "SELECT CAST((SELECT oid FROM p WHERE proname = 'f') AS oid)",
                "SELECT CAST(polybolos_existing((SELECT first_value(oid) FROM p WHERE proname = 'f'), 'f') AS oid)",
            ),
        ] {
            let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }

    #[test]
    fn values_are_called_as_they_are_written() {
        let (a, b) = (format!("'{}'", "a".repeat(99)), format!("'{}b'", "a".repeat(98)));
        let (long, cut) = (format!("SELECT {a}, {b}"), format!("'{}…", "a".repeat(59)));
        let shortened_twins = format!(r#"SELECT {a} AS "{cut}", {b} AS "{cut} (2)""#);
        for (sql, expected) in [
            ("SELECT 1+2, 'a', 'a\\\"'", r#"SELECT 1 + 2 AS "1 + 2", 'a' AS "'a'", 'a\"'"#),
            ("SELECT 1, 1, 2 AS \"3\", 3", r#"SELECT 1 AS "1", 1 AS "1 (2)", 2 AS "3", 3 AS "3 (4)""#),
            (long.as_str(), shortened_twins.as_str()),
            ("SELECT (SELECT max(a) FROM t), version()", r#"SELECT (SELECT max(a) FROM t), version() AS "version()""#),
            ("SELECT 1 FROM pg_class", "SELECT 1 FROM pg_class"),
            ("SELECT * FROM (SELECT 1) AS x", r#"SELECT * FROM (SELECT 1 AS "1") AS x"#),
            ("SELECT a FROM (SELECT 1 AS a, 2) AS x", "SELECT a FROM (SELECT 1 AS a, 2) AS x"),
            ("SHOW timezone", "SHOW timezone"),
        ] {
            let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
            name_values(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }

    #[test]
    fn settings_are_shown() {
        for (sql, expected) in [
            ("SHOW server_encoding", "SELECT 'UTF8' AS server_encoding"),
            ("SHOW timezone", "SHOW TIME ZONE"),
            ("SHOW search_path", "SHOW search_path"),
            ("SHOW TRANSACTION ISOLATION LEVEL", "SELECT 'read committed' AS transaction_isolation"),
            ("SHOW transaction_isolation", "SELECT 'read committed' AS transaction_isolation"),
        ] {
            let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), expected);
        }
    }

    #[test]
    fn the_text_of_a_view_is_looked_up() {
        let sql = "SELECT pg_get_viewdef(c.oid, true) FROM c";
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        rewrite(&mut statement);
        assert!(statement.to_string().contains("WHERE view_class.oid = c.oid"), "{statement}");
    }
}
