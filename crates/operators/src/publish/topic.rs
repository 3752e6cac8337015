//! Publishing to a topic: rows as JSON records, a part in one transaction of the publisher that parts of its number always go to.
use std::{collections::HashMap, sync::Arc};

use datafusion::arrow::array::RecordBatch;
use parking_lot::Mutex;
use polybolos_kafka::{
    connection::Connection,
    encode::{EncodeOptions, Encoded, encode, encode_raw},
    error::KafkaError,
    publish::{Position, PublisherConfig, Records, TopicPublisher, positions_topic, refused, transactional_id},
};
use polybolos_streaming::ids::{Incarnation, SinkId};
use polybolos_tables::{Grant, TableError};
use serde::{Deserialize, Serialize};

use super::{Order, PublishError, Published, RefusedRow};
use crate::changes::is_delete;

/// How rows become records of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicTarget {
    pub connection: Connection,
    pub topic: String,
    /// Which columns are the record's key, in the key's order; empty: records have none, and rows cannot be taken back.
    pub key: Vec<usize>,
    /// The key is its one column as it is, and no JSON.
    #[serde(default)]
    pub raw_key: bool,
    /// Which columns are in the payload.
    pub payload: Vec<usize>,
    pub encode: EncodeOptions,
}

impl TopicTarget {
    /// A batch of rows, or of the keys of deleted ones, as records.
    pub fn records(&self, batch: &RecordBatch) -> Result<Records, PublishError> {
        if is_delete(batch) {
            return Ok(Records { keys: Some(self.keys(batch)?), payloads: None });
        }
        let keys = if self.key.is_empty() { None } else { Some(self.keys(&batch.project(&self.key)?)?) };
        Ok(Records { keys, payloads: Some(encode(&batch.project(&self.payload)?, self.encode)?) })
    }

    fn keys(&self, columns: &RecordBatch) -> Result<Encoded, PublishError> {
        Ok(if self.raw_key { encode_raw(columns.column(0))? } else { encode(columns, self.encode)? })
    }
}

type PublisherKey = (Incarnation, SinkId, u16);

/// The publishers that this executor has open. One works at a time on each.
#[derive(Debug, Default)]
pub struct TopicPublishers {
    open: Mutex<HashMap<PublisherKey, Arc<tokio::sync::Mutex<Option<TopicPublisher>>>>>,
}

impl TopicPublishers {
    /// A job has ended here.
    pub fn forget(&self, incarnation: &Incarnation) {
        self.open.lock().retain(|(of, _, _), _| of != incarnation);
    }

    pub async fn publish(
        &self,
        order: &Order,
        target: &TopicTarget,
        batches: &[RecordBatch],
        grant: &dyn Grant,
    ) -> Result<Published, PublishError> {
        let number = order.file.part.publisher();
        let slot = self.open.lock().entry((order.incarnation.clone(), order.sink, number)).or_default().clone();
        let mut slot = slot.lock().await;
        // Whatever goes wrong from here on, the publisher is given up, and the next try finds out what was committed.
        let publisher = match slot.take() {
            Some(publisher) => publisher,
            None => TopicPublisher::open(config(order, target, number)).await?,
        };
        let (epoch, part) = (order.epoch.0, order.file.part.0);
        let (records, bytes_max) = (self.encoded(target, batches).await?, publisher.record_bytes_max());
        let refused = refused(&records, bytes_max);
        if let Some(refused) = already_refused(publisher.position(), epoch, part, &refused) {
            *slot = Some(publisher);
            return Ok(published(batches, refused));
        }
        check(grant)?;
        let sent = publisher.send(epoch, part, records).await?;
        // Sending may have taken long; what is not committed was not written.
        check(grant)?;
        *slot = Some(sent.commit().await?);
        Ok(published(batches, refused))
    }

    async fn encoded(&self, target: &TopicTarget, batches: &[RecordBatch]) -> Result<Vec<Records>, PublishError> {
        let (target, batches) = (target.clone(), batches.to_vec());
        let encoding = tokio::task::spawn_blocking(move || batches.iter().map(|batch| target.records(batch)).collect());
        encoding.await.map_err(|error| KafkaError::Bug(format!("encoding records ended early: {error}")))?
    }
}

/// The refused rows of a part that is published already. They are noted of a publisher's last epoch; of one before it they are
/// those that the topic refuses now: whoever led then may have gone on to the next epoch, and not have recorded them.
fn already_refused(position: &Position, epoch: u64, part: u16, refused: &[(u32, String)]) -> Option<Vec<(u32, String)>> {
    if position.epoch > epoch {
        return Some(refused.to_vec());
    }
    let errors: HashMap<u32, &String> = refused.iter().map(|(row, error)| (*row, error)).collect();
    let error = |row: &u32| errors.get(row).map_or_else(|| "it was larger than the topic took".into(), |error| (*error).clone());
    Some(position.published(epoch, part)?.iter().map(|row| (*row, error(row))).collect())
}

fn check(grant: &dyn Grant) -> Result<(), TableError> {
    if grant.holds() { Ok(()) } else { Err(TableError::GrantExpired) }
}

fn config(order: &Order, target: &TopicTarget, number: u16) -> PublisherConfig {
    let (incarnation, sink) = (order.incarnation.as_str(), order.sink.0);
    PublisherConfig {
        connection: target.connection.clone(),
        topic: target.topic.clone(),
        transactional_id: transactional_id(incarnation, sink, number),
        positions_topic: positions_topic(incarnation, sink),
        positions_partition: i32::from(number),
    }
}

