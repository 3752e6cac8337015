//! The batch query: the job's own plan over fixed ranges of its topics. What became a late row or a dead letter is cut out of the ranges.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::bail;
use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{Array, AsArray, RecordBatch},
        datatypes::{Int32Type, Int64Type},
    },
    catalog::TableProvider,
    common::Result as DataFusionResult,
    execution::SendableRecordBatchStream,
};
use futures::StreamExt;
use polybolos_operators::{
    dead_letters,
    providers::{QueryRanges, Reading},
    task::TaskDescriptor,
};
use polybolos_sql::{
    catalog::{Catalog, Connector, JobDefinition, TableDefinition},
    planner::{JobPlan, Planner},
    schema::{Providers, Use},
};
use polybolos_streaming::{
    frame::OffsetRange,
    ids::{Incarnation, PartIndex},
    manifest::Manifest,
};
use polybolos_tables::{ScanRequest, TableSchema};

use super::{
    super::{manager::JobManager, runner::JobHandle},
    counted,
    query::{self, Query},
};
use crate::{providers::PlatformTables, queries::Queries};

const PARTITIONS: usize = 4;

/// Cutting more rows out makes too many ranges.
const MOST_CUTS: usize = 10_000;

pub struct Oracle<'a> {
    queries: &'a Queries,
    pub plan: JobPlan,
    /// One per INSERT.
    answers: Vec<Query>,
    /// Of all scans together.
    pub records: u64,
}

/// By topic.
pub type Ranges = Arc<BTreeMap<String, ReadRanges>>;

/// What the job has read of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadRanges {
    records: Vec<(i32, OffsetRange)>,
    /// For tables whose rows are the last records of their keys.
    rows: Vec<(i32, OffsetRange)>,
}

impl ReadRanges {
    fn add(&mut self, partition: i32, range: OffsetRange, out: &Cut) {
        self.records.extend(without(range, &out.records).map(|range| (partition, range)));
        self.rows.extend(without(range, &out.rows).map(|range| (partition, range)));
    }

    /// What a table reads of it.
    pub fn of_table(&self, keeps_last_record: bool) -> &Vec<(i32, OffsetRange)> {
        if keeps_last_record { &self.rows } else { &self.records }
    }
}

impl<'a> Oracle<'a> {
    pub async fn new(
        manager: &JobManager,
        queries: &'a Queries,
        catalog: Arc<Catalog>,
        definition: &JobDefinition,
        handle: &JobHandle,
        (manifest, beginnings): (&Manifest, &BTreeMap<String, BTreeMap<i32, i64>>),
        read: &Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let cuts = cuts(manager, &manifest.incarnation).await?;
        let count: usize = cuts.values().map(|cut| cut.records.len() + cut.rows.len()).sum();
        if count > MOST_CUTS {
            bail!("job {} has {count} late rows and dead letters; that is too many to leave out", definition.name);
        }
        let mut ranges = BTreeMap::new();
        for (id, spec) in &handle.spec.sources {
            let Some(position) = manifest.sources.get(id) else { continue };
            let mut of_topic = ReadRanges::default();
            for (partition, next) in &position.next {
                let began = position.first.as_ref().and_then(|first| first.get(partition)).copied().unwrap_or(0);
                let beginning = beginnings.get(&spec.topic).and_then(|topic| topic.get(partition)).copied().unwrap_or(0);
                let first = began.max(beginning);
                let none = Cut::default();
                let out = cuts.get(&(spec.topic.clone(), *partition)).unwrap_or(&none);
                of_topic.add(*partition, OffsetRange::new(first.min(*next), *next), out);
            }
            ranges.insert(spec.topic.clone(), of_topic);
        }
        let ranges: Ranges = Arc::new(ranges);
        let tables = Arc::new(Fixed { platform: manager.platform().clone(), ranges: ranges.clone() });
        let plan =
            Planner::new(&queries.session().state(), catalog, tables).to_verify().plan_stored_job(definition, PARTITIONS).await?;
        if plan.options.state_ttl_us.is_some() {
            bail!(
                "job {} forgets state after a time ('state.ttl'), so no query over all records answers the same",
                definition.name
            );
        }
        let state = queries.session().state();
        let (mut answers, mut records) = (vec![], 0);
        for insert in &plan.inserts {
            let mut query = Query::of(&state, insert, handle, manifest.fired_through_us()).await?;
            query.refuse(&plan.name)?;
            query.plan = query::with_lookups(query.plan, &state, &manager.platform().tables).await?;
            query.plan = counted::count(query.plan, &ranges, read, &mut records)?;
            answers.push(query);
        }
        Ok(Self { queries, plan, answers, records })
    }

    /// Whether an INSERT's answer has rows of windows that are open, which the job has not written.
    pub fn has_open_windows(&self, insert: usize) -> bool {
        self.answers[insert].has_open_windows
    }

    /// The answer of one INSERT's query.
    pub fn rows(&self, insert: usize) -> DataFusionResult<SendableRecordBatchStream> {
        self.queries.execute(self.answers[insert].plan.clone())
    }
}

/// The parts of a range between the offsets that are left out.
fn without(range: OffsetRange, out: &BTreeSet<i64>) -> impl Iterator<Item = OffsetRange> {
    let mut parts = vec![];
    let mut start = range.start;
    for &offset in out.range(range.start..range.end) {
        parts.push(OffsetRange::new(start, offset));
        start = offset + 1;
    }
    parts.push(OffsetRange::new(start, range.end));
    parts.into_iter().filter(|part| !part.is_empty())
}

