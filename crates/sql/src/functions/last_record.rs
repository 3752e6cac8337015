//! `last_record(gone, 'table') OVER (PARTITION BY key ORDER BY place DESC)` is `row_number()`, and says more of what it numbers: records of a key come in
//! the order of their places. What came before the last one never counts again, and after one that is `gone` nothing of the key need be remembered. The
//! name of the table whose rows they are is for EXPLAIN, and may be left out.
use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef},
    common::Result,
    functions_window::row_number::RowNumber,
    logical_expr::{
        LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, TypeSignature, Volatility, WindowUDFImpl,
        function::{PartitionEvaluatorArgs, WindowUDFFieldArgs},
    },
    physical_plan::PhysicalExpr,
};

pub(crate) const LAST_RECORD: &str = "last_record";

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct LastRecord {
    signature: Signature,
    numbers: RowNumber,
}

impl LastRecord {
    pub fn new() -> Self {
        let arguments = [vec![DataType::Boolean], vec![DataType::Boolean, DataType::Utf8]].map(TypeSignature::Exact);
        Self { signature: Signature::one_of(arguments.to_vec(), Volatility::Immutable), numbers: RowNumber::new() }
    }
}

impl WindowUDFImpl for LastRecord {
    fn name(&self) -> &str {
        LAST_RECORD
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn field(&self, arguments: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(arguments.name(), DataType::UInt64, false)))
    }

    fn partition_evaluator(&self, arguments: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        self.numbers.partition_evaluator(arguments)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        ReversedUDWF::NotSupported
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}
