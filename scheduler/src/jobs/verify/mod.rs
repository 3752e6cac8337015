//! `VERIFY JOB`: what is in a job's tables beside what one batch query answers over the same records. The job is held while its tables are read, so that both speak of one moment;
//! the query runs afterwards, here, by plain DataFusion, over the offsets that the job has read, without its late rows and dead letters.
mod compare;
mod counted;
mod oracle;
mod query;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, bail};
use parking_lot::RwLock;
use polybolos_kafka::{admin::Admin, settled::until_settled};
use polybolos_operators::publish::topic::TopicTarget;
use polybolos_service::exit;
use polybolos_sql::{
    catalog::{Catalog, ColumnDefinition, Connector, JobDefinition, TableDefinition},
    limits::Limits,
    names::quoted,
    parser::parse_one,
    planner::{InsertPlan, Planner, ReadingOrder},
    statement::StatementKind,
};
use polybolos_streaming::manifest::Manifest;
use polybolos_tables::{
    Column, ScanRequest, TableName, TableSchema,
    plain::{agreeing, counted},
};

pub use self::compare::Difference;
use self::{
    compare::{Allowed, Comparison},
    oracle::Oracle,
    rows::Rows,
};
use super::{
    manager::{Entry, JobManager},
    restart,
    runner::{JobHandle, View},
    sink::topic_of,
};
use crate::{queries::Queries, statements::Claim};

/// What there is to write where aggregates take records as they come.
const WITH_ORDER: &str = "write ORDER BY in the aggregate: array_agg(x ORDER BY y)";

/// Differences kept of a verification.
const KEPT: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Done,
    /// It came to no result.
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// The newest verification of a job.
#[derive(Debug)]
pub struct Verification {
    pub records_total: AtomicU64,
    pub records_read: Arc<AtomicU64>,
    outcome: RwLock<Outcome>,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub state: State,
    /// Why it failed, or what it could not judge.
    pub message: String,
    /// Whether all that the job has read is still in its topics.
    pub is_complete: bool,
    pub rows: u64,
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self { state: State::Running, message: String::new(), is_complete: true, rows: 0, difference_count: 0, differences: vec![] }
    }
}

impl Verification {
    fn new() -> Arc<Self> {
        Arc::new(Self { records_total: AtomicU64::new(0), records_read: Arc::default(), outcome: RwLock::default() })
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome.read().clone()
    }
}

/// By job.
pub type Verifications = RwLock<BTreeMap<String, Arc<Verification>>>;

impl JobManager {
    /// Begins; how it goes on is in [`Verifications`].
    pub fn verify(
        self: &Arc<Self>,
        verifications: &Arc<Verifications>,
        queries: Arc<Queries>,
        catalog: Arc<Catalog>,
        definition: JobDefinition,
        claim: Claim,
    ) -> anyhow::Result<()> {
        let handle = match self.find(&definition.name) {
            Some(Entry::Running(handle)) => handle,
            _ => bail!("job {} is not running on this scheduler; verify it when it is", definition.name),
        };
        let verification = Verification::new();
        {
            let mut known = verifications.write();
            if known.get(&definition.name).is_some_and(|known| known.outcome.read().state == State::Running) {
                bail!("job {} is being verified already", definition.name);
            }
            known.insert(definition.name.clone(), verification.clone());
        }
        let manager = self.clone();
        self.spawn(async move {
            let outcome = manager.verified(&verification, &queries, catalog, &definition, &handle, claim).await;
            *verification.outcome.write() =
                outcome.unwrap_or_else(|error| Outcome { state: State::Failed, message: exit::told(&error), ..Outcome::default() });
        });
        Ok(())
    }

