//! Logs: topics made again under the same name, and lost tails.
use super::*;

/// Reading ahead would go on from the old topic's offsets, which the new one may never reach.
#[test]
fn a_record_of_a_topic_made_again_meanwhile_releases_nothing_of_its_successor() {
    let mut bench = Bench::leading();
    bench.compute();
    let topic_id = Some("second".to_owned());
    let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 2), (1, 2)]));
    bench.send(Event::Partitions { source: SOURCE, asked_us: 0, topic_id, beginnings, ends });
    bench.store();
    let released = |action: &Action| if let Action::Released { through } = action { Some(through.clone()) } else { None };
    let released: Vec<_> = bench.done.iter().filter_map(released).collect();
    assert_eq!(released, [BTreeMap::new()]);
}

/// An executor may tell of the old topic's records after the new one was found, and before it is told to read that.
#[test]
fn records_of_a_topic_that_is_no_more_are_not_there_to_be_read() {
    let mut bench = Bench::leading();
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    let topic_id = Some("second".to_owned());
    let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 3), (1, 3)]));
    bench.send(Event::Partitions { source: SOURCE, asked_us: 0, topic_id, beginnings, ends });
    let Log { name: log, topic_id } = bench.log();
    assert_ne!(log, "first");
    assert_eq!(topic_id.as_deref(), Some("second"));
    let partition = SourcePartition { source: SOURCE, partition: 0 };
    bench.send(Event::Available { partition, log: "first".into(), end: 3, bytes_per_record: 1 });
    assert!(bench.submitted().is_none(), "nobody has read the new topic yet");
    bench.send(Event::Available { partition, log, end: 3, bytes_per_record: 1 });
    assert!(bench.submitted().is_some());
}

/// Other records had its offsets before.
#[test]
fn a_frame_names_a_log_that_is_not_the_first_of_its_topic() {
    let mut bench = Bench::leading();
    bench.send(Event::ExecutorJoined { executor: ExecutorId::new("executor") });
    let partition = SourcePartition { source: SOURCE, partition: 0 };
    bench.send(Event::Available { partition, log: "first".into(), end: 3, bytes_per_record: 1 });
    let (_, frame) = bench.submitted().expect("an attempt");
    assert!(frame.logs.is_empty(), "{:?}", frame.logs);
    let topic_id = Some("second".to_owned());
    let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 3), (1, 3)]));
    bench.send(Event::Partitions { source: SOURCE, asked_us: 0, topic_id, beginnings, ends });
    let log = bench.log().name;
    bench.now.monotonic_us += 60_000_000;
    bench.send(Event::Available { partition, log: log.clone(), end: 3, bytes_per_record: 1 });
    let (_, frame) = bench.submitted().expect("an attempt");
    assert_eq!(frame.logs, BTreeMap::from([(SOURCE, log)]));
}

/// What was recorded is not lost with its topic, and what nobody heard of is not known.
#[test]
fn what_is_lost_with_a_log_is_what_was_known_of_it_and_not_read() {
    let lost = |of_tail: bool| {
        let mut bench = Bench::leading();
        bench.compute();
        bench.store();
        bench.list(&BTreeMap::from([(0, 8), (1, 3)]));
        let topic_id = Some(if of_tail { "first" } else { "second" }.to_owned());
        let (beginnings, ends) = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 2), (1, 3)]));
        let asked_us = bench.now.monotonic_us;
        bench.send(Event::Partitions { source: SOURCE, asked_us, topic_id, beginnings, ends });
        bench.send(Event::Command(Command::Pause));
        bench.store();
        bench.coordinator.manifest().counts.lost
    };
    assert_eq!(lost(false), 5, "three of eight were read, and three of three");
    assert_eq!(lost(true), 5);
}