/// Numbers of refused rows, counted over all batches, as rows of batches.
fn published(batches: &[RecordBatch], refused: Vec<(u32, String)>) -> Published {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let place = |(number, error): (u32, String)| {
        let mut row = number as usize;
        for (batch, rows) in batches.iter().map(RecordBatch::num_rows).enumerate() {
            if row < rows {
                return Some(RefusedRow { batch, row, error });
            }
            row -= rows;
        }
        None
    };
    let refused: Vec<RefusedRow> = refused.into_iter().filter_map(place).collect();
    Published { rows: (rows - refused.len()) as u64, refused }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use polybolos_embedded::{Broker, BrokerConfig};
    use polybolos_kafka::{admin::Admin, publish::POSITIONS_CONFIG};

    use super::{
        super::tests::{Held, order},
        *,
    };
    use crate::changes::mark_delete;

    fn batch(keys: &[&str]) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys.len() as i64));
        RecordBatch::try_from_iter([("n", values), ("k", Arc::new(StringArray::from(keys.to_vec())) as ArrayRef)]).expect("batch")
    }

    fn target(key: &[usize], payload: &[usize]) -> TopicTarget {
        TopicTarget {
            connection: Connection::new("nowhere:1"),
            topic: "t".into(),
            key: key.to_vec(),
            raw_key: false,
            payload: payload.to_vec(),
            encode: EncodeOptions::default(),
        }
    }

    #[test]
    fn rows_are_upserts_and_deletes_are_tombstones() {
        let rows = batch(&["a", "b"]);
        let upserts = target(&[1], &[0, 1]).records(&rows).expect("encodes");
        let text = |encoded: &Option<polybolos_kafka::encode::Encoded>, row| {
            encoded.as_ref().map(|encoded| String::from_utf8_lossy(encoded.row(row).expect("a row")).into_owned())
        };
        assert_eq!(text(&upserts.keys, 1).as_deref(), Some(r#"{"k":"b"}"#));
        assert_eq!(text(&upserts.payloads, 1).as_deref(), Some(r#"{"n":1,"k":"b"}"#));
        let deletes = mark_delete(&rows.project(&[1]).expect("keys")).expect("marked");
        let deletes = target(&[1], &[0]).records(&deletes).expect("encodes");
        assert_eq!((text(&deletes.keys, 0).as_deref(), deletes.payloads.is_none()), (Some(r#"{"k":"a"}"#), true));
        let raw = TopicTarget { raw_key: true, ..target(&[1], &[0]) }.records(&rows).expect("encodes");
        assert_eq!(text(&raw.keys, 0).as_deref(), Some("a"));
        let appended = target(&[], &[0]).records(&rows).expect("encodes");
        assert_eq!((appended.keys.is_none(), text(&appended.payloads, 0).as_deref()), (true, Some(r#"{"n":0}"#)));
    }

    #[test]
    fn rows_that_were_refused_are_told_again_of_every_epoch() {
        let position = Position { epoch: 3, parts: [(0, vec![7])].into() };
        let refuses_now = [(2, "x".to_owned())];
        let told = |epoch, part| already_refused(&position, epoch, part, &refuses_now);
        assert_eq!(told(2, 0), Some(refuses_now.to_vec()), "the next one was published before this one's rows were recorded");
        assert_eq!(told(3, 0), Some(vec![(7, "it was larger than the topic took".to_owned())]), "whatever it would take now");
        assert_eq!((told(3, 8), told(4, 0)), (None, None));
    }

    #[test]
    fn refused_rows_are_found_in_their_batches() {
        let batches = [batch(&["a", "b"]), batch(&[]), batch(&["c", "d", "e"])];
        let published = published(&batches, vec![(1, "x".into()), (3, "y".into())]);
        assert_eq!(published.rows, 3);
        let places: Vec<_> = published.refused.iter().map(|refused| (refused.batch, refused.row, refused.error.as_str())).collect();
        assert_eq!(places, [(0, 1, "x"), (2, 1, "y")]);
    }

    /// EPOCHS rule 6: what was sent while the grant lasted is not committed after it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_grant_that_ends_before_the_commit_publishes_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let broker = Broker::start(BrokerConfig::new(([127, 0, 0, 1], 0).into(), folder.path())).await.expect("starts");
        let target = TopicTarget { connection: Connection::new(broker.address().to_string()), ..target(&[], &[0, 1]) };
        let (order, rows) = (order(), [batch(&["a", "b"])]);
        let admin = Admin::connect(&target.connection).expect("connects");
        admin.ensure_topic(&target.topic, Some(1), &[]).await.expect("a topic");
        let positions = positions_topic(order.incarnation.as_str(), order.sink.0);
        admin.ensure_topic(&positions, Some(1), POSITIONS_CONFIG).await.expect("a topic of positions");
        let publishers = TopicPublishers::default();
        for times in 0..2 {
            let grant = Held::times(times);
            let stopped = publishers.publish(&order, &target, &rows, &grant).await.expect_err("no grant");
            assert!(matches!(stopped, PublishError::Table(TableError::GrantExpired)), "{stopped}");
            assert_eq!(grant.asked(), times + 1);
            let next = TopicPublisher::open(config(&order, &target, 0)).await.expect("opens");
            assert_eq!(next.position().published(order.epoch.0, order.file.part.0), None, "the grant held {times} times");
        }
        let published = publishers.publish(&order, &target, &rows, &Held::times(2)).await.expect("published");
        assert_eq!(published.rows, 2);
        let next = TopicPublisher::open(config(&order, &target, 0)).await.expect("opens");
        assert!(next.position().published(order.epoch.0, order.file.part.0).is_some());
        drop(next);
        broker.stop().await;
    }
}
