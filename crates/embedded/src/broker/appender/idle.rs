//! Producers and transactional ids that nobody uses any more. What is kept of them goes after Kafka's default times, so that a broker that
//! runs for months keeps no more than what wrote lately.
use fjall::UserKey;

use super::{
    super::{
        log::LogError,
        producers::{ProducerKey, stored_key},
    },
    Appender,
};

impl Appender {
    /// Looks through all of them: now and then, and not with each request.
    pub(super) fn forget_idle(&mut self) {
        let now_ms = self.now_ms();
        let idle = self.producers.iter().filter(|(_, producer)| producer.is_idle(now_ms));
        let producers: Vec<ProducerKey> = idle.map(|(key, _)| *key).collect();
        let ids = self.transactions.idle(now_ms);
        if let Err(error) = self.forget(&producers, &ids) {
            _ = self.failed(&error);
        }
    }

    /// On disk first: what that fails for is found again.
    fn forget(&mut self, producers: &[ProducerKey], ids: &[String]) -> Result<(), LogError> {
        let store = self.log.store.clone();
        self.remove(&store.producers, producers.iter().map(|key| Ok(UserKey::from(stored_key(*key)))))?;
        for key in producers {
            self.producers.remove(key);
        }
        self.remove(&store.transactions, ids.iter().map(|id| Ok(UserKey::from(id.as_str()))))?;
        for id in ids {
            self.transactions.forget(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering::Relaxed},
        },
    };

    use tokio::sync::oneshot;

    use super::{
        super::{
            super::{
                batch::{Batch, tests::batch},
                codes::ErrorCode,
                log::Log,
            },
            Clock,
        },
        *,
    };

    const START_MS: i64 = 1_700_000_000_000;
    const DAY_MS: i64 = 24 * 3600 * 1000;

    /// With a topic, and a clock that stands until it is set.
    fn appender(folder: &Path) -> (Appender, Arc<AtomicI64>) {
        let now_ms = Arc::new(AtomicI64::new(START_MS));
        let shown_ms = now_ms.clone();
        let clock: Clock = Arc::new(move || shown_ms.load(Relaxed));
        let mut appender = Appender::new(Arc::new(Log::open(folder).unwrap()), clock).unwrap();
        appender.create_topic("t".into(), 1, BTreeMap::new()).unwrap();
        (appender, now_ms)
    }

    fn write(appender: &mut Appender, producer: i64, sequence: i32) -> Result<i64, ErrorCode> {
        let (answer, mut told) = oneshot::channel();
        let batch = Batch::parse(batch(1, (producer, 0, sequence), 5)).unwrap();
        appender.append_all(vec![(appender.log.partition("t", 0).unwrap(), batch, answer)]);
        told.try_recv().unwrap()
    }

    #[test]
    fn producers_that_wrote_nothing_for_a_day_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (mut appender, now_ms) = appender(folder.path());
        assert_eq!((write(&mut appender, 7, 0), write(&mut appender, 8, 0)), (Ok(0), Ok(1)));
        now_ms.store(START_MS + DAY_MS, Relaxed);
        appender.forget_idle();
        assert_eq!((write(&mut appender, 7, 0), write(&mut appender, 8, 1)), (Ok(0), Ok(2)), "the first is written already");
        now_ms.store(START_MS + DAY_MS + 1, Relaxed);
        appender.forget_idle();
        assert_eq!((appender.producers.len(), appender.log.store.producers.len().unwrap()), (1, 1));
        assert_eq!(write(&mut appender, 7, 5), Ok(3), "it goes on with any number");
        assert_eq!(write(&mut appender, 8, 5), Err(ErrorCode::OutOfOrderSequenceNumber), "it is known");
    }

    #[test]
    fn transactional_ids_are_forgotten_a_week_after_their_last_transaction_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (mut appender, now_ms) = appender(folder.path());
        let (ended, open) =
            (appender.init_transactions("ended", 1_000).unwrap(), appender.init_transactions("open", 1_000).unwrap());
        let here = appender.log.partition("t", 0).map(|partition| (partition.topic_number, partition.index)).unwrap();
        appender.add_partitions("ended", ended, &[here]).unwrap();
        appender.end_transaction("ended", ended, true).unwrap();
        appender.add_partitions("open", open, &[here]).unwrap();
        now_ms.store(START_MS + 7 * DAY_MS, Relaxed);
        appender.forget_idle();
        assert!(appender.transactions.get("ended").is_some());
        now_ms.store(START_MS + 7 * DAY_MS + 1, Relaxed);
        appender.forget_idle();
        assert_eq!(appender.log.store.transactions.len().unwrap(), 1);
        assert_eq!(appender.add_partitions("ended", ended, &[here]), Err(ErrorCode::InvalidProducerIdMapping));
        assert_eq!(appender.end_transaction("open", open, true), Ok(()), "it was open all the while");
        let (again, _) = appender.init_transactions("ended", 1_000).unwrap();
        assert_ne!(again, ended.0);
    }
}
