//! How this door shows Arrow's types. PostgreSQL lacks some of them, and `arrow-pg` encodes others wrongly or not at all: those become a
//! kindred type, or text that holds JSON.
use std::sync::Arc;

use datafusion::arrow::{
    array::{Array, ArrayRef, DictionaryArray, Int32Array, StringArray},
    compute::{CastOptions, cast, cast_with_options},
    datatypes::{DataType, Field, Fields, Int32Type, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};

use crate::http::rows::json;

/// The schema that clients are told.
pub fn schema(schema: &Schema) -> SchemaRef {
    let shown = |field: &Arc<Field>| field.as_ref().clone().with_data_type(data_type(field.data_type())).with_nullable(true);
    Arc::new(Schema::new(schema.fields().iter().map(shown).collect::<Fields>()))
}

/// Rows as clients were told, also when they come in a kindred type. As many columns as `told` has.
pub fn batch(batch: &RecordBatch, told: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(told.fields()).map(|(column, field)| show(column, field.data_type()));
    RecordBatch::try_new(told.clone(), columns.collect::<Result<_, _>>()?)
}

fn data_type(ours: &DataType) -> DataType {
    match ours {
        // As PostgreSQL says of a bare NULL.
        DataType::Null => DataType::Utf8,
        // Told as two bytes, sent as one.
        DataType::Int8 => DataType::Int16,
        DataType::Float16 => DataType::Float32,
        DataType::FixedSizeBinary(_) => DataType::Binary,
        // The encoder reads an interval without asking whether it is NULL; of a dictionary it asks.
        DataType::Interval(_) => DataType::Dictionary(Box::new(DataType::Int32), Box::new(ours.clone())),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            data_type(&DataType::Decimal128(*precision, *scale))
        }
        DataType::Dictionary(_, values) => data_type(values),
        DataType::RunEndEncoded(_, values) => data_type(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
            if !item.data_type().is_nested() =>
        {
            DataType::List(Arc::new(Field::new_list_field(item_type(item.data_type()), true)))
        }
        // Structs too: in the text of a record the encoder writes NULL as an empty string.
        nested if nested.is_nested() => DataType::Utf8,
        other => other.clone(),
    }
}

/// Within arrays the encoder asks of intervals.
fn item_type(ours: &DataType) -> DataType {
    match ours {
        DataType::Interval(_) => ours.clone(),
        _ => data_type(ours),
    }
}

/// A value that does not fit fails; it is not NULL.
fn show(column: &ArrayRef, told: &DataType) -> Result<ArrayRef, ArrowError> {
    match (column.data_type(), told) {
        (ours, told) if ours == told => Ok(column.clone()),
        (DataType::Dictionary(_, values), _) => show(&cast(column, values)?, told),
        (DataType::RunEndEncoded(_, values), _) => show(&cast(column, values.data_type())?, told),
        (DataType::Interval(_), DataType::Dictionary(..)) => {
            let keys: Int32Array = (0_i32..).zip(0..column.len()).map(|(key, row)| column.is_valid(row).then_some(key)).collect();
            Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, column.clone())?))
        }
        (ours, DataType::Utf8) if ours.is_nested() => {
            let text =
                |row: usize| if column.is_null(row) { Ok(None) } else { json(column, row).map(|value| Some(value.to_string())) };
            Ok(Arc::new((0..column.len()).map(text).collect::<Result<StringArray, ArrowError>>()?))
        }
        _ => cast_with_options(column, told, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::AsArray,
            util::display::{ArrayFormatter, FormatOptions},
        },
        prelude::SessionContext,
    };

    use super::*;

    #[tokio::test]
    async fn what_postgresql_has_no_type_for_is_shown_as_what_it_has() {
        let sql = "SELECT CAST(-1 AS TINYINT) AS a, make_array(CAST(1 AS TINYINT), NULL) AS b, MAP {'k': 1, 'l': NULL} AS c,
                          make_array(make_array(1), make_array(2)) AS d, named_struct('n', NULL, 't', 'x\"y') AS e, NULL AS f,
                          make_array(named_struct('x', 1.5e0)) AS g, MAP {7: make_array(true)} AS h,
                          arrow_cast('a', 'Dictionary(Int32, Utf8)') AS i, arrow_cast(1.5, 'Decimal256(50, 1)') AS j, 5 AS k";
        let frame = SessionContext::new().sql(sql).await.unwrap();
        let told = schema(frame.schema().as_arrow());
        let item = |data_type| DataType::List(Arc::new(Field::new_list_field(data_type, true)));
        let text = DataType::Utf8;
        let expected = [
            (DataType::Int16, "-1"),
            (item(DataType::Int16), "[1, ]"),
            (text.clone(), r#"{"k":1,"l":null}"#),
            (text.clone(), "[[1],[2]]"),
            (text.clone(), r#"{"n":null,"t":"x\"y"}"#),
            (text.clone(), ""),
            (text.clone(), r#"[{"x":1.5}]"#),
            (text.clone(), r#"{"7":[true]}"#),
            (text.clone(), "a"),
            (DataType::Decimal256(50, 1), "1.5"),
            (DataType::Int64, "5"),
        ];
        let rows = batch(&frame.collect().await.unwrap()[0], &told).unwrap();
        for (column, (data_type, shown)) in expected.into_iter().enumerate() {
            let array = rows.column(column);
            assert_eq!(*array.data_type(), data_type, "column {column}");
            let formatter = ArrayFormatter::try_new(array, &FormatOptions::default()).unwrap();
            assert_eq!(formatter.value(0).to_string(), shown, "column {column}");
        }
    }

    #[tokio::test]
    async fn intervals_stay_and_know_of_null() {
        let sql = "SELECT column1 AS i FROM (VALUES (INTERVAL '1 day'), (NULL))";
        let frame = SessionContext::new().sql(sql).await.unwrap();
        let told = schema(frame.schema().as_arrow());
        let rows = batch(&frame.collect().await.unwrap()[0], &told).unwrap();
        let intervals = rows.column(0).as_dictionary::<Int32Type>();
        assert!(intervals.is_valid(0) && intervals.is_null(1));
    }

    #[test]
    fn a_value_that_does_not_fit_is_no_null() {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![70_000]));
        assert!(show(&column, &DataType::Int16).is_err());
    }
}