    async fn verified(
        &self,
        verification: &Verification,
        queries: &Queries,
        catalog: Arc<Catalog>,
        definition: &JobDefinition,
        handle: &JobHandle,
        claim: Claim,
    ) -> anyhow::Result<Outcome> {
        let (manifest, tables) = self.tables_at_rest(queries, definition, &catalog, handle).await?;
        drop(claim);
        let mut outcome = Outcome { state: State::Done, ..Outcome::default() };
        let mut remarks = vec![];
        let Retained { gone, beginnings } = retention(handle, &manifest).await?;
        if !gone.is_empty() || manifest.counts.lost > 0 {
            outcome.is_complete = false;
            remarks.push(format!("the input is no longer complete ({}), so differences may come of that", gone.join(", ")));
        }
        if manifest.counts.refused > 0 {
            let refused = manifest.counts.refused;
            let (were, are) = (agreeing(refused, "was", "were"), agreeing(refused, "is", "are"));
            remarks.push(format!("{} {were} refused by the tables and {are} missing there", counted(refused, "row")));
        }
        let oracle =
            Oracle::new(self, queries, catalog, definition, handle, (&manifest, &beginnings), &verification.records_read).await?;
        verification.records_total.store(oracle.records, Relaxed);
        for (index, (insert, table)) in oracle.plan.inserts.iter().zip(tables).enumerate() {
            let Some(AtRest { comparison, rows: found }) = table else {
                remarks.push(format!("{} keeps no rows that could be verified", insert.target.name));
                continue;
            };
            let Some(of_order) = of_reading_order(insert, &comparison, &mut remarks) else { continue };
            let failed = || cannot_be_verified(&definition.name, manifest.counts.dead_letters > 0);
            let expected = Rows::default().and(&comparison, oracle.rows(index).with_context(failed)?).await.with_context(failed)?;
            let has_open_windows = oracle.has_open_windows(index);
            let kept = KEPT.saturating_sub(outcome.differences.len());
            let table = comparison.table().name.clone();
            let allowed = Allowed { lacks: has_open_windows, values: of_order };
            let compare = move || rows::compare(&comparison, expected, found, kept, &allowed);
            let compared = tokio::task::spawn_blocking(compare).await??;
            outcome.rows += compared.rows;
            outcome.difference_count += compared.count;
            outcome.differences.extend(compared.differences);
            if has_open_windows {
                let (rows, are) = (counted(compared.open, "row"), agreeing(compared.open, "is", "are"));
                remarks.push(format!(
                    "which windows of {table} are closed cannot be told, so {rows} that {are} not written count as open windows"
                ));
            }
        }
        if outcome.difference_count > 0 && definition.is_upgraded {
            remarks.push(format!(
                "job {} was upgraded, which leaves rows as they were written until their key changes, so differences may come of that; {}",
                definition.name,
                restart::anew(&definition.name, restart::keeping_target(&oracle.plan))
            ));
        }
        if outcome.difference_count > 0 {
            remarks.extend(compaction(oracle.plan.inserts.iter().flat_map(|insert| &insert.sources)));
            remarks.extend(looked_up_now(oracle.plan.inserts.iter().flat_map(|insert| &insert.lookups)));
        }
        outcome.message = remarks.join("; ");
        Ok(outcome)
    }

    /// Holds the job until what is recorded is published and its tables are read.
    async fn tables_at_rest(
        &self,
        queries: &Queries,
        definition: &JobDefinition,
        catalog: &Arc<Catalog>,
        handle: &JobHandle,
    ) -> anyhow::Result<(Manifest, Vec<Option<AtRest>>)> {
        let (_hold, View { manifest, .. }) = handle.at_rest().await?;
        let plan = self.plan(catalog.clone(), definition).await?;
        let mut tables = vec![];
        for InsertPlan { target, columns, .. } in &plan.inserts {
            let schema = match (target.table_schema(), &target.connector) {
                (Some(schema), _) => schema,
                (None, Connector::UpsertKafka(_)) if target.is_unbounded() => schema_of_topic(target),
                _ => {
                    tables.push(None);
                    continue;
                }
            };
            let comparison = Arc::new(Comparison::of(schema, columns)?);
            let rows = match target.table_schema() {
                Some(schema) => self.stored_rows(schema, columns, &comparison).await?,
                None => self.rows_of_topic(queries, catalog, target, columns, &comparison).await?,
            };
            tables.push(Some(AtRest { comparison, rows }));
        }
        if tables.iter().all(Option::is_none) {
            bail!(
                "job {} fills no table that VERIFY compares; it compares Cassandra tables, and those of 'connector' = 'upsert-kafka'",
                definition.name
            );
        }
        Ok((manifest, tables))
    }

