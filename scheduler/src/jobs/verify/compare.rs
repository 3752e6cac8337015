//! Rows that a query answered beside rows of a table, by the table's key.
use std::{collections::HashMap, sync::Arc};

use anyhow::Context;
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Field, Float32Type, Float64Type, Schema, SchemaRef},
        row::{RowConverter, SortField},
        util::display::{ArrayFormatter, FormatOptions},
    },
    common::ScalarValue,
};
use polybolos_tables::TableSchema;

/// How far floats may be apart, relative to the larger of both and 1.
const TOLERANCE: f64 = 1e-9;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub table: String,
    /// `missing`, `extra` or `changed`, as seen from the table.
    pub kind: &'static str,
    pub key: String,
    pub expected: Option<String>,
    pub found: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Of the table.
    pub rows: u64,
    pub count: u64,
    pub differences: Vec<Difference>,
    /// Rows that are not in the table, and need not be.
    pub open: u64,
}

/// What is no difference.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Rows that the table lacks, as their windows may be open.
    pub lacks: bool,
    /// By compared column, whether its values may be others. None of them is a key.
    pub values: Vec<bool>,
}

/// A row of several batches.
type Place = (usize, usize);

/// A table, and the columns of it that are compared, in their order.
#[derive(Debug)]
pub struct Comparison {
    table: TableSchema,
    schema: SchemaRef,
    /// Columns of the primary key.
    keys: Vec<usize>,
    converter: RowConverter,
}

impl Comparison {
    pub fn of(table: TableSchema, columns: &[String]) -> anyhow::Result<Self> {
        let field = |name: &String| Some(Field::new(name, table.column(name)?.data_type.clone(), true));
        let fields: Option<Vec<Field>> = columns.iter().map(field).collect();
        let fields = fields.context("a column of the INSERT is not the table's")?;
        let keys: Option<Vec<usize>> = table.primary_key().map(|name| columns.iter().position(|column| column == name)).collect();
        let keys = keys.context("a key column is missing")?;
        let converter = RowConverter::new(keys.iter().map(|&key| SortField::new(fields[key].data_type().clone())).collect())?;
        Ok(Self { table, schema: Arc::new(Schema::new(fields)), keys, converter })
    }

    pub fn table(&self) -> &TableSchema {
        &self.table
    }

