//! Columns as bytes: Arrow's row format, which compares as the values do.
use arrow::{
    array::{ArrayRef, BooleanArray},
    buffer::NullBuffer,
    datatypes::{DataType, Fields},
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

/// Rows in which all of `columns` are there; `None`: all rows.
pub(crate) fn all_valid(columns: &[ArrayRef]) -> Option<BooleanArray> {
    let nulls = columns.iter().fold(None, |nulls, column| NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref()));
    nulls.filter(|nulls| nulls.null_count() > 0).map(|nulls| BooleanArray::new(nulls.into_inner(), None))
}
