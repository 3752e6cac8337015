//! A job's dataflow on an executor: made once from what the scheduler sent, kept with its state until the job is forgotten.
use std::{collections::HashMap, sync::Arc, time::Duration};

use datafusion::{
    arrow::datatypes::{Schema, SchemaRef},
    common::{Result, internal_datafusion_err},
    execution::TaskContext,
    physical_plan::ExecutionPlan,
};
use datafusion_proto::{
    physical_plan::{PhysicalPlanDecodeContext, PhysicalProtoConverterExtension},
    protobuf::PhysicalExprNode,
};
use parking_lot::Mutex;
use polybolos_dataflow::{Dataflow, Exchange, Graph, SinkPlan, SourceLeaf, TimeColumn, event_time, graph::kept::Kept};
use polybolos_kafka::decode::Field;
use polybolos_state::{Passed, Share};
use polybolos_streaming::ids::{Epoch, Incarnation};
use prost::Message;
use tokio::time::Instant;

use super::{
    cases::CasesToldOnce,
    held::HeldState,
    lookup::{self, Stage},
    scan::{EpochScan, Reader, ScanTime},
    spec::{EpochSpec, EventTime, SinkSection},
};
use crate::{
    codec::{PolybolosCodec, unreadable},
    file_scan::FileScanExec,
    files::FileTable,
    part_write::Keeping,
    record_scan::{RecordScanExec, ScanSpec},
    steps::Step,
    template::fuse,
    wanted::{Decoding, moved},
};

#[derive(Debug)]
pub struct Flow {
    pub spec: Arc<EpochSpec>,
    pub dataflow: Dataflow,
    /// One per source of records; each reads for one or several sources of the graph.
    pub scans: Vec<EpochScan>,
    /// What is read once, in the job's first epoch.
    pub files: Vec<FileSource>,
    pub held: Arc<tokio::sync::Mutex<HeldState>>,
    /// How far time had gone in the last recorded epoch that is known here.
    recorded: Mutex<Passed>,
    /// Which share of the state is in memory, and of which recorded epoch at least.
    base: Mutex<Option<(Share, Epoch)>>,
    memory: Mutex<Memory>,
}

/// What a job's state takes, and since when.
#[derive(Clone, Copy, Debug)]
struct Memory {
    bytes: u64,
    used: Instant,
}

/// A job at rest for so long gives its state's memory to others.
const REST: Duration = Duration::from_secs(10);

/// A scan of files: all rows of a source of the graph.
#[derive(Clone, Debug)]
pub struct FileSource {
    /// Its place among the graph's sources.
    pub source: usize,
    pub table: FileTable,
    pub columns: SchemaRef,
}

/// A leaf of the job's plans.
enum Leaf {
    /// With what becomes of its rows before the dataflow takes them.
    Records(RecordScanExec, Vec<Stage>),
    Files(FileTable, SchemaRef),
}

impl Leaf {
    /// Whether one reading serves both.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            // Each look-up asks for itself.
            (Self::Records(scan, stages), Self::Records(other, asks)) => {
                stages.is_empty() && asks.is_empty() && is_same(scan, other)
            }
            (Self::Files(table, columns), Self::Files(other, others)) => table == other && columns == others,
            _ => false,
        }
    }
}

/// Folds what can be folded into the scans of a plan (see [`fuse`]).
pub fn fuse_scans(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if let Ok(scan) = fuse(&plan) {
        return Ok(Arc::new(scan));
    }
    let children = plan.children().into_iter().map(|child| fuse_scans(child.clone())).collect::<Result<Vec<_>>>()?;
    if children.is_empty() { Ok(plan) } else { datafusion::physical_plan::replace_children_if_necessary(plan, children) }
}

