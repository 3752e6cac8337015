//! DataFusion's `date_part` and `date_trunc`, right where those are not. The seconds of a difference of two times have all their
//! digits, however long it is; and literals before 1970 go down, as the times of columns do. `whole_units(unit, time)` is
//! `date_trunc` beneath a CAST to fewer digits, which by itself goes towards 1970.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{AsArray, Float64Array},
        compute::cast,
        datatypes::{DataType, FieldRef, Int64Type, TimeUnit},
    },
    common::{Result, ScalarValue},
    functions::datetime::{date_part, date_trunc},
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        preimage::PreimageResult,
        simplify::SimplifyContext,
        sort_properties::{ExprProperties, SortProperties},
    },
};

pub(crate) const WHOLE_UNITS: &str = "whole_units";

pub(super) fn all() -> [ScalarUDF; 3] {
    [ScalarUDF::new_from_impl(DatePart { builtin: date_part() }), truncating("date_trunc"), truncating(WHOLE_UNITS)]
}

/// The time without the digits below a unit.
pub(crate) fn whole_units() -> Arc<ScalarUDF> {
    Arc::new(truncating(WHOLE_UNITS))
}

fn truncating(name: &'static str) -> ScalarUDF {
    ScalarUDF::new_from_impl(DateTrunc { name, builtin: date_trunc() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    builtin: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        self.builtin.name()
    }

    fn aliases(&self) -> &[String] {
        self.builtin.aliases()
    }

    fn signature(&self) -> &Signature {
        self.builtin.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.builtin.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.builtin.return_field_from_args(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [ColumnarValue::Scalar(part), length] = arguments.args.as_slice()
            && is_epoch(part)
            && let DataType::Duration(unit) = length.data_type()
        {
            return seconds(length, unit, arguments.number_rows);
        }
        self.builtin.invoke_with_args(arguments)
    }

    fn preimage(&self, arguments: &[Expr], literal: &Expr, context: &SimplifyContext) -> Result<PreimageResult> {
        self.builtin.preimage(arguments, literal, context)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.builtin.documentation()
    }
}

fn is_epoch(part: &ScalarValue) -> bool {
    let part = part.try_as_str().flatten().unwrap_or_default();
    part.trim_matches(['\'', '"']).eq_ignore_ascii_case("epoch")
}

fn seconds(length: &ColumnarValue, unit: TimeUnit, rows: usize) -> Result<ColumnarValue> {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    // A century in nanoseconds has more digits than a float.
    let in_seconds = |count: i64| (count / per_second) as f64 + (count % per_second) as f64 / per_second as f64;
    let counts = cast(&length.to_array(rows)?, &DataType::Int64)?;
    let seconds: Float64Array = counts.as_primitive::<Int64Type>().unary(in_seconds);
    Ok(ColumnarValue::Array(Arc::new(seconds)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    name: &'static str,
    builtin: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        if self.name == WHOLE_UNITS { &[] } else { self.builtin.aliases() }
    }

    fn signature(&self) -> &Signature {
        self.builtin.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.builtin.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.builtin.return_field_from_args(arguments)
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // DataFusion takes the digits below a second off a scalar by a division, which goes towards 1970.
        if let [_, time] = arguments.args.as_mut_slice()
            && matches!(time.data_type(), DataType::Timestamp(..))
        {
            *time = ColumnarValue::Array(time.to_array(arguments.number_rows)?);
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
