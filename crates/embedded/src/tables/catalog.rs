//! The durable list of tables: each table's schema, and the number under which its rows are stored. An entry is a format byte, a
//! CRC-32 and JSON; keys are `keyspace.table`.
use std::collections::HashSet;

use arrow::datatypes::DataType;
use polybolos_tables::{Column, TableError, TableName, TableSchema};
use serde::{Deserialize, Serialize};

use super::{
    Damage,
    types::{Layout, layout, parse_type, type_name},
};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 5;

#[derive(Serialize, Deserialize)]
struct Entry {
    number: u64,
    name: TableName,
    columns: Vec<EntryColumn>,
    partition_key: Vec<String>,
    clustering_key: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct EntryColumn {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
}

/// A table's schema and what follows from it for keys and rows.
#[derive(Debug)]
pub(super) struct StoredSchema {
    /// Its rows are in keyspace `rows-<number>`.
    pub(super) number: u64,
    pub(super) schema: TableSchema,
    /// Partition key first: column position and layout.
    pub(super) key: Vec<(usize, Layout)>,
    /// How many of `key` are the partition key.
    pub(super) partition_columns: usize,
    /// The other columns, in order.
    pub(super) cells: Vec<usize>,
    pub(super) cell_layouts: Vec<Layout>,
}

impl StoredSchema {
    /// Refuses schemas that cannot be stored, naming everything that is wrong.
    pub(super) fn new(number: u64, schema: &TableSchema) -> Result<Self, TableError> {
        check(schema)?;
        let position = |name: &str| schema.columns.iter().position(|column| column.name == name);
        let layout_of = |index: usize| layout(&schema.columns[index].data_type).expect("types were checked");
        let key: Vec<_> = schema.primary_key().filter_map(position).map(|index| (index, layout_of(index))).collect();
        let cells: Vec<_> = (0..schema.columns.len()).filter(|index| key.iter().all(|(key, _)| key != index)).collect();
        let cell_layouts = cells.iter().map(|index| layout_of(*index)).collect();
        let mut schema = schema.clone();
        for column in &mut schema.columns {
            column.native_type = type_name(&column.data_type);
        }
        Ok(Self { number, partition_columns: schema.partition_key.len(), schema, key, cells, cell_layouts })
    }

    pub(super) fn keyspace_name(&self) -> String {
        format!("rows-{}", self.number)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let columns = self.schema.columns.iter();
        let entry = Entry {
            number: self.number,
            name: self.schema.name.clone(),
            columns: columns
                .map(|column| EntryColumn {
                    name: column.name.clone(),
                    type_name: column.native_type.clone().expect("stored columns have a type name"),
                })
                .collect(),
            partition_key: self.schema.partition_key.clone(),
            clustering_key: self.schema.clustering_key.clone(),
        };
        let json = serde_json::to_vec(&entry).expect("a catalog entry is plain data");
        let mut out = Vec::with_capacity(HEADER_BYTES + json.len());
        out.push(FORMAT);
        out.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
        out.extend_from_slice(&json);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (header, json) = bytes.split_at_checked(HEADER_BYTES).ok_or(Damage("a catalog entry is too short"))?;
        if header[0] != FORMAT {
            return Err(Damage("a catalog entry has an unknown format; it was written by a newer version"));
        }
        if header[1..] != crc32fast::hash(json).to_le_bytes() {
            return Err(Damage("a catalog entry does not match its checksum"));
        }
        let entry: Entry = serde_json::from_slice(json).map_err(|_| Damage("a catalog entry cannot be read"))?;
        let column = |column: EntryColumn| parse_type(&column.type_name).map(|data_type| Column::new(column.name, data_type));
        let columns = entry.columns.into_iter().map(column).collect::<Option<_>>();
        let schema = TableSchema {
            name: entry.name,
            columns: columns.ok_or(Damage("a catalog entry has an unknown type"))?,
            partition_key: entry.partition_key,
            clustering_key: entry.clustering_key,
        };
        Self::new(entry.number, &schema).map_err(|_| Damage("a catalog entry contradicts itself"))
    }
}

fn check(schema: &TableSchema) -> Result<(), TableError> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    for Column { name, data_type, .. } in &schema.columns {
        if !names.insert(name) {
            faults.push(format!("column {name} appears twice"));
        }
        if layout(data_type).is_none() {
            faults.push(format!("column {name} has type {data_type}, which cannot be stored{}", remedy(data_type)));
        }
    }
    if schema.partition_key.is_empty() {
        faults.push("it has no primary key; add PRIMARY KEY (…) NOT ENFORCED".into());
    }
    let mut keys = HashSet::new();
    for key in schema.primary_key() {
        if !names.iter().any(|name| *name == key) {
            faults.push(format!("key column {key} is not one of its columns"));
        }
        if !keys.insert(key) {
            faults.push(format!("key column {key} appears twice in the primary key"));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(TableError::Unsupported { message: format!("table {} cannot be created: {}", schema.name, faults.join("; ")) })
}

fn remedy(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(_, _) => "; use a timestamp in milliseconds, UTC",
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => "; use a signed integer",
        DataType::LargeUtf8 | DataType::Utf8View => "; use Utf8",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::types::every_type;

    fn schema() -> TableSchema {
        let columns = every_type().into_iter().enumerate().map(|(i, data_type)| Column::new(format!("c{i}"), data_type)).collect();
        TableSchema {
            name: TableName::new("spark_streams", "created_users"),
            columns,
            partition_key: vec!["c3".into(), "c0".into()],
            clustering_key: vec!["c7".into()],
        }
    }

    #[test]
    fn entries_read_back() {
        let stored = StoredSchema::new(7, &schema()).unwrap();
        let back = StoredSchema::decode(&stored.encode()).unwrap();
        assert_eq!((back.number, &back.schema, back.partition_columns), (7, &stored.schema, 2));
        assert_eq!(back.key.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [3, 0, 7]);
        assert_eq!(back.schema.columns[0].native_type.as_deref(), Some("text"));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = StoredSchema::new(7, &schema()).unwrap().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredSchema::decode(&damaged).is_err(), "bit {bit}");
        }
        assert!(StoredSchema::decode(&bytes[..3]).is_err());
    }

    #[test]
    fn all_faults_of_a_schema_are_named_at_once() {
        let mut schema = schema();
        schema.columns.push(Column::new("n", DataType::UInt64));
        schema.columns.push(Column::new("n", DataType::Int8));
        schema.clustering_key.push("absent".into());
        let error = StoredSchema::new(1, &schema).unwrap_err().to_string();
        for part in ["column n appears twice", "UInt64", "signed integer", "key column absent"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        schema.partition_key.clear();
        schema.clustering_key.clear();
        assert!(StoredSchema::new(1, &schema).unwrap_err().to_string().contains("PRIMARY KEY"));
    }
}
