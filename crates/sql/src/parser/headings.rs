//! What the columns of an answer are called: an expression without an alias as it is written, before anything is rewritten.
use datafusion::sql::{
    planner::IdentNormalizer,
    sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, SetQuantifier},
};
use polybolos_tables::plain::shortened;

use super::casts::{beneath, column};
use crate::statement::Heading;

/// The headings of the first SELECT, whose names are those of a set operation, too.
pub(super) fn of(mut query: &Query) -> Vec<Heading> {
    let mut body = query.body.as_ref();
    // What pipes make of the columns has other names.
    while query.pipe_operators.is_empty() {
        match body {
            SetExpr::Select(select) => return of_items(&select.projection),
            SetExpr::Query(inner) => {
                query = inner;
                body = &inner.body;
            }
            SetExpr::SetOperation { left, set_quantifier, .. } if !is_by_name(*set_quantifier) => body = left,
            _ => break,
        }
    }
    Vec::new()
}

/// Such an operation has columns of all its sides.
fn is_by_name(quantifier: SetQuantifier) -> bool {
    matches!(quantifier, SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName)
}

fn of_items(items: &[SelectItem]) -> Vec<Heading> {
    let has_wildcard = items.iter().any(is_wildcard);
    let heading = |item: &SelectItem| match item {
        // Of a ROW it makes a column of each field, and beside a wildcard nobody could count them.
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } if has_wildcard && is_unnest(expr) => {
            Heading::Several
        }
        SelectItem::UnnamedExpr(expr) => Heading::Wanted(names(expr)),
        SelectItem::ExprWithAlias { .. } => Heading::Given,
        _ => Heading::Several,
    };
    items.iter().map(heading).collect()
}

pub(crate) fn is_wildcard(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

fn is_unnest(expression: &Expr) -> bool {
    matches!(beneath(expression), Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("unnest"))
}

/// A cast has the name of its column, as in PostgreSQL, and a field of a ROW its own.
fn names(expression: &Expr) -> Vec<String> {
    let written = shortened(&expression.to_string());
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
