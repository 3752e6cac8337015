//! The task descriptor: which part of which epoch a task computes. It travels as the one row of a memory-source partition, which is
//! the only thing that Ballista slices, so that every part is computed by exactly one task (docs/adr/0002).
use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    common::{DataFusionError, Result, internal_datafusion_err},
    datasource::memory::MemorySourceConfig,
    execution::TaskContext,
    physical_plan::ExecutionPlan,
};
use futures::StreamExt;
use polybolos_state::Share;
use polybolos_streaming::{
    frame::{Closing, OffsetRange, PartWork, SourceRange},
    ids::{Attempt, Epoch, Generation, Incarnation, PartIndex, SourceId, SourcePartition},
    manifest::StateRun,
};
use serde::{Deserialize, Serialize};

use crate::{dead_letters::Place, epoch::peers::Peer};

/// How far time had gone in the last recorded epoch, its timers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    pub watermark_us: Option<i64>,
    /// The end of its window of write times.
    pub window_end_us: i64,
}

/// Everything a task knows of its epoch; fenced by generation, named by epoch, attempt and part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDescriptor {
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub epoch: Epoch,
    pub attempt: Attempt,
    /// What `now()` answers, microseconds since 1970.
    pub clock_us: i64,
    /// The job's watermark before this epoch, microseconds of event time.
    #[serde(default)]
    pub watermark_us: Option<i64>,
    /// How the task fires the timers that its own records make due; `None`: it leaves them to the next epoch.
    #[serde(default)]
    pub closing: Option<Closing>,
    /// What a TTL of state counts by: where the epoch's window of write times begins, as these never fall back.
    #[serde(default)]
    pub state_clock_us: i64,
    /// What had expired by then is no part of the state.
    #[serde(default)]
    pub recorded: Recorded,
    /// As the frame has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logs: BTreeMap<SourceId, String>,
    pub work: PartWork,
    /// Who computes which part, by part, where several share the job's state; else nobody.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// The recorded runs that make the state this epoch starts from, oldest first; empty for a stateless job.
    #[serde(default)]
    pub state: Vec<StateRun>,
    /// Of the attempt's span; empty where nobody traces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace_parent: String,
}

/// Of what no leader fences.
const NO_GENERATION: Generation = Generation(u64::MAX);

impl TaskDescriptor {
    /// Of a query that reads a range of one topic, outside of every job: nothing fences it, nothing is recorded of it.
    pub fn of_query(incarnation: &Incarnation, part: PartIndex, partition: i32, range: OffsetRange) -> Self {
        Self {
            incarnation: incarnation.clone(),
            generation: NO_GENERATION,
            epoch: Epoch(1),
            attempt: Attempt(1),
            clock_us: 0,
            watermark_us: None,
            closing: None,
            state_clock_us: 0,
            recorded: Recorded::default(),
            logs: BTreeMap::new(),
            work: PartWork {
                part,
                ranges: vec![SourceRange { source: SourcePartition { source: SourceId(0), partition }, range }],
            },
            peers: vec![],
            state: vec![],
            trace_parent: String::new(),
        }
    }

    pub fn is_of_query(&self) -> bool {
        self.generation == NO_GENERATION
    }

    /// Where a source's records of one partition are.
    pub fn place(&self, source: SourcePartition) -> Place<'_> {
        Place { partition: source.partition, log: self.logs.get(&source.source).map_or("", String::as_str) }
    }

    /// Which part of the job's state the task has.
    pub fn share(&self) -> Share {
        if self.peers.is_empty() { Share::WHOLE } else { Share { part: usize::from(self.work.part.0), parts: self.peers.len() } }
    }

    /// What a part of a stateless job reads.
    pub fn only_range(&self) -> Result<&SourceRange> {
        match self.work.ranges.as_slice() {
            [range] => Ok(range),
            ranges => Err(internal_datafusion_err!("a stateless part reads one range, and this one has {}", ranges.len())),
        }
    }
}

fn descriptor_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("descriptor", DataType::Utf8, false)]))
}

/// A source with one partition per descriptor.
pub fn descriptor_source(tasks: &[TaskDescriptor]) -> Result<Arc<dyn ExecutionPlan>> {
    let partitions = tasks
        .iter()
        .map(|task| {
            let text = serde_json::to_string(task).map_err(|error| internal_datafusion_err!("descriptor: {error}"))?;
            let batch = RecordBatch::try_new(descriptor_schema(), vec![Arc::new(StringArray::from(vec![text]))])?;
            Ok(vec![batch])
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(&partitions, descriptor_schema(), None)?)
}

/// Reads the one descriptor of partition `partition` of `source`.
pub async fn read_descriptor(
    source: &Arc<dyn ExecutionPlan>,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<TaskDescriptor> {
    let mut stream = source.execute(partition, context)?;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        let column = batch.column(0).as_any().downcast_ref::<StringArray>();
        let text = column.filter(|texts| texts.len() == 1).map(|texts| texts.value(0));
        let text = text.ok_or_else(|| internal_datafusion_err!("a task must have exactly one descriptor"))?;
        return serde_json::from_str(text).map_err(|error| DataFusionError::Internal(format!("descriptor {text:?}: {error}")));
    }
    Err(internal_datafusion_err!("a task has no descriptor: the scheduler sent an unfilled plan"))
}
