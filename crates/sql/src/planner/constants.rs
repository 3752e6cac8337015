//! `WHERE kind = 2` says what `kind` is in the rows that are left: expressions above the filter see the constant. So a computed column of a
//! topic that holds several kinds of records (`CASE WHEN kind = 0 THEN … `) reads the fields of one kind only. DataFusion has no such rule.
use std::collections::HashMap;

use datafusion::{
    common::{
        Column, ExprSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{Expr, LogicalPlan, Operator, Projection, expr_rewriter::NamePreserver, utils::split_conjunction},
};

/// The plan with constants in the projections over filters, if there are any to put.
pub(super) fn propagate(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up(|node| {
        let LogicalPlan::Projection(projection) = node else { return Ok(Transformed::no(node)) };
        let constants = constants_of(&projection.input);
        if constants.is_empty() {
            return Ok(Transformed::no(LogicalPlan::Projection(projection)));
        }
        let names = NamePreserver::new_for_projection();
        let mut changed = false;
        let mut expressions = Vec::with_capacity(projection.expr.len());
        for expression in &projection.expr {
            let replaced =
                if is_plain(expression) { Transformed::no(expression.clone()) } else { replace(expression, &constants)? };
            changed |= replaced.transformed;
            expressions.push(names.save(expression).restore(replaced.data));
        }
        if !changed {
            return Ok(Transformed::no(LogicalPlan::Projection(projection)));
        }
        Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(expressions, projection.input.clone())?)))
    })
}

/// A column as it is has nothing to gain.
fn is_plain(expression: &Expr) -> bool {
    match expression {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_plain(&alias.expr),
        _ => false,
    }
}

fn replace(expression: &Expr, constants: &HashMap<&Column, &ScalarValue>) -> Result<Transformed<Expr>> {
    expression.clone().transform_up(|part| {
        Ok(match &part {
            Expr::Column(column) => match constants.get(column) {
                Some(constant) => Transformed::yes(Expr::Literal((*constant).clone(), None)),
                None => Transformed::no(part),
            },
            _ => Transformed::no(part),
        })
    })
}

/// Columns that have one value in all rows of `plan`, by the filters on top of it.
fn constants_of(plan: &LogicalPlan) -> HashMap<&Column, &ScalarValue> {
    let mut constants = HashMap::new();
    let mut node = plan;
    while let LogicalPlan::Filter(filter) = node {
        for condition in split_conjunction(&filter.predicate) {
            let Expr::BinaryExpr(binary) = condition else { continue };
            let (Operator::Eq, Expr::Column(column), Expr::Literal(value, _)) = (binary.op, &*binary.left, &*binary.right) else {
                continue;
            };
            let of_same_type = plan.schema().field_from_column(column).is_ok_and(|field| *field.data_type() == value.data_type());
            // Floats have two zeros that are equal.
            if of_same_type && !value.is_null() && !value.data_type().is_floating() && !value.data_type().is_nested() {
                constants.insert(column, value);
            }
        }
        node = &filter.input;
    }
    constants
}
