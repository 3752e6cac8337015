//! How our plan nodes travel: a magic prefix, then a `polybolos.plan.v1.PlanNode`. Everything else is Ballista's codec's business.
use std::{collections::VecDeque, sync::Arc};

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::{
    arrow::{
        datatypes::{Schema, SchemaRef},
        ipc::{reader::StreamReader, writer::StreamWriter},
    },
    common::{DataFusionError, Result, internal_datafusion_err, plan_datafusion_err},
    execution::TaskContext,
    physical_plan::{ExecutionPlan, PhysicalExpr},
};
use datafusion_proto::{
    physical_plan::{
        PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension, to_proto::serialize_physical_expr,
    },
    protobuf::PhysicalExprNode,
};
use parking_lot::Mutex;
use polybolos_proto::plan::v1 as proto;
use prost::{DecodeError, Message};

use crate::{
    epoch::{cases::CasesToldOnce, exec::EpochExec, spec::EpochSpec},
    file_scan::FileScanExec,
    lookup_scan::LookupScanExec,
    part_write::PartWriteExec,
    record_scan::RecordScanExec,
    steps::Step,
};

/// Specifications of jobs kept by the codec; more jobs than that read theirs again.
const KNOWN_SPECS: usize = 64;

/// Ballista's codec may accept foreign bytes, so ours are marked.
const MAGIC: &[u8] = b"polybolos.plan.v1\n";

#[derive(Debug, Default)]
pub struct PolybolosCodec {
    ballista: BallistaPhysicalExtensionCodec,
    /// The same specification comes with every epoch of a job: it is read once.
    specs: Mutex<VecDeque<(String, Arc<EpochSpec>)>>,
}

impl PolybolosCodec {
    fn epoch_spec(&self, text: &str) -> Result<Arc<EpochSpec>> {
        let mut specs = self.specs.lock();
        if let Some((_, spec)) = specs.iter().find(|(known, _)| known == text) {
            return Ok(spec.clone());
        }
        let spec: Arc<EpochSpec> = Arc::new(from_json(text)?);
        specs.push_front((text.to_owned(), spec.clone()));
        specs.truncate(KNOWN_SPECS);
        Ok(spec)
    }
}

