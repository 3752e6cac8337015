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
        ExecutionPlan,
        aggregates::{AggregateExec, AggregateMode},
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        filter::FilterExec,
        projection::ProjectionExec,
        repartition::RepartitionExec,
        replace_children_if_necessary,
    },
};

use super::{Builder, Emit, FindSource, SinkPlan, times, windows_of};
use crate::{
    event_time::{Lateness, TimeColumn, has_closed},
    operators::OnClose,
};

/// What an INSERT's dataflow has given by the watermark, as the plan of a query over all rows that came: rows of windows that are open then are left out
/// wherever the dataflow holds them back. The plan is one as [`super::Graph::lower`] takes it.
///
/// # Errors
/// When it cannot be lowered.
pub fn closed_rows(
    sink: &SinkPlan<Arc<dyn ExecutionPlan>>,
    find_source: &FindSource<'_>,
    lateness: Option<&Lateness>,
    watermark_us: Option<i64>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut builder = Builder::new(find_source, lateness);
    builder.emit = sink.emit;
    builder.closed_rows(&sink.plan, watermark_us)
}

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
        let times = self.closing_times(node)?;
        let ahead_us = self.ahead_us();
        let schema = self.nodes[node].schema.clone();
        let columns = (0..schema.fields().len()).collect();
        let node = self.exchange(node, columns);
        let width = schema.fields().len();
        let on_close = OnClose { schema: schema.clone(), times, ahead_us };
        Ok(self.operator(on_close, vec![node], schema, ahead_us > 0, vec![None; width]))
    }

    /// So long before its state is dropped a window comes out.
    fn ahead_us(&self) -> i64 {
        match self.emit {
            Emit::OnWindowCloseThenUpdate { ahead_us } => ahead_us,
            Emit::OnUpdate | Emit::OnWindowClose => 0,
        }
    }

    /// Columns that tell when rows that are held back change no more.
    fn closing_times(&self, node: usize) -> Result<Vec<(usize, TimeColumn)>> {
        let times = times::known(&self.nodes[node].times);
        if times.is_empty() {
            let or = if self.ahead_us() > 0 { " or 'allowed_lateness'" } else { "" };
            if self.spans_windows {
                return not_impl_err!(
                    "EMIT ON WINDOW CLOSE needs rows that change no more when a window closes, and what ROW_NUMBER, LIMIT or another function OVER says across windows changes whenever a row comes between others; put the window's bounds among PARTITION BY, or leave EMIT{or} out and write to a table that takes rows back"
                );
            }
            return not_impl_err!(
                "EMIT ON WINDOW CLOSE needs rows that tell when they change no more, and this query takes some back that do not; select the window's bounds too, or leave EMIT{or} out"
            );
        }
        Ok(times)
    }

    /// As [`Self::lower_closing`] goes through a plan.
    fn closed_rows(&mut self, plan: &Arc<dyn ExecutionPlan>, watermark_us: Option<i64>) -> Result<Arc<dyn ExecutionPlan>> {
        if self.emit == Emit::OnUpdate {
            return Ok(plan.clone());
        }
        let is_plain_filter = plan.downcast_ref::<FilterExec>().is_some_and(|filter| windows_of(filter.input()).is_none());
        let is_passed = plan.is::<ProjectionExec>()
            || plan.is::<CoalescePartitionsExec>()
            || plan.is::<CooperativeExec>()
            || plan.is::<RepartitionExec>();
        if is_plain_filter || is_passed {
            let input = self.closed_rows(plan.children()[0], watermark_us)?;
            return replace_children_if_necessary(plan.clone(), vec![input]);
        }
        let node = self.lower(plan)?;
        let rows = self.closed_groups(plan, false, watermark_us)?;
        if !self.nodes[node].changing {
            return Ok(rows);
        }
        let ahead_us = self.ahead_us();
        let times: Vec<_> = self.closing_times(node)?.into_iter().map(|(column, time)| (column, time.earlier(ahead_us))).collect();
        only_closed(rows, &times, watermark_us)
    }

    /// The plan without groups of open windows, where an aggregate emits a group once. `is_phase`: it is part of an aggregate above.
    fn closed_groups(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        is_phase: bool,
        watermark_us: Option<i64>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if (self.find_source)(plan).is_some() {
            return Ok(plan.clone());
        }
        let aggregate = plan.downcast_ref::<AggregateExec>();
        let is_first = |mode: &AggregateMode| {
            matches!(mode, AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned)
        };
        let has_phase = aggregate.map_or(is_phase, |aggregate| !is_first(aggregate.mode()));
        let mut children = vec![];
        for child in plan.children() {
            children.push(self.closed_groups(child, has_phase, watermark_us)?);
        }
        let rows = if children.is_empty() { plan.clone() } else { replace_children_if_necessary(plan.clone(), children)? };
        if aggregate.is_none() || is_phase {
            return Ok(rows);
        }
        let node = self.lower(plan)?;
        if self.nodes[node].changing {
            return Ok(rows);
        }
        only_closed(rows, &times::known(&self.nodes[node].times), watermark_us)
    }
}

fn only_closed(
    rows: Arc<dyn ExecutionPlan>,
    times: &[(usize, TimeColumn)],
    watermark_us: Option<i64>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let is_closed = has_closed(times, &rows.schema(), watermark_us)?;
    Ok(Arc::new(FilterExec::try_new(is_closed, rows)?))
}