/// While a leader is busy, answers wait, and what executors have computed meanwhile overtakes them.
#[test]
fn a_topic_has_lost_its_tail_only_by_an_answer_that_was_asked_after_the_job_had_read_it() {
    let mut bench = Bench::leading_as(manifest(), CoordinatorConfig::default());
    let ends = |end| BTreeMap::from([(0, end), (1, end)]);
    bench.compute();
    bench.store();
    // Asked for at 10, 20 and 30, when there were two records; read by the job after that.
    bench.now.monotonic_us = 40;
    bench.list_asked(10, &ends(2));
    bench.now.monotonic_us = 41;
    bench.list_asked(20, &ends(2));
    bench.now.monotonic_us = 42;
    bench.list_asked(30, &ends(2));
    assert!(!is_failed(&bench), "{:?}", bench.done);
    bench.now.monotonic_us = 50;
    bench.list_asked(41, &ends(2));
    assert!(is_failed(&bench), "{:?}", bench.done);
}

/// The predecessor read them while this leader was taking over.
#[test]
fn an_answer_that_was_asked_before_a_predecessors_last_record_was_found_does_not_contradict_it() {
    let mut before = Bench::leading_as(manifest(), CoordinatorConfig::default());
    let taken = before.coordinator.manifest().clone();
    before.compute();
    before.store();
    let recorded = before.coordinator.manifest().clone();

    let mut bench = Bench::taking_over(taken, CoordinatorConfig::default());
    let sent = |action: &Action| if let Action::Swap { manifest, .. } = action { Some(manifest.nonce.clone()) } else { None };
    let nonce = bench.done.iter().find_map(sent).expect("a swap");
    bench.send(Event::SwapReplied { nonce, reply: SwapReply::Conflict });
    let asked = |action: &Action| if let Action::ReadManifest { request } = action { Some(request.clone()) } else { None };
    let request = bench.done.iter().find_map(asked).expect("it looks what became of the swap");
    bench.now.monotonic_us = 40;
    let answer = ManifestAnswer::Found { version: Version::new("another"), manifest: Box::new(recorded) };
    bench.send(Event::ManifestRead { request, answer });
    bench.store();
    bench.list_asked(39, &BTreeMap::from([(0, 2), (1, 2)]));
    assert!(!is_failed(&bench), "{:?}", bench.done);
    bench.list_asked(40, &BTreeMap::from([(0, 2), (1, 2)]));
    assert!(is_failed(&bench), "{:?}", bench.done);
}

fn is_failed(bench: &Bench) -> bool {
    bench.done.iter().any(|action| matches!(action, Action::Failed { .. }))
}

/// An executor that was cut off may still hold what it read of an earlier log.
#[test]
fn a_log_keeps_its_name_under_the_next_leader_and_no_other_gets_it() {
    let lose_a_tail = |bench: &mut Bench, ends: [i64; 2]| {
        bench.list(&BTreeMap::from([(0, ends[0]), (1, ends[1])]));
        bench.log().name
    };
    let config = CoordinatorConfig { on_data_loss: OnDataLoss::Continue, ..CoordinatorConfig::default() };
    let mut bench = Bench::leading_as(manifest(), config.clone());
    assert_eq!(bench.log().name, "first", "as before logs had names of their own");
    bench.compute();
    bench.store();
    bench.list(&BTreeMap::from([(0, 3), (1, 3)]));
    let second = lose_a_tail(&mut bench, [3, 1]);
    bench.send(Event::Command(Command::Pause));
    bench.store();
    let recorded = bench.coordinator.manifest().clone();
    assert_eq!(recorded.sources[&SOURCE].log, second);

    let mut next = Bench::leading_as(recorded, config);
    assert_eq!(next.log(), Log { name: second.clone(), topic_id: Some("first".into()) });
    let third = lose_a_tail(&mut next, [2, 1]);
    assert!(third != second && third != "first", "{third}");
}

/// Until then it cannot tell another topic of the name from it.
#[test]
fn who_reads_ahead_is_told_the_topics_id_when_it_is_known() {
    let mut unknown = manifest();
    unknown.sources.get_mut(&SOURCE).expect("a source").topic_id = None;
    let mut bench = Bench::leading_as(unknown, CoordinatorConfig::default());
    assert_eq!(bench.log(), Log { name: String::new(), topic_id: Some("first".into()) });
    bench.done.clear();
    bench.list(&BTreeMap::from([(0, 0), (1, 0)]));
    assert!(bench.done.iter().all(|action| !matches!(action, Action::Prefetch { .. })), "{:?}", bench.done);
}
