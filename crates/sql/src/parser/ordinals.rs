//! `ORDER BY 1` of groups as the first expression of SELECT: DataFusion looks for a column of its name, which no group has.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, Value, VisitMut, VisitorMut,
};

pub(super) fn resolve(query: &mut Query) {
    let done = VisitMut::visit(query, &mut Ordinals);
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

struct Ordinals;

impl VisitorMut for Ordinals {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Query { body, order_by, .. } = query;
        let SetExpr::Select(select) = body.as_ref() else { return ControlFlow::Continue(()) };
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
    match item {
        SelectItem::UnnamedExpr(expr) if plain => Some(expr.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::statement::{Statement, StatementKind};

    fn read(sql: &str) -> String {
        let Statement { kind: StatementKind::Query(query), .. } = crate::parser::parse(sql).unwrap().remove(0) else {
            panic!("{sql} is a query")
        };
        query.to_string()
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
            ("SELECT upper(k) FROM t ORDER BY 1", "SELECT upper(k) FROM t ORDER BY 1"),
            ("SELECT k FROM t GROUP BY k ORDER BY 3", "SELECT k FROM t GROUP BY k ORDER BY 3"),
        ] {
            assert_eq!(read(written), meant);
        }
    }
}
