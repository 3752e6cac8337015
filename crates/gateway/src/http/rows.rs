//! Rows as JSON: `{columns: [{name, type}], rows: [[…]]}`. Numbers that JavaScript would round (beyond 2^53) and everything that JSON has
//! no word for (timestamps, decimals) travel as text; bytes as `0x…`. Lists are arrays, rows and maps objects.
use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{
        DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
    error::ArrowError,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde::Serialize;
use serde_json::Value;

use crate::error::EngineError;

const LARGEST_EXACT: u64 = 1 << 53;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub nullable: bool,
}

pub fn columns(schema: &Schema) -> Vec<Column> {
    schema
        .fields()
        .iter()
        .map(|field| Column { name: field.name().clone(), kind: type_name(field.data_type()), nullable: field.is_nullable() })
        .collect()
}

/// A calm name: the width of a string's offsets is nobody's business.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "Utf8".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "Binary".to_owned(),
        DataType::Timestamp(unit, zone) => {
            let digits = match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            let zone = zone.as_ref().map(|zone| format!(", {zone}")).unwrap_or_default();
            format!("Timestamp({digits}{zone})")
        }
        other => other.to_string(),
    }
}

/// Appends a batch's rows, at most until `rows` holds `limit`.
pub fn append(rows: &mut Vec<Vec<Value>>, batch: &RecordBatch, limit: usize) -> Result<(), EngineError> {
    let formats = formats();
    let formatters =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &formats)).collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows().min(limit.saturating_sub(rows.len())) {
        let values = batch.columns().iter().zip(&formatters).map(|(column, text)| match column.data_type().is_nested() {
            true => json(column, row),
            false => Ok(value(column, row, text)),
        });
        rows.push(values.collect::<Result<_, _>>()?);
    }
    Ok(())
}

fn formats() -> FormatOptions<'static> {
    FormatOptions::default().with_display_error(true).with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.f"))
}

/// Lists are arrays, structs and maps objects; a map's keys are text, whatever they were.
pub fn json(array: &dyn Array, row: usize) -> Result<Value, ArrowError> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    match array.data_type() {
        DataType::List(_) => items(&array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => items(&array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => items(&array.as_fixed_size_list().value(row)),
        DataType::ListView(_) => items(&array.as_list_view::<i32>().value(row)),
        DataType::LargeListView(_) => items(&array.as_list_view::<i64>().value(row)),
        DataType::Struct(fields) => {
            let members = fields.iter().zip(array.as_struct().columns());
            members.map(|(field, column)| Ok::<_, ArrowError>((field.name().clone(), json(column, row)?))).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let entry = |at: usize| {
                let key = match json(entries.column(0), at)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                Ok::<_, ArrowError>((key, json(entries.column(1), at)?))
            };
            (0..entries.len()).map(entry).collect()
        }
        _ => Ok(value(array, row, &ArrayFormatter::try_new(array, &formats())?)),
    }
}

fn items(list: &ArrayRef) -> Result<Value, ArrowError> {
    (0..list.len()).map(|at| json(list, at)).collect()
}

/// One value that is not nested; `text` formats the array.
fn value(array: &dyn Array, row: usize, text: &ArrayFormatter) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::Int64 => {
            let number = array.as_primitive::<Int64Type>().value(row);
            if number.unsigned_abs() <= LARGEST_EXACT { number.into() } else { number.to_string().into() }
        }
        DataType::UInt64 => {
            let number = array.as_primitive::<UInt64Type>().value(row);
            if number <= LARGEST_EXACT { number.into() } else { number.to_string().into() }
        }
        DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            format!("0x{}", text.value(row)).into()
        }
        _ => text.value(row).to_string().into(),
    }
}

/// JSON has no NaN and no infinity: those are text.
fn float(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or_else(|| number.to_string().into(), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn values_arrive_as_people_mean_them() {
        let session = datafusion::prelude::SessionContext::new();
        let sql = "SELECT 1 AS a, 9007199254740993 AS b, NULL AS c, 'é' AS d, 1.5 AS e, CAST('NaN' AS DOUBLE) AS f, true AS g,
                          arrow_cast('2026-01-02T03:04:05.006', 'Timestamp(Millisecond, None)') AS h, arrow_cast('ab', 'Binary') AS i,
                          make_array(1, NULL) AS j, named_struct('a', 'x', 'b', make_array(CAST(1.50 AS DECIMAL(5, 2)))) AS k,
                          map(make_array('k'), make_array(TIMESTAMP '2026-01-02 03:04:05')) AS l";
        let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
        let mut rows = Vec::new();
        append(&mut rows, &batches[0], 10).unwrap();
        assert_eq!(
            rows[0],
            [
                json!(1),
                json!("9007199254740993"),
                json!(null),
                json!("é"),
                json!(1.5),
                json!("NaN"),
                json!(true),
                json!("2026-01-02T03:04:05.006"),
                json!("0x6162"),
                json!([1, null]),
                json!({"a": "x", "b": ["1.50"]}),
                json!({"k": "2026-01-02T03:04:05"})
            ]
        );
        assert_eq!(columns(&batches[0].schema())[7].kind, "Timestamp(3)");
    }
}
