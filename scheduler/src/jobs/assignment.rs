//! Which executor reads which partition ahead: evenly, and as it was where that is possible, because what is read ahead sits in memory.
use std::collections::{BTreeMap, BTreeSet};

use polybolos_streaming::ids::{ExecutorId, SourcePartition};

/// Gives every partition to one of the executors (to none when there are none). A partition stays where it is unless its executor is gone
/// or has more than its fair share.
pub fn assign(
    partitions: impl Iterator<Item = SourcePartition>,
    executors: &BTreeSet<ExecutorId>,
    before: &BTreeMap<SourcePartition, ExecutorId>,
) -> BTreeMap<SourcePartition, ExecutorId> {
    let partitions: Vec<SourcePartition> = partitions.collect();
    let mut load: BTreeMap<&ExecutorId, usize> = executors.iter().map(|executor| (executor, 0)).collect();
    let mut assigned = BTreeMap::new();
    if executors.is_empty() {
        return assigned;
    }
    let fair_share = partitions.len().div_ceil(executors.len());
    let mut homeless = vec![];
    for partition in partitions {
        let kept = before.get(&partition).and_then(|executor| executors.get(executor));
        match kept.filter(|executor| load.get(executor).is_some_and(|&count| count < fair_share)) {
            Some(executor) => {
                *load.entry(executor).or_default() += 1;
                assigned.insert(partition, executor.clone());
            }
            None => homeless.push(partition),
        }
    }
    for partition in homeless {
        let Some((executor, count)) = load.iter_mut().min_by_key(|(_, count)| **count) else { continue };
        *count += 1;
        assigned.insert(partition, (*executor).clone());
    }
    assigned
}

/// Gives every partition to the same executor, because one part reads them all: where most of them are, and so the job's state; a job that has none yet is spread
/// by its `name`.
pub fn assign_together(
    partitions: impl Iterator<Item = SourcePartition>,
    executors: &BTreeSet<ExecutorId>,
    before: &BTreeMap<SourcePartition, ExecutorId>,
    name: &str,
) -> BTreeMap<SourcePartition, ExecutorId> {
    let mut load: BTreeMap<&ExecutorId, usize> = BTreeMap::new();
    for executor in before.values().filter(|executor| executors.contains(*executor)) {
        *load.entry(executor).or_default() += 1;
    }
    let fallback = || {
        let turn = name.bytes().fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        executors.iter().nth(turn % executors.len().max(1))
    };
    match load.into_iter().max_by_key(|(_, count)| *count).map(|(executor, _)| executor).or_else(fallback) {
        Some(executor) => partitions.map(|partition| (partition, executor.clone())).collect(),
        None => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use polybolos_streaming::ids::SourceId;

    use super::*;

    fn partitions(count: i32) -> impl Iterator<Item = SourcePartition> {
        (0..count).map(|partition| SourcePartition { source: SourceId(0), partition })
    }

    fn executors(names: &[&str]) -> BTreeSet<ExecutorId> {
        names.iter().map(|name| ExecutorId::new(*name)).collect()
    }

    #[test]
    fn partitions_are_spread_evenly_and_move_only_when_they_must() {
        let three = assign(partitions(6), &executors(&["a", "b", "c"]), &BTreeMap::new());
        for name in ["a", "b", "c"] {
            assert_eq!(three.values().filter(|executor| executor.as_str() == name).count(), 2);
        }
        let two = assign(partitions(6), &executors(&["a", "c"]), &three);
        assert_eq!(two.values().filter(|executor| executor.as_str() == "a").count(), 3);
        let stayed = three.iter().filter(|(partition, executor)| two.get(partition) == Some(executor)).count();
        assert_eq!(stayed, 4);
        assert_eq!(assign(partitions(6), &executors(&["a", "c"]), &two), two);
    }

    #[test]
    fn what_one_part_reads_stays_together_and_where_it_was() {
        let both = executors(&["a", "b"]);
        let first = assign_together(partitions(3), &both, &BTreeMap::new(), "job");
        let home = first.values().next().expect("an executor").clone();
        assert!(first.len() == 3 && first.values().all(|executor| *executor == home));
        let more = assign_together(partitions(4), &executors(&["a", "b", "c", "d"]), &first, "job");
        assert!(more.len() == 4 && more.values().all(|executor| *executor == home));
        let moved = assign_together(partitions(4), &executors(&["z"]), &more, "job");
        assert!(moved.values().all(|executor| executor.as_str() == "z"));
    }

    #[test]
    fn without_executors_nothing_is_assigned() {
        assert!(assign_together(partitions(2), &BTreeSet::new(), &BTreeMap::new(), "job").is_empty());
        assert!(assign(partitions(2), &BTreeSet::new(), &BTreeMap::new()).is_empty());
    }
}
