//! DataFusion's functions, right where those are not. `date_part`: the seconds of a difference of two times have all their digits,
//! however long it is. `date_trunc`: literals before 1970 go down, as the times of columns do; `whole_units(unit, time)` is the same
//! beneath a CAST to fewer digits, which by itself goes towards 1970. `nullif`: -0.0 and 0.0 are equal, as they are to `=`.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{AsArray, Float64Array},
        compute::{cast, kernels::cmp::eq, nullif},
        datatypes::{DataType, FieldRef, Int64Type, TimeUnit},
    },
    common::{Result, ScalarValue, utils::normalize_float_zero},
    functions::{
        core,
        datetime::{date_part, date_trunc},
    },
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        preimage::PreimageResult,
        simplify::SimplifyContext,
        sort_properties::{ExprProperties, SortProperties},
    },
};

pub(crate) const WHOLE_UNITS: &str = "whole_units";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    DatePart,
    DateTrunc,
    WholeUnits,
    NullIf,
}

/// DataFusion's function in all but what it computes of some arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Corrected {
    builtin: Arc<ScalarUDF>,
    kind: Kind,
}

pub(super) fn all() -> [Arc<ScalarUDF>; 4] {
    [Kind::DatePart, Kind::DateTrunc, Kind::WholeUnits, Kind::NullIf].map(corrected)
}

/// The time without the digits below a unit.
pub(crate) fn whole_units() -> Arc<ScalarUDF> {
    corrected(Kind::WholeUnits)
}

fn corrected(kind: Kind) -> Arc<ScalarUDF> {
    let builtin = match kind {
        Kind::DatePart => date_part(),
        Kind::DateTrunc | Kind::WholeUnits => date_trunc(),
        Kind::NullIf => core::nullif(),
    };
    Arc::new(ScalarUDF::new_from_impl(Corrected { builtin, kind }))
}

impl ScalarUDFImpl for Corrected {
    fn name(&self) -> &str {
        if self.kind == Kind::WholeUnits { WHOLE_UNITS } else { self.builtin.name() }
    }

    fn aliases(&self) -> &[String] {
        if self.kind == Kind::WholeUnits { &[] } else { self.builtin.aliases() }
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
        let rows = arguments.number_rows;
        match (self.kind, arguments.args.as_mut_slice()) {
            (Kind::DatePart, [ColumnarValue::Scalar(part), length]) if is_epoch(part) => {
                if let DataType::Duration(unit) = length.data_type() {
                    return seconds(length, unit, rows);
                }
            }
            // DataFusion takes the digits below a second off a scalar by a division, which goes towards 1970.
            (Kind::DateTrunc | Kind::WholeUnits, [_, time]) if matches!(time.data_type(), DataType::Timestamp(..)) => {
                *time = ColumnarValue::Array(time.to_array(rows)?);
            }
            (Kind::NullIf, [value, other]) if value.data_type().is_floating() && other.data_type().is_floating() => {
                let (value, other) = (value.to_array(rows)?, other.to_array(rows)?);
                let are_equal = eq(&normalize_float_zero(&value), &normalize_float_zero(&other))?;
                return Ok(ColumnarValue::Array(nullif(&value, &are_equal)?));
            }
            _ => {}
        }
        self.builtin.invoke_with_args(arguments)
    }

    fn preimage(&self, arguments: &[Expr], literal: &Expr, context: &SimplifyContext) -> Result<PreimageResult> {
        self.builtin.preimage(arguments, literal, context)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.builtin.output_ordering(inputs)
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
