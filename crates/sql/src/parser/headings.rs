//! What the columns of an answer are called: an expression without an alias as it is written, before anything is rewritten.
use std::ops::ControlFlow;

use datafusion::sql::{
    planner::IdentNormalizer,
    sqlparser::ast::{
        Cte, Expr, Ident, Query, Select, SelectItem, SetExpr, SetQuantifier, TableAlias, TableFactor, TableWithJoins,
        WildcardAdditionalOptions,
    },
};
use polybolos_tables::plain::shortened;

use super::{
    casts::{beneath, column},
    json_clauses,
};
use crate::{statement::Heading, walk::visit_expressions_mut};

/// Deepest chain of queries whose columns a wildcard stands for.
const MAX_DEPTH: usize = 8;

/// The headings of the first SELECT, whose names are those of a set operation, too.
pub(super) fn of(query: &Query) -> Vec<Heading> {
    of_query(query, &[], 0)
}

/// `named`: the queries of WITH, each after those that it may name.
fn of_query<'a>(mut query: &'a Query, named: &[&'a Cte], depth: usize) -> Vec<Heading> {
    let mut named = named.to_vec();
    let mut body = query.body.as_ref();
    named.extend(named_by(query));
    // What pipes make of the columns has other names.
    while query.pipe_operators.is_empty() {
        match body {
            SetExpr::Select(select) => return of_select(select, &named, depth),
            SetExpr::Query(inner) => {
                query = inner;
                body = &inner.body;
                named.extend(named_by(query));
            }
            SetExpr::SetOperation { left, set_quantifier, .. } if !is_by_name(*set_quantifier) => body = left,
            _ => break,
        }
    }
    Vec::new()
}

fn named_by(query: &Query) -> impl Iterator<Item = &Cte> {
    query.with.iter().flat_map(|with| &with.cte_tables)
}

/// A wildcard is the columns that a query in FROM gives, where it alone is there.
fn of_select<'a>(select: &'a Select, named: &[&'a Cte], depth: usize) -> Vec<Heading> {
    let mut headings = of_items(&select.projection, depth > 0);
    let wildcards: Vec<usize> = (0..headings.len()).filter(|place| is_wildcard(&select.projection[*place])).collect();
    if let [place] = wildcards[..]
        && has_all(&select.projection[place])
        && let Some(columns) = of_relation(&select.from, named, depth)
    {
        headings.splice(place..=place, columns);
    }
    headings
}

fn of_relation<'a>(from: &'a [TableWithJoins], named: &[&'a Cte], depth: usize) -> Option<Vec<Heading>> {
    let [TableWithJoins { relation, joins }] = from else { return None };
    let has_names = |alias: &TableAlias| !alias.columns.is_empty();
    if depth == MAX_DEPTH || !joins.is_empty() {
        return None;
    }
    let columns = match relation {
        TableFactor::Derived { subquery, alias, .. } if !alias.as_ref().is_some_and(has_names) => {
            of_query(subquery, named, depth + 1)
        }
        TableFactor::Table { name, alias, args: None, .. } if !alias.as_ref().is_some_and(has_names) => {
            let [part] = name.0.as_slice() else { return None };
            let name = folded(part.as_ident()?);
            let place = named.iter().rposition(|query| folded(&query.alias.name) == name)?;
            let found = named[place];
            if has_names(&found.alias) {
                return None;
            }
            of_query(&found.query, &named[..place], depth + 1)
        }
        _ => return None,
    };
    Some(columns).filter(|columns| !columns.is_empty())
}

/// Such an operation has columns of all its sides.
fn is_by_name(quantifier: SetQuantifier) -> bool {
    matches!(quantifier, SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName)
}

/// `is_inner`: other columns may stand beside these.
fn of_items(items: &[SelectItem], is_inner: bool) -> Vec<Heading> {
    let has_others = is_inner || items.iter().any(is_wildcard);
    let heading = |item: &SelectItem| match item {
        // Of a ROW it makes a column of each field, and beside a wildcard nobody could count them.
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } if has_others && is_unnest(expr) => Heading::Several,
        SelectItem::UnnamedExpr(expr) => Heading::Wanted(names(expr)),
        SelectItem::ExprWithAlias { .. } => Heading::Given,
        _ => Heading::Several,
    };
    items.iter().map(heading).collect()
}

pub(crate) fn is_wildcard(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

/// A wildcard that leaves nothing out and names nothing.
fn has_all(item: &SelectItem) -> bool {
    match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
            *options == WildcardAdditionalOptions::default()
        }
        _ => false,
    }
}

fn is_unnest(expression: &Expr) -> bool {
    matches!(beneath(expression), Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("unnest"))
}

