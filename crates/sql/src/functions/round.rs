//! `round(x, 2)`, in all but its types DataFusion's. That makes an INT of the number of places by a CAST, behind which it sees no number until it computes the
//! CAST: `round` of a DECIMAL had one type when a query was planned, and another with fewer places once it was optimised, which fit neither what it is compared
//! with nor its column. Here the number stays as it is written.
use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Field, FieldRef},
    common::Result,
    functions::math::round as builtin,
    logical_expr::{
        ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        sort_properties::{ExprProperties, SortProperties},
        type_coercion::functions::fields_with_udf,
    },
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Round {
    builtin: Arc<ScalarUDF>,
    signature: Signature,
}

impl Round {
    pub(super) fn new() -> Self {
        Self { builtin: builtin(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Round {
    fn name(&self) -> &str {
        self.builtin.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let fields: Vec<FieldRef> =
            given.iter().map(|data_type| Arc::new(Field::new("argument", data_type.clone(), true))).collect();
        let coerced = fields_with_udf(&fields, self.builtin.as_ref())?;
        let mut wanted: Vec<DataType> = coerced.iter().map(|field| field.data_type().clone()).collect();
        if let (Some(wanted), Some(places)) = (wanted.get_mut(1), given.get(1))
            && places.is_integer()
        {
            *wanted = places.clone();
        }
        Ok(wanted)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.builtin.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.builtin.return_field_from_args(arguments)
    }

    fn is_strict(&self) -> bool {
        self.builtin.is_strict()
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(places) = arguments.args.get_mut(1) {
            *places = places.cast_to(&DataType::Int32, None)?;
        }
        self.builtin.invoke_with_args(arguments)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.builtin.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.builtin.documentation()
    }
}
