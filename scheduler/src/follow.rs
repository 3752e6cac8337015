//! `SELECT … EMIT CHANGES`: rows as records come, without an end. In rounds: where the topics end is asked for; the query is run over what came
//! since the last round, as any query is over a range; when its rows were taken, the next round begins. Kept between rounds is where each
//! partition is read from next, and nothing else. Records are read once, in the order of their partition; those that cannot be read are left
//! out and counted, as queries do.
mod topics;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use datafusion::{
    arrow::{
        datatypes::{Field, Schema, SchemaRef},
        record_batch::RecordBatch,
    },
    execution::SendableRecordBatchStream,
    logical_expr::LogicalPlan,
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use polybolos_gateway::{
    auth::Principal,
    engine::{Answer, ToldLast},
    error::{EngineError, ErrorKind},
};
use polybolos_kafka::{error::KafkaError, fetcher::Fetcher};
use polybolos_operators::left_out::LeftOut;
use polybolos_sql::{planner::Planner, statement::Query};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::topics::{FollowedTables, FollowedTopic};
use crate::{
    engine::{PlatformEngine, sql_error},
    queries::Queries,
};

/// So many queries may one user follow at a time. Each asks Kafka a few times a second, and while records come it reads ahead as a job does.
const FOLLOWED_PER_USER: usize = 8;

/// Between two looks at the ends of topics that have nothing new.
const PAUSE: Duration = Duration::from_millis(200);

/// So often topics are looked at for new partitions, and for whether they are still the same.
const DESCRIBED_EVERY: Duration = Duration::from_secs(5);

/// Kafka may be away for so long, as when its brokers are started anew, before the query ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Records of a round at most, as all of them are in memory; shared by the partitions that have any.
const ROUND_RECORDS: usize = 20_000;

/// Who follows how many queries.
#[derive(Clone, Default)]
pub struct Followers(Arc<Mutex<HashMap<String, usize>>>);

impl Followers {
    /// Counts one more of a user, until it is dropped.
    fn begin(&self, user: &str) -> Result<Following, EngineError> {
        let mut users = self.0.lock();
        let count = users.entry(user.to_owned()).or_default();
        if *count >= FOLLOWED_PER_USER {
            let message = format!("{user} follows {FOLLOWED_PER_USER} queries with EMIT CHANGES already, which is the most");
            return Err(EngineError::new(ErrorKind::LimitExceeded, message).with_hint("end one of them"));
        }
        *count += 1;
        Ok(Following { user: user.to_owned(), followers: self.clone() })
    }
}

/// A query that is followed, for the count of them.
struct Following {
    user: String,
    followers: Followers,
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut users = self.followers.0.lock();
        let Some(count) = users.get_mut(&self.user) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            users.remove(&self.user);
        }
    }
}

impl PlatformEngine {
    /// The answer to a SELECT with EMIT CHANGES. What is produced after it was given is among its rows.
    pub(crate) async fn follow(&self, principal: &Principal, query: &Query, tag: &str) -> Result<Answer, EngineError> {
        let following = self.followers.begin(&principal.name)?;
        let tables = Arc::new(FollowedTables::new(self.platform.clone()));
        let planner = Planner::new(&self.queries.session().state(), self.catalog.current(), tables.clone());
        let planned = planner.plan_followed(query).await.map_err(sql_error)?;
        let topics = tables.topics(&planned.tables);
        for topic in &topics {
            topic.begin().await.map_err(|error| kafka_error(&error))?;
        }
        let schema = nullable(&self.queries.plan_in_order(&planned.plan).await?.schema());
        let left_out = Arc::new(LeftOut::default());
        let rounds = Rounds {
            queries: self.queries.clone(),
            fetcher: self.fetcher.clone(),
            plan: planned.plan,
            schema: schema.clone(),
            topics,
            described: Instant::now(),
            round: None,
            left: planned.limit,
            left_out: left_out.clone(),
            stop: self.statements.stopped(),
            _following: following,
            // The statement's span lasts as long as its rows.
            _span: Span::current(),
        };
        let batches = stream::unfold(Some(rounds), |rounds| async move {
            let mut rounds = rounds?;
            match rounds.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(rounds))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        let told_last = Some(Box::new(move || left_out.notices()) as ToldLast);
        Ok(Answer { schema, batches: batches.fuse().boxed(), tag: tag.to_owned(), notices: vec![], told_last, is_endless: true })
    }
}

/// What is read next, and how.
struct Rounds {
    queries: Arc<Queries>,
    fetcher: Arc<Fetcher>,
    plan: LogicalPlan,
    schema: SchemaRef,
    topics: Vec<Arc<FollowedTopic>>,
    /// When the topics were described.
    described: Instant,
    /// Rows that are on their way, and what is left out of them.
    round: Option<(SendableRecordBatchStream, Arc<LeftOut>)>,
    /// Rows that are still asked for; `None`: all.
    left: Option<usize>,
    /// Of all rounds.
    left_out: Arc<LeftOut>,
    stop: CancellationToken,
    _following: Following,
    _span: Span,
}

impl Rounds {
    /// The next rows; `None` when as many as were asked for have come.
    async fn next(&mut self) -> Result<Option<RecordBatch>, EngineError> {
        let stop = self.stop.clone();
        match stop.run_until_cancelled(self.rows()).await {
            Some(rows) => rows,
            None => {
                let message = "the platform stops, and no more rows come of this query";
                Err(EngineError::new(ErrorKind::Unavailable, message).with_hint("ask again in a few seconds"))
            }
        }
    }

