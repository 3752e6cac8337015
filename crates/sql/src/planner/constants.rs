//! `WHERE kind = 2` says what `kind` is in the rows that are left: expressions above the filter see the constant. So a computed column of a
//! topic that holds several kinds of records (`CASE WHEN kind = 0 THEN … `) reads the fields of one kind only. DataFusion has no such rule. `time IS NOT NULL` beside
//! the filter sees it too, as windows over such a column ask that, if what it asks can never fail: it is asked of the rows that are not left as well.
use std::collections::HashMap;

use datafusion::{
    common::{
        Column, ExprSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Expr, Filter, LogicalPlan, Operator, Projection,
        expr_rewriter::NamePreserver,
        utils::{conjunction, split_conjunction},
    },
};

use crate::functions::EVENT_TIME;

/// The plan with constants in the projections over filters, if there are any to put.
pub(super) fn propagate(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up(|node| {
        let changed = match &node {
            LogicalPlan::Projection(projection) => projected(projection)?,
            LogicalPlan::Filter(filter) => filtered(filter, &node)?,
            _ => None,
        };
        Ok(match changed {
            Some(changed) => Transformed::yes(changed),
            None => Transformed::no(node),
        })
    })
}

fn projected(projection: &Projection) -> Result<Option<LogicalPlan>> {
    let constants = constants_of(&projection.input);
    if constants.is_empty() {
        return Ok(None);
    }
    let names = NamePreserver::new_for_projection();
    let mut changed = false;
    let mut expressions = Vec::with_capacity(projection.expr.len());
    for expression in &projection.expr {
        let replaced = if is_plain(expression) { Transformed::no(expression.clone()) } else { replace(expression, &constants)? };
        changed |= replaced.transformed;
        expressions.push(names.save(expression).restore(replaced.data));
    }
    if !changed {
        return Ok(None);
    }
    Ok(Some(LogicalPlan::Projection(Projection::try_new(expressions, projection.input.clone())?)))
}

/// `filter`, which is `node`.
fn filtered(filter: &Filter, node: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let constants = constants_of(node);
    if constants.is_empty() {
        return Ok(None);
    }
    let mut changed = false;
    let mut conditions = vec![];
    for condition in split_conjunction(&filter.predicate) {
        let replaced = match condition {
            Expr::IsNotNull(value) if !is_plain(value) && never_fails(value) => replace(condition, &constants)?,
            _ => Transformed::no(condition.clone()),
        };
        changed |= replaced.transformed;
        conditions.push(replaced.data);
    }
    match conjunction(conditions) {
        Some(predicate) if changed => Ok(Some(LogicalPlan::Filter(Filter::try_new(predicate, filter.input.clone())?))),
        _ => Ok(None),
    }
}

/// Fields and comparisons: there is no value that they fail on.
fn never_fails(expression: &Expr) -> bool {
    let may_fail = expression.exists(|part| {
        Ok(match part {
            Expr::Column(_) | Expr::Literal(..) | Expr::Alias(_) | Expr::Case(_) => false,
            Expr::Not(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => false,
            Expr::BinaryExpr(binary) => !COMPARISONS.contains(&binary.op),
            Expr::ScalarFunction(function) => !["get_field", EVENT_TIME].contains(&function.name()),
            _ => true,
        })
    });
    matches!(may_fail, Ok(false))
}

const COMPARISONS: [Operator; 8] =
    [Operator::Eq, Operator::NotEq, Operator::Lt, Operator::LtEq, Operator::Gt, Operator::GtEq, Operator::And, Operator::Or];

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
