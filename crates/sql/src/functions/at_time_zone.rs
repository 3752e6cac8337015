//! `time AT TIME ZONE 'Europe/Paris'`, as PostgreSQL has it: of an instant, what clocks show there; of a time on clocks there, the instant.
//! DataFusion's only labels an instant with a zone, which every function reads in a way of its own.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::timezone::Tz,
        datatypes::{DataType, Field, FieldRef, TimeUnit},
    },
    common::{Result, exec_err, plan_err},
    functions::datetime::to_local_time,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility, cast,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::text::is_text;
use crate::types::UTC;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AtTimeZone {
    signature: Signature,
}

impl AtTimeZone {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The other kind of time.
fn other(time: &DataType) -> DataType {
    match time {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, None),
        DataType::Timestamp(unit, None) => DataType::Timestamp(*unit, Some(UTC.into())),
        _ => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
    }
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        "at_time_zone"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [time @ DataType::Timestamp(..), zone] if is_text(zone) => Ok(vec![time.clone(), DataType::Utf8]),
            [time, zone] if (is_text(time) || *time == DataType::Date32) && is_text(zone) => {
                Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, None), DataType::Utf8])
            }
            _ => plan_err!("AT TIME ZONE takes a timestamp and a zone, for example ts AT TIME ZONE 'Europe/Paris'"),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(other(&arguments[0]))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [_, Some(zone)] = arguments.scalar_arguments else {
            return plan_err!("AT TIME ZONE takes one zone for all rows, in quotes");
        };
        let zone = zone.try_as_str().flatten().unwrap_or_default();
        if zone.parse::<Tz>().is_err() {
            return plan_err!("there is no time zone {zone:?}; write for example 'Europe/Paris', 'UTC' or '+02:00'");
        }
        Ok(Arc::new(Field::new(self.name(), other(arguments.arg_fields[0].data_type()), true)))
    }

    fn simplify(&self, arguments: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Ok([time, Expr::Literal(zone, _)]) = <[Expr; 2]>::try_from(arguments) else {
            return plan_err!("AT TIME ZONE takes one zone for all rows, in quotes");
        };
        let zone = zone.try_as_str().flatten().unwrap_or_default().to_owned();
        let DataType::Timestamp(unit, from) = context.get_data_type(&time)? else {
            return plan_err!("AT TIME ZONE takes a timestamp");
        };
        let there = cast(time, DataType::Timestamp(unit, Some(zone.into())));
        Ok(ExprSimplifyResult::Simplified(match from {
            Some(_) => to_local_time().call(vec![there]),
            None => cast(there, DataType::Timestamp(unit, Some(UTC.into()))),
        }))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("AT TIME ZONE is replaced when a plan is optimised; optimise the plan first")
    }
}
