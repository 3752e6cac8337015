//! EXISTS and IN of what gives a row whatever there is: DataFusion asks whether there is anything to aggregate.
use datafusion::{
    arrow::datatypes::DataType,
    common::{
        DFSchemaRef, Result, ScalarValue,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, simplify::SimplifyContext},
    optimizer::simplify_expressions::ExprSimplifier,
};

use crate::error::SqlError;

const EXISTS: &str = "EXISTS of an aggregate without GROUP BY is always true, as it gives a row over nothing too; write EXISTS (SELECT 1 …), or compare the aggregate: (SELECT count(*) …) > 0";
const HAVING: &str = "EXISTS (SELECT … HAVING …) without GROUP BY is not supported where HAVING may be true of no rows at all; compare the aggregate: (SELECT count(*) … WHERE u.k = t.k) < 3";
const IN: &str = "IN (SELECT …) of an aggregate without GROUP BY is not supported where WHERE names columns of the outer query (u.k = t.k), as it gives a row over nothing too; compare it: x = (SELECT max(v) …)";

/// Refuses them over an aggregate without GROUP BY of rows that are chosen by columns of the outer query, where its row over
/// nothing counts.
pub(super) fn refuse_aggregates(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        let is_condition = matches!(node, LogicalPlan::Filter(_));
        node.apply_expressions(|expression| {
            let terms = if is_condition { terms(expression) } else { vec![expression] };
            for term in terms {
                term.apply(|part| {
                    refused = refused.or(refusal(part, is_condition && std::ptr::eq(part, term))?);
                    Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
                })?;
            }
            Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    match refused {
        Some(message) => Err(SqlError::unsupported(message)),
        None => Ok(()),
    }
}

/// What AND and OR join to a condition.
fn terms(condition: &Expr) -> Vec<&Expr> {
    let (mut rest, mut terms) = (vec![condition], vec![]);
    while let Some(part) = rest.pop() {
        match part {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
                rest.extend([left.as_ref(), right.as_ref()]);
            }
            _ => terms.push(part),
        }
    }
    terms
}

/// `is_term`: of a condition, to which NULL is as good as false.
fn refusal(expression: &Expr, is_term: bool) -> Result<Option<&'static str>> {
    Ok(match expression {
        Expr::Exists(exists) => of_nothing(&exists.subquery.subquery)?.map(|row| if row.is_filtered { HAVING } else { EXISTS }),
        Expr::InSubquery(within) => {
            // Whether something is in NULL is unknown, and DataFusion finds that it is not.
            let is_harmless = |row: &Row| is_term && !within.negated && row.values.first().is_some_and(is_null);
            of_nothing(&within.subquery.subquery)?.filter(|row| !is_harmless(row)).map(|_| IN)
        }
        _ => None,
    })
}

/// The row that an aggregate gives over nothing.
struct Row {
    /// Literals, where they are known.
    values: Vec<Expr>,
    /// Whether a condition is asked of it.
    is_filtered: bool,
}

/// `None`: there is no such row, or a condition takes it away.
fn of_nothing(plan: &LogicalPlan) -> Result<Option<Row>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() && !aggregate.input.all_out_ref_exprs().is_empty() => {
            let types = aggregate.schema.fields().iter().map(|field| field.data_type());
            let value = |(expression, data_type): (&Expr, &DataType)| -> Result<Expr> {
                Ok(match expression.clone().unalias() {
                    Expr::AggregateFunction(function) => Expr::Literal(function.func.default_value(data_type)?, None),
                    other => other,
                })
            };
            let values = aggregate.aggr_expr.iter().zip(types).map(value).collect::<Result<_>>()?;
            Ok(Some(Row { values, is_filtered: false }))
        }
        LogicalPlan::Projection(projection) => {
            let Some(row) = of_nothing(&projection.input)? else { return Ok(None) };
            let value = |expression: &Expr| put(expression, projection.input.schema(), &row.values);
            let values = projection.expr.iter().map(value).collect::<Result<_>>()?;
            Ok(Some(Row { values, ..row }))
        }
        LogicalPlan::Filter(filter) => {
            let Some(row) = of_nothing(&filter.input)? else { return Ok(None) };
            let condition = put(&filter.predicate, filter.input.schema(), &row.values)?;
            let is_false = matches!(condition, Expr::Literal(ScalarValue::Boolean(Some(false)), _)) || is_null(&condition);
            Ok((!is_false).then_some(Row { is_filtered: true, ..row }))
        }
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Distinct(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().first().map_or(Ok(None), |input| of_nothing(input))
        }
        _ => Ok(None),
    }
}

fn is_null(expression: &Expr) -> bool {
    matches!(expression, Expr::Literal(value, _) if value.is_null())
}

/// The expression with these values of the columns; as it is, where it cannot be computed.
fn put(expression: &Expr, schema: &DFSchemaRef, values: &[Expr]) -> Result<Expr> {
    let with_values = expression.clone().unalias().transform_up(|part| {
        let value = part.try_as_col().and_then(|column| values.get(schema.maybe_index_of_column(column)?));
        Ok(match value {
            Some(value) => Transformed::yes(value.clone()),
            None => Transformed::no(part),
        })
    })?;
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(schema.clone()).build());
    let simplified = simplifier.coerce(with_values.data.clone(), schema).and_then(|coerced| simplifier.simplify(coerced));
    Ok(simplified.unwrap_or(with_values.data))
}
