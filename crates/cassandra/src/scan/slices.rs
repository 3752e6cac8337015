//! Slices of a scan: even ranges of the ring of tokens, one partition, or a share of those that a list names.
use std::str::FromStr;

use arrow::array::Array;
use polybolos_tables::{PredicateOp, ScanRequest, ScanSlice};

/// Slice of a scan whose partition key is given.
pub(super) const ONE_PARTITION: &str = "partition";

/// Slice of a scan for which several values of the partition key's last column are given: behind it stands which of them are the slice's.
const LISTED: &str = "listed ";

/// Even ranges of the Murmur3 ring, `(start, end]`; together all of it.
pub(crate) fn slices(request: &ScanRequest, wanted: usize) -> Vec<ScanSlice> {
    if let Some(list) = request.predicates.iter().find(|predicate| predicate.op == PredicateOp::In) {
        let count = list.values.len();
        let wanted = wanted.clamp(1, count.max(1));
        let bound = |index: usize| count * index / wanted;
        return (0..wanted)
            .map(|index| ScanSlice { descriptor: format!("{LISTED}{}..{}", bound(index), bound(index + 1)) })
            .collect();
    }
    if !request.predicates.is_empty() {
        return vec![ScanSlice { descriptor: ONE_PARTITION.into() }];
    }
    let wanted = wanted.clamp(1, 4_096) as i128;
    let bound = |index: i128| i128::from(i64::MIN) + (1_i128 << 64) * index / wanted;
    let range = |index: i128| {
        // The last range ends at the largest token, which is one below the first bound behind it.
        let end = if index + 1 == wanted { i128::from(i64::MAX) } else { bound(index + 1) };
        ScanSlice { descriptor: format!("{}..{end}", bound(index)) }
    };
    (0..wanted).map(range).collect()
}

/// A slice of a list is a statement for each of its partitions, of which the server finds each by itself.
pub(super) fn statements(request: ScanRequest, slice: ScanSlice) -> Vec<(ScanRequest, ScanSlice)> {
    let Some((start, end)) = slice.descriptor.strip_prefix(LISTED).and_then(bounds::<usize>) else { return vec![(request, slice)] };
    let of_partition = |index: usize| {
        let mut request = request.clone();
        for list in request.predicates.iter_mut().filter(|predicate| predicate.op == PredicateOp::In) {
            list.values = list.values.slice(index, 1);
        }
        (request, ScanSlice { descriptor: ONE_PARTITION.into() })
    };
    (start..end).map(of_partition).collect()
}

pub(super) fn bounds<T: FromStr>(range: &str) -> Option<(T, T)> {
    let (start, end) = range.split_once("..")?;
    Some((start.parse().ok()?, end.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use polybolos_tables::{Column, TableName, TableSchema};

    use super::*;

    #[test]
    fn slices_cover_the_ring_without_gap_or_overlap() {
        let table = TableSchema {
            name: TableName::new("k", "t"),
            columns: vec![Column::new("id", DataType::Utf8)],
            partition_key: vec!["id".into()],
            clustering_key: vec![],
        };
        let request = ScanRequest { table, columns: vec![], predicates: vec![], limit: None };
        for wanted in [1, 2, 3, 7, 64] {
            let slices = slices(&request, wanted);
            let bounds: Vec<(i64, i64)> = slices
                .iter()
                .map(|slice| {
                    let (start, end) = slice.descriptor.split_once("..").expect("a range");
                    (start.parse().expect("a token"), end.parse().expect("a token"))
                })
                .collect();
            assert_eq!((bounds[0].0, bounds[wanted - 1].1), (i64::MIN, i64::MAX));
            assert!(bounds.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }
}
