//! EMIT ON WINDOW CLOSE: every aggregate by windows of an INSERT emits a group once, when its window closes, so that what joins, ranks or aggregates those
//! has little to do. Where rows change all the same, as those of an outer join do, they are held back until they no longer do.
//!
//! Where windows change after they came out, as late rows are allowed, nothing below can do so once: all is computed with every change, and the same operator holds
//! back what is of open windows.
//!
//! What is above such an aggregate tells of no row that it is final before the aggregate does: its times are made of the aggregate's, of rows that meet
//! others the later. And what ends as the watermark moves is still there for what comes in that epoch ([`polybolos_state::JobState::begin`]).
use std::sync::Arc;

use datafusion::{
    common::{Result, not_impl_err},
    physical_plan::{
        ExecutionPlan, coalesce_partitions::CoalescePartitionsExec, coop::CooperativeExec, filter::FilterExec,
        projection::ProjectionExec, repartition::RepartitionExec,
    },
};

use super::{Builder, Emit, times, windows_of};
use crate::operators::OnClose;

impl Builder<'_> {
    /// Lowers an INSERT's plan, whose rows come out as `self.emit` says.
    pub(super) fn lower_closing(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
        if self.emit == Emit::OnUpdate {
            return self.lower(plan);
        }
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            let input = self.lower_closing(projection.input())?;
            let expressions = projection.expr().iter().map(|item| item.expr.clone()).collect();
            return Ok(self.project(input, expressions, plan.schema()));
        }
        if let Some(filter) = plan.downcast_ref::<FilterExec>().filter(|filter| windows_of(filter.input()).is_none()) {
            let input = self.lower_closing(filter.input())?;
            let node = self.filter(input, filter.predicate().clone());
            return self.filtered_columns(node, filter);
        }
        if plan.is::<CoalescePartitionsExec>() || plan.is::<CooperativeExec>() || plan.is::<RepartitionExec>() {
            return self.lower_closing(plan.children()[0]);
        }
        let node = self.lower(plan)?;
        self.held_back(node)
    }

    fn held_back(&mut self, node: usize) -> Result<usize> {
        if !self.nodes[node].changing {
            return Ok(node);
        }
        let ahead_us = match self.emit {
            Emit::OnWindowCloseThenUpdate { ahead_us } => ahead_us,
            Emit::OnUpdate | Emit::OnWindowClose => 0,
        };
        let times = times::known(&self.nodes[node].times);
        if times.is_empty() {
            let or = if ahead_us > 0 { " or 'allowed_lateness'" } else { "" };
            return not_impl_err!(
                "EMIT ON WINDOW CLOSE needs rows that tell when they change no more, and this query takes some back that do not; select the window's bounds too, or leave EMIT{or} out"
            );
        }
        let schema = self.nodes[node].schema.clone();
        let columns = (0..schema.fields().len()).collect();
        let node = self.exchange(node, columns);
        let width = schema.fields().len();
        let on_close = OnClose { schema: schema.clone(), times, ahead_us };
        Ok(self.operator(on_close, vec![node], schema, ahead_us > 0, vec![None; width]))
    }
}