impl Flow {
    pub fn build(spec: Arc<EpochSpec>, context: &TaskContext) -> Result<Self> {
        let plans = spec.plans(context)?;
        let lateness = spec.lateness();
        let leaves: Mutex<Vec<Leaf>> = Mutex::default();
        let failure = Mutex::new(None);
        let find = |plan: &Arc<dyn ExecutionPlan>| {
            // The first says more than those that follow from it.
            let fail = |error| {
                failure.lock().get_or_insert(error);
            };
            let (leaf, times, label) = if let Some(scan) = plan.downcast_ref::<FileScanExec>() {
                let label = format!("files in {}", scan.table().place);
                (Leaf::Files(scan.table().clone(), plan.schema()), vec![None; plan.schema().fields().len()], label)
            } else {
                let (scan, stages) = match plan.downcast_ref::<RecordScanExec>() {
                    Some(scan) => (scan.clone(), vec![]),
                    None => lookup::of_plan(plan).map_err(fail).ok()??,
                };
                let times = lookup::times_of(&stages, times_of(&spec, &scan), lateness.as_ref());
                let label = lookup::describe(&stages);
                (Leaf::Records(scan, stages), times, label)
            };
            let whole = matches!(leaf, Leaf::Files(..));
            let mut leaves = leaves.lock();
            let known = leaves.iter().position(|known| known.is_same(&leaf));
            let source = known.unwrap_or_else(|| {
                leaves.push(leaf);
                leaves.len() - 1
            });
            Some(SourceLeaf { source, times, label, whole })
        };
        let graph = Graph::lower(&plans, &find, lateness.as_ref());
        if let Some(error) = failure.into_inner() {
            return Err(error);
        }
        let graph = graph?.with_ttl(spec.ttl_us);
        let (mut scans, mut files) = (vec![], vec![]);
        for (index, leaf) in leaves.into_inner().into_iter().enumerate() {
            let place = graph.sources().iter().position(|&source| source == index);
            let source = place.ok_or_else(|| internal_datafusion_err!("a scan is no source of the graph"))?;
            match leaf {
                Leaf::Records(scan, stages) => scans.push((source, scan, stages)),
                Leaf::Files(table, columns) => files.push(FileSource { source, table, columns }),
            }
        }
        let scans = by_source(&spec, scans, context)?;
        let dataflow = Dataflow::new(Arc::new(graph), spec.lanes).with_last_exchanges(last_exchanges(&spec, &plans));
        let held = Arc::new(tokio::sync::Mutex::new(HeldState::new(dataflow.new_state())));
        let memory = Mutex::new(Memory { bytes: 0, used: Instant::now() });
        Ok(Self { spec, dataflow, scans, files, held, recorded: Mutex::default(), base: Mutex::default(), memory })
    }
}

impl Flow {
    /// Its operators with state, told apart by all that their state follows from.
    pub fn kept(&self) -> Vec<Kept> {
        self.dataflow.graph().kept(&|place| {
            let readers = self.scans.iter().flat_map(|scan| scan.readers.iter().map(move |reader| (scan, reader)));
            let read = readers.filter(|(_, reader)| reader.source == place);
            let read = read.map(|(scan, reader)| format!("{:?} {:?} {:?} {:?}", scan.spec, scan.time, reader.steps, reader.stages));
            let files = self.files.iter().filter(|files| files.source == place).map(|files| format!("{files:?}"));
            read.chain(files).collect()
        })
    }

    /// Gives the memory of its state to others.
    pub(super) fn let_go(&self, held: &mut HeldState) {
        held.let_go();
        *self.base.lock() = None;
        self.memory.lock().bytes = 0;
    }

    /// So much memory, from now on.
    pub(super) fn takes(&self, bytes: u64) {
        *self.memory.lock() = Memory { bytes, used: Instant::now() };
    }

    /// An epoch begins upon what is recorded, with this share of it in memory.
    pub(super) fn builds_on(&self, recorded: Passed, share: Share, epoch: Epoch) {
        *self.recorded.lock() = recorded;
        *self.base.lock() = Some((share, epoch)).filter(|_| epoch > Epoch(0));
    }
}

/// Changes of a table come together by its key, so that a key has one change (EPOCHS rule 10).
fn last_exchanges(spec: &EpochSpec, plans: &[SinkPlan<Arc<dyn ExecutionPlan>>]) -> Vec<Option<Exchange>> {
    let exchange = |(section, sink): (&SinkSection, &SinkPlan<Arc<dyn ExecutionPlan>>)| match &section.keeping {
        Keeping::LastPerKey(key) => Some(Exchange { columns: key.clone(), schema: sink.plan.schema() }),
        Keeping::All | Keeping::Nothing => None,
    };
    spec.sinks.iter().zip(plans).map(exchange).collect()
}

fn is_same(left: &RecordScanExec, right: &RecordScanExec) -> bool {
    left.spec() == right.spec()
        && left.decoded() == right.decoded()
        && told(left.steps()) == told(right.steps())
        && !left.steps().iter().any(Step::is_volatile)
}