    async fn stored_rows(&self, table: TableSchema, columns: &[String], comparison: &Arc<Comparison>) -> anyhow::Result<Rows> {
        let request = ScanRequest { table, columns: columns.to_vec(), predicates: vec![], limit: None };
        let mut rows = Rows::default();
        for slice in self.platform().tables.slices(&request, 8).await? {
            rows = rows.and(comparison, self.platform().tables.scan(&request, &slice)).await?;
        }
        Ok(rows)
    }

    /// The rows of a topic that keeps one per key, as readers of what is committed see them. The job may not go on before they are read, even up to ends that are
    /// known: what it writes of a key lets the broker compact away the record before it, and rows would seem to be missing or old.
    async fn rows_of_topic(
        &self,
        queries: &Queries,
        catalog: &Arc<Catalog>,
        target: &TableDefinition,
        columns: &[String],
        comparison: &Arc<Comparison>,
    ) -> anyhow::Result<Rows> {
        if let Some(TopicTarget { connection, topic, .. }) = topic_of(self.platform(), target)? {
            until_settled(&connection, &topic).await?;
        }
        let names: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let select = format!("SELECT {} FROM {}.{}", names.join(", "), quoted(&target.name.schema), quoted(&target.name.name));
        let StatementKind::Query(query) = parse_one(&select, Limits::default())?.kind else { bail!("{select} is no query") };
        let tables = Arc::new(self.platform().clone());
        let plan = Planner::new(&queries.session().state(), catalog.clone(), tables).plan_query(&query).await?;
        Rows::default().and(comparison, queries.run(&plan).await?).await
    }
}

/// By compared column, whether its values depend on the order in which records are read; `None`: it does which rows there are.
fn of_reading_order(insert: &InsertPlan, comparison: &Comparison, remarks: &mut Vec<String>) -> Option<Vec<bool>> {
    let ReadingOrder { columns, rows } = insert.reading_order();
    let (names, has_key) = comparison.named(&columns);
    let table = &insert.target.name;
    if rows || has_key {
        remarks.push(format!(
            "{table} is not compared, as which rows it has depends on the order in which records are read; {WITH_ORDER}"
        ));
        return None;
    }
    if !names.is_empty() {
        let count = names.len() as u64;
        let (are, depend) = (agreeing(count, "is", "are"), agreeing(count, "it depends", "they depend"));
        remarks.push(format!(
            "{} of {table} {are} not compared, as {depend} on the order in which records are read; {WITH_ORDER}",
            names.join(", ")
        ));
    }
    Some(columns)
}

fn cannot_be_verified(job: &str, has_letters: bool) -> String {
    let rows = if has_letters { ", perhaps on rows that the job set aside" } else { "" };
    format!("job {job} cannot be verified: its query over all that it has read fails{rows}")
}

/// What differences may come of where rows stand beside what a table said when they came.
fn looked_up_now<'a>(tables: impl Iterator<Item = &'a TableDefinition>) -> Option<String> {
    let tables: BTreeSet<String> = tables.map(|table| table.name.to_string()).collect();
    (!tables.is_empty()).then(|| {
        let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "what the job looks up in {tables} was taken as it is now, so differences may come of rows that changed there since"
        )
    })
}

/// What differences may come of where records stand for rows: one that was the last of its key when the job read it may be gone, with a newer one behind what the
/// job has read.
fn compaction<'a>(sources: impl Iterator<Item = &'a TableDefinition>) -> Option<String> {
    let topics = sources.filter(|table| table.keeps_last_record()).filter_map(TableDefinition::topic);
    let topics: BTreeSet<String> = topics.map(|options| options.topic.clone()).collect();
    (!topics.is_empty()).then(|| {
        let topics = topics.into_iter().collect::<Vec<_>>().join(", ");
        format!("what the job has read of {topics} may be compacted away where newer records came since, so differences may come of that; verify again when the job has read them")
    })
}

