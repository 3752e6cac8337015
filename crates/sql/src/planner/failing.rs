//! Expressions whose constants make every row fail: `1 / 0`, a text that is no time, a unit that is none, a regular expression that cannot be
//! read. They are found by computing them once, with a made-up value in the place of what differs from row to row, if anything does, which none
//! of them fails on by itself. The operators of regular expressions read theirs when the plan is optimised.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions},
        datatypes::{DataType, Schema},
    },
    common::{
        DFSchema, Result, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::SessionState,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Volatility, expr::ScalarFunction, utils::split_conjunction_owned,
    },
};

use crate::error::SqlError;

/// Functions that take every value of their argument at this place, if their other arguments are right.
const TAKE_ALL: [(&str, usize); 17] = [
    ("date_bin", 1),
    ("date_part", 1),
    ("date_trunc", 1),
    ("decode", 0),
    ("digest", 0),
    ("encode", 0),
    ("overlay", 0),
    ("regexp_count", 0),
    ("regexp_extract", 0),
    ("regexp_extract_all", 0),
    ("regexp_instr", 0),
    ("regexp_like", 0),
    ("regexp_match", 0),
    ("regexp_replace", 0),
    ("split_part", 0),
    ("substr", 0),
    ("to_char", 0),
];

/// Refuses an optimised plan that has such an expression.
pub(super) fn refuse(subject: &str, plan: &LogicalPlan, state: &SessionState) -> Result<(), SqlError> {
    let mut failing = None;
    plan.apply_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        node.inputs().into_iter().for_each(|input| schema.merge(input.schema()));
        let terms = match node {
            LogicalPlan::Filter(filter) => split_conjunction_owned(filter.predicate.clone()),
            _ => node.expressions(),
        };
        for term in &terms {
            let walked = term.apply(|part| {
                // What a branch has is computed of some rows, or of none; the optimiser makes AND and OR of some.
                if matches!(part, Expr::Case(_) | Expr::BinaryExpr(BinaryExpr { op: Operator::And | Operator::Or, .. })) {
                    return Ok(TreeNodeRecursion::Jump);
                }
                let computed = if is_of_constants(part)? { Some(part.clone()) } else { made_up(part, &schema) };
                let error = computed.and_then(|computed| error_of(computed, state));
                failing = error.map(|error| format!("{}: {error}", part.human_display()));
                Ok(if failing.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })?;
            if walked == TreeNodeRecursion::Stop {
                return Ok(walked);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match failing {
        Some(call) => {
            let remedy = if call.contains("; write ") { "" } else { "; correct the constant" };
            Err(SqlError::invalid(format!("{subject} would fail on every row, at {call}{remedy}")))
        }
        None => Ok(()),
    }
}

/// Whether nothing but literals goes into it.
fn is_of_constants(expression: &Expr) -> Result<bool> {
    let is_pure = match expression {
        Expr::ScalarFunction(function) => function.func.signature().volatility == Volatility::Immutable,
        Expr::BinaryExpr(_) | Expr::Cast(_) | Expr::Negative(_) => true,
        _ => false,
    };
    let (mut some, mut all) = (false, is_pure);
    expression.apply_children(|part| {
        some = true;
        all &= matches!(part, Expr::Literal(..));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(some && all)
}

/// The same with a value in the place of what differs, where all else is constant.
fn made_up(expression: &Expr, schema: &DFSchema) -> Option<Expr> {
    let value_for = |varying: &Expr| value_of(&varying.get_type(schema).ok()?);
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Divide | Operator::Modulo), right }) if is_constant(right) => {
            Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(value_for(left)?), *op, right.clone())))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let (_, place) = TAKE_ALL.iter().find(|(name, _)| *name == func.name())?;
            let mut arguments = args.clone();
            let varying = arguments.get_mut(*place)?;
            *varying = value_for(varying)?;
            let is_known = arguments.iter().all(is_constant);
            is_known.then(|| Expr::ScalarFunction(ScalarFunction::new_udf(func.clone(), arguments)))
        }
        _ => None,
    }
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

/// Why what has constants alone fails.
fn error_of(computed: Expr, state: &SessionState) -> Option<String> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).ok()?;
    let answer = state.create_physical_expr(computed, &DFSchema::empty()).and_then(|computed| computed.evaluate(&row));
    answer.err().map(|error| SqlError::from(error).to_string())
}