/// Offsets of a topic-partition that are left out, as the job has set them aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cut {
    /// Late rows and dead letters of tables whose rows are records.
    records: BTreeSet<i64>,
    /// What tables could not read whose rows are the last records of their keys. These have no late rows, and what another table over the topic sets aside says
    /// what became of a row.
    rows: BTreeSet<i64>,
}

impl Cut {
    fn add(&mut self, id: &str, step: &str, offset: i64) {
        match (dead_letters::is_of_row(id), step) {
            (false, _) => self.records.insert(offset),
            (true, "decode") => self.rows.insert(offset),
            // An expression failed on it, as it will again in the query of the same INSERT, and in no other.
            (true, _) => false,
        };
    }
}

/// By topic and partition, the records of an incarnation that became late rows or dead letters.
async fn cuts(manager: &JobManager, incarnation: &Incarnation) -> anyhow::Result<BTreeMap<(String, i32), Cut>> {
    let mut cuts: BTreeMap<(String, i32), Cut> = BTreeMap::new();
    let prefix = format!("{incarnation}/");
    for table in [dead_letters::table(), dead_letters::late_rows()] {
        for batch in scan(manager, table).await? {
            let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
            let partitions = batch.column_by_name("topic_partition").and_then(|column| column.as_primitive_opt::<Int32Type>());
            let offsets = batch.column_by_name("topic_offset").and_then(|column| column.as_primitive_opt::<Int64Type>());
            let (Some(ids), Some(steps), Some(topics), Some(partitions), Some(offsets)) =
                (text("id"), text("step"), text("topic"), partitions, offsets)
            else {
                bail!("the table of dead letters has other columns than this version's");
            };
            for row in (0..batch.num_rows()).filter(|&row| ids.value(row).starts_with(&prefix) && offsets.is_valid(row)) {
                let key = (topics.value(row).to_owned(), partitions.value(row));
                cuts.entry(key).or_default().add(ids.value(row), steps.value(row), offsets.value(row));
            }
        }
    }
    Ok(cuts)
}

async fn scan(manager: &JobManager, table: TableSchema) -> anyhow::Result<Vec<RecordBatch>> {
    let columns = ["id", "step", "topic", "topic_partition", "topic_offset"].map(str::to_owned).to_vec();
    let request = ScanRequest { table, columns, predicates: vec![], limit: None };
    let mut found = vec![];
    for slice in manager.platform().tables.slices(&request, 4).await? {
        let mut batches = manager.platform().tables.scan(&request, &slice);
        while let Some(batch) = batches.next().await {
            found.push(batch?);
        }
    }
    Ok(found)
}

/// The platform's tables, with topics read through fixed ranges.
struct Fixed {
    platform: PlatformTables,
    ranges: Ranges,
}

impl fmt::Debug for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixed").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

#[async_trait]
impl Providers for Fixed {
    async fn provider(&self, table: &TableDefinition, usage: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        let options = match (table.topic(), &table.connector) {
            (Some(options), _) => options,
            // As they are now.
            (None, Connector::Filesystem(_)) => return self.platform.provider(table, Use::Bounded).await,
            _ => return self.platform.provider(table, usage).await,
        };
        let ranges = self.ranges.get(&options.topic).map(|ranges| ranges.of_table(table.keeps_last_record()).clone());
        let ranges = ranges.unwrap_or_default();
        let incarnation = format!("verify-{}", uuid::Uuid::new_v4().simple());
        let reading = Reading::Query(Arc::new(FixedRanges { incarnation: incarnation.clone(), ranges }));
        self.platform.topic(table, &options, incarnation, reading)
    }

    fn system(&self, table: &str) -> Option<Arc<dyn TableProvider>> {
        self.platform.system(table)
    }
}

#[derive(Debug)]
struct FixedRanges {
    incarnation: String,
    ranges: Vec<(i32, OffsetRange)>,
}

#[async_trait]
impl QueryRanges for FixedRanges {
    async fn ranges(&self) -> DataFusionResult<Vec<TaskDescriptor>> {
        let incarnation = Incarnation(self.incarnation.clone());
        let task = |(index, (partition, range)): (usize, &(i32, OffsetRange))| {
            TaskDescriptor::of_query(&incarnation, PartIndex(index as u16), *partition, *range)
        };
        Ok(self.ranges.iter().enumerate().map(task).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_cuts_a_range() {
        let parts = |out: &[i64]| {
            let out = out.iter().copied().collect();
            without(OffsetRange::new(3, 8), &out).map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(parts(&[]), [(3, 8)]);
        assert_eq!(parts(&[3, 5, 7, 99]), [(4, 5), (6, 7)]);
        assert_eq!(parts(&[4, 5]), [(3, 4), (6, 8)]);
        assert_eq!(parts(&[3, 4, 5, 6, 7]), []);
    }

    #[test]
    fn of_last_records_only_what_their_own_table_could_not_read_is_left_out() {
        let place = dead_letters::Place { partition: 0, log: "" };
        let letter = |of_row| dead_letters::record_id("a1", "t", place, 0, of_row);
        let mut out = Cut::default();
        out.add(&letter(false), "late", 4);
        out.add(&letter(false), "compute", 5);
        out.add(&letter(true), "decode", 6);
        out.add(&letter(true), "compute", 3);
        let mut ranges = ReadRanges::default();
        ranges.add(0, OffsetRange::new(3, 8), &out);
        assert_eq!(*ranges.of_table(false), [(0, OffsetRange::new(3, 4)), (0, OffsetRange::new(6, 8))]);
        assert_eq!(*ranges.of_table(true), [(0, OffsetRange::new(3, 6)), (0, OffsetRange::new(7, 8))]);
    }
}
