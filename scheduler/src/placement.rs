//! Where tasks run: an epoch's part on the executor that has its records read ahead. Ballista's slot accounting drifts when stages roll
//! back, so our tasks take no slots; executors have no admission of their own.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ballista_core::{
    JobId,
    serde::protobuf::{AvailableVcores, job_status},
};
use ballista_scheduler::{
    cluster::{BoundTask, DistributionPolicy},
    state::{
        execution_graph::{TaskDescription, create_task_info},
        execution_stage::RunningStage,
        task_manager::JobInfoCache,
    },
};
use datafusion::{
    common::Result,
    physical_plan::{ExecutionPlan, ExecutionPlanProperties},
};
use parking_lot::Mutex;
use polybolos_streaming::ids::ExecutorId;

/// The executor of each partition of a query, by the query's name. Filled before the query is submitted.
#[derive(Debug, Default)]
pub struct Placements {
    wanted: Mutex<HashMap<String, Arc<Vec<ExecutorId>>>>,
}

impl Placements {
    pub fn place(&self, query: &str, executors: Vec<ExecutorId>) {
        self.wanted.lock().insert(query.to_owned(), Arc::new(executors));
    }

    pub fn forget(&self, query: &str) {
        self.wanted.lock().remove(query);
    }

    fn of(&self, query: &str) -> Option<Arc<Vec<ExecutorId>>> {
        self.wanted.lock().get(query).cloned()
    }
}

#[derive(Debug)]
pub struct DataLocality {
    placements: Arc<Placements>,
}

impl DataLocality {
    pub fn new(placements: Arc<Placements>) -> Self {
        Self { placements }
    }
}