/// A cast has the name of its column, as in PostgreSQL, and a field of a ROW its own.
fn names(expression: &Expr) -> Vec<String> {
    let mut as_written = expression.clone();
    let done: ControlFlow<()> = visit_expressions_mut(&mut as_written, |part| {
        if let Some(text) = json_clauses::text_of(part) {
            *part = Expr::Identifier(Ident::new(text));
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
    let written = shortened(&as_written.to_string());
    column(expression).as_ref().map(folded).into_iter().chain([written]).collect()
}

/// A name as DataFusion reads it.
pub(crate) fn folded(name: &Ident) -> String {
    IdentNormalizer::default().normalize(name.clone())
}

#[cfg(test)]
mod tests {
    use crate::{
        parser::parse,
        statement::{Heading, StatementKind},
    };

    /// The first wanted name of each item.
    fn headings(sql: &str) -> Vec<String> {
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        let shown = |heading: Heading| match heading {
            Heading::Given => "-".to_owned(),
            Heading::Several => "*".to_owned(),
            Heading::Wanted(names) => names[0].clone(),
        };
        query.headings.into_iter().map(shown).collect()
    }

    #[test]
    fn a_wildcard_is_what_the_one_query_in_from_gives() {
        for (sql, expected) in [
            ("SELECT * FROM (SELECT sum(v) FROM t)", vec!["sum(v)"]),
            ("SELECT x.*, 1+1 FROM (SELECT k, sum(v) AS s, * FROM t) AS x", vec!["k", "-", "*", "1 + 1"]),
            ("WITH c AS (SELECT max(v) FROM t), d AS (SELECT * FROM C) SELECT * FROM d", vec!["max(v)"]),
            ("WITH t AS (SELECT sum(v) FROM t) SELECT * FROM t UNION SELECT 2", vec!["sum(v)"]),
            ("WITH c (a) AS (SELECT sum(v) FROM t) SELECT * FROM c", vec!["*"]),
            ("SELECT * FROM (SELECT sum(v) FROM t) AS x (a)", vec!["*"]),
            ("SELECT * EXCEPT (k) FROM (SELECT k, sum(v) FROM t)", vec!["*"]),
            ("SELECT *, * FROM (SELECT sum(v) FROM t)", vec!["*", "*"]),
            ("SELECT * FROM (SELECT sum(v) FROM t) AS x, u", vec!["*"]),
            ("SELECT * FROM (VALUES (1))", vec!["*"]),
            ("SELECT * FROM (SELECT unnest(r), a + 1 FROM t)", vec!["*", "a + 1"]),
            ("SELECT * FROM t", vec!["*"]),
        ] {
            assert_eq!(headings(sql), expected, "{sql}");
        }
        let nested = format!("SELECT * FROM ({}SELECT sum(v) FROM t{})", "SELECT * FROM (".repeat(30), ")".repeat(30));
        assert_eq!(headings(&nested), ["*"]);
    }

    #[test]
    fn expressions_are_called_as_they_are_written() {
        for (sql, expected) in [
            ("SELECT 1+2, upper( 'a' ), -x", vec!["1 + 2", "upper('a')", "-x"]),
            (
                "SELECT IF(a > 1, 'x', b), mode() WITHIN GROUP (ORDER BY x) FROM t",
                vec!["IF(a > 1, 'x', b)", "mode() WITHIN GROUP (ORDER BY x)"],
            ),
            (
                "SELECT a IS DISTINCT FROM b AND c, ts + INTERVAL '1' DAY * 2 FROM t",
                vec!["a IS DISTINCT FROM b AND c", "ts + INTERVAL '1' DAY * 2"],
            ),
            (
                "SELECT t.Id, \"Id\", CAST(a AS INT), (b)::int, c::int + 1, d AS e FROM t ORDER BY a",
                vec!["id", "Id", "a", "b", "c::INT + 1", "-"],
            ),
            (
                "SELECT TUMBLE_START(ts, INTERVAL '5' MINUTE), count(*) FROM t GROUP BY TUMBLE(ts, INTERVAL '5' MINUTE)",
                vec!["TUMBLE_START(ts, INTERVAL '5' MINUTE)", "count(*)"],
            ),
            // As DataFusion, which leaves other letters as they are.
            ("SELECT CAST(ÄB AS INT) FROM t", vec!["Äb"]),
            ("SELECT t.*, a + 1, * FROM t", vec!["*", "a + 1", "*"]),
            ("SELECT unnest(r), a + 1 FROM t", vec!["unnest(r)", "a + 1"]),
            ("SELECT unnest(r), unnest(s) AS s, a + 1, * FROM t", vec!["*", "*", "a + 1", "*"]),
            ("WITH c AS (SELECT 1) (SELECT 2 FROM c) UNION SELECT 3 EXCEPT SELECT 4", vec!["2"]),
            ("SELECT 1 UNION ALL BY NAME SELECT 2", vec![]),
            (
                "SELECT count(*) FILTER (WHERE a>1), listagg(a ORDER BY b), sum(v) OVER (PARTITION BY k ORDER BY ts) FROM t",
                vec!["count(*) FILTER (WHERE a > 1)", "listagg(a ORDER BY b)", "sum(v) OVER (PARTITION BY k ORDER BY ts)"],
            ),
            (
                "SELECT json_value( j, '$.n' RETURNING  INT DEFAULT 0 ON EMPTY ) + 1, JSON_OBJECT('a' VALUE x), json_value(j, '$.a') FROM t",
                vec![
                    "json_value(j, '$.n' RETURNING INT DEFAULT 0 ON EMPTY) + 1",
                    "JSON_OBJECT('a' VALUE x)",
                    "json_value(j, '$.a')",
                ],
            ),
            (
                "SELECT JSON_QUERY(json_value(j, '$.a' RETURNING STRING), '$' WITH WRAPPER)",
                vec!["JSON_QUERY(json_value(j, '$.a' RETURNING STRING), '$' WITH W…"],
            ),
            (
                "SELECT a IS NOT JSON object, a BETWEEN SYMMETRIC 1 AND json_value(j, '$.a' RETURNING INT), MAP['a',  1] FROM t",
                vec!["a IS NOT JSON OBJECT", "a BETWEEN SYMMETRIC 1 AND json_value(j, '$.a' RETURNING INT)", "MAP['a', 1]"],
            ),
            ("VALUES (1)", vec![]),
            (
                "SELECT 'twelve words of a text that nobody wants to read as the name of a column'",
                vec!["'twelve words of a text that nobody wants to read as the nam…"],
            ),
        ] {
            assert_eq!(headings(sql), expected, "{sql}");
        }
    }
}