    async fn rows(&mut self) -> Result<Option<RecordBatch>, EngineError> {
        while self.left != Some(0) {
            let Some((rows, _)) = &mut self.round else {
                self.wait().await?;
                let plan = self.queries.plan_in_order(&self.plan).await?;
                self.round = Some(self.queries.execute_telling(plan)?);
                continue;
            };
            match rows.next().await {
                Some(batch) => {
                    let batch = batch?;
                    if batch.num_rows() > 0 {
                        return self.given(&batch).map(Some);
                    }
                }
                None => self.end_round(),
            }
        }
        self.end_round();
        Ok(None)
    }

    /// The rows of a batch that are still asked for. What may be NULL is decided in each round anew.
    fn given(&mut self, batch: &RecordBatch) -> Result<RecordBatch, EngineError> {
        let rows = self.left.map_or(batch.num_rows(), |left| left.min(batch.num_rows()));
        self.left = self.left.map(|left| left - rows);
        Ok(RecordBatch::try_new(self.schema.clone(), batch.slice(0, rows).columns().to_vec())?)
    }

    fn end_round(&mut self) {
        if let Some((_, left_out)) = self.round.take() {
            self.left_out.take_in(&left_out);
        }
        for topic in &self.topics {
            topic.end_round(&self.fetcher);
        }
    }

    /// Until a topic has something new.
    async fn wait(&mut self) -> Result<(), EngineError> {
        let mut unanswered: Option<Instant> = None;
        loop {
            match self.look().await {
                Ok(true) => return Ok(()),
                Ok(false) => unanswered = None,
                Err(error) => {
                    let since = *unanswered.get_or_insert_with(Instant::now);
                    if !error.is_retryable() || since.elapsed() > PATIENCE {
                        return Err(kafka_error(&error));
                    }
                    tracing::debug!(%error, "a query waits for Kafka");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether there is something new, of which each topic then has its ranges.
    async fn look(&mut self) -> Result<bool, KafkaError> {
        let describes = self.described.elapsed() > DESCRIBED_EVERY;
        let mut is_new = false;
        for topic in &self.topics {
            if describes {
                topic.describe().await?;
            }
            is_new |= topic.next_round(ROUND_RECORDS).await?;
        }
        if describes {
            self.described = Instant::now();
        }
        Ok(is_new)
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        for topic in &self.topics {
            topic.forget(&self.fetcher);
        }
    }
}

fn kafka_error(error: &KafkaError) -> EngineError {
    let kind = match error {
        KafkaError::NoSuchTopic { .. } => ErrorKind::NotFound,
        error if error.is_retryable() => ErrorKind::Unavailable,
        _ => ErrorKind::Failed,
    };
    EngineError::new(kind, error.to_string())
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_follows_so_many_queries_and_others_as_many() {
        let followers = Followers::default();
        let mut begun: Vec<Following> = (0..FOLLOWED_PER_USER).map(|_| followers.begin("ada").expect("there is room")).collect();
        let Err(refused) = followers.begin("ada") else { panic!("that is one too many") };
        assert!(refused.kind == ErrorKind::LimitExceeded && refused.to_string().contains("end one of them"), "{refused}");
        assert!(followers.begin("grace").is_ok());
        begun.pop();
        begun.push(followers.begin("ada").expect("one has ended"));
        drop(begun);
        assert!(followers.0.lock().is_empty());
    }
}
