//! Columns as bytes: Arrow's row format, which compares as the values do.
use arrow::{
    array::{ArrayRef, BooleanArray},
    buffer::NullBuffer,
    datatypes::{DataType, Field, Fields},
    row::{RowConverter, Rows, SortField},
};
use datafusion::common::{Result, internal_datafusion_err};

/// The row format of some columns, both ways.
#[derive(Debug)]
pub(crate) struct RowFormat {
    converter: RowConverter,
    columns: usize,
}

impl RowFormat {
    pub fn new<'a>(types: impl IntoIterator<Item = &'a DataType>) -> Result<Self> {
        Self::ordered(types.into_iter().map(|data_type| SortField::new(data_type.clone())).collect())
    }

    pub fn of(fields: &Fields) -> Result<Self> {
        Self::new(fields.iter().map(|field| field.data_type()))
    }

    pub fn ordered(fields: Vec<SortField>) -> Result<Self> {
        let columns = fields.len();
        Ok(Self { converter: RowConverter::new(fields)?, columns })
    }

    /// Answers `None` for no columns: every row is the empty key.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedRows> {
        if self.columns == 0 {
            return Ok(EncodedRows(None));
        }
        Ok(EncodedRows(Some(self.converter.convert_columns(columns)?)))
    }

    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        if self.columns == 0 {
            return Ok(vec![]);
        }
        let parser = self.converter.parser();
        let bytes: Vec<&[u8]> = rows.into_iter().collect();
        let columns = self.converter.convert_rows(bytes.iter().map(|bytes| parser.parse(bytes)))?;
        if columns.len() != self.columns {
            return Err(internal_datafusion_err!("{} columns were kept, {} came back", self.columns, columns.len()));
        }
        Ok(columns)
    }
}

pub(crate) struct EncodedRows(Option<Rows>);

impl EncodedRows {
    pub fn row(&self, index: usize) -> &[u8] {
        match &self.0 {
            Some(rows) => rows.row(index).data(),
            None => &[],
        }
    }

    /// The first so many.
    pub fn rows(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        (0..count).map(|index| self.row(index))
    }
}

/// What something kept is made of, for another process to compare: the types that its bytes depend on.
pub(crate) fn typed<'a>(what: &str, types: impl IntoIterator<Item = &'a DataType>) -> String {
    let types: Vec<_> = types.into_iter().map(type_name).collect();
    format!("{what} {}", types.join(", "))
}

/// A column that is kept, by its name where the query gives it one. The planner's own names have numbers, and are others in another
/// version.
pub(crate) fn typed_column(kind: &str, field: &Field) -> String {
    let name = field.name();
    let is_given = !name.contains("__") && name.chars().all(|character| character.is_alphanumeric() || character == '_');
    let what = if is_given { format!("{kind} {name}") } else { kind.to_owned() };
    typed(&what, [field.data_type()])
}

/// Manifests have these words, and other versions compare them: they stay. Types whose values are the same bytes have one name.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "Utf8".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "Binary".into(),
        DataType::Timestamp(unit, Some(zone)) => format!("Timestamp({unit}, {zone})"),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::List(item) | DataType::LargeList(item) => format!("List({})", type_name(item.data_type())),
        DataType::FixedSizeList(item, count) => format!("FixedSizeList({count}, {})", type_name(item.data_type())),
        // What its entries' fields are called depends on who makes it.
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { return data_type.to_string() };
            let types: Vec<_> = fields.iter().map(|field| type_name(field.data_type())).collect();
            format!("Map({})", types.join(", "))
        }
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|field| typed(field.name(), [field.data_type()])).collect();
            format!("Struct({})", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// Rows in which all of `columns` are there; `None`: all rows.
pub(crate) fn all_valid(columns: &[ArrayRef]) -> Option<BooleanArray> {
    let nulls = columns.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref()));
    nulls.filter(|nulls| nulls.null_count() > 0).map(|nulls| BooleanArray::new(nulls.into_inner(), None))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{IntervalUnit, TimeUnit};

    use super::*;

    /// State that was written with one of these words is refused by a version that has another for the same type.
    #[test]
    fn types_are_told_in_words_that_stay() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let named = |name: &str, data_type| Field::new(name, data_type, false);
        let entries = DataType::Struct(vec![named("keys", DataType::Utf8), named("values", DataType::Int32)].into());
        for (data_type, words) in [
            (DataType::Boolean, "Boolean"),
            (DataType::Int8, "Int8"),
            (DataType::Int64, "Int64"),
            (DataType::UInt64, "UInt64"),
            (DataType::Float32, "Float32"),
            (DataType::Float64, "Float64"),
            (DataType::Decimal128(38, 10), "Decimal128(38, 10)"),
            (DataType::Date32, "Date32"),
            (DataType::Time64(TimeUnit::Microsecond), "Time64(µs)"),
            (DataType::Timestamp(TimeUnit::Millisecond, None), "Timestamp(ms)"),
            (DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), "Timestamp(ns, UTC)"),
            (DataType::Interval(IntervalUnit::MonthDayNano), "Interval(MonthDayNano)"),
            (DataType::FixedSizeBinary(16), "FixedSizeBinary(16)"),
            (DataType::Utf8View, "Utf8"),
            (DataType::LargeBinary, "Binary"),
            (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), "Utf8"),
            (DataType::List(item(DataType::LargeUtf8)), "List(Utf8)"),
            (DataType::FixedSizeList(item(DataType::LargeUtf8), 3), "FixedSizeList(3, Utf8)"),
            (DataType::Map(Arc::new(named("entries", entries)), false), "Map(Utf8, Int32)"),
            (DataType::Struct(vec![named("a", DataType::Utf8View)].into()), "Struct(a Utf8)"),
        ] {
            assert_eq!(type_name(&data_type), words);
        }
        assert_eq!(typed("key d", [&DataType::Date32, &DataType::Utf8]), "key d Date32, Utf8");
        for (name, told) in
            [("window_end", "column window_end Utf8"), ("__common_expr_3", "column Utf8"), ("t.v + Int64(1)", "column Utf8")]
        {
            assert_eq!(typed_column("column", &named(name, DataType::Utf8)), told);
        }
    }
}
