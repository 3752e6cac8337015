//! Arrow's decimals as PostgreSQL's `numeric`, of every length: `arrow-pg` puts them into 96 bits. Texts and bytes it copies as they are, so
//! decimals come to it as what is sent: the digits, or in binary four words before the digits to the base of 10000.
use std::{fmt::Display, sync::Arc};

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, ListArray, StringArray},
    datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, Field, Fields, Schema},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion_postgres::{
    arrow_pg::datatypes::arrow_schema_to_pg_fields,
    pgwire::{
        api::{
            portal::Format,
            results::{FieldFormat, FieldInfo},
        },
        error::PgWireResult,
        types::format::FormatOptions,
    },
};

/// So many decimal digits are one of PostgreSQL's.
const GROUP: usize = 4;
const NEGATIVE: i16 = 0x4000;

/// Columns as clients are told of them.
pub fn fields(schema: &Schema, format: &Format, options: Option<Arc<FormatOptions>>) -> PgWireResult<Vec<FieldInfo>> {
    let told = schema.fields().iter().map(|field| field.as_ref().clone().with_data_type(narrow(field.data_type())));
    arrow_schema_to_pg_fields(&Schema::new(told.collect::<Fields>()), format, options)
}

/// `arrow-pg` knows no type for decimals of 256 bits.
fn narrow(ours: &DataType) -> DataType {
    match ours {
        DataType::Decimal256(..) => DataType::Decimal128(38, 0),
        DataType::List(item) => DataType::List(Arc::new(item.as_ref().clone().with_data_type(narrow(item.data_type())))),
        other => other.clone(),
    }
}

/// Rows whose decimals are what is sent of them, in the formats of `fields`.
pub fn sent(batch: &RecordBatch, fields: &[FieldInfo]) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(fields).map(|(column, field)| column_sent(column, field.format()));
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    let types = batch.schema_ref().fields().iter().zip(&columns);
    let types = types.map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()));
    RecordBatch::try_new(Arc::new(Schema::new(types.collect::<Fields>())), columns)
}

fn column_sent(column: &ArrayRef, format: FieldFormat) -> Result<ArrayRef, ArrowError> {
    let texts: StringArray = match column.data_type() {
        DataType::Decimal128(_, scale) => texts::<Decimal128Type>(column, *scale),
        DataType::Decimal256(_, scale) => texts::<Decimal256Type>(column, *scale),
        DataType::List(item) if matches!(item.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..)) => {
            let list = column.as_list::<i32>();
            let items = column_sent(list.values(), format)?;
            let item = Arc::new(Field::new_list_field(items.data_type().clone(), true));
            return Ok(Arc::new(ListArray::try_new(item, list.offsets().clone(), items, list.nulls().cloned())?));
        }
        _ => return Ok(column.clone()),
    };
    if format == FieldFormat::Text {
        return Ok(Arc::new(texts));
    }
    Ok(Arc::new(texts.iter().map(|text| text.map(binary)).collect::<BinaryArray>()))
}

fn texts<T: ArrowPrimitiveType<Native: Display>>(column: &ArrayRef, scale: i8) -> StringArray {
    let values = column.as_primitive::<T>().iter();
    values.map(|value| value.map(|value| text(&value.to_string(), scale))).collect()
}

