//! Topics made again, faults and waiting readers, with what the thread would do done by hand.
use std::time::Duration;

use polybolos_streaming::frame::OffsetRange;

use super::*;
use crate::{
    error::KafkaError,
    fetcher::comeback::Failed,
    records::{ChunkBuilder, RawRecord, RecordChunk},
};

fn source() -> Arc<Source> {
    Source::new(FetchTopic::new(&Connection::new("nowhere:9092"), "t"))
}

fn chunk(offsets: std::ops::Range<i64>) -> RecordChunk {
    let mut builder = ChunkBuilder::new();
    for offset in offsets {
        builder.push(RawRecord { offset, timestamp: None, key: None, payload: Some(b"{}") }, std::iter::empty());
    }
    builder.finish()
}

/// What the thread would do, done.
fn planned(source: &Source, assigned: &mut BTreeMap<i32, u64>) -> Plan {
    let plan = source.plan(assigned, 1 << 20, 1 << 20, Duration::from_secs(60)).expect("it runs");
    if plan.renew {
        assigned.clear();
    }
    for partition in &plan.dropped {
        assigned.remove(partition);
    }
    assigned.extend(plan.placements.iter().map(|(partition, placement)| (*partition, placement.number)));
    plan
}

fn offsets(plan: &Plan) -> Vec<(i32, i64)> {
    plan.placements.iter().map(|(partition, placement)| (*partition, placement.offset)).collect()
}

#[test]
fn a_topic_made_again_is_read_by_another_client_however_late_the_old_one_tells() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 0)]));
    assert!(!planned(&source, &mut assigned).renew);
    source.add(0, assigned[&0], &chunk(0..5));
    source.release(0, 5);
    let old = assigned.clone();
    for (partition, placement) in &old {
        source.fail(*partition, *placement, Fault::NoSuchTopic);
    }
    let plan = planned(&source, &mut assigned);
    assert_eq!((plan.renew, plan.placements.len()), (false, 0), "nothing is wanted yet");
    assert_eq!(plan.failed.iter().map(|failed| failed.start).collect::<Vec<_>>(), [5, 0]);
    // The leader has found the new topic.
    source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 0)]));
    let plan = planned(&source, &mut assigned);
    assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0), (1, 0)]));
    source.fail(0, old[&0], Fault::NoSuchTopic);
    assert_eq!(source.position(0, assigned[&0]), Some(0), "what is told of an old placement counts no more");
    // A fault of the new placement is not the end: nobody will ask for the partition once more.
    source.fail(0, assigned[&0], Fault::NoSuchTopic);
    let plan = planned(&source, &mut assigned);
    assert_eq!(plan.failed, [Failed { partition: 0, start: 0, failures: 1, is_known: false }]);
    source.add(1, assigned[&1], &chunk(0..3));
    source.begin_again(0);
    let plan = planned(&source, &mut assigned);
    assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0), (1, 3)]), "the other one goes on");
    assert!(plan.failed.is_empty());
    source.add(0, assigned[&0], &chunk(0..25));
    assert_eq!(source.position(0, assigned[&0]), Some(25));
    assert!(!planned(&source, &mut assigned).renew);
}

#[tokio::test]
async fn what_is_in_fault_is_read_again_only_after_the_topics_id_was_asked_for() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    let order = |start| source.prefetch("first", Some("id"), &BTreeMap::from([(0, start)]));
    order(0);
    planned(&source, &mut assigned);
    source.add(0, assigned[&0], &chunk(0..5));
    source.fail(0, assigned[&0], Fault::NoSuchTopic);
    let mut reading = Box::pin(source.read(0, OffsetRange::new(2, 9)));
    assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
    // Another executor has come, and all are told again.
    order(2);
    let plan = planned(&source, &mut assigned);
    assert!(plan.placements.is_empty(), "what has its name may be another topic");
    assert_eq!(plan.failed, [Failed { partition: 0, start: 2, failures: 1, is_known: true }]);
    source.begin_again(0);
    assert_eq!(offsets(&planned(&source, &mut assigned)), [(0, 2)]);
    assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
    source.add(0, assigned[&0], &chunk(2..9));
    assert_eq!(reading.await.expect("it is there").expect("it runs").len(), 1);
}

#[test]
fn another_client_goes_on_where_the_old_one_was_lost() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 7)]));
    planned(&source, &mut assigned);
    source.add(0, assigned[&0], &chunk(0..5));
    let old = std::mem::take(&mut assigned);
    source.place_again();
    let plan = planned(&source, &mut assigned);
    assert_eq!((plan.renew, offsets(&plan)), (false, vec![(0, 5), (1, 7)]));
    assert_eq!(source.add(0, old[&0], &chunk(5..9)), (0, 0), "what the old one still brings counts no more");
    assert_eq!(source.add(0, assigned[&0], &chunk(5..9)).0, 4);
    assert_eq!(source.position(0, assigned[&0]), Some(9));
}

#[test]
fn an_id_that_nobody_can_be_asked_for_is_not_waited_for() {
    let mut connection = Connection::new("nowhere:9092");
    connection.properties.insert("security.protocol".into(), "ssl".into());
    let (source, mut assigned) = (Source::new(FetchTopic::new(&connection, "t")), BTreeMap::new());
    source.prefetch("first", Some("id"), &BTreeMap::from([(0, 0)]));
    planned(&source, &mut assigned);
    source.fail(0, assigned[&0], Fault::NoSuchTopic);
    let plan = planned(&source, &mut assigned);
    assert_eq!(plan.failed, [Failed { partition: 0, start: 0, failures: 1, is_known: false }]);
}

