//! Which executor reads which partition ahead: evenly, and as it was where that is possible, because what is read ahead sits in memory.
use std::collections::{BTreeMap, BTreeSet};

use polybolos_proto::executor::v1::HeldState;
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

/// Who is to have each part of a state when a leader begins: who holds the newest there is of it, else who was chosen before.
/// Nobody's name stands where neither is known.
pub fn holders(held: &[(ExecutorId, HeldState)], parts: u16, before: &[ExecutorId]) -> Vec<ExecutorId> {
    let of_part = |part: u16| {
        let here = held.iter().filter(|(_, held)| held.part == u32::from(part) && held.parts == u32::from(parts));
        here.max_by_key(|(_, held)| held.epoch).map(|(executor, _)| executor.clone())
    };
    let mut chosen: Vec<Option<ExecutorId>> = (0..parts).map(of_part).collect();
    chosen.resize(chosen.len().max(before.len()), None);
    for (part, executor) in before.iter().enumerate() {
        if chosen[part].is_none() && !chosen.contains(&Some(executor.clone())) {
            chosen[part] = Some(executor.clone());
        }
    }
    chosen.into_iter().map(Option::unwrap_or_default).collect()
}

/// Who share a job's state, by part: at most `count`, and as it was where that is possible, because who has a part has its state in memory. A job that has no
/// members yet is spread by its `name`.
pub fn members(before: &[ExecutorId], executors: &BTreeSet<ExecutorId>, count: usize, name: &str) -> Vec<ExecutorId> {
    let count = count.min(executors.len());
    let mut members: Vec<Option<&ExecutorId>> = before.iter().take(count).map(|member| executors.get(member)).collect();
    members.resize(count, None);
    // Who had a part that is no more comes first.
    let displaced = before.iter().skip(count).filter_map(|member| executors.get(member));
    let turn = name.bytes().fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())) % executors.len().max(1);
    let others = executors.iter().cycle().skip(turn).take(executors.len());
    for candidate in displaced.chain(others) {
        if !members.contains(&Some(candidate))
            && let Some(free) = members.iter_mut().find(|member| member.is_none())
        {
            *free = Some(candidate);
        }
    }
    members.into_iter().flatten().cloned().collect()
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
    fn who_shares_a_state_keeps_its_part_while_it_is_there() {
        let (two, four) = (executors(&["a", "b"]), executors(&["a", "b", "c", "d"]));
        let home = members(&[], &two, 1, "job");
        assert_eq!(members(&home, &four, 1, "job"), home);
        assert_ne!(members(&[], &two, 1, "job"), members(&[], &two, 1, "jpb"), "jobs are spread by their names");
        let three = members(&home, &four, 3, "job");
        assert!(three.len() == 3 && three.starts_with(&home) && four.is_superset(&three.iter().cloned().collect()), "{three:?}");
        let lost: BTreeSet<ExecutorId> = four.iter().filter(|executor| **executor != three[1]).cloned().collect();
        let after = members(&three, &lost, 3, "job");
        assert_eq!((&after[0], &after[2]), (&three[0], &three[2]));
        assert_eq!(after.iter().collect::<BTreeSet<_>>(), lost.iter().collect());
        let fewer: BTreeSet<ExecutorId> = [three[1].clone(), three[2].clone()].into();
        assert_eq!(
            members(&three, &fewer, 2, "job"),
            [three[2].clone(), three[1].clone()],
            "part 1 stays, part 0 goes to who is free"
        );
        assert!(members(&three, &BTreeSet::new(), 3, "job").is_empty());
    }

    #[test]
    fn a_new_leader_leaves_state_where_it_is() {
        let all = executors(&["a", "b", "c"]);
        let held = |executor: &str, part: u32, parts: u32, epoch: u64| {
            (ExecutorId::new(executor), HeldState { incarnation: "of the job".into(), part, parts, epoch })
        };
        let chosen = |held: &[(ExecutorId, HeldState)], parts: u16, before: &[ExecutorId], executors: &BTreeSet<ExecutorId>| {
            members(&holders(held, parts, before), executors, parts.into(), "job")
        };
        for name in ["a", "b", "c"] {
            assert_eq!(chosen(&[held(name, 0, 1, 7)], 1, &[], &all), [ExecutorId::new(name)]);
        }
        let newest = [held("a", 0, 1, 7), held("c", 0, 1, 9), held("b", 0, 1, 8)];
        let c = [ExecutorId::new("c")];
        assert_eq!(chosen(&newest, 1, &[ExecutorId::new("b")], &all), c, "whoever was there first");
        assert_ne!(chosen(&newest, 1, &[], &executors(&["a", "b"])), c, "who holds it has not joined");
        // Of a state that more share, part by part.
        let shared = [held("b", 1, 2, 5), held("c", 0, 2, 5), held("a", 0, 1, 9)];
        assert_eq!(chosen(&shared, 2, &[], &all), [ExecutorId::new("c"), ExecutorId::new("b")]);
        assert_eq!(
            chosen(&shared[..1], 2, &[ExecutorId::new("b")], &executors(&["a", "b"])),
            [ExecutorId::new("a"), ExecutorId::new("b")]
        );
        let three = chosen(&shared, 3, &[], &all);
        assert_eq!(three.iter().cloned().collect::<BTreeSet<_>>(), all, "parts of two are none of three");
        assert_eq!(chosen(&[], 1, &c, &all), c, "without state, who was chosen before");
    }

    #[test]
    fn without_executors_nothing_is_assigned() {
        assert!(assign(partitions(2), &BTreeSet::new(), &BTreeMap::new()).is_empty());
    }
}
