//! Arrow values as CQL bytes. A column is downcast once per batch; a cell is written straight into the request.
use std::{io, net::IpAddr};

use arrow::{
    array::{
        Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
        Int32Array, Int64Array, RecordBatch, StringArray, Time64NanosecondArray, TimestampMillisecondArray,
    },
    datatypes::{DataType, TimeUnit},
};
use polybolos_tables::TableError;
use scylla::serialize::{
    SerializationError,
    row::{RowSerializationContext, SerializeRow},
    writers::RowWriter,
};

use crate::{
    decimal,
    types::{address, is_inet, is_uuid, uuid},
};

/// CQL counts days from 2^31 before 1970.
const DATE_EPOCH: i64 = 1 << 31;

enum Cells<'a> {
    Text(&'a StringArray),
    Boolean(&'a BooleanArray),
    Binary(&'a BinaryArray),
    Date(&'a Date32Array),
    Decimal(&'a Decimal128Array, i8),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Int8(&'a Int8Array),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Timestamp(&'a TimestampMillisecondArray),
    Time(&'a Time64NanosecondArray),
}

/// The markers of a statement beside the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// `INSERT … VALUES (columns) USING TIMESTAMP ?`, and `AND TTL ?` where there is one.
    Insert { timestamp_us: i64, ttl_seconds: Option<i32> },
    /// `DELETE … USING TIMESTAMP ? WHERE columns`.
    Delete { timestamp_us: i64 },
}

/// The columns of a batch, ready to be written row by row.
pub(crate) struct Rows<'a> {
    columns: Vec<(Cells<'a>, &'a dyn Array)>,
    marks: Marks,
}

impl<'a> Rows<'a> {
    pub fn new(batch: &'a RecordBatch, marks: Marks) -> Result<Self, TableError> {
        let columns = batch
            .columns()
            .iter()
            .zip(batch.schema().fields())
            .map(|(column, field)| Ok((cells(column.as_ref(), field.name())?, column.as_ref())))
            .collect::<Result<Vec<_>, TableError>>()?;
        Ok(Self { columns, marks })
    }

    /// A row's size, about: texts and blobs as they are, others as eight bytes.
    pub fn size(&self, row: usize) -> usize {
        let cell = |cells: &Cells<'_>| match cells {
            Cells::Text(array) => array.value_length(row) as usize,
            Cells::Binary(array) => array.value_length(row) as usize,
            _ => 8,
        };
        self.columns.iter().map(|(cells, _)| 4 + cell(cells)).sum()
    }

    pub fn row(&self, row: usize) -> Row<'_> {
        Row { rows: self, row }
    }
}

fn cells<'a>(column: &'a dyn Array, name: &str) -> Result<Cells<'a>, TableError> {
    let any = column.as_any();
    let found = match column.data_type() {
        DataType::Utf8 => any.downcast_ref().map(Cells::Text),
        DataType::Boolean => any.downcast_ref().map(Cells::Boolean),
        DataType::Binary => any.downcast_ref().map(Cells::Binary),
        DataType::Date32 => any.downcast_ref().map(Cells::Date),
        DataType::Decimal128(_, scale) => any.downcast_ref().map(|array| Cells::Decimal(array, *scale)),
        DataType::Float32 => any.downcast_ref().map(Cells::Float32),
        DataType::Float64 => any.downcast_ref().map(Cells::Float64),
        DataType::Int8 => any.downcast_ref().map(Cells::Int8),
        DataType::Int16 => any.downcast_ref().map(Cells::Int16),
        DataType::Int32 => any.downcast_ref().map(Cells::Int32),
        DataType::Int64 => any.downcast_ref().map(Cells::Int64),
        DataType::Timestamp(TimeUnit::Millisecond, _) => any.downcast_ref().map(Cells::Timestamp),
        DataType::Time64(TimeUnit::Nanosecond) => any.downcast_ref().map(Cells::Time),
        _ => None,
    };
    found.ok_or_else(|| TableError::Unsupported {
        message: format!("column {name:?} is {}, which cannot be written to Cassandra; cast it in the SELECT", column.data_type()),
    })
}

/// One row with its statement's marks.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    rows: &'a Rows<'a>,
    row: usize,
}

