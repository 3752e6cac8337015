//! What a cluster has: topics, partitions, offsets. librdkafka's calls block, so each runs beside the runtime.
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaResult,
    types::RDKafkaErrorCode,
};

use crate::{
    connection::Connection,
    context::{FailureContext, QuietContext},
    error::{KafkaError, Result, is_away},
    renewal::{Answers, EndsApart, is_unanswered},
    topic_id,
};

/// Any one call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reasons why nobody answers come as quickly as this, if any do.
const REASONS: Duration = Duration::from_millis(50);

/// They come anew with each attempt to connect.
const ALL_REASONS: Duration = Duration::from_millis(500);

/// Who asks gives up before librdkafka's own pauses between connections are over.
const DEFAULTS: &[(&str, &str)] =
    &[("group.id", "polybolos-admin"), ("reconnect.backoff.ms", "100"), ("reconnect.backoff.max.ms", "1000")];

const FIXED: &[(&str, &str)] =
    &[("enable.auto.commit", "false"), ("isolation.level", "read_committed"), ("allow.auto.create.topics", "false")];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub partitions: Vec<i32>,
    /// Tells it from another topic of the same name, made later; unknown over TLS or with a login.
    pub topic_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub beginnings: BTreeMap<i32, i64>,
    pub ends: BTreeMap<i32, i64>,
}

/// What asks a cluster. A client of librdkafka has threads and connections of its own, so all who ask the same cluster share one pair.
struct Pair {
    admin: AdminClient<DefaultClientContext>,
    consumer: BaseConsumer<FailureContext>,
}

type Clients = EndsApart<Pair>;

/// A consumer that only commits.
type Committer = EndsApart<BaseConsumer<QuietContext>>;

impl Clients {
    fn connect(connection: &Connection) -> Result<Arc<Self>> {
        let failed = |error| KafkaError::from_client(error, &connection.bootstrap_servers, "connecting");
        let config = connection.client_config(DEFAULTS, FIXED);
        let admin = config.create().map_err(failed)?;
        let pair = Pair { admin, consumer: config.create_with_context(FailureContext::default()).map_err(failed)? };
        Ok(Arc::new(Self::new(pair)))
    }
}

/// The clients of all who ask the same cluster; others take their place when nobody answers them for long.
struct Shared {
    connection: Connection,
    current: Mutex<Current>,
}

struct Current {
    clients: Arc<Clients>,
    /// One of the two may have lost its brokers while the other is answered.
    admin: Answers,
    consumer: Answers,
}

impl Current {
    fn new(clients: Arc<Clients>) -> Self {
        let now = Instant::now();
        Self { clients, admin: Answers::new(now), consumer: Answers::new(now) }
    }
}

/// Which of the two asked.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Admin,
    Consumer,
}

/// Those that are in use.
static SHARED: LazyLock<Mutex<HashMap<Connection, Weak<Shared>>>> = LazyLock::new(Mutex::default);

impl Shared {
    fn of(connection: &Connection) -> Result<Arc<Self>> {
        let mut known = SHARED.lock();
        if let Some(shared) = known.get(connection).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let current = Mutex::new(Current::new(Clients::connect(connection)?));
        let shared = Arc::new(Self { connection: connection.clone(), current });
        known.retain(|_, shared| shared.strong_count() > 0);
        known.insert(connection.clone(), Arc::downgrade(&shared));
        Ok(shared)
    }

    fn clients(&self) -> Arc<Clients> {
        self.current.lock().clients.clone()
    }

    /// What came now of a question that was asked then: an answer, whatever it says, or none.
    fn note<T>(&self, clients: &Arc<Clients>, asker: Asker, (asked, now): (Instant, Instant), outcome: &KafkaResult<T>) {
        let is_unanswered = outcome.as_ref().is_err_and(is_unanswered);
        let mut current = self.current.lock();
        // Others have taken their place meanwhile.
        if !Arc::ptr_eq(&current.clients, clients) {
            return;
        }
        let answers = match asker {
            Asker::Admin => &mut current.admin,
            Asker::Consumer => &mut current.consumer,
        };
        if !is_unanswered {
            return answers.came(now);
        }
        if !answers.failed(asked, now) {
            return;
        }
        let servers = &self.connection.bootstrap_servers;
        match Clients::connect(&self.connection) {
            Ok(clients) => {
                tracing::warn!(%servers, ?asker, "nobody has answered for a while; other clients ask Kafka from now on");
                match asker {
                    Asker::Admin => current.consumer = Answers::new(now),
                    Asker::Consumer => current.admin = Answers::new(now),
                }
                current.clients = clients;
            }
            Err(error) => tracing::warn!(%servers, %error, "no new clients; the old ones go on asking Kafka"),
        }
    }
}

