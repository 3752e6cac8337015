//! A source's consumer thread: makes the placements that its buffers want and takes records from one queue per partition. It sleeps until
//! librdkafka or a reader rings; nothing here polls busily.
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError as ClientError, KafkaResult},
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode as Code,
};

use super::{
    Announcer, FetcherConfig,
    buffer::{Fault, Placement},
    comeback::Comebacks,
    source::{Plan, Source},
};
use crate::{
    context::QuietContext,
    error::{KafkaError, Result, is_away},
    metrics::Metrics,
    records::{ChunkBuilder, RawRecord, TimestampType},
    renewal::{Answers, end_apart, is_unanswered},
    topic_id::{Asker, Unreachable},
};

/// librdkafka's settings: long polls that the broker answers at once when something arrives, so that an idle source costs next to nothing;
/// little read ahead in its own queues (the limit is per partition), since our buffers do that.
const DEFAULTS: &[(&str, &str)] = &[
    ("group.id", "polybolos"),
    ("fetch.wait.max.ms", "100"),
    ("fetch.min.bytes", "1"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.error.backoff.ms", "100"),
    ("queued.max.messages.kbytes", "2048"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    ("topic.metadata.refresh.fast.interval.ms", "100"),
    ("topic.metadata.propagation.max.ms", "5000"),
    ("socket.nagle.disable", "true"),
];

const FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("isolation.level", "read_committed"),
    ("auto.offset.reset", "error"),
    ("allow.auto.create.topics", "false"),
];

/// A chunk is handed over when it has so many records or bytes, or when nothing more is waiting.
const CHUNK_RECORDS: usize = 4_096;
const CHUNK_BYTES: usize = 2 << 20;

/// What comes within so long of the last records is taken together: a stream of a thousand records a second would else wake reader and leader a thousand times.
const GATHER: Duration = Duration::from_millis(3);

/// Longest sleep: what has no bell (errors, log lines) is looked after so often.
const TICK: Duration = Duration::from_millis(100);

/// Between two looks whether partitions are back that could not be read.
const LOOK: Duration = Duration::from_millis(500);

/// Between two questions for the end of a log, and two looks whether brokers are back.
const ASK: Duration = Duration::from_millis(250);

/// A partition that brought nothing for so long is quiet: looking for its end disturbs nobody.
const QUIET: Duration = Duration::from_millis(500);

/// A topic is not deleted, made again and written to in a shorter time than this.
const REPLACED: Duration = Duration::from_millis(50);

/// So long an answer for the topic's id holds, for what other partitions bring in the same moment.
const SAME_MOMENT: Duration = Duration::from_millis(10);

/// Before the id is asked for again where nobody could be asked.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// For those questions; the thread waits for the answer.
const ANSWER: Duration = Duration::from_secs(1);

/// A source that brought nothing for so long, not even the end of a partition: its client may have lost the brokers without an error.
const SILENCE: Duration = Duration::from_secs(5);

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

/// Tells the topic that is to be read from another of its name.
#[derive(Default)]
struct Ids {
    asker: Asker,
    /// When it last was the one that is to be read.
    right_at: Option<Instant>,
    /// When nobody could be asked: to try takes long.
    unreachable_at: Option<Instant>,
}

/// What came through a queue that several partitions share.
#[derive(Default)]
struct Mixed {
    builders: BTreeMap<i32, ChunkBuilder>,
    ended: Vec<i32>,
    /// Some of it was handed over already.
    brought: bool,
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

fn consumer_of(source: &Source) -> Result<Arc<BaseConsumer<QuietContext>>> {
    let connection = source.connection();
    let client_config = connection.client_config(DEFAULTS, FIXED);
    let consumer = client_config.create_with_context::<_, BaseConsumer<QuietContext>>(QuietContext);
    let mut consumer =
        consumer.map_err(|error| KafkaError::from_client(error, &connection.bootstrap_servers, "connecting a consumer"))?;
    let bell = source.bell.clone();
    consumer.set_nonempty_callback(move || bell.ring());
    Ok(Arc::new(consumer))
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

    fn poll_main(&mut self) -> bool {
        self.take_main(Duration::ZERO)
    }

    /// Takes what is in the main queue: errors, and records that were fetched before a partition had its own queue.
    fn take_main(&mut self, wait: Duration) -> bool {
        let consumer = self.consumer.clone();
        let mut mixed = Mixed::default();
        for _ in 0..CHUNK_RECORDS {
            match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => self.mix(&mut mixed, &message),
                Some(Err(ClientError::PartitionEOF(partition))) => mixed.ended.push(partition),
                Some(Err(error)) => self.trouble(None, &error),
            }
        }
        self.settle(mixed)
    }

    fn mix(&self, mixed: &mut Mixed, message: &BorrowedMessage<'_>) {
        let builder = mixed.builders.entry(message.partition()).or_default();
        if !builder.takes(message.offset()) {
            mixed.brought |= self.hand_over(message.partition(), builder);
        }
        push(builder, message, self.source.headers());
    }

    fn settle(&mut self, mixed: Mixed) -> bool {
        let Mixed { builders, ended, mut brought } = mixed;
        for (partition, mut builder) in builders {
            if self.hand_over(partition, &mut builder) {
                self.brought.insert(partition, Instant::now());
                brought = true;
            }
        }
        // An end is only told after the records before it; those were handed over above.
        for partition in ended {
            if let Some(placement) = self.assigned.get(&partition) {
                self.source.reached_end(partition, *placement);
                brought = true;
            }
        }
        brought
    }

    /// A partition that was taken away and assigned again gets its own queue only if the client has stopped the old one by then. Otherwise its queue stays
    /// joined to the main one, and brings what is meant for others too.
    fn poll_partition(&mut self, partition: i32, placement: u64) -> bool {
        let Some(queue) = self.queues.get(&partition) else { return false };
        // Most looks find nothing; the first record makes the room.
        let mut builder = ChunkBuilder::new();
        let mut others = Mixed::default();
        let mut trouble = None;
        let mut at_end = false;
        let headers = self.source.headers();
        while builder.len() < CHUNK_RECORDS && builder.bytes() < CHUNK_BYTES {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) if message.partition() != partition => self.mix(&mut others, &message),
                Some(Ok(message)) => {
                    if builder.is_empty() {
                        let (records, bytes) = self.chunk_size;
                        builder = ChunkBuilder::with_capacity(records, bytes);
                    }
                    if !builder.takes(message.offset()) {
                        self.hand_over(partition, &mut builder);
                    }
                    push(&mut builder, &message, headers);
                }
                Some(Err(ClientError::PartitionEOF(other))) if other != partition => others.ended.push(other),
                Some(Err(ClientError::PartitionEOF(_))) => {
                    at_end = true;
                    break;
                }
                Some(Err(error)) => {
                    trouble = Some(error);
                    break;
                }
            }
        }
        self.has_more |= trouble.is_none() && (builder.len() >= CHUNK_RECORDS || builder.bytes() >= CHUNK_BYTES);
        let size = (builder.len(), builder.bytes() + builder.bytes() / 32);
        let mut brought = self.hand_over(partition, &mut builder);
        if brought {
            self.chunk_size = size;
            self.brought.insert(partition, Instant::now());
        }
        if at_end {
            self.source.reached_end(partition, placement);
            brought = true;
        }
        brought |= self.settle(others);
        if let Some(error) = trouble {
            self.trouble(Some((partition, placement)), &error);
        }
        brought
    }

    fn hand_over(&self, partition: i32, builder: &mut ChunkBuilder) -> bool {
        let Some(placement) = self.assigned.get(&partition) else { return false };
        if builder.is_empty() {
            return false;
        }
        if self.is_of_another_topic(partition) {
            builder.finish();
            self.source.fail(partition, *placement, Fault::NoSuchTopic);
            return true;
        }
        let (records, bytes) = self.source.add(partition, *placement, &builder.finish());
        self.metrics.fetched_records.inc_by(records);
        self.metrics.fetched_bytes.inc_by(bytes);
        true
    }

    /// The client says nothing when a topic is deleted and made again quickly: it reads the new one from the old one's offset. So after each pause, in which that may
    /// have happened, the topic's id is asked for once the first records are here, before anybody is told of them.
    fn is_of_another_topic(&self, partition: i32) -> bool {
        if self.brought.get(&partition).is_some_and(|brought| brought.elapsed() < REPLACED) {
            return false;
        }
        let Some(ordered) = self.source.topic_id() else { return false };
        let mut ids = self.ids.borrow_mut();
        let is_known = |at: Option<Instant>, holds: Duration| at.is_some_and(|at| at.elapsed() < holds);
        if is_known(ids.right_at, SAME_MOMENT) || is_known(ids.unreachable_at, UNREACHABLE) {
            return false;
        }
        match ids.asker.of(self.source.connection(), self.source.topic()) {
            Ok(Some(found)) if found != ordered => return true,
            Ok(Some(_)) => (ids.right_at, ids.unreachable_at) = (Some(Instant::now()), None),
            // It is being deleted: these are its last records.
            Ok(None) => {}
            Err(Unreachable) => ids.unreachable_at = Some(Instant::now()),
        }
        false
    }

    fn trouble(&mut self, of: Option<(i32, u64)>, error: &ClientError) {
        let Some(code) = error.rdkafka_error_code() else {
            tracing::warn!(topic = self.source.topic(), %error, "consumer error; librdkafka tries again");
            return;
        };
        let each: Vec<(i32, u64)> = match of {
            Some(one) => vec![one],
            None => self.assigned.iter().map(|(partition, placement)| (*partition, *placement)).collect(),
        };
        match code {
            Code::OffsetOutOfRange | Code::AutoOffsetReset => {
                for (partition, placement) in each {
                    self.check_lost(partition, placement, of.is_some());
                }
                self.stopped = true;
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
                for (partition, placement) in each {
                    self.source.fail(partition, placement, Fault::NoSuchTopic);
                }
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
                for (partition, placement) in each {
                    self.source.fail(partition, placement, Fault::Denied(code.to_string()));
                }
            }
            code if is_away(code) => self.suspected = Some(code.to_string()),
            code => tracing::warn!(topic = self.source.topic(), %code, "consumer error; librdkafka tries again"),
        }
    }

    /// The broker does not have the offset that comes next: what does it have? If it has it, the error is one of another partition
    /// or of an earlier placement, or the log has grown past the offset again: another client, which knows of no other error, finds
    /// out.
    fn check_lost(&self, partition: i32, placement: u64, is_named: bool) {
        let Some(offset) = self.source.position(partition, placement) else { return };
        match self.consumer.fetch_watermarks(self.source.topic(), partition, ANSWER).ok() {
            Some((first, end)) if (first..=end).contains(&offset) => {
                if is_named {
                    self.source.refuse(partition, placement, offset);
                }
            }
            kept => self.source.fail(partition, placement, Fault::Lost { offset, kept }),
        }
    }

    /// Asks how far logs reach whose last offsets may be holes.
    fn ask(&mut self, plan: &Plan) {
        let is_quiet = |partition: &&i32| self.brought.get(partition).is_none_or(|brought| brought.elapsed() > QUIET);
        let quiet: Vec<i32> = plan.quiet_questions.iter().filter(is_quiet).copied().collect();
        let nothing = plan.questions.is_empty() && quiet.is_empty();
        if nothing || self.asked.is_some_and(|asked| asked.elapsed() < ASK) {
            return;
        }
        self.asked = Some(Instant::now());
        let mut list = TopicPartitionList::new();
        for partition in plan.questions.iter().chain(&quiet) {
            if list.add_partition_offset(self.source.topic(), *partition, Offset::End).is_err() {
                return;
            }
        }
        let Ok(ends) = self.consumer.offsets_for_times(list, ANSWER) else { return };
        for element in ends.elements() {
            let Offset::Offset(end) = element.offset() else { continue };
            if quiet.contains(&element.partition()) {
                self.source.quiet_log_reaches(element.partition(), end);
            } else {
                self.source.log_reaches(element.partition(), end);
            }
        }
        self.source.bell.ring();
    }

    /// Partitions that could not be read: are they back?
    fn look_back(&mut self, plan: &Plan) {
        self.comebacks.keep(&plan.failed);
        if plan.failed.is_empty() || self.looked_back.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        let there = self.partitions_there();
        let now = Instant::now();
        self.looked_back = Some(now);
        let mut due = plan.failed.clone();
        due.retain(|failed| self.comebacks.is_due(*failed, there.contains(&failed.partition), now));
        if !due.is_empty() && self.is_ordered_topic() {
            for failed in due {
                self.source.begin_again(failed.partition);
            }
        }
    }

    /// Whether what has the topic's name now is what is to be read, as far as that can be told. While it is another, or there is none, the leader's word is waited for.
    fn is_ordered_topic(&self) -> bool {
        let Some(ordered) = self.source.topic_id() else { return true };
        match self.ids.borrow_mut().asker.of(self.source.connection(), self.source.topic()) {
            Ok(found) => found == Some(ordered),
            // Only the client reaches brokers, and they have the topic.
            Err(Unreachable) => true,
        }
    }

    /// None while nobody answers.
    fn partitions_there(&self) -> BTreeSet<i32> {
        let Ok(metadata) = self.consumer.fetch_metadata(Some(self.source.topic()), ANSWER) else { return BTreeSet::new() };
        let topics = metadata.topics().iter().filter(|topic| topic.name() == self.source.topic() && topic.error().is_none());
        topics.flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect()
    }

    /// After an error or a long silence: are the brokers away? While they are: are they back?
    fn look(&mut self) {
        let away = self.source.away().is_some();
        let is_silent = self.heard.elapsed() >= SILENCE;
        let is_due = self.suspected.is_some() || away || is_silent;
        if !is_due || self.looked.is_some_and(|looked| looked.elapsed() < ASK) {
            return;
        }
        let reason = self.suspected.take();
        let asked = Instant::now();
        let answer = self.consumer.fetch_metadata(Some(self.source.topic()), ANSWER);
        let (now, is_lost) = (Instant::now(), answer.as_ref().is_err_and(is_unanswered));
        self.looked = Some(now);
        match answer {
            Ok(_) => {
                self.heard = now;
                self.source.set_away(None);
            }
            // A silent source is often one without news: only a second look without an answer says more.
            Err(error) if reason.is_none() && !away => self.suspected = Some(error.to_string()),
            Err(error) => self.source.set_away(Some(reason.unwrap_or_else(|| error.to_string()))),
        }
        if !is_lost {
            self.answers.came(now);
        } else if self.answers.failed(asked, now) {
            tracing::warn!(topic = self.source.topic(), "nobody has answered for a while; another client reads on");
            self.turn_to_another_client();
        }
    }
}

fn push(builder: &mut ChunkBuilder, message: &BorrowedMessage<'_>, headers: bool) {
    let timestamp = match message.timestamp() {
        Timestamp::NotAvailable => None,
        Timestamp::CreateTime(millis) => Some((TimestampType::CreateTime, millis)),
        Timestamp::LogAppendTime(millis) => Some((TimestampType::LogAppendTime, millis)),
    };
    let record = RawRecord { offset: message.offset(), timestamp, key: message.key(), payload: message.payload() };
    // Not even asked for where nobody wants them: the client looks for them in the record.
    match if headers { message.headers() } else { None } {
        None => builder.push(record, std::iter::empty()),
        Some(headers) => builder.push(record, headers.iter().map(|header| (header.key, header.value))),
    }
}
