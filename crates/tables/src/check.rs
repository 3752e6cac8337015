//! Whether a stored table fits its declaration; every mismatch at once, so that nobody has to try again and again. And whether it can
//! take deletes.
use arrow::datatypes::DataType;

use crate::{Column, TableBackend, TableError, TableName, TableSchema};

/// The least time for which a table that gets deletes must remember them (EPOCHS rule 14): a tombstone that is purged before the epochs
/// before it are published lets their rows come back.
pub const MIN_GC_GRACE_SECONDS: u64 = 3600;

/// That a table which a job deletes from, or whose rows expire, remembers deletions for long enough.
pub async fn deletes(backend: &dyn TableBackend, table: &TableName) -> Result<(), TableError> {
    let Some(seconds) = backend.gc_grace_seconds(table).await? else {
        return Err(TableError::NoSuchTable { table: table.to_string() });
    };
    if seconds >= MIN_GC_GRACE_SECONDS {
        return Ok(());
    }
    Err(TableError::Unsupported {
        message: format!(
            "table {table} forgets deletions after {seconds} seconds, and deleted rows could come back when an epoch is written late; \
             raise it: ALTER TABLE {table} WITH gc_grace_seconds = {MIN_GC_GRACE_SECONDS} (or more)"
        ),
    })
}

/// Refuses a stored table that is not as declared.
pub fn columns(backend: &dyn TableBackend, declared: &TableSchema, stored: &TableSchema) -> Result<(), TableError> {
    fits(declared, stored, |column| backend.unusable(&declared.name, column))
}

/// The same for a backend itself: `unusable` is its [`TableBackend::unusable`].
pub fn fits(declared: &TableSchema, stored: &TableSchema, unusable: impl Fn(&str) -> Option<String>) -> Result<(), TableError> {
    let mismatches = mismatches(declared, stored, unusable);
    if mismatches.is_empty() { Ok(()) } else { Err(TableError::Mismatch { table: declared.name.to_string(), mismatches }) }
}

/// One line per mismatch: a missing column, another type, another primary key. Columns that only the store has are fine: they stay unset.
fn mismatches(declared: &TableSchema, stored: &TableSchema, unusable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = vec![];
    for column in &declared.columns {
        match stored.column(&column.name) {
            None => {
                found.push(unusable(&column.name).unwrap_or_else(|| format!("it has no column {:?}", column.name)));
            }
            Some(there) if there.data_type == column.data_type || is_decimal_of_any_size(there, &column.data_type) => {}
            Some(there) => {
                let native = there.native_type.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
                found.push(format!(
                    "column {:?} is declared {} and stored {}{native}",
                    column.name, column.data_type, there.data_type
                ));
            }
        }
    }
    if declared.partition_key != stored.partition_key || declared.clustering_key != stored.clustering_key {
        let key = |schema: &TableSchema| {
            format!("(({}), {})", schema.partition_key.join(", "), schema.clustering_key.join(", ")).replace(", )", ")")
        };
        found.push(format!("its primary key is declared {} and stored {}", key(declared), key(stored)));
    }
    found
}

/// Cassandra's `decimal` has as many digits as each value needs.
fn is_decimal_of_any_size(stored: &Column, declared: &DataType) -> bool {
    stored.native_type.as_deref() == Some("native(decimal)") && matches!(declared, DataType::Decimal128(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableName;

    fn table(columns: &[(&str, DataType)], key: &str) -> TableSchema {
        TableSchema {
            name: TableName::new("k", "t"),
            columns: columns.iter().map(|(name, data_type)| Column::new(*name, data_type.clone())).collect(),
            partition_key: vec![key.into()],
            clustering_key: vec![],
        }
    }

    #[test]
    fn all_mismatches_are_named_at_once() {
        let declared = table(&[("id", DataType::Utf8), ("age", DataType::Int32), ("city", DataType::Utf8)], "id");
        let stored = table(&[("id", DataType::Utf8), ("age", DataType::Utf8), ("more", DataType::Utf8)], "age");
        let found = mismatches(&declared, &stored, |_| None);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], "column \"age\" is declared Int32 and stored Utf8");
        assert_eq!(found[1], "it has no column \"city\"");
        assert_eq!(found[2], "its primary key is declared ((id)) and stored ((age))");
        let unusable = |column: &str| (column == "city").then(|| "column \"city\": its type is not supported".to_owned());
        assert_eq!(mismatches(&declared, &stored, unusable)[1], "column \"city\": its type is not supported");
        assert!(mismatches(&declared, &declared, |_| None).is_empty());
        let price = table(&[("id", DataType::Utf8), ("price", DataType::Decimal128(10, 2))], "id");
        let mut stored = table(&[("id", DataType::Utf8), ("price", DataType::Decimal128(38, 10))], "id");
        assert_eq!(mismatches(&price, &stored, |_| None).len(), 1);
        stored.columns[1].native_type = Some("native(decimal)".into());
        assert!(mismatches(&price, &stored, |_| None).is_empty());
    }
}