pub struct Admin {
    connection: Connection,
    shared: Arc<Shared>,
    /// By group.
    groups: Arc<Mutex<HashMap<String, Arc<Committer>>>>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Admin {
    /// Prepares a client; nothing is asked of the cluster yet. Properties that librdkafka refuses are told here, and are the user's fault.
    pub fn connect(connection: &Connection) -> Result<Self> {
        Ok(Self { connection: connection.clone(), shared: Shared::of(connection)?, groups: Arc::default() })
    }

    /// What the admin client of `clients` is answered; noted, as nobody may answer it any more.
    async fn administered<T>(
        &self,
        clients: &Arc<Clients>,
        action: &str,
        question: impl Future<Output = KafkaResult<T>>,
    ) -> Result<T> {
        let asked = Instant::now();
        let answer = question.await;
        self.shared.note(clients, Asker::Admin, (asked, Instant::now()), &answer);
        answer.map_err(|error| KafkaError::from_client(error, &self.connection.bootstrap_servers, action))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&BaseConsumer<FailureContext>) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T> {
        let (shared, clients) = (self.shared.clone(), self.shared.clients());
        let asking = clients.clone();
        let outcome = tokio::task::spawn_blocking(move || {
            let consumer = &asking.consumer;
            let asked = Instant::now();
            let outcome = work(consumer);
            match outcome {
                Ok(_) => consumer.context().forget(),
                // It has no topics: all that comes are reasons.
                Err(_) => {
                    let until = Instant::now() + ALL_REASONS;
                    while Instant::now() < until && consumer.poll(REASONS).is_some() {}
                }
            }
            shared.note(&asking, Asker::Consumer, (asked, Instant::now()), &outcome);
            outcome
        })
        .await;
        let outcome = outcome.map_err(|error| KafkaError::Bug(error.to_string()))?;
        let failures = clients.consumer.context();
        outcome.map_err(|error| match KafkaError::from_client(error, &self.connection.bootstrap_servers, action) {
            KafkaError::Away { servers, reason } => {
                let why = failures.last().map(|why| format!(": {why}")).unwrap_or_default();
                KafkaError::Away { servers, reason: format!("{reason}{why}") }
            }
            other => other,
        })
    }

    /// All topics but Kafka's own, with their partition counts.
    pub async fn topics(&self) -> Result<BTreeMap<String, usize>> {
        let metadata = self.blocking("listing topics".into(), |consumer| {
            let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
            Ok(metadata
                .topics()
                .iter()
                .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
                .collect::<BTreeMap<_, _>>())
        });
        let mut topics = metadata.await?;
        topics.retain(|name, _| !name.starts_with("__"));
        Ok(topics)
    }

    /// A topic, or `None` where there is none.
    ///
    /// # Errors
    /// [`KafkaError::Denied`] where the broker does not let us know.
    pub async fn describe(&self, topic: &str) -> Result<Option<TopicDescription>> {
        let Some(partitions) = self.partitions(topic).await? else { return Ok(None) };
        Ok(Some(TopicDescription { partitions, topic_id: topic_id::of(&self.connection, topic).await }))
    }

    /// Whether there is such a topic: one question, without that for its id. Errors are those of [`Self::describe`].
    pub async fn exists(&self, topic: &str) -> Result<bool> {
        Ok(self.partitions(topic).await?.is_some())
    }

    pub(crate) async fn partitions(&self, topic: &str) -> Result<Option<Vec<i32>>> {
        let (name, action) = (topic.to_owned(), format!("describing topic {topic:?}"));
        let described = self.blocking(action.clone(), move |consumer| {
            let metadata = consumer.fetch_metadata(Some(&name), TIMEOUT)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else { return Ok(Ok(vec![])) };
            if let Some(error) = found.error() {
                return Ok(Err(RDKafkaErrorCode::from(error)));
            }
            let mut partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
            partitions.sort_unstable();
            Ok(Ok(partitions))
        });
        match described.await? {
            Ok(partitions) => Ok(Some(partitions).filter(|partitions| !partitions.is_empty())),
            Err(code) => missing(topic, code, &self.connection.bootstrap_servers, action).map(|()| None),
        }
    }

    /// First and end offsets of partitions, each kind in one request. Ends are those of committed records.
    pub async fn offsets(&self, topic: &str, partitions: &[i32]) -> Result<Offsets> {
        Ok(Offsets { beginnings: self.ask(topic, partitions, Offset::Beginning).await?, ends: self.ends(topic, partitions).await? })
    }

    /// End offsets, in one request: those of committed records.
    pub async fn ends(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        self.ask(topic, partitions, Offset::End).await
    }

    /// The first offset of each partition whose record is at least as new; the end where there is none.
    pub async fn offsets_for_timestamp(&self, topic: &str, partitions: &[i32], millis: i64) -> Result<BTreeMap<i32, i64>> {
        let mut found = self.ask(topic, partitions, Offset::Offset(millis)).await?;
        if found.len() < partitions.len() {
            for (partition, end) in self.ends(topic, partitions).await? {
                found.entry(partition).or_insert(end);
            }
        }
        Ok(found)
    }

    async fn ask(&self, topic: &str, partitions: &[i32], what: Offset) -> Result<BTreeMap<i32, i64>> {
        let (name, partitions) = (topic.to_owned(), partitions.to_vec());
        self.blocking(format!("asking for offsets of topic {topic:?}"), move |consumer| {
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition_offset(&name, partition, what)?;
            }
            let answer = consumer.offsets_for_times(list, TIMEOUT)?;
            let offsets = answer.elements().into_iter().filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            });
            Ok(offsets.collect())
        })
        .await
    }

    pub async fn create_topic(&self, name: &str, partitions: i32, replication: i32, config: &[(&str, &str)]) -> Result<()> {
        let topic = NewTopic {
            name,
            num_partitions: partitions,
            replication: TopicReplication::Fixed(replication),
            config: config.to_vec(),
        };
        let action = format!("creating topic {name:?}");
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let clients = self.shared.clients();
        let answers = self.administered(&clients, &action, clients.admin.create_topics([&topic], &options)).await?;
        match answers.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(KafkaError::from_code(code, &self.connection.bootstrap_servers, action))
            }
            _ => Ok(()),
        }
    }

    /// Creates a topic where there is none; `partitions` of `None`, and replicas, are the broker's default. Answers when it can be used.
    pub async fn ensure_topic(&self, name: &str, partitions: Option<i32>, config: &[(&str, &str)]) -> Result<()> {
        const BROKER_DEFAULT: i32 = -1;
        if self.exists(name).await? {
            return Ok(());
        }
        self.create_topic(name, partitions.unwrap_or(BROKER_DEFAULT), BROKER_DEFAULT, config).await?;
        // Brokers hear of it one after the other.
        let until = Instant::now() + TIMEOUT;
        loop {
            match self.is_led(name).await {
                Ok(true) => return Ok(()),
                Err(error) if !error.is_retryable() => return Err(error),
                Ok(false) | Err(_) => {}
            }
            if Instant::now() > until {
                let reason = format!("topic {name:?} was created and does not appear");
                return Err(KafkaError::Away { servers: self.connection.bootstrap_servers.clone(), reason });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether all partitions of a topic are answered for: brokers tell of a topic before they take records for it.
    async fn is_led(&self, topic: &str) -> Result<bool> {
        let Some(partitions) = self.partitions(topic).await? else { return Ok(false) };
        // Whoever leads a partition may not know it yet, and has many ways to say so.
        Ok(self.ends(topic, &partitions).await.is_ok_and(|ends| ends.len() == partitions.len()))
    }

    /// Deletes a topic; one that is not there is as good.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let action = format!("deleting topic {name:?}");
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let clients = self.shared.clients();
        let answers = self.administered(&clients, &action, clients.admin.delete_topics(&[name], &options)).await?;
        match answers.into_iter().next() {
            Some(Err((_, code))) if !matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(KafkaError::from_code(code, &self.connection.bootstrap_servers, action))
            }
            _ => Ok(()),
        }
    }

    /// What a topic is set to; `None` where the broker does not tell.
    pub async fn topic_setting(&self, topic: &str, name: &str) -> Result<Option<String>> {
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let action = format!("asking for settings of topic {topic:?}");
        let servers = &self.connection.bootstrap_servers;
        let clients = self.shared.clients();
        let answers = self
            .administered(&clients, &action, clients.admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options))
            .await?;
        let settings = match answers.into_iter().next() {
            Some(Ok(settings)) => settings,
            Some(Err(code)) if is_away(code) => return Err(KafkaError::from_code(code, servers, action)),
            _ => return Ok(None),
        };
        Ok(settings.get(name).and_then(|entry| entry.value.clone()))
    }

    /// Commits offsets for lag tools to see.
    pub async fn commit_offsets(&self, group: &str, topic: &str, offsets: &BTreeMap<i32, i64>) -> Result<()> {
        let committer = self.committer(group)?;
        let (name, offsets) = (topic.to_owned(), offsets.clone());
        let action = format!("committing offsets of group {group:?}");
        let (groups, group) = (self.groups.clone(), group.to_owned());
        let outcome = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            for (partition, offset) in offsets {
                list.add_partition_offset(&name, partition, Offset::Offset(offset))?;
            }
            let outcome = committer.commit(&list, CommitMode::Sync);
            // The next commit is another client's: this one may never be answered again.
            if outcome.as_ref().is_err_and(is_unanswered) {
                let is_same = |known: &Arc<Committer>| Arc::ptr_eq(known, &committer);
                let mut groups = groups.lock();
                if groups.get(&group).is_some_and(is_same) {
                    groups.remove(&group);
                }
            }
            outcome
        });
        let outcome = outcome.await.map_err(|error| KafkaError::Bug(error.to_string()))?;
        outcome.map_err(|error| KafkaError::from_client(error, &self.connection.bootstrap_servers, action))
    }

    fn committer(&self, group: &str) -> Result<Arc<Committer>> {
        if let Some(committer) = self.groups.lock().get(group) {
            return Ok(committer.clone());
        }
        let config = self.connection.client_config(&[], &[("group.id", group), ("enable.auto.commit", "false")]);
        let committer: BaseConsumer<QuietContext> = config
            .create_with_context(QuietContext)
            .map_err(|error| KafkaError::from_client(error, &self.connection.bootstrap_servers, "connecting"))?;
        Ok(self.groups.lock().entry(group.to_owned()).or_insert(Arc::new(Committer::new(committer))).clone())
    }
}

