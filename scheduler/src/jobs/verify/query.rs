//! The query that one INSERT is over all that the job has read, as a plan to run.
use std::sync::Arc;

use anyhow::bail;
use datafusion::{
    catalog::TableProvider,
    common::{
        Result, internal_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::SessionState,
    physical_expr::{Distribution, ScalarFunctionExpr},
    physical_plan::{
        ExecutionPlan, ExecutionPlanProperties, coalesce_partitions::CoalescePartitionsExec, empty::EmptyExec,
        replace_children_if_necessary,
    },
    physical_planner::DefaultPhysicalPlanner,
};
use futures::{FutureExt, future::BoxFuture};
use polybolos_dataflow::planning;
use polybolos_operators::{
    epoch::{closed::closed_rows, flow::fuse_scans, lookup},
    lookup_scan::LookupScanExec,
    providers::KeyedTable,
    record_scan::ScanSpec,
    template::JobTemplate,
};
use polybolos_sql::{clock, planner::InsertPlan, statement::Emit};
use polybolos_tables::TableBackend;

use super::super::runner::JobHandle;

pub struct Query {
    pub plan: Arc<dyn ExecutionPlan>,
    /// It is not known which windows are closed, so rows of open ones are among the answer.
    pub has_open_windows: bool,
}

impl Query {
    /// `watermark_us`: through which windows have come out of the job.
    pub async fn of(state: &SessionState, insert: &InsertPlan, handle: &JobHandle, watermark_us: Option<i64>) -> Result<Self> {
        let mut has_open_windows = insert.emit == Emit::OnWindowClose;
        let mut closed = None;
        if has_open_windows {
            match of_closed_windows(state, insert, handle, watermark_us).await {
                Ok(plan) => closed = Some(plan),
                Err(error) => tracing::warn!(job = %handle.spec.name, %error, "it is not known which windows are closed"),
            }
            has_open_windows = closed.is_none();
        }
        let plan = match closed {
            Some(plan) => plan,
            None => fuse_scans(state.query_planner().create_physical_plan(&insert.plan, state).await?)?,
        };
        // What fails on a row leaves the row out, as in the job.
        Ok(Self { plan: as_one_where_needed(plan)?, has_open_windows })
    }

    /// Refuses what no later query answers alike.
    pub fn refuse(&self, job: &str) -> anyhow::Result<()> {
        if reads_clock(&self.plan)? {
            bail!("job {job} reads the clock (now(), PROCTIME()), which no later query can answer alike");
        }
        if let Some(name) = volatile_function(&self.plan)? {
            bail!("job {job} calls {name}(), which answers otherwise each time, so no later query can answer alike");
        }
        Ok(())
    }
}

/// Made of the plan that the job itself has, whose columns tell when windows close.
async fn of_closed_windows(
    state: &SessionState,
    insert: &InsertPlan,
    handle: &JobHandle,
    watermark_us: Option<i64>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = fuse_scans(lookup::into_branches(planning::plan(state, &insert.plan).await?)?)?;
    let JobTemplate::Stateful(template) = &*handle.spec.template else {
        return internal_err!("job {} emits when windows close, and has no state", handle.spec.name);
    };
    let sources = &handle.spec.sources;
    let source_of = |scan: &ScanSpec| {
        let found = sources.iter().find(|(_, source)| source.topic == scan.topic && source.connection == scan.connection);
        found.map(|(id, _)| id.0)
    };
    let plan = closed_rows(&template.flow().spec, plan, &source_of, watermark_us)?;
    fuse_scans(DefaultPhysicalPlanner::default().optimize_physical_plan(plan, state, |_, _| {})?)
}

/// Tables that the job looks up are read whole, as they are now.
pub fn with_lookups<'a>(
    plan: Arc<dyn ExecutionPlan>,
    state: &'a SessionState,
    tables: &'a Arc<dyn TableBackend>,
) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
    async move {
        if let Some(scan) = plan.downcast_ref::<LookupScanExec>() {
            let table = KeyedTable::new(tables.clone(), scan.table().clone(), true);
            let columns = scan.columns().to_vec();
            return Ok(as_one(table.scan(state, Some(&columns), &[], None).await?));
        }
        let mut children: Vec<Arc<dyn ExecutionPlan>> = vec![];
        for child in plan.children() {
            children.push(with_lookups(child.clone(), state, tables).await?);
        }
        if children.is_empty() { Ok(plan) } else { replace_children_if_necessary(plan, children) }
    }
    .boxed()
}

/// In one partition, as the leaf of a look-up is planned.
fn as_one(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.output_partitioning().partition_count() {
        0 => Arc::new(EmptyExec::new(plan.schema())),
        1 => plan,
        _ => Arc::new(CoalescePartitionsExec::new(plan)),
    }
}

/// Fused scans have a partition for each of the topic's, also where what stands above them takes only one.
fn as_one_where_needed(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.children().is_empty() {
        return Ok(plan);
    }
    let inputs = plan.children().into_iter().cloned().zip(plan.input_distribution_requirements().into_per_child());
    let inputs = inputs.map(|(input, needed)| {
        let input = as_one_where_needed(input)?;
        let is_apart = input.output_partitioning().partition_count() > 1;
        let input = match needed {
            Distribution::SinglePartition if is_apart => Arc::new(CoalescePartitionsExec::new(input)),
            _ => input,
        };
        Ok(input)
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    replace_children_if_necessary(plan, inputs)
}

fn reads_clock(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply_expressions(&mut |expression| {
        found |= clock::reads_clock(expression);
        Ok(TreeNodeRecursion::Continue)
    })?;
    for child in plan.children() {
        found |= reads_clock(child)?;
    }
    Ok(found)
}

/// A function of the plan that answers the same arguments differently each time, as `random` and `uuid`.
fn volatile_function(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<String>> {
    let mut found = None;
    plan.apply_expressions(&mut |expression| {
        expression.apply(|part| {
            if !part.is_volatile_node() {
                return Ok(TreeNodeRecursion::Continue);
            }
            let call = part.downcast_ref::<ScalarFunctionExpr>();
            found = Some(call.map_or_else(|| part.to_string(), |call| call.fun().name().to_owned()));
            Ok(TreeNodeRecursion::Stop)
        })
    })?;
    for child in plan.children() {
        if found.is_some() {
            break;
        }
        found = volatile_function(child)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn functions_that_answer_otherwise_each_time_are_found_wherever_they_are() {
        let context = SessionContext::new();
        for (columns, expected) in [
            ("a + 1 AS x, 1 AS y", None),
            ("a + 1 AS x, a + random() AS y", Some("random")),
            ("upper(CAST(uuid() AS VARCHAR)) AS x, a AS y", Some("uuid")),
        ] {
            let sql = format!("SELECT x, max(y) FROM (SELECT {columns} FROM (VALUES (1), (2)) AS t(a)) GROUP BY x");
            let plan = context.sql(&sql).await.expect("planned").create_physical_plan().await.expect("planned");
            assert_eq!(volatile_function(&plan).expect("walked").as_deref(), expected, "{columns}");
        }
    }
}
