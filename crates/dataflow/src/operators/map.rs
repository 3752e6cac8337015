//! Filters and projections: each row by itself, so weights pass through. A row on which an expression fails is found by halving the batch, and set aside.
use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{Schema, SchemaRef},
};
use datafusion::{
    common::{
        Result,
        cast::as_boolean_array,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::Operator as BinaryOperator,
    physical_expr::{
        ScalarFunctionExpr,
        expressions::{BinaryExpr, CastExpr, Literal},
    },
    physical_expr_common::physical_expr::is_volatile,
    physical_plan::PhysicalExpr,
};
use polybolos_state::Table;

use super::{EpochContext, Operator};
use crate::delta::Delta;

#[derive(Debug)]
pub enum Map {
    Filter(Arc<dyn PhysicalExpr>),
    Project {
        expressions: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
    /// Lets rows pass on which none of these fails: what an operator above would fail on as a whole.
    Guard(Vec<Arc<dyn PhysicalExpr>>),
}

/// Whether some value makes an expression over this input fail.
pub(crate) fn may_fail(expression: &Arc<dyn PhysicalExpr>, input: &Schema) -> bool {
    let mut found = false;
    let walked = expression.apply(|part| {
        let fails = |binary: &BinaryExpr| match binary.op() {
            BinaryOperator::Divide | BinaryOperator::Modulo => true,
            // A pattern that is no constant may be none.
            BinaryOperator::RegexMatch
            | BinaryOperator::RegexIMatch
            | BinaryOperator::RegexNotMatch
            | BinaryOperator::RegexNotIMatch => !binary.right().is::<Literal>(),
            // Integers wrap around; decimals, times and lengths of time are an error.
            BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply => {
                binary.data_type(input).map_or(true, |of| !of.is_integer() && !of.is_floating())
            }
            _ => false,
        };
        found |= part.is::<CastExpr>() || part.is::<ScalarFunctionExpr>() || part.downcast_ref::<BinaryExpr>().is_some_and(fails);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found || walked.is_err()
}

impl Map {
    fn apply(&self, delta: &Delta) -> Result<Delta> {
        match self {
            Self::Filter(predicate) => {
                let mask = predicate.evaluate(delta.batch())?.into_array(delta.rows())?;
                delta.filter(as_boolean_array(&mask)?)
            }
            Self::Project { expressions, schema } => {
                let columns = expressions.iter().map(|expression| expression.evaluate(delta.batch())?.into_array(delta.rows()));
                let options = RecordBatchOptions::new().with_row_count(Some(delta.rows()));
                let batch = RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_>>()?, &options)?;
                Ok(delta.with_batch(batch))
            }
            Self::Guard(expressions) => {
                expressions.iter().try_for_each(|expression| expression.evaluate(delta.batch()).map(|_| ()))?;
                Ok(delta.clone())
            }
        }
    }

    fn apply_by_halves(&self, context: &EpochContext<'_>, delta: &Delta, output: &mut Vec<Delta>) {
        match self.apply(delta) {
            Ok(mapped) if mapped.rows() > 0 => output.push(mapped),
            Ok(_) => {}
            Err(error) if delta.rows() == 1 => context.fail(self, delta, &error),
            Err(_) => {
                let half = delta.rows() / 2;
                self.apply_by_halves(context, &delta.slice(0, half), output);
                self.apply_by_halves(context, &delta.slice(half, delta.rows() - half), output);
            }
        }
    }
}

impl Operator for Map {
    fn step(&self, context: &EpochContext<'_>, _: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let mut output = vec![];
        for delta in inputs.iter().flatten().filter(|delta| delta.rows() > 0) {
            self.apply_by_halves(context, delta, &mut output);
        }
        Ok(output)
    }

    fn is_volatile(&self) -> bool {
        match self {
            Self::Filter(predicate) => is_volatile(predicate),
            Self::Project { expressions, .. } | Self::Guard(expressions) => expressions.iter().any(is_volatile),
        }
    }

    fn describe(&self) -> String {
        let listed = |expressions: &[Arc<dyn PhysicalExpr>]| {
            expressions.iter().map(|expression| expression.to_string()).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Filter(predicate) => format!("Filter: {predicate}"),
            Self::Project { expressions, schema } => {
                let named =
                    expressions.iter().zip(schema.fields()).map(|(expression, field)| format!("{expression} as {}", field.name()));
                format!("Project: {}", named.collect::<Vec<_>>().join(", "))
            }
            Self::Guard(expressions) => format!("Rows for which there is: {}", listed(expressions)),
        }
    }
}
