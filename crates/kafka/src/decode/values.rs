//! Columns of numbers, booleans and nothing. A number that does not fit its column is a fault, never a NULL; only decimals are rounded, to their scale.
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, NullArray, PrimitiveArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::DecimalType;

use super::column::Column;
use super::decimal;
use super::fault::{Fault, Outcome};
use super::scan::Scanner;
use super::validity::Validity;

pub(super) struct Values<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    validity: Validity,
}

impl<T: ArrowPrimitiveType> Default for Values<T> {
    fn default() -> Self {
        Self { values: Vec::new(), validity: Validity::default() }
    }
}

impl<T: ArrowPrimitiveType> Values<T> {
    #[inline(always)]
    pub fn push(&mut self, value: T::Native) {
        self.values.push(value);
        self.validity.push_valid();
    }

    #[inline(always)]
    pub fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.validity.push_null();
    }

    pub fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.validity.truncate(rows);
    }

    pub fn finish(&mut self) -> PrimitiveArray<T> {
        let capacity = self.values.len();
        let values = std::mem::replace(&mut self.values, Vec::with_capacity(capacity));
        PrimitiveArray::new(ScalarBuffer::from(values), self.validity.finish())
    }
}

#[cold]
pub(super) fn wrong(scanner: &Scanner<'_>, wanted: &str) -> Box<Fault> {
    Fault::value(format!("expected {wanted}, found {}", scanner.glimpse()))
}

#[cold]
fn out_of_range(text: &str, wanted: impl std::fmt::Display) -> Box<Fault> {
    let shown: String = text.chars().take(40).collect();
    Fault::value(format!("{shown} does not fit {wanted}"))
}

/// Integers as text may also stand in quotes.
pub(super) struct IntegerColumn<T: ArrowPrimitiveType> {
    values: Values<T>,
}

impl<T: ArrowPrimitiveType> Default for IntegerColumn<T> {
    fn default() -> Self {
        Self { values: Values::default() }
    }
}

impl<T> Column for IntegerColumn<T>
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i128> + FromStr,
{
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        match scanner.peek() {
            Some(b'-' | b'0'..=b'9') => {
                let number = scanner.number()?;
                let whole = match number.magnitude {
                    Some(magnitude) => Some(if number.negative { -i128::from(magnitude) } else { i128::from(magnitude) }),
                    // `1e3` and `2.0` are whole numbers too.
                    None => decimal::whole(number.text),
                };
                let value = whole.and_then(|whole| T::Native::try_from(whole).ok());
                self.values.push(value.ok_or_else(|| out_of_range(number.text, T::DATA_TYPE))?);
                Ok(())
            }
            Some(b'"') => {
                let fault = || wrong(scanner, &T::DATA_TYPE.to_string());
                let mut ahead = scanner.at_string();
                let span = ahead.string()?;
                let value = ahead.raw_text(span).trim().parse().map_err(|_| fault())?;
                *scanner = ahead;
                self.values.push(value);
                Ok(())
            }
            _ => refuse(scanner, &T::DATA_TYPE.to_string()),
        }
    }

    fn append_null(&mut self) {
        self.values.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.values.finish())
    }
}

/// The value's type is wrong; if it is broken JSON besides, that is the better message.
#[cold]
pub(super) fn refuse(scanner: &mut Scanner<'_>, wanted: &str) -> Outcome {
    let fault = wrong(scanner, wanted);
    scanner.skip_value()?;
    Err(fault)
}

/// Floats; `"NaN"` and `"Infinity"` stand in quotes.
pub(super) struct FloatColumn<T: ArrowPrimitiveType> {
    values: Values<T>,
}

impl<T: ArrowPrimitiveType> Default for FloatColumn<T> {
    fn default() -> Self {
        Self { values: Values::default() }
    }
}