/// What a broker says instead of describing a topic: nothing more, where that means that there is none.
fn missing(topic: &str, code: RDKafkaErrorCode, servers: &str, action: String) -> Result<()> {
    match code {
        // A topic of a name that brokers do not take cannot be there; making it says what is wrong with the name.
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::InvalidTopic => Ok(()),
        RDKafkaErrorCode::TopicAuthorizationFailed => Err(KafkaError::Denied { topic: topic.to_owned(), reason: code.to_string() }),
        _ => Err(KafkaError::from_code(code, servers, action)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_nobody_answers_give_way_for_all_who_share_them() {
        let connection = Connection::new("127.0.0.1:2");
        let (one, other) = (Shared::of(&connection).unwrap(), Shared::of(&connection).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        let (lost, begun) = (one.clients(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let away = Err::<(), _>(rdkafka::error::KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure));
        one.note(&lost, Asker::Consumer, (at(1), at(6)), &away);
        assert!(Arc::ptr_eq(&other.clients(), &lost), "one failure is no reason");
        one.note(&lost, Asker::Consumer, (at(7), at(12)), &away);
        let next = other.clients();
        assert!(!Arc::ptr_eq(&next, &lost));
        for second in 12..60 {
            one.note(&lost, Asker::Consumer, (at(second), at(second)), &away);
        }
        assert!(Arc::ptr_eq(&one.clients(), &next), "what the old ones were asked says nothing of the new ones");
        one.note(&next, Asker::Admin, (at(20), at(60)), &away);
        one.note(&next, Asker::Consumer, (at(20), at(60)), &Ok(()));
        assert!(Arc::ptr_eq(&one.clients(), &next));
        one.note(&next, Asker::Admin, (at(61), at(66)), &away);
        assert!(!Arc::ptr_eq(&one.clients(), &next), "the other of the two was lost");
    }

    #[test]
    fn a_topic_that_may_not_be_seen_is_not_called_missing() {
        let told = |code| missing("t", code, "here:9092", "describing".into());
        assert!(told(RDKafkaErrorCode::UnknownTopicOrPartition).is_ok());
        assert!(told(RDKafkaErrorCode::InvalidTopic).is_ok());
        let denied = told(RDKafkaErrorCode::TopicAuthorizationFailed).unwrap_err();
        assert!(matches!(&denied, KafkaError::Denied { topic, .. } if topic == "t") && !denied.is_retryable(), "{denied}");
        assert!(told(RDKafkaErrorCode::LeaderNotAvailable).unwrap_err().is_retryable());
    }
}
