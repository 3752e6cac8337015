//! Window functions as `IGNORE NULLS` makes them, by names of their own: a plan that travels says which function it calls, and not how it treats NULL.
use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, FieldRef},
    common::Result,
    functions_window::{
        lead_lag::{lag_udwf, lead_udwf},
        nth_value::{first_value_udwf, last_value_udwf, nth_value_udwf},
    },
    logical_expr::{
        LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, WindowUDF, WindowUDFImpl,
        function::{ExpressionArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs},
    },
    physical_plan::PhysicalExpr,
};

#[derive(Debug, PartialEq, Eq, Hash)]
struct IgnoringNulls {
    name: String,
    function: Arc<WindowUDF>,
}

/// Those that can ignore NULLs, with what they become.
pub(super) fn ignoring_nulls() -> Vec<Arc<WindowUDF>> {
    [lag_udwf(), lead_udwf(), first_value_udwf(), last_value_udwf(), nth_value_udwf()]
        .map(|function| {
            let name = format!("{}_ignore_nulls", function.name());
            Arc::new(WindowUDF::from(IgnoringNulls { name, function }))
        })
        .to_vec()
}

/// What a function becomes under `IGNORE NULLS`; `None`: it has no other meaning under it.
pub(crate) fn ignoring(function: &WindowUDF) -> Option<Arc<WindowUDF>> {
    let name = format!("{}_ignore_nulls", function.name());
    ignoring_nulls().into_iter().find(|ignoring| ignoring.name() == name)
}

impl WindowUDFImpl for IgnoringNulls {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(arguments)
    }

    fn expressions(&self, arguments: ExpressionArgs<'_>) -> Vec<Arc<dyn PhysicalExpr>> {
        self.function.expressions(arguments)
    }

    fn field(&self, arguments: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        self.function.field(arguments)
    }

    fn partition_evaluator(&self, arguments: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        let (expressions, fields) = (arguments.input_exprs(), arguments.input_fields());
        self.function.partition_evaluator_factory(PartitionEvaluatorArgs::new(expressions, fields, arguments.is_reversed(), true))
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        ReversedUDWF::NotSupported
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}
