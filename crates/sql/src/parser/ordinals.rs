//! `ORDER BY 1` of groups as the first expression of SELECT: DataFusion looks for a column of its name, which no group has. And
//! what a set operation is ordered by as the place of the item of its first SELECT that is written so: rows of
//! `SELECT a + 1 FROM t UNION … ORDER BY a + 1` have no column `a`.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, Value, VisitorMut,
};

use super::building::number;
use crate::walk::{visit_expressions, visit_mut};

pub(super) fn resolve(query: &mut Query) {
    let done = visit_mut(query, &mut Ordinals);
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

struct Ordinals;

impl VisitorMut for Ordinals {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Query { body, order_by, .. } = query;
        let SetExpr::Select(select) = body.as_ref() else {
            if let Some(first) = first_select(body) {
                put_places(first, order_by);
            }
            return ControlFlow::Continue(());
        };
        let kind = order_by.as_mut().map(|order_by| &mut order_by.kind);
        if let Some(OrderByKind::Expressions(expressions)) = kind.filter(|_| is_grouped(select)) {
            for order in expressions {
                if let Some(meant) = selected(select, &order.expr) {
                    order.expr = meant;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A query in which what SELECT DISTINCT is ordered by has the place of the item that is written so: to DataFusion the columns in it are no longer there.
pub(crate) fn with_places(query: &Query) -> Query {
    let mut query = query.clone();
    let done = visit_mut(&mut query, &mut Places);
    debug_assert!(done.is_continue(), "the visitor never breaks");
    query
}

struct Places;

impl VisitorMut for Places {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Query { body, order_by, .. } = query;
        if let SetExpr::Select(select) = body.as_ref()
            && select.distinct == Some(Distinct::Distinct)
        {
            put_places(select, order_by);
        }
        ControlFlow::Continue(())
    }
}

/// Its names are those of a set operation.
fn first_select(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::SetOperation { left, .. } => first_select(left),
        SetExpr::Query(query) => first_select(&query.body),
        _ => None,
    }
}

fn put_places(select: &Select, order_by: &mut Option<OrderBy>) {
    let Some(OrderBy { kind: OrderByKind::Expressions(expressions), .. }) = order_by else { return };
    let aliases: Vec<&Ident> = select.projection.iter().filter_map(alias_of).collect();
    // A number is a place already, and the name of an alias is that of an item.
    for order in expressions.iter_mut().filter(|order| !matches!(order.expr, Expr::Value(_)) && !names(&order.expr, &aliases)) {
        if let Some(place) = place_of(&select.projection, &order.expr) {
            order.expr = number(place);
        }
    }
}

/// From 1.
fn place_of(items: &[SelectItem], order: &Expr) -> Option<usize> {
    let order = order.to_string();
    let index = items.iter().position(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr.to_string() == order,
        _ => false,
    })?;
    // Nobody knows how many columns a wildcard or the fields of a ROW are.
    let is_one = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            !expr.to_string().to_ascii_lowercase().contains("unnest")
        }
        _ => false,
    };
    items[..=index].iter().all(is_one).then_some(index + 1)
}

fn is_grouped(select: &Select) -> bool {
    match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
    }
}

/// What the place of an item without a name says.
fn selected(select: &Select, place: &Expr) -> Option<Expr> {
    let Expr::Value(value) = place else { return None };
    let Value::Number(number, _) = &value.value else { return None };
    let item = select.projection.get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
    let plain = select.projection.iter().all(|item| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }));
    let aliases: Vec<&Ident> = select.projection.iter().filter_map(alias_of).collect();
    match item {
        // In ORDER BY a number is a place, and a name is that of an alias first.
        SelectItem::UnnamedExpr(expr) if plain && !matches!(expr, Expr::Value(_)) && !names(expr, &aliases) => Some(expr.clone()),
        _ => None,
    }
}

fn alias_of(item: &SelectItem) -> Option<&Ident> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias),
        _ => None,
    }
}

