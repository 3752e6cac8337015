//! A source's consumer thread: makes the placements that its buffers want and takes records from one queue per partition. It sleeps until
//! librdkafka or a reader rings; nothing here polls busily.
mod client;
mod identity;
mod looking;
mod taking;
mod trouble;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::KafkaResult,
};

use self::{client::consumer_of, identity::Ids};
use super::{
    Announcer, FetcherConfig,
    buffer::Placement,
    comeback::Comebacks,
    source::{Plan, Source},
};
use crate::{
    context::QuietContext,
    error::{KafkaError, Result},
    metrics::Metrics,
    renewal::{Answers, end_apart},
};

/// What comes within so long of the last records is taken together: a stream of a thousand records a second would else wake reader and leader a thousand times.
const GATHER: Duration = Duration::from_millis(3);

/// Longest sleep: what has no bell (errors, log lines) is looked after so often.
const TICK: Duration = Duration::from_millis(100);

/// For questions to brokers; the thread waits for the answer.
const ANSWER: Duration = Duration::from_secs(1);

type Queue = PartitionQueue<QuietContext>;

struct Polling {
    source: Arc<Source>,
    config: FetcherConfig,
    metrics: Metrics,
    announcer: Announcer,
    consumer: Arc<BaseConsumer<QuietContext>>,
    /// Assigned partitions, each with the number of its placement.
    assigned: BTreeMap<i32, u64>,
    queues: BTreeMap<i32, Queue>,
    /// Records and bytes of the last chunk that was handed over: the next is likely to be as large.
    chunk_size: (usize, usize),
    /// The last look left records behind.
    has_more: bool,
    asked: Option<Instant>,
    /// When partitions last brought a record.
    brought: BTreeMap<i32, Instant>,
    /// A broker refused an offset: the client reads that partition no more, and does not say for sure which one it is.
    stopped: bool,
    /// An error said that a broker could not be reached: look.
    suspected: Option<String>,
    looked: Option<Instant>,
    /// When anything came last, or a look found that brokers answer.
    heard: Instant,
    answers: Answers,
    comebacks: Comebacks,
    /// When it was looked whether partitions are back.
    looked_back: Option<Instant>,
    ids: RefCell<Ids>,
}

/// Makes the consumer and its thread. Nothing is asked of the cluster yet.
pub(super) fn start(source: &Arc<Source>, config: &FetcherConfig, metrics: Metrics, announcer: Announcer) -> Result<()> {
    let consumer = consumer_of(source)?;
    let mut polling = Polling {
        source: source.clone(),
        config: *config,
        metrics,
        announcer,
        consumer,
        assigned: BTreeMap::new(),
        queues: BTreeMap::new(),
        chunk_size: (0, 0),
        has_more: false,
        asked: None,
        brought: BTreeMap::new(),
        stopped: false,
        suspected: None,
        looked: None,
        heard: Instant::now(),
        answers: Answers::new(Instant::now()),
        comebacks: Comebacks::default(),
        looked_back: None,
        ids: RefCell::default(),
    };
    let thread = std::thread::Builder::new().name("kafka-fetch".into());
    let spawned = thread.spawn(move || polling.run());
    spawned.map(drop).map_err(|error| KafkaError::Bug(format!("no thread for a consumer: {error}")))
}

/// However the thread ends, nobody waits for it.
impl Drop for Polling {
    fn drop(&mut self) {
        self.source.close_if_running();
        self.announcer.ended(&self.source);
    }
}

impl Polling {
    fn run(&mut self) {
        loop {
            let config = &self.config;
            let plan = self.source.plan(&self.assigned, config.partition_bytes, config.source_bytes, config.idle);
            let Some(plan) = plan else { return };
            if plan.renew {
                self.renew();
            }
            if let Err(error) = self.assign(&plan) {
                tracing::error!(topic = self.source.topic(), %error, "partitions cannot be assigned");
            }
            self.has_more = false;
            let mut brought = self.poll_main();
            for (partition, placement) in &plan.open {
                brought |= self.poll_partition(*partition, *placement);
            }
            if brought {
                self.heard = Instant::now();
            }
            if std::mem::take(&mut self.stopped) {
                self.turn_to_another_client();
            }
            self.ask(&plan);
            self.look();
            self.look_back(&plan);
            if brought {
                self.announcer.changed();
            }
            match (brought, self.has_more) {
                (true, true) => {}
                (true, false) => std::thread::sleep(GATHER),
                (false, _) => self.source.bell.wait(TICK),
            }
        }
    }

    /// Another client reads on from where this one is, which is of no more use.
    fn turn_to_another_client(&mut self) {
        self.source.place_again();
        self.renew();
    }

    /// A topic that is made again under a running client leaves behind what belongs to the old one: faults that wait in the queues of its partitions and have no
    /// number to tell their placement by, and epochs of leaders that are above those of the new topic. Only another client knows nothing of them.
    fn renew(&mut self) {
        match consumer_of(&self.source) {
            Ok(consumer) => {
                // Queues first: they belong to the old one.
                self.queues.clear();
                self.assigned.clear();
                self.brought.clear();
                end_apart(std::mem::replace(&mut self.consumer, consumer));
            }
            Err(error) => tracing::error!(topic = self.source.topic(), %error, "no new consumer; the old one goes on"),
        }
    }

    fn assign(&mut self, plan: &Plan) -> KafkaResult<()> {
        let topic = self.source.topic().to_owned();
        let placed = plan.placements.iter().map(|(partition, _)| partition);
        let mut removed = TopicPartitionList::new();
        for partition in plan.dropped.iter().chain(placed) {
            self.queues.remove(partition);
            if self.assigned.remove(partition).is_some() {
                removed.add_partition(&topic, *partition);
            }
        }
        if removed.count() > 0 {
            self.consumer.incremental_unassign(&removed)?;
        }
        if plan.placements.is_empty() {
            return Ok(());
        }
        let mut added = TopicPartitionList::new();
        for (partition, Placement { offset, .. }) in &plan.placements {
            added.add_partition_offset(&topic, *partition, Offset::Offset((*offset).max(0)))?;
        }
        self.consumer.incremental_assign(&added)?;
        for (partition, placement) in &plan.placements {
            self.assigned.insert(*partition, placement.number);
            self.metrics.placements.inc();
            // Without a queue of its own, a partition's records come through the main queue: slower to stop, but right.
            if let Some(mut queue) = self.consumer.split_partition_queue(&topic, *partition) {
                let bell = self.source.bell.clone();
                queue.set_nonempty_callback(move || bell.ring());
                self.queues.insert(*partition, queue);
            }
        }
        // Records that were fetched between assigning and splitting are in the main queue, and come before those of the partition's own.
        // A poll may answer `None` when it only served a log line, so wait until nothing comes for a moment.
        while self.take_main(Duration::from_millis(1)) {}
        Ok(())
    }
}
