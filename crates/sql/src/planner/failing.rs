//! Calls whose constants make every row fail: a unit that is none, a regular expression that cannot be read. They are found by calling them once, with a
//! made-up value in the place of what differs from row to row, which none of them fails on by itself. The operators of regular expressions read theirs when
//! the plan is optimised.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions},
        datatypes::{DataType, Schema},
    },
    common::{
        DFSchema, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::SessionState,
    logical_expr::{Expr, ExprSchemable, LogicalPlan, expr::ScalarFunction},
};

use crate::error::SqlError;

/// Functions that take every value of their argument at this place, if their other arguments are right.
const TAKE_ALL: [(&str, usize); 9] = [
    ("date_part", 1),
    ("date_trunc", 1),
    ("regexp_count", 0),
    ("regexp_extract", 0),
    ("regexp_instr", 0),
    ("regexp_like", 0),
    ("regexp_match", 0),
    ("regexp_replace", 0),
    ("to_char", 0),
];

/// Refuses an optimised plan that has such a call.
pub(super) fn refuse(subject: &str, plan: &LogicalPlan, state: &SessionState) -> Result<(), SqlError> {
    let mut failing = None;
    plan.apply_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        node.inputs().into_iter().for_each(|input| schema.merge(input.schema()));
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                // What a branch has is computed of some rows, or of none.
                if matches!(part, Expr::Case(_)) {
                    return Ok(TreeNodeRecursion::Jump);
                }
                let error = made_up(part, &schema).and_then(|call| error_of(call, state));
                failing = error.map(|error| format!("{}: {error}", part.human_display()));
                Ok(if failing.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    match failing {
        Some(call) => Err(SqlError::invalid(format!("{subject} would fail on every row, at {call}; correct the constant"))),
        None => Ok(()),
    }
}

/// The same call with a value in the place of what differs, where all else is constant.
fn made_up(expression: &Expr, schema: &DFSchema) -> Option<Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expression else { return None };
    let (_, place) = TAKE_ALL.iter().find(|(name, _)| *name == func.name())?;
    let mut arguments = args.clone();
    let varying = arguments.get_mut(*place)?;
    *varying = value_of(&varying.get_type(schema).ok()?)?;
    let is_known = arguments.iter().all(is_constant);
    is_known.then(|| Expr::ScalarFunction(ScalarFunction::new_udf(func.clone(), arguments)))
}

fn is_constant(expression: &Expr) -> bool {
    matches!(expression, Expr::Literal(value, _) if !value.is_null())
}

fn value_of(data_type: &DataType) -> Option<Expr> {
    let value = match data_type.is_string() {
        true => ScalarValue::from("a").cast_to(data_type),
        false => ScalarValue::new_default(data_type),
    };
    Some(Expr::Literal(value.ok()?, None))
}

/// Why a call of constants fails.
fn error_of(call: Expr, state: &SessionState) -> Option<String> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).ok()?;
    let answer = state.create_physical_expr(call, &DFSchema::empty()).and_then(|call| call.evaluate(&row));
    answer.err().map(|error| SqlError::from(error).to_string())
}
