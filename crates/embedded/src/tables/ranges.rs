//! Which part of the key space a scan has to read: predicates on the primary key become key ranges, and a slice is a range of
//! tokens. Ranges may hold rows that the predicates refuse (the scan filters exactly); they never miss one that they accept.
use std::ops::Range;

use polybolos_tables::{KeyPredicate, PredicateOp, ScanSlice, TableError, TableSchema};

use super::{catalog::StoredSchema, columns::ColumnReader, key, types::layout};

/// Most key ranges that predicates are turned into; beyond it a scan of the slice with a filter is as good.
const RANGES_MAX: usize = 1024;
const SLICES_MAX: usize = 256;

/// Keys from `start` (inclusive) to `end` (exclusive, `None`: to the last).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyRange {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
}

/// Whether a scan applies `predicate` exactly: any column of the table, compared with values of its own type.
pub(super) fn supports(table: &TableSchema, predicate: &KeyPredicate) -> bool {
    let Some(column) = table.column(&predicate.column) else { return false };
    let values = &predicate.values;
    let counts = match predicate.op {
        PredicateOp::In => !values.is_empty(),
        _ => values.len() == 1,
    };
    counts && layout(&column.data_type).is_some() && *values.data_type() == column.data_type && values.null_count() == 0
}

/// Splits all tokens into `wanted` ranges; one is enough where the predicates name the partitions.
pub(super) fn slices(stored: &StoredSchema, predicates: &[KeyPredicate], wanted: usize) -> Vec<ScanSlice> {
    let slices = if partitions(stored, predicates).is_some() { 1 } else { wanted.clamp(1, SLICES_MAX) as u64 };
    let bound = |slice: u64| key::TOKENS * slice / slices;
    (0..slices).map(|slice| ScanSlice { descriptor: format!("{}..{}", bound(slice), bound(slice + 1)) }).collect()
}

/// The tokens of a slice.
pub(super) fn tokens(slice: &ScanSlice) -> Result<Range<u64>, TableError> {
    let parse = |text: &str| text.parse().ok().filter(|token| *token <= key::TOKENS);
    let bounds = slice.descriptor.split_once("..").and_then(|(start, end)| Some(parse(start)?..parse(end)?));
    bounds.ok_or_else(|| TableError::Bug(format!("{:?} is not a slice of an embedded table", slice.descriptor)))
}

/// The key ranges, ascending and disjoint, that hold every row of `tokens` that `predicates` accept.
pub(super) fn key_ranges(stored: &StoredSchema, predicates: &[KeyPredicate], tokens: Range<u64>) -> Vec<KeyRange> {
    let Some(prefixes) = partitions(stored, predicates) else {
        let bound = |token: u64| u32::try_from(token).ok().map(|token| token.to_be_bytes().to_vec());
        return match bound(tokens.start) {
            Some(start) if !tokens.is_empty() => vec![KeyRange { start, end: bound(tokens.end) }],
            _ => Vec::new(),
        };
    };
    let inside = |prefix: &Vec<u8>| {
        let token = prefix[..key::TOKEN_BYTES].try_into().expect("every prefix starts with a token");
        tokens.contains(&u64::from(u32::from_be_bytes(token)))
    };
    let mut ranges = clustering_ranges(stored, predicates, prefixes.into_iter().filter(inside).collect());
    ranges.sort();
    ranges.dedup();
    ranges
}

/// The prefixes (token and partition key) that the predicates name, or `None` where they leave a partition-key column open.
fn partitions(stored: &StoredSchema, predicates: &[KeyPredicate]) -> Option<Vec<Vec<u8>>> {
    let mut prefixes = vec![Vec::new()];
    for component in 0..stored.partition_columns {
        prefixes = extend(&prefixes, &points(stored, predicates, component)?)?;
    }
    let with_token = |partition: Vec<u8>| [key::token(&partition).as_slice(), &partition].concat();
    Some(prefixes.into_iter().map(with_token).collect())
}

/// Narrows partitions by the clustering columns: equalities first, then a range on the next column.
fn clustering_ranges(stored: &StoredSchema, predicates: &[KeyPredicate], mut prefixes: Vec<Vec<u8>>) -> Vec<KeyRange> {
    let mut component = stored.partition_columns;
    while component < stored.key.len() {
        let longer = points(stored, predicates, component).and_then(|points| extend(&prefixes, &points));
        let Some(longer) = longer else { break };
        prefixes = longer;
        component += 1;
    }
    let bounds: Vec<_> = if component < stored.key.len() { bounds(stored, predicates, component) } else { Vec::new() };
    prefixes.iter().filter_map(|prefix| narrow(prefix, &bounds)).collect()
}

/// The keys that start with `prefix` and keep every bound on the component behind it; `None` where there are none.
fn narrow(prefix: &[u8], bounds: &[(PredicateOp, Vec<u8>)]) -> Option<KeyRange> {
    let mut range = KeyRange { start: prefix.to_vec(), end: key::successor(prefix) };
    for (op, value) in bounds {
        let at = [prefix, value].concat();
        let after = key::successor(&at);
        match op {
            PredicateOp::GtEq => range.start = range.start.max(at),
            PredicateOp::Gt => range.start = range.start.max(after?),
            PredicateOp::Lt => range.end = Some(range.end.map_or(at.clone(), |end| end.min(at))),
            PredicateOp::LtEq => range.end = least(range.end, after),
            PredicateOp::Eq | PredicateOp::In => {}
        }
    }
    // The store looks for no longer key than there can be. No row is lost by that: no key is what is left here, as none is the
    // beginning of another.
    range.start.truncate(key::BYTES_MAX);
    if let Some(end) = &mut range.end {
        end.truncate(key::BYTES_MAX);
    }
    range.end.as_ref().is_none_or(|end| range.start < *end).then_some(range)
}

