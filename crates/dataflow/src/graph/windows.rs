//! Window functions, over rows that are brought together by partition and sorted.
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{DataFusionError, Result},
    physical_expr::{PhysicalSortExpr, window::WindowExpr},
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};

use super::{Builder, aggregates::check_order, times};
use crate::operators::{Appends, Resuming, SortedRows, Window};

impl Builder<'_> {
    pub(super) fn lower_window(
        &mut self,
        input: &Arc<dyn ExecutionPlan>,
        expressions: &[Arc<dyn WindowExpr>],
        output: SchemaRef,
    ) -> Result<usize> {
        for (expression, column) in expressions.iter().zip(&output.fields()[input.schema().fields().len()..]) {
            let name = expression.name().to_lowercase();
            check_order(name.split('(').next().unwrap_or_default().trim(), column.data_type())?;
            // What DataFusion refuses to make now it refuses in every epoch.
            expression.create_window_fn().map_err(|error| slides_not(expression.as_ref(), error))?;
        }
        let node = self.lower(input)?;
        let node = self.guarded(node, expressions.iter().flat_map(|expression| expression.expressions()));
        let (rows, node) = self.sorted(node, expressions[0].partition_by(), expressions[0].order_by())?;
        let session = times::session(expressions, &self.nodes[node].times, self.lateness.as_ref());
        self.spans_windows |= session.is_none() && rows.times.is_empty();
        let mut times = self.partition_times(node, &rows, expressions[0].partition_by(), output.fields().len());
        if let Some(session) = &session {
            times[rows.columns + session.end] = Some(session.time);
        }
        let resuming = Resuming::of(expressions, &rows);
        let appends = if resuming.is_some() { None } else { Appends::of(expressions, &rows.schema) };
        let window = Window { rows, expressions: expressions.to_vec(), session, appends, resuming, output: output.clone() };
        Ok(self.operator(window, vec![node], output, true, times))
    }

    /// An input with its rows brought together by partition.
    pub(super) fn sorted(
        &mut self,
        input: usize,
        partition: &[Arc<dyn PhysicalExpr>],
        order: &[PhysicalSortExpr],
    ) -> Result<(SortedRows, usize)> {
        let columns = self.nodes[input].schema.fields().len();
        let keys: Vec<_> = partition.iter().cloned().chain(order.iter().map(|sort| sort.expr.clone())).collect();
        let (node, indexes) = self.with_columns(input, &keys)?;
        let (partition, sorted) = indexes.split_at(partition.len());
        let order = sorted.iter().zip(order).map(|(column, sort)| (*column, sort.options)).collect();
        let time = |&column: &usize| Some((column, self.nodes[node].times[column]?));
        let times = partition.iter().filter_map(time).collect();
        let rows = SortedRows { schema: self.nodes[node].schema.clone(), columns, partition: partition.to_vec(), order, times };
        Ok((rows, self.exchange(node, partition.to_vec())))
    }
}

/// In our words, where an aggregate cannot take back what leaves its frame.
fn slides_not(expression: &dyn WindowExpr, error: DataFusionError) -> DataFusionError {
    match &error {
        DataFusionError::NotImplemented(message) if message.contains("`retract_batch`") => {
            DataFusionError::NotImplemented(format!(
                "{} is not supported over a frame that slides; let the frame begin with UNBOUNDED PRECEDING, or group a join of the rows with those of their frames",
                expression.name()
            ))
        }
        _ => error,
    }
}

pub(crate) fn windows_of(plan: &Arc<dyn ExecutionPlan>) -> Option<(&Arc<dyn ExecutionPlan>, &[Arc<dyn WindowExpr>])> {
    if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        return Some((window.input(), window.window_expr()));
    }
    plan.downcast_ref::<BoundedWindowAggExec>().map(|window| (window.input(), window.window_expr()))
}
