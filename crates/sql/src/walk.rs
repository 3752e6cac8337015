//! Walks over SQL's tree. sqlparser's own walk is compiled for every type of visitor, over every type that a statement may consist of:
//! sixty of them were most of the time that this crate took. Here all visitors share one walk.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};

/// Shows a visitor a node and all within it, as [`Visit::visit`] does.
pub fn visit<V: Visitor>(node: &impl Visit, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut kept = Kept { visitor, end: None };
    let _ = node.visit(&mut Shared(&mut kept));
    kept.end()
}

/// Lets a visitor change a node and all within it, as [`VisitMut::visit`] does.
pub fn visit_mut<V: VisitorMut>(node: &mut impl VisitMut, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut kept = Kept { visitor, end: None };
    let _ = node.visit(&mut SharedMut(&mut kept));
    kept.end()
}

/// Each expression, those inside after it.
pub fn visit_expressions<B>(node: &impl Visit, each: impl FnMut(&Expr) -> ControlFlow<B>) -> ControlFlow<B> {
    visit(node, &mut Expressions(each))
}

/// Each expression, those inside before it.
pub fn visit_expressions_mut<B>(node: &mut impl VisitMut, each: impl FnMut(&mut Expr) -> ControlFlow<B>) -> ControlFlow<B> {
    visit_mut(node, &mut Expressions(each))
}

struct Expressions<F>(F);

impl<B, F: FnMut(&Expr) -> ControlFlow<B>> Visitor for Expressions<F> {
    type Break = B;

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<B> {
        (self.0)(expression)
    }
}

impl<B, F: FnMut(&mut Expr) -> ControlFlow<B>> VisitorMut for Expressions<F> {
    type Break = B;

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<B> {
        (self.0)(expression)
    }
}

/// The visitors that the walk is compiled for.
struct Shared<'a>(&'a mut dyn Visitor<Break = ()>);
struct SharedMut<'a>(&'a mut dyn VisitorMut<Break = ()>);

/// Keeps what a visitor ends with.
struct Kept<'a, V, B> {
    visitor: &'a mut V,
    end: Option<B>,
}

impl<V, B> Kept<'_, V, B> {
    fn keep(&mut self, step: ControlFlow<B>) -> ControlFlow<()> {
        step.map_break(|end| self.end = Some(end))
    }

    fn end(self) -> ControlFlow<B> {
        self.end.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }
}

macro_rules! hand_on {
    ($visitor:ident, $shared:ident, $($step:ident: $node:ty),+) => {
        impl $visitor for $shared<'_> {
            type Break = ();
            $(fn $step(&mut self, node: $node) -> ControlFlow<()> {
                self.0.$step(node)
            })+
        }

        impl<V: $visitor> $visitor for Kept<'_, V, V::Break> {
            type Break = ();
            $(fn $step(&mut self, node: $node) -> ControlFlow<()> {
                let step = self.visitor.$step(node);
                self.keep(step)
            })+
        }
    };
}

hand_on!(
    Visitor,
    Shared,
    pre_visit_query: &Query,
    post_visit_query: &Query,
    pre_visit_select: &Select,
    post_visit_select: &Select,
    pre_visit_relation: &ObjectName,
    post_visit_relation: &ObjectName,
    pre_visit_table_factor: &TableFactor,
    post_visit_table_factor: &TableFactor,
    pre_visit_expr: &Expr,
    post_visit_expr: &Expr,
    pre_visit_statement: &Statement,
    post_visit_statement: &Statement,
    pre_visit_value: &ValueWithSpan,
    post_visit_value: &ValueWithSpan
);

hand_on!(
    VisitorMut,
    SharedMut,
    pre_visit_query: &mut Query,
    post_visit_query: &mut Query,
    pre_visit_select: &mut Select,
    post_visit_select: &mut Select,
    pre_visit_relation: &mut ObjectName,
    post_visit_relation: &mut ObjectName,
    pre_visit_table_factor: &mut TableFactor,
    post_visit_table_factor: &mut TableFactor,
    pre_visit_expr: &mut Expr,
    post_visit_expr: &mut Expr,
    pre_visit_statement: &mut Statement,
    post_visit_statement: &mut Statement,
    pre_visit_value: &mut ValueWithSpan,
    post_visit_value: &mut ValueWithSpan
);

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    #[test]
    fn every_part_is_shown_until_one_ends_the_walk() {
        let sql = "SELECT a + 1 FROM t WHERE b IN (SELECT c FROM u)";
        let mut statements = Parser::parse_sql(&GenericDialect {}, sql).expect("parses");
        let mut seen = vec![];
        let done: ControlFlow<()> = visit_expressions(&statements, |expression| {
            seen.push(expression.to_string());
            ControlFlow::Continue(())
        });
        assert!(done.is_continue());
        assert_eq!(seen, ["a + 1", "a", "1", "b IN (SELECT c FROM u)", "b", "c"]);
        let found = visit_expressions(&statements, |expression| match expression {
            Expr::Identifier(name) => ControlFlow::Break(name.value.clone()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(found, ControlFlow::Break("a".into()));
        let _: ControlFlow<()> = visit_expressions_mut(&mut statements, |expression| {
            if let Expr::Identifier(name) = expression {
                name.value.push('x');
            }
            ControlFlow::Continue(())
        });
        assert_eq!(statements[0].to_string(), "SELECT ax + 1 FROM t WHERE bx IN (SELECT cx FROM u)");
    }
}
