//! What an executor is told of a job with state, once for all its epochs.
use std::sync::Arc;

use datafusion::{common::Result, execution::TaskContext, physical_plan::ExecutionPlan};
use datafusion_proto::{
    physical_plan::{AsExecutionPlan, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension},
    protobuf::PhysicalPlanNode,
};
use polybolos_dataflow::{Emit, Lateness, SinkPlan};
use polybolos_streaming::ids::{Incarnation, SinkId};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::cases::CasesToldOnce;
use crate::{
    codec::{PolybolosCodec, unreadable},
    part_write::Keeping,
    record_scan::ScanSpec,
    steps::Check,
};

/// One INSERT of the job: its query's physical plan, and what becomes of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSection {
    pub sink: SinkId,
    pub keeping: Keeping,
    pub checks: Vec<Check>,
    pub emit_on_close: bool,
    /// A `PhysicalPlanNode` of datafusion-proto.
    #[serde(with = "base64_bytes")]
    pub plan: Vec<u8>,
}

/// A table's event time, as a scan finds it in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTime {
    pub source: u32,
    /// The watermark column's name where it is one of the record's own; else the columns that its expression needs.
    pub column: Option<String>,
    /// Serialised physical expression over the columns named in `needs`, in that order.
    #[serde(with = "base64_bytes")]
    pub expression: Vec<u8>,
    pub needs: Vec<String>,
    pub delay_us: i64,
}

impl EventTime {
    /// Whether rows of a scan of the source have a time. Records of a table that keeps the last of each key change rows, and are never late.
    pub fn is_of(&self, scan: &ScanSpec) -> bool {
        self.source == scan.source && scan.options.tombstones.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochSpec {
    pub job: String,
    pub incarnation: Incarnation,
    pub lanes: usize,
    /// When windows end, as [`Lateness`] takes it: a row below the last end that the watermark has passed is late. Empty: no row is late.
    pub window_ends: Vec<(i64, i64)>,
    /// The job's watermark is so much behind the one that its tables tell of: nothing is late or dropped sooner. Windows that come out when they close do so by
    /// the latter, and again when rows change them.
    #[serde(default)]
    pub allowed_lateness_us: i64,
    /// State that nothing else bounds ends so long after its last change.
    #[serde(default)]
    pub ttl_us: Option<i64>,
    pub event_times: Vec<EventTime>,
    pub sinks: Vec<SinkSection>,
}

/// A physical plan as bytes.
pub fn encode_plan(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
    let codec = PolybolosCodec::default();
    let node = PhysicalPlanNode::try_from_physical_plan(plan.clone(), &codec)?;
    Ok(node.encode_to_vec())
}

impl EpochSpec {
    /// Which rows are late; `None`: none is.
    pub fn lateness(&self) -> Option<Lateness> {
        Lateness::of(self.window_ends.iter().copied())
    }

    /// The plans of all INSERTs.
    pub fn plans(&self, context: &TaskContext) -> Result<Vec<SinkPlan<Arc<dyn ExecutionPlan>>>> {
        let codec = PolybolosCodec::default();
        let decode = |section: &SinkSection| {
            let node = PhysicalPlanNode::decode(section.plan.as_slice())
                .map_err(|error| unreadable(&format!("the plan of job {}", self.job), &error))?;
            let plan = CasesToldOnce.proto_to_execution_plan(&node, &PhysicalPlanDecodeContext::new(context, &codec))?;
            Ok(SinkPlan { plan, emit: emit(section.emit_on_close, self.allowed_lateness_us) })
        };
        self.sinks.iter().map(decode).collect()
    }
}

/// When an INSERT's rows come out.
pub(super) fn emit(on_close: bool, allowed_lateness_us: i64) -> Emit {
    match (on_close, allowed_lateness_us) {
        (false, _) => Emit::OnUpdate,
        (true, 0) => Emit::OnWindowClose,
        (true, ahead_us) => Emit::OnWindowCloseThenUpdate { ahead_us },
    }
}

mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}