#[test]
fn going_back_without_a_fault_needs_another_client_too() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 7)]));
    planned(&source, &mut assigned);
    source.prefetch("first", None, &BTreeMap::from([(0, 9)]));
    assert!(!planned(&source, &mut assigned).renew, "retention took something");
    source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
    let plan = planned(&source, &mut assigned);
    assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0)]));
}

#[tokio::test]
async fn a_start_that_came_while_somebody_read_is_kept_to_afterwards() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 5)]));
    planned(&source, &mut assigned);
    let reading = source.read(0, OffsetRange::new(5, 9));
    assert!(tokio::time::timeout(Duration::from_millis(1), reading).await.is_err(), "there is nothing to read");
    {
        let mut reading = Box::pin(source.read(0, OffsetRange::new(5, 9)));
        assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
        source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
        assert!(planned(&source, &mut assigned).placements.is_empty(), "it is still read");
    }
    assert_eq!(offsets(&planned(&source, &mut assigned)), [(0, 0)]);
}

#[tokio::test]
async fn what_is_read_ahead_outlives_a_reader_that_met_a_fault() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
    planned(&source, &mut assigned);
    let mut reading = Box::pin(source.read(0, OffsetRange::new(0, 9)));
    assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
    source.fail(0, assigned[&0], Fault::NoSuchTopic);
    assert!(planned(&source, &mut assigned).failed.is_empty(), "the reader is told first");
    assert!(matches!(reading.await, Err(KafkaError::NoSuchTopic { .. })));
    assert_eq!(planned(&source, &mut assigned).failed.len(), 1);
}

#[test]
fn what_was_read_of_a_topic_is_not_taken_for_its_successors() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 0), (1, 0)]));
    planned(&source, &mut assigned);
    source.add(0, assigned[&0], &chunk(0..5));
    let old = assigned.clone();
    let ends = |source: &Source| {
        let mut ends = vec![];
        source.each_readable(|log, partition, end, _| ends.push((log.to_owned(), partition, end)));
        ends
    };
    assert_eq!(ends(&source), [("first".to_owned(), 0, 5), ("first".to_owned(), 1, 0)]);
    // Nothing was recorded: the new topic is read from the same offset.
    source.prefetch("second", None, &BTreeMap::from([(0, 0), (1, 0)]));
    assert_eq!(ends(&source), [("second".to_owned(), 0, 0), ("second".to_owned(), 1, 0)]);
    let plan = planned(&source, &mut assigned);
    assert_eq!((plan.renew, offsets(&plan)), (true, vec![(0, 0), (1, 0)]), "by a client that knows nothing of the old one");
    assert_eq!(source.add(0, old[&0], &chunk(5..9)), (0, 0), "what is still on its way counts no more");
    assert_eq!(source.add(0, assigned[&0], &chunk(0..3)).0, 3);
    // The same order again, of another leader: nothing is fetched twice.
    source.prefetch("second", None, &BTreeMap::from([(0, 0), (1, 0)]));
    assert_eq!(source.position(0, assigned[&0]), Some(3));
    assert!(!planned(&source, &mut assigned).renew);
}

#[tokio::test]
async fn a_reader_that_came_before_the_order_to_read_ahead_asks_again() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    let mut reading = Box::pin(source.read(0, OffsetRange::new(0, 2)));
    assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
    planned(&source, &mut assigned);
    source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
    assert_eq!(reading.await.expect("it is no error").map(|chunks| chunks.len()), None);
    planned(&source, &mut assigned);
    source.add(0, assigned[&0], &chunk(0..2));
    assert_eq!(source.read(0, OffsetRange::new(0, 2)).await.expect("it is there").expect("it runs").len(), 1);
}

#[tokio::test]
async fn a_reader_of_a_topic_that_is_no_more_is_told() {
    let (source, mut assigned) = (source(), BTreeMap::new());
    source.prefetch("first", None, &BTreeMap::from([(0, 0)]));
    planned(&source, &mut assigned);
    let mut reading = Box::pin(source.read(0, OffsetRange::new(0, 9)));
    assert!(tokio::time::timeout(Duration::from_millis(1), reading.as_mut()).await.is_err());
    source.prefetch("second", None, &BTreeMap::from([(0, 0)]));
    planned(&source, &mut assigned);
    let mut next = Box::pin(source.read(0, OffsetRange::new(0, 2)));
    assert!(tokio::time::timeout(Duration::from_millis(1), next.as_mut()).await.is_err());
    let told = reading.await;
    assert!(matches!(&told, Err(error @ KafkaError::OtherLog { .. }) if error.is_retryable()));
    // Only the second reader is counted.
    source.prefetch("second", None, &BTreeMap::from([(0, 7)]));
    assert!(planned(&source, &mut assigned).placements.is_empty(), "it still reads");
    source.add(0, assigned[&0], &chunk(0..2));
    assert_eq!(next.await.expect("it is there").expect("it runs").len(), 1);
}

#[test]
fn a_source_that_ends_misses_no_broker() {
    let source = source();
    source.set_away(Some("no answer".into()));
    assert!(!source.is_ending() && source.away().is_some());
    source.close();
    assert!(source.is_ending());
}