/// Every digit of an unscaled value: Arrow's own formatting cuts one that is longer than its type says.
fn text(unscaled: &str, scale: i8) -> String {
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    match usize::try_from(scale) {
        Ok(0) => unscaled.to_owned(),
        Ok(scale) => {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        Err(_) if digits == "0" => unscaled.to_owned(),
        Err(_) => format!("{unscaled}{}", "0".repeat(usize::from(scale.unsigned_abs()))),
    }
}

/// As PostgreSQL's `numeric_send` writes it: how many digits there are, the power of the first one, the sign, how many decimal digits
/// stand behind the point. No zeros stand at either end.
fn binary(text: &str) -> Vec<u8> {
    let (sign, text) = text.strip_prefix('-').map_or((0, text), |digits| (NEGATIVE, digits));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let missing = |digits: &str| "0".repeat(digits.len().next_multiple_of(GROUP) - digits.len());
    let padded = format!("{}{whole}{fraction}{}", missing(whole), missing(fraction));
    let groups = padded.as_bytes().chunks(GROUP);
    let digits = groups.map(|group| group.iter().fold(0_i16, |number, digit| number * 10 + i16::from(digit - b'0')));
    let digits: Vec<i16> = digits.collect();
    let is_significant = |digit: &i16| *digit != 0;
    let first = digits.iter().position(is_significant);
    let last = digits.iter().rposition(is_significant);
    let (power, digits) = match (first, last) {
        (Some(first), Some(last)) => (word(whole.len().div_ceil(GROUP)) - 1 - word(first), &digits[first..=last]),
        _ => (0, &digits[..0]),
    };
    let head = [word(digits.len()), power, sign, word(fraction.len())];
    head.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
}

fn word(count: usize) -> i16 {
    i16::try_from(count).expect("256 bits have 78 digits, and a scale at most 128 zeros")
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::{Decimal128Array, Decimal256Array},
            datatypes::i256,
        },
        prelude::SessionContext,
    };
    use datafusion_postgres::{arrow_pg::datatypes::encode_recordbatch, pgwire::api::Type};

    use super::*;
    use crate::postgres::parameters;

    #[test]
    fn every_digit_is_written() {
        let nines = "9".repeat(38);
        for (unscaled, scale, expected) in [
            ("0", 0, "0"),
            ("0", 3, "0.000"),
            ("0", -3, "0"),
            ("1500", 3, "1.500"),
            ("-15", 3, "-0.015"),
            ("15", -3, "15000"),
            ("10000000000000000000000000000", 0, "10000000000000000000000000000"),
            (nines.as_str(), 38, format!("0.{nines}").as_str()),
            ("-170141183460469231731687303715884105728", 2, "-1701411834604692317316873037158841057.28"),
        ] {
            assert_eq!(text(unscaled, scale), expected);
        }
    }

    #[test]
    fn binary_is_what_postgresql_sends() {
        for (text, words) in [
            ("0", vec![0, 0, 0, 0]),
            ("0.000", vec![0, 0, 0, 3]),
            ("1", vec![1, 0, 0, 0, 1]),
            ("-70000.2", vec![3, 1, 0x4000, 1, 7, 0, 2000]),
            ("12345.678", vec![3, 1, 0, 3, 1, 2345, 6780]),
            ("1.50", vec![2, 0, 0, 2, 1, 5000]),
            ("120000", vec![1, 1, 0, 0, 12]),
            ("100000000", vec![1, 2, 0, 0, 1]),
            ("0.000012", vec![1, -2, 0, 6, 1200]),
            ("10000000000000000000000000000", vec![1, 7, 0, 0, 1]),
        ] {
            let expected: Vec<u8> = words.into_iter().flat_map(i16::to_be_bytes).collect();
            assert_eq!(binary(text), expected, "{text}");
        }
    }

    #[test]
    fn the_reader_of_parameters_reads_them_again() {
        let mut texts = vec!["0".to_owned(), "0.0000".to_owned(), "-0.00000000000000000000000000000000000001".to_owned()];
        for length in 1..=76 {
            let digits: String = ('1'..='9').chain(['0']).cycle().take(length).collect();
            let zeros = "0".repeat(length);
            texts.extend([digits.clone(), format!("-{digits}"), format!("0.{digits}"), format!("-{digits}.{zeros}{digits}")]);
            texts.extend([format!("1{zeros}"), format!("1{zeros}.{zeros}"), format!("0.{zeros}1"), "9".repeat(length)]);
        }
        for text in texts {
            assert_eq!(parameters::digits(&binary(&text)).as_deref(), Some(text.as_str()));
        }
    }

    /// The values of a row as they are sent.
    fn row(batch: &RecordBatch, format: &Format) -> Vec<Option<Vec<u8>>> {
        let fields = Arc::new(fields(batch.schema_ref(), format, None).unwrap());
        let row = encode_recordbatch(fields.clone(), sent(batch, &fields).unwrap()).next().unwrap().unwrap();
        let mut rest: &[u8] = &row.data;
        let mut values = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            // A length below zero is NULL.
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (value, after) = after.split_at(length.unwrap_or(0));
            values.push(length.map(|_| value.to_vec()));
            rest = after;
        }
        values
    }

    #[test]
    fn columns_arrive_in_both_formats() {
        let nines = 10_i128.pow(38) - 1;
        let long = i256::from_i128(-nines).wrapping_mul(i256::from_i128(nines));
        let narrow = |value: Option<i128>, scale: i8| {
            let array = Decimal128Array::from(vec![value]).with_precision_and_scale(38, scale).unwrap();
            Arc::new(array) as ArrayRef
        };
        let wide = |value: i256, scale: i8| {
            let array = Decimal256Array::from(vec![value]).with_precision_and_scale(76, scale).unwrap();
            Arc::new(array) as ArrayRef
        };
        let columns = [
            (narrow(Some(10_i128.pow(28)), 0), Some(format!("1{}", "0".repeat(28)))),
            (narrow(Some(nines), 0), Some("9".repeat(38))),
            (narrow(Some(-nines), 38), Some(format!("-0.{}", "9".repeat(38)))),
            (narrow(Some(150), 2), Some("1.50".to_owned())),
            (narrow(Some(0), 3), Some("0.000".to_owned())),
            (narrow(None, 3), None),
            (wide(long, 76), Some(format!("-0.{}8{}1", "9".repeat(37), "0".repeat(37)))),
            (wide(long, 0), Some(format!("-{}8{}1", "9".repeat(37), "0".repeat(37)))),
        ];
        let named = columns.iter().enumerate().map(|(at, (column, _))| (at.to_string(), column.clone(), true));
        let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
        let told = fields(batch.schema_ref(), &Format::UnifiedText, None).unwrap();
        assert!(told.iter().all(|field| *field.datatype() == Type::NUMERIC));
        let expected: Vec<Option<String>> = columns.into_iter().map(|(_, text)| text).collect();
        let texts = row(&batch, &Format::UnifiedText).into_iter().map(|value| value.map(|value| String::from_utf8(value).unwrap()));
        assert_eq!(texts.collect::<Vec<_>>(), expected);
        let binaries = row(&batch, &Format::UnifiedBinary);
        let binaries = binaries.into_iter().map(|value| value.map(|value| parameters::digits(&value).unwrap()));
        assert_eq!(binaries.collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn arrays_hold_them_too() {
        let nines = "9".repeat(38);
        let sql = format!("SELECT make_array(arrow_cast('{nines}', 'Decimal128(38, 0)'), NULL) AS n, make_array(1) AS i");
        let batch = SessionContext::new().sql(&sql).await.unwrap().collect().await.unwrap().remove(0);
        let told = fields(batch.schema_ref(), &Format::UnifiedText, None).unwrap();
        assert_eq!(*told[0].datatype(), Type::NUMERIC_ARRAY);
        let texts = row(&batch, &Format::UnifiedText);
        assert_eq!(texts, [Some(format!("{{{nines},NULL}}").into_bytes()), Some(b"{1}".to_vec())]);
        let binaries = row(&batch, &Format::UnifiedBinary);
        // One dimension, there are NULLs, of `numeric`; two items from the first on; then each with its length.
        let mut expected: Vec<u8> = [1_i32, 1, 1700, 2, 1].into_iter().flat_map(i32::to_be_bytes).collect();
        let item = binary(&nines);
        expected.extend(i32::try_from(item.len()).unwrap().to_be_bytes());
        expected.extend(item);
        expected.extend((-1_i32).to_be_bytes());
        assert_eq!(binaries[0], Some(expected));
    }
}