#[async_trait::async_trait]
impl DistributionPolicy for DataLocality {
    async fn bind_tasks(
        &self,
        budgets: Vec<&mut AvailableVcores>,
        running_jobs: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> Result<Vec<BoundTask>> {
        let mut alive: Vec<String> = budgets.iter().map(|budget| budget.executor_id.clone()).collect();
        alive.sort_unstable();
        let mut bound = vec![];
        if alive.is_empty() {
            return Ok(bound);
        }
        for (job_id, job) in running_jobs.iter() {
            if !matches!(job.status, Some(job_status::Status::Running(_))) {
                continue;
            }
            let mut graph = job.execution_graph.write().await;
            let session_id = graph.session_id().to_owned();
            let wanted = self.placements.of(graph.job_name());
            let mut seen = vec![];
            while let Some(stage) = graph.fetch_running_stage(&seen) {
                seen.push(stage.stage_id);
                for (executor, partitions) in spread(stage, &alive, wanted.as_deref().map(Vec::as_slice)) {
                    bound.push((executor.clone(), bind(stage, &session_id, job_id, executor, partitions)));
                }
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "polybolos-data-locality"
    }
}

/// Takes all pending partitions of a stage and gives each to an executor: where it is wanted if that lives, else in turn.
fn spread(stage: &mut RunningStage, alive: &[String], wanted: Option<&[ExecutorId]>) -> BTreeMap<String, Vec<usize>> {
    let pending = stage.pending.next_slice(usize::MAX);
    let mut shares: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    if pending.is_empty() {
        return shares;
    }
    if collapses(&stage.plan) {
        // A stage that merges its input into one partition must see all of it in one task. One that has no more than one goes where it is wanted.
        let only = wanted.filter(|wanted| wanted.len() == 1 && pending.len() == 1).and_then(|wanted| wanted.first());
        let executor = only.map(|executor| &executor.0).filter(|executor| alive.contains(executor));
        shares.insert(executor.unwrap_or(&alive[stage.stage_id % alive.len()]).clone(), pending);
        return shares;
    }
    for partition in pending {
        let preferred = wanted.and_then(|wanted| wanted.get(partition)).filter(|executor| alive.contains(&executor.0));
        let executor = preferred.map_or_else(|| alive[partition % alive.len()].clone(), |executor| executor.0.clone());
        shares.entry(executor).or_default().push(partition);
    }
    shares
}

/// Whether a chain of single-child nodes below the root comes down to one partition before a stage boundary (a leaf).
fn collapses(root: &Arc<dyn ExecutionPlan>) -> bool {
    let mut node = root.clone();
    let mut below_root = false;
    loop {
        let children = node.children();
        if children.is_empty() {
            return false;
        }
        if below_root && node.output_partitioning().partition_count() == 1 {
            return true;
        }
        let [child] = children.as_slice() else { return false };
        let child = Arc::clone(child);
        node = child;
        below_root = true;
    }
}

fn bind(stage: &mut RunningStage, session_id: &str, job_id: &JobId, executor: String, partitions: Vec<usize>) -> TaskDescription {
    let task_id = stage.task_infos.len();
    let task_attempt = partitions.iter().map(|&partition| stage.task_failure_numbers[partition]).max().unwrap_or(0);
    let mut info = create_task_info(executor, task_id);
    info.global_input_partition_ids = partitions.clone();
    info.vcores_consumed = 0;
    stage.task_infos.push(info);
    TaskDescription {
        session_id: session_id.to_owned(),
        key: ballista_core::serde::scheduler::TaskKey { job_id: job_id.clone(), stage_id: stage.stage_id, task_id },
        stage_attempt_num: stage.stage_attempt_num,
        task_attempt,
        global_input_partition_ids: partitions,
        vcores_consumed: 0,
        plan: stage.plan.clone(),
        session_config: stage.session_config.clone(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::datatypes::Schema,
        physical_plan::{coalesce_partitions::CoalescePartitionsExec, placeholder_row::PlaceholderRowExec},
        prelude::SessionConfig,
    };

    use super::*;

    fn rows(partitions: usize) -> Arc<dyn ExecutionPlan> {
        Arc::new(PlaceholderRowExec::new(Arc::new(Schema::empty())).with_partitions(partitions))
    }

    fn stage(plan: Arc<dyn ExecutionPlan>, partitions: usize) -> RunningStage {
        RunningStage::new(7, 0, plan, partitions, vec![], HashMap::new(), Arc::new(SessionConfig::new()))
    }

    fn executors(names: &[&str]) -> Vec<ExecutorId> {
        names.iter().map(|name| ExecutorId::new(*name)).collect()
    }

    fn shares(shares: &[(&str, &[usize])]) -> BTreeMap<String, Vec<usize>> {
        shares.iter().map(|(executor, partitions)| ((*executor).to_owned(), partitions.to_vec())).collect()
    }

    /// Partitions that are taken from a stage and not bound would never be computed, and the attempt never end.
    #[test]
    fn every_partition_that_is_taken_is_bound_to_a_task() {
        let alive = ["a".to_owned(), "b".to_owned()];
        let mut stage = stage(rows(5), 5);
        let wanted = executors(&["b", "gone", "a"]);
        let spread_out = spread(&mut stage, &alive, Some(&wanted));
        // Where it is wanted; else, or where that is gone, in turn.
        assert_eq!(spread_out, shares(&[("a", &[2, 4]), ("b", &[0, 1, 3])]));
        assert!(stage.pending.is_empty());
        let job = JobId::new("job");
        let tasks: Vec<TaskDescription> =
            spread_out.into_iter().map(|(executor, partitions)| bind(&mut stage, "session", &job, executor, partitions)).collect();
        let mut bound: Vec<usize> = tasks.iter().flat_map(|task| task.global_input_partition_ids.clone()).collect();
        bound.sort_unstable();
        assert_eq!(bound, [0, 1, 2, 3, 4]);
        assert_eq!(tasks.iter().map(|task| task.key.task_id).collect::<Vec<_>>(), [0, 1]);
        // By these Ballista gives a task's partitions back when it fails.
        let noted: Vec<_> = stage.task_infos.iter().map(|info| info.global_input_partition_ids.clone()).collect();
        assert_eq!(noted, [vec![2, 4], vec![0, 1, 3]]);
        assert!(
            tasks.iter().all(|task| task.vcores_consumed == 0) && stage.task_infos.iter().all(|info| info.vcores_consumed == 0)
        );

        // What came back is bound again, and nothing else.
        stage.pending.reschedule([1]);
        assert_eq!(spread(&mut stage, &alive[..1], Some(&wanted)), shares(&[("a", &[1])]));
        assert_eq!(spread(&mut stage, &alive, Some(&wanted)), shares(&[]));
    }

    #[test]
    fn a_stage_that_merges_its_input_is_one_task() {
        let alive = ["a".to_owned(), "b".to_owned()];
        let merging = |partitions| {
            let merged = Arc::new(CoalescePartitionsExec::new(rows(partitions)));
            stage(Arc::new(CoalescePartitionsExec::new(merged)), partitions)
        };
        assert_eq!(spread(&mut merging(3), &alive, Some(&executors(&["a", "a", "a"]))), shares(&[("b", &[0, 1, 2])]));
        assert_eq!(spread(&mut merging(1), &alive, Some(&executors(&["a"]))), shares(&[("a", &[0])]));
    }
}
