//! `last_day(date)`: the last day of its month.
use std::sync::Arc;

use chrono::{Datelike, Months};
use datafusion::{
    arrow::{
        array::{AsArray, Date32Array},
        datatypes::{DataType, Date32Type},
    },
    common::{Result, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::text::is_text;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct LastDay {
    signature: Signature,
}

impl LastDay {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// In days since 1970. `None` where no calendar reaches.
fn last_day(days: i32) -> Option<i32> {
    let first = Date32Type::to_naive_date_opt(days)?.with_day(1)?;
    first.checked_add_months(Months::new(1))?.pred_opt().map(Date32Type::from_naive_date)
}

impl ScalarUDFImpl for LastDay {
    fn name(&self) -> &str {
        "last_day"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [date] if matches!(date, DataType::Date32 | DataType::Timestamp(..)) || is_text(date) => Ok(vec![DataType::Date32]),
            _ => plan_err!("last_day takes a date or a timestamp"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Date32)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let dates = arguments.args[0].to_array(arguments.number_rows)?;
        let one = |date: Option<i32>| match date.map(last_day) {
            Some(None) => exec_err!("last_day leaves the range of dates"),
            Some(known) => Ok(known),
            None => Ok(None),
        };
        let last = dates.as_primitive::<Date32Type>().iter().map(one).collect::<Result<Date32Array>>()?;
        Ok(ColumnarValue::Array(Arc::new(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_end_by_the_calendar() {
        let days = |date: &str| Date32Type::from_naive_date(date.parse().unwrap());
        for (date, last) in
            [("2024-02-01", "2024-02-29"), ("2023-02-28", "2023-02-28"), ("2026-12-15", "2026-12-31"), ("1969-11-30", "1969-11-30")]
        {
            assert_eq!(last_day(days(date)), Some(days(last)), "{date}");
        }
        assert_eq!(last_day(i32::MAX), None);
    }
}