impl PhysicalExtensionCodec for PolybolosCodec {
    fn try_decode(
        &self,
        buffer: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(body) = buffer.strip_prefix(MAGIC) else {
            return self.ballista.try_decode(buffer, inputs, context, converter);
        };
        let node = proto::PlanNode::decode(body).map_err(|error| internal_datafusion_err!("plan node: {error}"))?;
        let child = || match inputs {
            [child] => Ok(child.clone()),
            _ => Err(internal_datafusion_err!("a plan node of ours has one child, not {}", inputs.len())),
        };
        match node.node {
            Some(proto::plan_node::Node::RecordScan(scan)) => {
                decode_record_scan(&scan, child()?, &PhysicalPlanDecodeContext::new(context, self), converter)
            }
            Some(proto::plan_node::Node::PartWrite(write)) => Ok(Arc::new(PartWriteExec::new(from_json(&write.spec)?, child()?))),
            Some(proto::plan_node::Node::Epoch(epoch)) => {
                let spec = self.epoch_spec(&epoch.spec)?;
                Ok(Arc::new(EpochExec::new(spec, epoch.spec.into(), child()?)))
            }
            // Leaves.
            Some(proto::plan_node::Node::LookupScan(scan)) => {
                let table = decode_schema(&scan.table_schema)?;
                Ok(Arc::new(LookupScanExec::of_spec(from_json(&scan.spec)?, table.as_ref())?))
            }
            Some(proto::plan_node::Node::FileScan(scan)) => {
                Ok(Arc::new(FileScanExec::of_job(from_json(&scan.spec)?, decode_schema(&scan.schema)?)))
            }
            None => Err(internal_datafusion_err!("unknown plan node; scheduler and executor must be of one version")),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buffer: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let message = if let Some(scan) = node.downcast_ref::<RecordScanExec>() {
            proto::plan_node::Node::RecordScan(encode_record_scan(scan, self)?)
        } else if let Some(write) = node.downcast_ref::<PartWriteExec>() {
            proto::plan_node::Node::PartWrite(proto::PartWrite { spec: to_json(write.spec())? })
        } else if let Some(epoch) = node.downcast_ref::<EpochExec>() {
            proto::plan_node::Node::Epoch(proto::Epoch { spec: epoch.encoded().to_string() })
        } else if let Some(scan) = node.downcast_ref::<LookupScanExec>() {
            let table_schema = encode_schema(&scan.table().arrow())?;
            proto::plan_node::Node::LookupScan(proto::LookupScan { spec: to_json(&scan.spec())?, table_schema })
        } else if let Some(scan) = node.downcast_ref::<FileScanExec>() {
            let schema = encode_schema(&scan.schema())?;
            proto::plan_node::Node::FileScan(proto::FileScan { spec: to_json(scan.table())?, schema })
        } else {
            return self.ballista.try_encode(node, buffer, converter);
        };
        buffer.extend_from_slice(MAGIC);
        proto::PlanNode { node: Some(message) }.encode(buffer).map_err(|error| internal_datafusion_err!("plan node: {error}"))
    }
}

fn encode_record_scan(scan: &RecordScanExec, codec: &PolybolosCodec) -> Result<proto::RecordScan> {
    let encode = |expression: &Arc<dyn PhysicalExpr>| Ok(serialize_physical_expr(expression, codec)?.encode_to_vec());
    let steps = scan
        .steps()
        .iter()
        .map(|step| match step {
            Step::Filter(predicate) => Ok(proto::Step { expressions: vec![encode(predicate)?], names: vec![] }),
            Step::Project { expressions, .. } => Ok(proto::Step {
                names: expressions.iter().map(|(_, name)| name.clone()).collect(),
                expressions: expressions.iter().map(|(expression, _)| encode(expression)).collect::<Result<_>>()?,
            }),
        })
        .collect::<Result<_>>()?;
    Ok(proto::RecordScan { spec: to_json(scan.spec().as_ref())?, decoded_schema: encode_schema(scan.decoded())?, steps })
}

fn decode_record_scan(
    scan: &proto::RecordScan,
    child: Arc<dyn ExecutionPlan>,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let decoded = decode_schema(&scan.decoded_schema)?;
    let mut schema = decoded.clone();
    let mut steps = Vec::with_capacity(scan.steps.len());
    for step in &scan.steps {
        let expressions = step
            .expressions
            .iter()
            .map(|bytes| {
                let node = PhysicalExprNode::decode(bytes.as_slice()).map_err(|error| unreadable("expression", &error))?;
                converter.proto_to_physical_expr(&node, &schema, context)
            })
            .collect::<Result<Vec<_>>>()?;
        let step = match (step.names.is_empty(), expressions.as_slice()) {
            (true, [predicate]) => Step::Filter(predicate.clone()),
            _ => Step::project(expressions.into_iter().zip(step.names.iter().cloned()).collect(), &schema)?,
        };
        schema = step.output(&schema);
        steps.push(step);
    }
    Ok(Arc::new(RecordScanExec::new(Arc::new(from_json(&scan.spec)?), decoded, steps.into(), child)))
}

/// Writes a scan and reads it again, as an executor does.
pub(crate) fn check_travels(scan: &RecordScanExec, context: &TaskContext) -> Result<()> {
    let codec = PolybolosCodec::default();
    let written = encode_record_scan(scan, &codec)?;
    let context = PhysicalPlanDecodeContext::new(context, &codec);
    decode_record_scan(&written, scan.child().clone(), &context, &CasesToldOnce).map(drop)
}

/// Why a message could not be read. Expressions are messages in messages, and those are read only so deep.
pub(crate) fn unreadable(what: &str, error: &DecodeError) -> DataFusionError {
    if error.to_string().contains("recursion limit reached") {
        return plan_datafusion_err!(
            "the job's expressions are nested too deeply (about 40 levels); compute a part of them in a job of its own, into a table that this one reads, or write them flatter"
        );
    }
    internal_datafusion_err!("{what}: {error}")
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| internal_datafusion_err!("plan node: {error}"))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| internal_datafusion_err!("plan node: {error}"))
}

fn encode_schema(schema: &Schema) -> Result<Vec<u8>> {
    let mut buffer = vec![];
    StreamWriter::try_new(&mut buffer, schema)?.finish()?;
    Ok(buffer)
}

fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    Ok(StreamReader::try_new(bytes, None).map_err(DataFusionError::from)?.schema())
}