fn least(a: Option<Vec<u8>>, b: Option<Vec<u8>>) -> Option<Vec<u8>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The encoded values that a key column must have one of, where a predicate says so.
fn points(stored: &StoredSchema, predicates: &[KeyPredicate], component: usize) -> Option<Vec<Vec<u8>>> {
    let predicate = on(stored, predicates, component).find(|p| matches!(p.op, PredicateOp::Eq | PredicateOp::In))?;
    let reader = ColumnReader::new(&predicate.values)?;
    Some((0..predicate.values.len()).map(|row| encoded(&reader, row)).collect())
}

/// Every comparison on a key column, with its encoded value.
fn bounds(stored: &StoredSchema, predicates: &[KeyPredicate], component: usize) -> Vec<(PredicateOp, Vec<u8>)> {
    let bound = |predicate: &KeyPredicate| Some((predicate.op, encoded(&ColumnReader::new(&predicate.values)?, 0)));
    on(stored, predicates, component).filter_map(bound).collect()
}

fn on<'a>(stored: &'a StoredSchema, predicates: &'a [KeyPredicate], component: usize) -> impl Iterator<Item = &'a KeyPredicate> {
    let name = &stored.schema.columns[stored.key[component].0].name;
    predicates.iter().filter(move |predicate| predicate.column == *name && supports(&stored.schema, predicate))
}

fn encoded(reader: &ColumnReader, row: usize) -> Vec<u8> {
    let mut out = Vec::new();
    reader.put_key(row, &mut out);
    out
}

/// Every prefix with every point behind it; `None` where that would be too many.
fn extend(prefixes: &[Vec<u8>], points: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    if prefixes.len().saturating_mul(points.len()) > RANGES_MAX {
        return None;
    }
    Some(prefixes.iter().flat_map(|prefix| points.iter().map(move |point| [prefix.as_slice(), point].concat())).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, StringArray},
        datatypes::DataType,
    };
    use polybolos_tables::{Column, TableName};

    use super::*;

    fn table() -> StoredSchema {
        let schema = TableSchema {
            name: TableName::new("k", "t"),
            columns: vec![
                Column::new("device", DataType::Utf8),
                Column::new("at", DataType::Int64),
                Column::new("value", DataType::Float64),
            ],
            partition_key: vec!["device".into()],
            clustering_key: vec!["at".into()],
        };
        StoredSchema::new(0, &schema).unwrap()
    }

    fn device(op: PredicateOp, values: &[&str]) -> KeyPredicate {
        KeyPredicate { column: "device".into(), op, values: Arc::new(StringArray::from(values.to_vec())) }
    }

    fn at(op: PredicateOp, value: i64) -> KeyPredicate {
        KeyPredicate { column: "at".into(), op, values: Arc::new(Int64Array::from(vec![value])) as ArrayRef }
    }

    #[test]
    fn slices_cover_all_tokens_once() {
        for wanted in [0, 1, 3, 16, 9999] {
            let slices = slices(&table(), &[], wanted);
            let ranges: Vec<_> = slices.iter().map(|slice| tokens(slice).unwrap()).collect();
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, key::TOKENS));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
        assert!(tokens(&ScanSlice { descriptor: "1..x".into() }).is_err());
    }

    #[test]
    fn a_named_partition_is_one_slice_and_one_range() {
        let predicates = [device(PredicateOp::Eq, &["a"]), at(PredicateOp::GtEq, 5), at(PredicateOp::Lt, 9)];
        assert_eq!(slices(&table(), &predicates, 8).len(), 1);
        let ranges = key_ranges(&table(), &predicates, 0..key::TOKENS);
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].start[..4], key::token(b"a\0\x01"));
        assert!(ranges[0].end.as_ref().unwrap() > &ranges[0].start);
    }

    #[test]
    fn ranges_are_disjoint_and_respect_the_slice() {
        let predicates = [device(PredicateOp::In, &["b", "a", "b"])];
        let ranges = key_ranges(&table(), &predicates, 0..key::TOKENS);
        assert_eq!(ranges.len(), 2);
        assert!(ranges[0].end.as_ref().unwrap() <= &ranges[1].start);
        let half = key::TOKENS / 2;
        let halves = [key_ranges(&table(), &predicates, 0..half), key_ranges(&table(), &predicates, half..key::TOKENS)];
        assert_eq!(halves.concat(), ranges);
    }

    #[test]
    fn contradictions_read_nothing() {
        let predicates = [device(PredicateOp::Eq, &["a"]), at(PredicateOp::Gt, 5), at(PredicateOp::Lt, 5)];
        assert!(key_ranges(&table(), &predicates, 0..key::TOKENS).is_empty());
    }

    #[test]
    fn only_values_of_the_column_s_type_are_supported() {
        let schema = table().schema;
        assert!(supports(&schema, &at(PredicateOp::Eq, 1)));
        let text = KeyPredicate { column: "at".into(), ..device(PredicateOp::Eq, &["a"]) };
        assert!(!supports(&schema, &text));
        let null = KeyPredicate { values: Arc::new(Int64Array::from(vec![None])), ..at(PredicateOp::Eq, 1) };
        assert!(!supports(&schema, &null));
        assert!(!supports(&schema, &KeyPredicate { column: "absent".into(), ..at(PredicateOp::Eq, 1) }));
    }
}