/// What the optimiser calls a field that it takes out of a row, with a number of its own each time; columns are told apart by their places.
const EXTRACTED: &str = "__datafusion_extracted_";

/// All that there is to tell of steps.
fn told(steps: &[Step]) -> String {
    let text = format!("{steps:?}");
    let mut parts = text.split(EXTRACTED);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |told, part| told + EXTRACTED + part.trim_start_matches(|character: char| character.is_ascii_digit()))
}

/// The event time of a scan's table, as far as the scan decodes what it is made of.
fn event_time_of<'a>(spec: &'a EpochSpec, scan: &RecordScanExec) -> Option<&'a EventTime> {
    spec.event_times.iter().find(|time| time.is_of(scan.spec()))
}

/// Puts scans together that decode one source alike. With each scan, its place among the graph's sources.
fn by_source(spec: &EpochSpec, scans: Vec<(usize, RecordScanExec, Vec<Stage>)>, context: &TaskContext) -> Result<Vec<EpochScan>> {
    let mut groups: Vec<(ScanSpec, Vec<Member>)> = vec![];
    for (source, scan, stages) in scans {
        let alike = ScanSpec { fields: vec![], ..scan.spec().as_ref().clone() };
        let member = Member { source, time: scan_time(spec, &scan, context)?, scan, stages };
        match groups.iter_mut().find(|(known, _)| *known == alike) {
            // What tells the time comes first.
            Some((_, members)) if members[0].time.is_none() => members.insert(0, member),
            Some((_, members)) => members.push(member),
            None => groups.push((alike, vec![member])),
        }
    }
    let one = |(alike, members): (ScanSpec, Vec<Member>)| {
        let scans: Vec<&RecordScanExec> = members.iter().map(|member| &member.scan).collect();
        let time = members[0].time.clone();
        let others: Vec<_> = time.iter().map(|time| time.expression.clone()).collect();
        let Decoding { fields, schema, steps, others } = Decoding::of(&scans, &others)?;
        let readers = members.into_iter().zip(steps);
        let readers = readers.map(|(Member { source, stages, .. }, steps)| Reader { source, steps, stages }).collect();
        let time = time.zip(others.into_iter().next()).map(|(time, expression)| ScanTime { expression, ..time });
        let (scan, allowed_lateness_us) = (Arc::new(ScanSpec { fields, ..alike }), spec.allowed_lateness_us);
        Ok(EpochScan { spec: scan, decoded: schema, time, allowed_lateness_us, readers })
    };
    groups.into_iter().map(one).collect()
}

/// One scan among those of its source.
struct Member {
    source: usize,
    scan: RecordScanExec,
    stages: Vec<Stage>,
    time: Option<ScanTime>,
}

/// Event time, over the decoded columns of `scan`.
fn scan_time(spec: &EpochSpec, scan: &RecordScanExec, context: &TaskContext) -> Result<Option<ScanTime>> {
    let (Some(time), Some(lateness)) = (event_time_of(spec, scan), spec.lateness()) else { return Ok(None) };
    let decoded = scan.decoded();
    let position = |name: &String| {
        scan.spec().fields.iter().zip(decoded.fields()).position(|(source, field)| match source {
            Field::Json { name: found } => found == name,
            _ => field.name() == name,
        })
    };
    let Some(columns) = time.needs.iter().map(position).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let schema = Schema::new(
        columns.iter().zip(&time.needs).map(|(&column, name)| decoded.field(column).clone().with_name(name)).collect::<Vec<_>>(),
    );
    let node = PhysicalExprNode::decode(time.expression.as_slice()).map_err(|error| unreadable("event time", &error))?;
    let codec = PolybolosCodec::default();
    let expression = CasesToldOnce.proto_to_physical_expr(&node, &schema, &PhysicalPlanDecodeContext::new(context, &codec))?;
    let expression = moved(&expression, |column| columns.get(column).copied())?;
    Ok(Some(ScanTime { expression, delay_us: time.delay_us, lateness }))
}