/// A topic of rows as a table. No store finds them by a part of their key.
fn schema_of_topic(target: &TableDefinition) -> TableSchema {
    let column = |column: &ColumnDefinition| Column::new(&column.name, target.data_type(column));
    TableSchema {
        name: TableName::new(&target.name.schema, &target.name.name),
        columns: target.columns.iter().map(column).collect(),
        partition_key: vec![],
        clustering_key: target.primary_key.iter().flat_map(|key| key.columns()).map(str::to_owned).collect(),
    }
}

/// A table that keeps rows, by the columns that the job fills.
struct AtRest {
    comparison: Arc<Comparison>,
    rows: Rows,
}

/// What is left of the job's input.
#[derive(Default)]
struct Retained {
    /// What the broker has deleted of what the job has read.
    gone: Vec<String>,
    /// By topic and partition, the first offset that is there.
    beginnings: Beginnings,
}

type Beginnings = BTreeMap<String, BTreeMap<i32, i64>>;

async fn retention(handle: &JobHandle, manifest: &Manifest) -> anyhow::Result<Retained> {
    let mut retained = Retained::default();
    for (id, spec) in &handle.spec.sources {
        let Some(position) = manifest.sources.get(id) else { continue };
        let Some(first) = &position.first else {
            bail!(
                "job {} began with a savepoint, or before this version; only a job that began with offsets can be verified",
                handle.spec.name
            );
        };
        if position.was_made_again {
            retained.gone.push(format!("topic {} was made again, and what was read of the earlier one is gone", spec.topic));
        }
        let partitions: Vec<i32> = position.next.keys().copied().collect();
        let offsets = Admin::connect(&spec.connection)?.offsets(&spec.topic, &partitions).await.context("the job's topics")?;
        for partition in partitions {
            let begun = first.get(&partition).copied().unwrap_or(0);
            let beginning = offsets.beginnings.get(&partition).copied().unwrap_or(0);
            if beginning > begun.max(0) && position.next.get(&partition).is_some_and(|next| *next > begun) {
                retained.gone.push(format!("offsets [{begun}, {beginning}) of {}/{partition} are deleted", spec.topic));
            }
        }
        retained.beginnings.insert(spec.topic.clone(), offsets.beginnings);
    }
    Ok(retained)
}

#[cfg(test)]
mod tests {
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };

    use super::*;

    #[test]
    fn only_topics_of_last_records_lose_what_a_job_has_read_to_newer_records() {
        let tables = parse(
            "CREATE TABLE a (k STRING) WITH ('connector' = 'kafka', 'topic' = 'records', 'format' = 'json');
             CREATE TABLE b (k STRING, PRIMARY KEY (k) NOT ENFORCED)
             WITH ('connector' = 'upsert-kafka', 'topic' = 'rows', 'key.format' = 'json', 'value.format' = 'json');
             CREATE TABLE c (k STRING, PRIMARY KEY (k) NOT ENFORCED)
             WITH ('connector' = 'kafka', 'topic' = 'changes', 'format' = 'debezium-json');",
        );
        let change = Change { now_us: 0, incarnation: "a1".into() };
        let catalog = tables
            .expect("read")
            .iter()
            .fold(Catalog::default(), |catalog, statement| apply(&catalog, statement, &change).expect("applied"));
        assert_eq!(compaction(catalog.tables[..1].iter()), None);
        let told = compaction(catalog.tables.iter()).expect("told");
        assert!(told.starts_with("what the job has read of changes, rows may be compacted away"), "{told}");
        assert_eq!(looked_up_now(catalog.tables[..0].iter()), None);
        let told = looked_up_now(catalog.tables[..2].iter()).expect("told");
        assert!(told.starts_with("what the job looks up in a, b was taken as it is now"), "{told}");
    }
}