impl SerializeRow for Row<'_> {
    fn serialize(&self, context: &RowSerializationContext<'_>, writer: &mut RowWriter) -> Result<(), SerializationError> {
        let row = self.row;
        let mut mark = |bytes: &[u8]| writer.make_cell_writer().set_value(bytes).map(|_| ()).map_err(SerializationError::new);
        if let Marks::Delete { timestamp_us } = self.rows.marks {
            mark(&timestamp_us.to_be_bytes())?;
        }
        let first = usize::from(matches!(self.rows.marks, Marks::Delete { .. }));
        for ((cells, column), bound) in self.rows.columns.iter().zip(&context.columns()[first..]) {
            let cell = writer.make_cell_writer();
            if column.is_null(row) {
                cell.set_null();
                continue;
            }
            let written = match cells {
                Cells::Text(array) if is_uuid(bound.typ()) => {
                    let text = array.value(row);
                    let none = || SerializationError::new(io::Error::other(format!("{text:?} is no UUID in small letters")));
                    cell.set_value(uuid(text).ok_or_else(none)?.as_bytes())
                }
                Cells::Text(array) if is_inet(bound.typ()) => {
                    let text = array.value(row);
                    let none = || SerializationError::new(io::Error::other(format!("{text:?} is no address in its shortest form")));
                    match address(text).ok_or_else(none)? {
                        IpAddr::V4(address) => cell.set_value(&address.octets()),
                        IpAddr::V6(address) => cell.set_value(&address.octets()),
                    }
                }
                Cells::Text(array) => cell.set_value(array.value(row).as_bytes()),
                Cells::Boolean(array) => cell.set_value(&[u8::from(array.value(row))]),
                Cells::Binary(array) => cell.set_value(array.value(row)),
                Cells::Date(array) => cell.set_value(&((i64::from(array.value(row)) + DATE_EPOCH) as u32).to_be_bytes()),
                Cells::Decimal(array, scale) => cell.set_value(decimal::to_cql(array.value(row), *scale).bytes()),
                Cells::Float32(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Float64(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Int8(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Int16(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Int32(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Int64(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Timestamp(array) => cell.set_value(&array.value(row).to_be_bytes()),
                Cells::Time(array) => cell.set_value(&array.value(row).to_be_bytes()),
            };
            written.map_err(SerializationError::new)?;
        }
        let mut mark = |bytes: &[u8]| writer.make_cell_writer().set_value(bytes).map(|_| ()).map_err(SerializationError::new);
        if let Marks::Insert { timestamp_us, ttl_seconds } = self.rows.marks {
            mark(&timestamp_us.to_be_bytes())?;
            if let Some(seconds) = ttl_seconds {
                mark(&seconds.to_be_bytes())?;
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;
    use scylla::frame::response::result::{ColumnSpec, ColumnType, NativeType, TableSpec};

    use super::*;

    /// What is written of each text into a column of a type.
    fn written(texts: &[&str], stored: NativeType) -> Vec<Option<Vec<u8>>> {
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let batch = RecordBatch::try_from_iter([("at", column)]).expect("batch");
        let rows = Rows::new(&batch, Marks::Insert { timestamp_us: 0, ttl_seconds: None }).expect("rows");
        let specs = [ColumnSpec::borrowed("at", ColumnType::Native(stored), TableSpec::borrowed("k", "t"))];
        let written = |row: usize| {
            let mut out = vec![];
            let context = RowSerializationContext::from_specs(&specs);
            rows.row(row).serialize(&context, &mut RowWriter::new(&mut out)).ok()?;
            let (length, rest) = out.split_first_chunk::<4>()?;
            Some(rest[..u32::from_be_bytes(*length) as usize].to_vec())
        };
        (0..texts.len()).map(written).collect()
    }

    #[test]
    fn an_address_is_text_here_and_its_bytes_there() {
        assert_eq!(
            written(&["1.2.3.4", "::12"], NativeType::Inet),
            [Some(vec![1, 2, 3, 4]), Some([&[0; 14][..], &[0, 0x12]].concat())]
        );
        // As many letters as an address may have bytes are none.
        let others = written(&["::012", "0:0::12", "ABCD", "2001:db8::1:2:3x"], NativeType::Inet);
        assert!(others.iter().all(Option::is_none), "{others:?}");
    }

    #[test]
    fn texts_that_mean_one_uuid_are_not_two_keys_of_one_row() {
        let id = "123e4567-e89b-12d3-a456-42661417400f";
        let (capital, bare, braced) = (id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"));
        let texts = [id, capital.as_str(), bare.as_str(), braced.as_str(), "nonsense"];
        for stored in [NativeType::Uuid, NativeType::Timeuuid] {
            let written = written(&texts, stored);
            assert_eq!(written[0].as_ref().map(Vec::len), Some(16));
            assert!(written[1..].iter().all(Option::is_none), "{written:?}");
        }
    }
}