/// Which output columns of a scan are event time.
pub(super) fn times_of(spec: &EpochSpec, scan: &RecordScanExec) -> Vec<Option<TimeColumn>> {
    let column = event_time_of(spec, scan).and_then(|time| time.column.as_ref());
    let lateness = spec.lateness();
    let lateness = lateness.as_ref();
    let of_field = |field: &Arc<datafusion::arrow::datatypes::Field>| {
        lateness.filter(|_| Some(field.name()) == column).map(event_time::of_source)
    };
    let mut times: Vec<_> = scan.decoded().fields().iter().map(of_field).collect();
    for step in scan.steps() {
        if let Step::Project { expressions, .. } = step {
            times = expressions.iter().map(|(expression, _)| event_time::of_expression(expression, &times, lateness)).collect();
        }
    }
    times
}

/// The dataflows of the jobs that run here.
#[derive(Debug, Default)]
pub struct Flows {
    flows: Mutex<HashMap<Incarnation, Arc<Flow>>>,
}

impl Flows {
    /// The job's dataflow; made anew when anything of it is other than before.
    pub fn of(&self, spec: &Arc<EpochSpec>, context: &TaskContext) -> Result<Arc<Flow>> {
        if let Some(flow) = self.flows.lock().get(&spec.incarnation)
            && flow.spec == *spec
        {
            return Ok(flow.clone());
        }
        let flow = Arc::new(Flow::build(spec.clone(), context)?);
        self.flows.lock().insert(spec.incarnation.clone(), flow.clone());
        Ok(flow)
    }

    /// Counts what a job's state takes now, and answers how much it may take. Where all state together has no room, jobs at rest give theirs back, those that
    /// have rested longest first; they load it again when they go on. Those that do not rest share.
    pub(super) fn room(&self, flow: &Flow, bytes: u64, most: u64) -> u64 {
        flow.takes(bytes);
        let is_other = |other: &&Arc<Flow>| other.spec.incarnation != flow.spec.incarnation;
        let memory = |other: &Arc<Flow>| *other.memory.lock();
        let flows = self.flows.lock();
        let mut taken: u64 = flows.values().filter(is_other).map(|other| memory(other).bytes).sum();
        if taken + bytes <= most {
            return most - taken;
        }
        let mut others: Vec<(Memory, Arc<Flow>)> =
            flows.values().filter(is_other).map(|other| (memory(other), other.clone())).collect();
        drop(flows);
        others.retain(|(memory, _)| memory.bytes > 0);
        others.sort_by_key(|(memory, _)| memory.used);
        let (mut sharing, now) = (1 + others.len() as u64, Instant::now());
        for (memory, other) in others.iter().take_while(|(memory, _)| memory.used + REST <= now) {
            if taken + bytes <= most {
                break;
            }
            // One that works just now is not at rest.
            let Ok(mut held) = other.held.try_lock() else { continue };
            other.let_go(&mut held);
            taken -= memory.bytes;
            sharing -= 1;
        }
        most.saturating_sub(taken).max(most / sharing)
    }

    /// How far time had gone in the last recorded epoch of a job, as far as this executor knows.
    pub fn recorded(&self, incarnation: &Incarnation) -> Passed {
        self.flows.lock().get(incarnation).map(|flow| *flow.recorded.lock()).unwrap_or_default()
    }

    /// The state in memory: of which jobs which share, and of which recorded epoch at least.
    pub fn held(&self) -> Vec<(Incarnation, Share, Epoch)> {
        let flows = self.flows.lock();
        let held = flows.iter().filter_map(|(incarnation, flow)| {
            let (share, epoch) = (*flow.base.lock())?;
            Some((incarnation.clone(), share, epoch))
        });
        held.collect()
    }

    pub fn forget(&self, incarnation: &Incarnation) {
        self.flows.lock().remove(incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_state_is_cut_otherwise_has_another_dataflow() {
        let flows = Flows::default();
        let flow = |lanes| {
            let spec = EpochSpec {
                job: "j".into(),
                incarnation: Incarnation("a1".into()),
                lanes,
                window_ends: vec![],
                allowed_lateness_us: 0,
                ttl_us: None,
                event_times: vec![],
                sinks: vec![],
            };
            flows.of(&Arc::new(spec), &TaskContext::default()).unwrap()
        };
        let seven = flow(7);
        assert!(Arc::ptr_eq(&seven, &flow(7)));
        // As an upgrade has it that changes nothing but the number.
        assert_eq!(flow(2).spec.lanes, 2);
    }
}
