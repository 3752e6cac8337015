//! Tells how far scans are: rows as they come, and at a range's end the records that gave none.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use datafusion::{
    common::{Result, internal_err, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, stream::RecordBatchStreamAdapter},
};
use futures::StreamExt;
use polybolos_operators::record_scan::RecordScanExec;

use super::oracle::Ranges;

/// Puts itself above every scan of a topic, and adds up what they will read.
pub fn count(
    plan: Arc<dyn ExecutionPlan>,
    ranges: &Ranges,
    read: &Arc<AtomicU64>,
    total: &mut u64,
) -> Result<Arc<dyn ExecutionPlan>> {
    if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
        let of_topic = ranges.get(&scan.spec().topic).into_iter();
        let of_topic = of_topic.flat_map(|ranges| ranges.of_table(scan.spec().keeps_last_record()));
        let records: Vec<u64> = of_topic.map(|(_, range)| range.len()).collect();
        *total += records.iter().sum::<u64>();
        return Ok(Arc::new(Counted { input: plan, records, read: read.clone() }));
    }
    let children: Vec<_> =
        plan.children().into_iter().map(|child| count(child.clone(), ranges, read, total)).collect::<Result<_>>()?;
    if children.is_empty() { Ok(plan) } else { datafusion::physical_plan::replace_children_if_necessary(plan, children) }
}

#[derive(Debug)]
struct Counted {
    input: Arc<dyn ExecutionPlan>,
    /// Of each partition.
    records: Vec<u64>,
    read: Arc<AtomicU64>,
}

impl DisplayAs for Counted {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl ExecutionPlan for Counted {
    fn name(&self) -> &'static str {
        "Counted"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    #[allow(deprecated)]
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self { input, records: self.records.clone(), read: self.read.clone() })),
            _ => internal_err!("Counted has exactly one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stream = self.input.execute(partition, context)?;
        let (schema, read) = (stream.schema(), self.read.clone());
        let records = self.records.get(partition).copied().unwrap_or(0);
        let begin = (stream, 0_u64);
        let counted = futures::stream::unfold(begin, move |(mut stream, seen)| {
            let read = read.clone();
            async move {
                let Some(batch) = stream.next().await else {
                    read.fetch_add(records.saturating_sub(seen), Relaxed);
                    return None;
                };
                let rows = batch.as_ref().map_or(0, |batch| batch.num_rows() as u64).min(records - seen.min(records));
                read.fetch_add(rows, Relaxed);
                Some((batch, (stream, seen + rows)))
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }
}