/// Whether an expression has one of these names.
fn names(expr: &Expr, aliases: &[&Ident]) -> bool {
    let found = visit_expressions(expr, |part| {
        let first = match part {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(parts) => parts.first(),
            _ => None,
        };
        match first.is_some_and(|name| aliases.iter().any(|alias| alias.value.eq_ignore_ascii_case(&name.value))) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    found.is_break()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Statement, StatementKind};

    fn query(sql: &str) -> Query {
        let Statement { kind: StatementKind::Query(query), .. } = crate::parser::parse(sql).unwrap().remove(0) else {
            panic!("{sql} is a query")
        };
        *query.ast
    }

    fn read(sql: &str) -> String {
        query(sql).to_string()
    }

    #[test]
    fn places_of_groups_are_their_expressions() {
        for (written, meant) in [
            (
                "SELECT upper(k), count(*) FROM t GROUP BY k ORDER BY 1, 2 DESC",
                "SELECT upper(k), count(*) FROM t GROUP BY k ORDER BY upper(k), count(*) DESC",
            ),
            (
                "SELECT upper(k) AS u, count(*) FROM t GROUP BY k ORDER BY 1",
                "SELECT upper(k) AS u, count(*) FROM t GROUP BY k ORDER BY 1",
            ),
            // A name is the alias's, a number a place.
            (
                "SELECT abs(v), sum(v) AS v FROM t GROUP BY abs(v) ORDER BY 1",
                "SELECT abs(v), sum(v) AS v FROM t GROUP BY abs(v) ORDER BY 1",
            ),
            ("SELECT 2, count(*) FROM t GROUP BY k ORDER BY 1", "SELECT 2, count(*) FROM t GROUP BY k ORDER BY 1"),
            ("SELECT upper(k) FROM t ORDER BY 1", "SELECT upper(k) FROM t ORDER BY 1"),
            ("SELECT k FROM t GROUP BY k ORDER BY 3", "SELECT k FROM t GROUP BY k ORDER BY 3"),
            (
                "SELECT v + 1, k AS v FROM t UNION SELECT v, k FROM t ORDER BY v+1, k, k || v",
                "SELECT v + 1, k AS v FROM t UNION SELECT v, k FROM t ORDER BY v + 1, 2, k || v",
            ),
            (
                "(SELECT v + 1 FROM t UNION SELECT 1) EXCEPT SELECT 2 ORDER BY v + 1, abs(v)",
                "(SELECT v + 1 FROM t UNION SELECT 1) EXCEPT SELECT 2 ORDER BY 1, abs(v)",
            ),
        ] {
            assert_eq!(read(written), meant);
        }
    }

    #[test]
    fn what_distinct_rows_are_ordered_by_has_its_place() {
        for (written, meant) in [
            (
                "SELECT DISTINCT b, a + 1 AS x FROM t ORDER BY a+1 DESC, b",
                "SELECT DISTINCT b, a + 1 AS x FROM t ORDER BY 2 DESC, 1",
            ),
            ("SELECT DISTINCT *, a + 1 FROM t ORDER BY a + 1", "SELECT DISTINCT *, a + 1 FROM t ORDER BY a + 1"),
            ("SELECT DISTINCT unnest(r), a + 1 FROM t ORDER BY a + 1", "SELECT DISTINCT unnest(r), a + 1 FROM t ORDER BY a + 1"),
            ("SELECT DISTINCT a FROM t ORDER BY a + 1", "SELECT DISTINCT a FROM t ORDER BY a + 1"),
            (
                "SELECT DISTINCT a, 1 AS one, upper(b) AS x FROM t ORDER BY 1, upper(b)",
                "SELECT DISTINCT a, 1 AS one, upper(b) AS x FROM t ORDER BY 1, 3",
            ),
            (
                "SELECT DISTINCT a AS b, b AS a, upper(c) AS u FROM t ORDER BY a, upper(c)",
                "SELECT DISTINCT a AS b, b AS a, upper(c) AS u FROM t ORDER BY a, 3",
            ),
            ("SELECT a + 1 FROM t ORDER BY a + 1", "SELECT a + 1 FROM t ORDER BY a + 1"),
        ] {
            assert_eq!(with_places(&query(written)).to_string(), meant);
        }
    }
}
