//! Physical plans as the lowering wants them: DataFusion's first plan, before rules that suit one run over tables.
use std::sync::Arc;

use datafusion::{
    common::Result,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::LogicalPlan,
    physical_plan::ExecutionPlan,
    physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner},
};

/// Plans an optimised logical plan for one partition, without DataFusion's physical optimiser.
pub async fn plan(session: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let mut config = session.config().clone().with_target_partitions(1);
    config.options_mut().optimizer.prefer_hash_join = true;
    // `a IS NOT FALSE` is never NULL as written, and may be so as computed, where `a` may be NULL; DataFusion takes that for an error.
    config.options_mut().execution.skip_physical_aggregate_schema_check = true;
    let mut state =
        SessionStateBuilder::new_from_existing(session.clone()).with_config(config).with_physical_optimizer_rules(vec![]).build();
    // Functions see the session's settings, the epoch's clock among them.
    state.mark_start_execution();
    DefaultPhysicalPlanner::default().create_physical_plan(plan, &state).await
}