    /// The names of those among the compared columns, and whether a key is among them.
    pub fn named(&self, columns: &[bool]) -> (Vec<&str>, bool) {
        let chosen: Vec<usize> = (0..columns.len()).filter(|&column| columns[column]).collect();
        let names = chosen.iter().map(|&column| self.schema.field(column).name().as_str()).collect();
        (names, chosen.iter().any(|column| self.keys.contains(column)))
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of the compared columns, in the table's types.
    pub fn normalised(&self, batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// The key of each row; none where a column of it is NULL, or the partition key is one empty text, which no table takes.
    pub fn keys(&self, rows: &RecordBatch) -> anyhow::Result<Vec<Option<Vec<u8>>>> {
        let key_arrays: Vec<ArrayRef> = self.keys.iter().map(|&key| rows.column(key).clone()).collect();
        let encoded = self.converter.convert_columns(&key_arrays)?;
        let partition_key_is_one = self.table.partition_key.len() == 1;
        let partition_key = key_arrays.first().filter(|_| partition_key_is_one).and_then(|array| array.as_string_opt::<i32>());
        let is_whole = |row: usize| {
            key_arrays.iter().all(|array| array.is_valid(row)) && partition_key.is_none_or(|texts| !texts.value(row).is_empty())
        };
        Ok(encoded.iter().enumerate().map(|(row, key)| is_whole(row).then(|| key.as_ref().to_vec())).collect())
    }

    /// Adds to `compared` what differs. Rows are normalised; those of one key are all here. At most `kept` differences are described.
    pub fn compare(
        &self,
        expected: &[RecordBatch],
        found: &[RecordBatch],
        kept: usize,
        allowed: &Allowed,
        compared: &mut Compared,
    ) -> anyhow::Result<()> {
        let mut wanted: HashMap<Vec<u8>, Vec<Place>> = HashMap::new();
        for (batch, rows) in expected.iter().enumerate() {
            for (row, key) in self.keys(rows)?.into_iter().enumerate() {
                // A row without a whole key is a dead letter.
                let Some(key) = key else { continue };
                wanted.entry(key).or_default().push((batch, row));
            }
        }
        let telling = Telling { comparison: self, kept };
        for rows in found {
            let arrays = rows.columns();
            for (row, key) in self.keys(rows)?.into_iter().enumerate() {
                compared.rows += 1;
                let Some(places) = key.and_then(|key| wanted.remove(&key)) else {
                    telling.note(compared, "extra", None, Some((arrays, row)))?;
                    continue;
                };
                // Of several rows of a key that come from several partitions, any may be the last.
                let mut same = false;
                for &(batch, other) in &places {
                    same = same || is_same_row(expected[batch].columns(), other, arrays, row, &allowed.values)?;
                }
                if !same {
                    let (batch, other) = places[places.len() - 1];
                    telling.note(compared, "changed", Some((expected[batch].columns(), other)), Some((arrays, row)))?;
                }
            }
        }
        let mut missing: Vec<(Vec<u8>, Vec<Place>)> = wanted.into_iter().collect();
        missing.sort();
        for (_, places) in missing {
            if allowed.lacks {
                compared.open += 1;
                continue;
            }
            let (batch, row) = places[places.len() - 1];
            telling.note(compared, "missing", Some((expected[batch].columns(), row)), None)?;
        }
        Ok(())
    }
}

/// `others`: by column, whether its values may be others.
fn is_same_row(left: &[ArrayRef], row: usize, right: &[ArrayRef], other: usize, others: &[bool]) -> anyhow::Result<bool> {
    for (column, (left, right)) in left.iter().zip(right).enumerate() {
        let may_differ = others.get(column).is_some_and(|may_differ| *may_differ);
        if !may_differ && !is_same(left, row, right, other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_same(left: &ArrayRef, row: usize, right: &ArrayRef, other: usize) -> anyhow::Result<bool> {
    if left.is_null(row) || right.is_null(other) {
        return Ok(left.is_null(row) && right.is_null(other));
    }
    // What is infinite is far from everything else.
    let is_close = |a: f64, b: f64| (a - b).is_finite() && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0);
    let near = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || is_close(a, b);
    Ok(match left.data_type() {
        DataType::Float64 => near(left.as_primitive::<Float64Type>().value(row), right.as_primitive::<Float64Type>().value(other)),
        DataType::Float32 => {
            near(left.as_primitive::<Float32Type>().value(row).into(), right.as_primitive::<Float32Type>().value(other).into())
        }
        _ => ScalarValue::try_from_array(left, row)? == ScalarValue::try_from_array(right, other)?,
    })
}

/// How differences are put into words.
struct Telling<'a> {
    comparison: &'a Comparison,
    /// So many at most are described; all are counted.
    kept: usize,
}

/// A row of some arrays.
type Row<'a> = (&'a [ArrayRef], usize);

impl Telling<'_> {
    fn note(
        &self,
        compared: &mut Compared,
        kind: &'static str,
        expected: Option<Row<'_>>,
        found: Option<Row<'_>>,
    ) -> anyhow::Result<()> {
        compared.count += 1;
        if compared.differences.len() >= self.kept {
            return Ok(());
        }
        let all: Vec<usize> = (0..self.comparison.schema.fields().len()).collect();
        let key = expected.or(found).map(|row| self.shown(row, &self.comparison.keys)).transpose()?.unwrap_or_default();
        compared.differences.push(Difference {
            table: self.comparison.table.name.to_string(),
            kind,
            key,
            expected: expected.map(|row| self.shown(row, &all)).transpose()?,
            found: found.map(|row| self.shown(row, &all)).transpose()?,
        });
        Ok(())
    }

    fn shown(&self, (arrays, row): Row<'_>, only: &[usize]) -> anyhow::Result<String> {
        let options = FormatOptions::default().with_null("NULL");
        let mut parts = vec![];
        for &column in only {
            let name = self.comparison.schema.field(column).name();
            parts.push(format!("{name}={}", ArrayFormatter::try_new(&arrays[column], &options)?.value(row)));
        }
        Ok(parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, StringArray};
    use polybolos_tables::{Column, TableName};

    use super::*;

    fn rows(rows: &[(Option<&str>, Option<f64>)]) -> Vec<RecordBatch> {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("v", DataType::Float64, true)]));
        let keys: StringArray = rows.iter().map(|(key, _)| *key).collect();
        let values: Float64Array = rows.iter().map(|(_, value)| *value).collect();
        vec![RecordBatch::try_new(schema, vec![Arc::new(keys), Arc::new(values)]).expect("a batch")]
    }

    fn of_table(table: TableSchema, expected: &[RecordBatch], found: &[RecordBatch], allowed: &Allowed) -> Compared {
        let comparison = Comparison::of(table, &["k".into(), "v".into()]).expect("its columns");
        let mut compared = Compared::default();
        comparison.compare(expected, found, 2, allowed, &mut compared).expect("compared");
        compared
    }

    fn by_key() -> TableSchema {
        TableSchema {
            name: TableName::new("s", "t"),
            columns: vec![Column::new("k", DataType::Utf8), Column::new("v", DataType::Float64)],
            partition_key: vec!["k".into()],
            clustering_key: vec![],
        }
    }

    fn compared(expected: &[(Option<&str>, Option<f64>)], found: &[(Option<&str>, Option<f64>)], open: bool) -> Compared {
        of_table(by_key(), &rows(expected), &rows(found), &Allowed { lacks: open, ..Allowed::default() })
    }

    #[test]
    fn what_is_the_same_is_no_difference() {
        let expected = [
            (Some("a"), Some(0.1)),
            (Some("b"), None),
            (None, Some(1.0)),
            (Some(""), None),
            (Some("c"), Some(1.0)),
            (Some("c"), Some(2.0)),
        ];
        let found = [(Some("b"), None), (Some("c"), Some(1.0)), (Some("a"), Some(0.1 + 1e-13))];
        assert_eq!(compared(&expected, &found, false), Compared { rows: 3, ..Compared::default() });
    }

    #[test]
    fn infinities_and_nan_are_the_same_as_themselves_only() {
        let values = [1.0, 1e308, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        for (place, value) in values.iter().enumerate() {
            for (other_place, other) in values.iter().enumerate() {
                let found = compared(&[(Some("a"), Some(*value))], &[(Some("a"), Some(*other))], false);
                assert_eq!(found.count == 0, place == other_place, "{value} and {other}: {found:?}");
            }
        }
    }

    #[test]
    fn differences_are_told_and_counted_beyond_what_is_kept() {
        let expected = [(Some("a"), Some(1.0)), (Some("b"), Some(2.0)), (Some("c"), Some(3.0))];
        let found = [(Some("a"), Some(1.5)), (Some("x"), None)];
        let all = compared(&expected, &found, false);
        assert_eq!((all.rows, all.count, all.open), (2, 4, 0));
        let changed = Difference {
            table: "s.t".into(),
            kind: "changed",
            key: "k=a".into(),
            expected: Some("k=a v=1.0".into()),
            found: Some("k=a v=1.5".into()),
        };
        let extra =
            Difference { table: "s.t".into(), kind: "extra", key: "k=x".into(), expected: None, found: Some("k=x v=NULL".into()) };
        assert_eq!(all.differences, [changed, extra]);
        let open = compared(&expected, &found, true);
        assert_eq!((open.count, open.open), (2, 2));
    }

    #[test]
    fn values_that_may_be_others_are_no_difference_and_rows_that_lack_are_one() {
        let (expected, found) = (rows(&[(Some("a"), Some(1.0)), (Some("b"), None)]), rows(&[(Some("a"), Some(2.0))]));
        let allowed = Allowed { values: vec![false, true], ..Allowed::default() };
        let all = of_table(by_key(), &expected, &found, &allowed);
        assert_eq!((all.rows, all.count, all.differences[0].kind), (1, 1, "missing"));
        let comparison = Comparison::of(by_key(), &["k".into(), "v".into()]).expect("its columns");
        assert_eq!(comparison.named(&[false, true]), (vec!["v"], false));
        assert_eq!(comparison.named(&[true, false]), (vec!["k"], true));
    }

    #[test]
    fn only_a_partition_key_of_one_column_may_not_be_empty() {
        let missing = |partition_key: &[&str], clustering_key: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let table = TableSchema {
                name: TableName::new("s", "t"),
                columns: vec![Column::new("k", DataType::Utf8), Column::new("v", DataType::Float64)],
                partition_key: owned(partition_key),
                clustering_key: owned(clustering_key),
            };
            of_table(table, &rows(&[(Some(""), Some(1.0))]), &[], &Allowed::default()).count
        };
        assert_eq!(missing(&["k"], &["v"]), 0);
        assert_eq!(missing(&["k", "v"], &[]), 1);
        assert_eq!(missing(&["v"], &["k"]), 1);
    }
}
