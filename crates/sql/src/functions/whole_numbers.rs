//! Arithmetic with what counts: `ROW_NUMBER()`, `CARDINALITY(x)` and their like are BIGINT UNSIGNED to DataFusion, of which it makes decimals beside a
//! BIGINT, so that `CARDINALITY(x) / 2` would have a fraction. Here they are BIGINT wherever they are reckoned with; alone they stay as they are, and so do
//! the states of jobs that keep them.
use datafusion::{
    arrow::datatypes::DataType,
    common::{
        DFSchema, Result,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Expr, ExprSchemable, cast,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    sql::sqlparser::ast::BinaryOperator,
};

#[derive(Debug)]
pub(super) struct WholeNumbers;

impl ExprPlanner for WholeNumbers {
    fn plan_binary_op(&self, expression: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expression;
        let is_arithmetic = matches!(
            op,
            BinaryOperator::Plus
                | BinaryOperator::Minus
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo
        );
        // Of a DOUBLE it makes no difference.
        let is_double = |side: &Expr| side.get_type(schema).is_ok_and(|data_type| data_type.is_floating());
        let (left, right) = match is_arithmetic && !is_double(&left) && !is_double(&right) {
            true => (signed(left, schema)?, signed(right, schema)?),
            false => (left, right),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn signed(operand: Expr, schema: &DFSchema) -> Result<Expr> {
    let is_made_of_others = matches!(operand, Expr::Case(_) | Expr::ScalarFunction(_));
    let operand = as_signed(operand, schema);
    if operand.transformed || !is_made_of_others {
        return Ok(operand.data);
    }
    // `coalesce(CARDINALITY(x), 0)` becomes a decimal, too.
    Ok(operand.data.map_children(|part| Ok(as_signed(part, schema)))?.data)
}

fn as_signed(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    // What is written as unsigned is meant so, like a number beyond those of BIGINT.
    let is_written = matches!(expression, Expr::Literal(..) | Expr::Cast(_) | Expr::TryCast(_));
    match expression.get_type(schema) {
        Ok(DataType::UInt64) if !is_written => Transformed::yes(cast(expression, DataType::Int64)),
        _ => Transformed::no(expression),
    }
}
