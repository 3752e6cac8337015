//! Which predicates the server applies: the whole partition key by equality, of its last column a list too, which is a statement for each of its partitions; then
//! equalities on a prefix of the clustering key, and a range of the column behind it.
use arrow::datatypes::{DataType, TimeUnit};
use polybolos_tables::{KeyPredicate, PredicateOp, TableSchema};

use crate::scan::can_bind;

/// Most partitions of a list; with more of them the whole table is read.
const MAX_LISTED: usize = 1_000;

/// For each predicate, whether a scan with those that are `true` applies it exactly. `is_alike`: values of the column are compared there as they are here.
pub(crate) fn pushed(table: &TableSchema, predicates: &[KeyPredicate], is_alike: impl Fn(&KeyPredicate) -> bool) -> Vec<bool> {
    let on = |column: &str| predicates.iter().filter(|predicate| predicate.column == column).collect::<Vec<_>>();
    let only = |column: &str, op: PredicateOp| match on(column).as_slice() {
        [only] if only.op == op => Some(*only),
        _ => None,
    };
    let is_equal = |column: &String| only(column, PredicateOp::Eq).is_some_and(|equal| can_bind(equal.values.data_type()));
    let is_listed =
        |column: &String| only(column, PredicateOp::In).is_some_and(|list| list.values.len() <= MAX_LISTED && is_alike(list));
    let is_range = |column: &String| {
        let bounds = on(column);
        let count = |ops: [PredicateOp; 2]| bounds.iter().filter(|bound| ops.contains(&bound.op)).count();
        let (lower, upper) = (count([PredicateOp::Gt, PredicateOp::GtEq]), count([PredicateOp::Lt, PredicateOp::LtEq]));
        lower <= 1 && upper <= 1 && lower + upper == bounds.len() && bounds.iter().all(|bound| is_alike(bound))
    };
    let is_whole = table
        .partition_key
        .split_last()
        .is_some_and(|(last, others)| others.iter().all(is_equal) && (is_equal(last) || is_listed(last)));
    let prefix = table.clustering_key.iter().take_while(|column| is_equal(column)).count();
    let ranged = table.clustering_key.get(prefix).filter(|column| is_range(column));
    let is_applied = |column: &String| {
        table.partition_key.contains(column) || table.clustering_key[..prefix].contains(column) || ranged == Some(column)
    };
    predicates.iter().map(|predicate| is_whole && is_applied(&predicate.column)).collect()
}

/// Whether values of a stored type are in the same order as those of ours, and each is one of ours and the other way round. Unlike UUIDs, which are text to us,
/// and numbers that there is more room for here than there.
pub(crate) fn is_alike(native: &str, data_type: &DataType) -> bool {
    matches!(
        (native, data_type),
        ("native(text)", DataType::Utf8)
            | ("native(tinyint)", DataType::Int8)
            | ("native(smallint)", DataType::Int16)
            | ("native(int)", DataType::Int32)
            | ("native(bigint)", DataType::Int64)
            | ("native(timestamp)", DataType::Timestamp(TimeUnit::Millisecond, _))
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use polybolos_tables::{Column, TableName};

    use super::*;
    use PredicateOp::{Eq, Gt, GtEq, In, Lt, LtEq};

    fn asked(predicates: &[(&str, PredicateOp)]) -> Vec<bool> {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let table = TableSchema {
            name: TableName::new("k", "t"),
            columns: ["a", "b", "c", "d", "v"].map(|name| Column::new(name, DataType::Int64)).to_vec(),
            partition_key: names(&["a", "b"]),
            clustering_key: names(&["c", "d"]),
        };
        let predicate = |(column, op): &(&str, PredicateOp)| KeyPredicate {
            column: (*column).to_owned(),
            op: *op,
            values: Arc::new(Int64Array::from(vec![1])),
        };
        let predicates: Vec<KeyPredicate> = predicates.iter().map(predicate).collect();
        pushed(&table, &predicates, |predicate| predicate.column != "d")
    }

    #[test]
    fn a_range_stands_behind_equalities_and_a_list_at_the_end_of_the_partition_key() {
        assert_eq!(asked(&[("a", Eq), ("b", Eq)]), [true, true]);
        assert_eq!(asked(&[("a", Eq), ("b", In), ("c", GtEq), ("c", Lt)]), [true; 4]);
        assert_eq!(asked(&[("c", Eq), ("b", Eq), ("a", Eq)]), [true; 3]);
        // A part of the partition key, or a list before its end, names no partitions.
        assert_eq!(asked(&[("a", Eq), ("c", Eq)]), [false, false]);
        assert_eq!(asked(&[("a", In), ("b", Eq)]), [false, false]);
        assert_eq!(asked(&[("a", Eq), ("b", Gt)]), [false, false]);
        assert_eq!(asked(&[("a", Eq), ("a", Eq), ("b", Eq)]), [false; 3]);
        // Behind a gap or a range nothing is narrowed.
        assert_eq!(asked(&[("a", Eq), ("b", Eq), ("d", Eq)]), [true, true, false]);
        assert_eq!(asked(&[("a", Eq), ("b", Eq), ("c", Gt), ("d", Eq)]), [true, true, true, false]);
        assert_eq!(asked(&[("a", Eq), ("b", Eq), ("c", Gt), ("c", GtEq)]), [true, true, false, false]);
        assert_eq!(asked(&[("a", Eq), ("b", Eq), ("c", Eq), ("c", LtEq)]), [true, true, false, false]);
        assert_eq!(asked(&[("a", Eq), ("b", Eq), ("c", In)]), [true, true, false]);
        // Of a column that is in another order there.
        assert_eq!(asked(&[("a", Eq), ("b", Eq), ("c", Eq), ("d", Gt)]), [true, true, true, false]);
    }

    #[test]
    fn a_uuid_is_in_another_order_than_its_text() {
        assert!(is_alike("native(text)", &DataType::Utf8) && is_alike("native(int)", &DataType::Int32));
        assert!(!is_alike("native(uuid)", &DataType::Utf8) && !is_alike("native(int)", &DataType::Int64));
    }
}