impl<T> Column for FloatColumn<T>
where
    T: ArrowPrimitiveType,
    T::Native: FromStr + Into<f64>,
{
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        let text = match scanner.peek() {
            Some(b'-' | b'0'..=b'9') => scanner.number()?.text,
            Some(b'"') => {
                let mut ahead = scanner.at_string();
                let span = ahead.string()?;
                let text = ahead.raw_text(span).trim();
                if text.parse::<T::Native>().is_err() {
                    return refuse(scanner, &T::DATA_TYPE.to_string());
                }
                *scanner = ahead;
                text
            }
            _ => return refuse(scanner, &T::DATA_TYPE.to_string()),
        };
        let value: T::Native = text.parse().map_err(|_| out_of_range(text, T::DATA_TYPE))?;
        if !value.into().is_finite() && text.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(out_of_range(text, T::DATA_TYPE));
        }
        self.values.push(value);
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.values.finish())
    }
}

/// Decimals, as numbers or in quotes; digits past the scale are rounded, half away from zero.
pub(super) struct DecimalColumn<T: DecimalType> {
    values: Values<T>,
    precision: u8,
    scale: i8,
}

impl<T: DecimalType> DecimalColumn<T> {
    pub fn new(precision: u8, scale: i8) -> Self {
        Self { values: Values::default(), precision, scale }
    }
}

impl<T: DecimalType + Send> Column for DecimalColumn<T> {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        let text = match scanner.peek() {
            Some(b'-' | b'0'..=b'9') => scanner.number()?.text,
            Some(b'"') => {
                let mut ahead = scanner.at_string();
                let span = ahead.string()?;
                let text = ahead.raw_text(span).trim();
                if !is_number(text) {
                    return refuse(scanner, "a decimal");
                }
                *scanner = ahead;
                text
            }
            _ => return refuse(scanner, "a decimal"),
        };
        let value = decimal::parse::<T>(text, self.precision, self.scale);
        let value = value.filter(|value| T::is_valid_decimal_precision(*value, self.precision));
        let value = value.ok_or_else(|| out_of_range(text, format_args!("DECIMAL({}, {})", self.precision, self.scale)))?;
        self.values.push(value);
        Ok(())
    }

    fn append_null(&mut self) {
        self.values.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let array = self.values.finish();
        Arc::new(array.with_data_type(T::TYPE_CONSTRUCTOR(self.precision, self.scale)))
    }
}

fn is_number(text: &str) -> bool {
    let mut scanner = Scanner::new(text, 1);
    scanner.number().is_ok() && scanner.peek().is_none()
}

#[derive(Default)]
pub(super) struct BooleanColumn {
    values: Option<BooleanBufferBuilder>,
    validity: Validity,
}

impl BooleanColumn {
    fn push(&mut self, value: bool) {
        self.values.get_or_insert_with(|| BooleanBufferBuilder::new(1024)).append(value);
    }
}

impl Column for BooleanColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        let value = match scanner.peek() {
            Some(b't') => {
                scanner.literal("true")?;
                true
            }
            Some(b'f') => {
                scanner.literal("false")?;
                false
            }
            _ => return refuse(scanner, "true or false"),
        };
        self.push(value);
        self.validity.push_valid();
        Ok(())
    }

    fn append_null(&mut self) {
        self.push(false);
        self.validity.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        if let Some(values) = &mut self.values {
            values.truncate(rows);
        }
        self.validity.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        let values = self.values.take().unwrap_or_else(|| BooleanBufferBuilder::new(0)).finish();
        Arc::new(BooleanArray::new(values, self.validity.finish()))
    }
}

/// A column of type NULL takes any value and keeps none.
#[derive(Default)]
pub(super) struct NullColumn {
    rows: usize,
}

impl Column for NullColumn {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Outcome {
        scanner.skip_value()?;
        self.rows += 1;
        Ok(())
    }

    fn append_null(&mut self) {
        self.rows += 1;
    }

    fn truncate(&mut self, rows: usize) {
        self.rows = rows.min(self.rows);
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(NullArray::new(std::mem::take(&mut self.rows)))
    }
}
