//! Aggregates: what is grouped and by what, grouping sets among it, and what is computed of each group.
use std::sync::Arc;

use arrow::{
    array::{ArrayRef, new_null_array},
    datatypes::{DataType, Schema, SchemaRef},
};
use datafusion::{
    common::{Result, ScalarValue, not_impl_err},
    physical_expr::{
        aggregate::AggregateExprBuilder,
        expressions::{BinaryExpr, lit},
    },
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy, aggregate_expressions, evaluate_group_by},
    },
};

use super::{Builder, Emit};
use crate::{
    delta::batch_of,
    event_time,
    operators::{Aggregate, Call, ChangingAggregate, Expand, Grouping},
};

impl Builder<'_> {
    pub(super) fn lower_aggregate(&mut self, aggregate: &AggregateExec) -> Result<usize> {
        // What is grouped and how is said by the first phase; the last phase has the output's columns.
        let output = aggregate.schema();
        let mut first = aggregate;
        let mut below = aggregate.input();
        while !matches!(first.mode(), AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned) {
            let Some(next) = below.downcast_ref::<AggregateExec>() else {
                match below.children().as_slice() {
                    [child] => below = child,
                    _ => return not_impl_err!("an aggregate in phases of another shape"),
                }
                continue;
            };
            first = next;
            below = next.input();
        }
        let input = self.lower(below)?;
        let group_by = with_one_zero(first.group_expr(), &self.nodes[input].schema)?;
        let keys: Vec<_> = group_by.expr().iter().map(|(expression, _)| expression.clone()).collect();
        let groups = output.fields().len() - first.aggr_expr().len();
        let mut standing = vec![];
        let (node, columns) = if keys.is_empty() {
            standing.push(vec![]);
            (input, vec![])
        } else if group_by.is_single() {
            self.with_columns(input, &keys)?
        } else {
            standing = standing_groups(&group_by, &self.nodes[input].schema)?;
            let input = self.guarded(input, keys.into_iter());
            self.expand(input, group_by, &output, groups)?
        };
        let schema = self.nodes[node].schema.clone();
        let arguments = aggregate_expressions(first.aggr_expr(), &AggregateMode::Partial, 0)?;
        let mut calls = vec![];
        for ((function, arguments), filter) in first.aggr_expr().iter().zip(arguments).zip(first.filter_expr()) {
            if function.fun().name() == "nth_value" {
                return not_impl_err!("nth_value(…) of a group is not supported; write array_agg(x ORDER BY y)[n]");
            }
            check_order(function.fun().name(), function.field().data_type())?;
            let distinct = function.is_distinct()
                && matches!(function.fun().name(), "count" | "sum" | "avg")
                && function.order_bys().is_empty();
            let function = if distinct {
                let plain = AggregateExprBuilder::new(Arc::new(function.fun().clone()), function.expressions())
                    .schema(below.schema())
                    .alias(function.name());
                Arc::new(plain.build()?)
            } else {
                function.clone()
            };
            let arguments = match distinct {
                true => arguments.into_iter().map(|argument| one_zero(argument, &schema)).collect::<Result<_>>()?,
                false => arguments,
            };
            let types = arguments.iter().map(|argument| argument.data_type(&schema)).collect::<Result<_>>()?;
            calls.push(Call { function, arguments, types, filter: filter.clone(), distinct });
        }
        // What an aggregate would fail on as a whole is set aside row by row in front of it.
        let evaluated = calls.iter().flat_map(|call| call.arguments.iter().chain(&call.filter));
        let node = self.guarded(node, evaluated.cloned());
        let times: Vec<_> = columns
            .iter()
            .enumerate()
            .filter_map(|(index, &column)| Some((index, self.nodes[node].times.get(column).copied().flatten()?)))
            .collect();
        let changing = self.nodes[node].changing;
        let emit_on_close = self.emit == Emit::OnWindowClose && !times.is_empty() && !changing;
        let grouping =
            Grouping { columns: columns.clone(), calls, input: schema, output: output.clone(), times, standing, emit_on_close };
        let out_times = columns
            .iter()
            .map(|&column| self.nodes[node].times.get(column).copied().flatten())
            .chain(first.aggr_expr().iter().map(|_| None))
            .collect();
        let node = self.exchange(node, columns);
        if changing {
            return Ok(self.operator(ChangingAggregate::try_new(grouping)?, vec![node], output, true, out_times));
        }
        Ok(self.operator(Aggregate::try_new(grouping)?, vec![node], output, !emit_on_close, out_times))
    }

    /// Appends the group's columns, once per grouping set.
    fn expand(
        &mut self,
        input: usize,
        group_by: PhysicalGroupBy,
        output: &SchemaRef,
        groups: usize,
    ) -> Result<(usize, Vec<usize>)> {
        let from = self.nodes[input].schema.clone();
        let keys = output.fields().iter().take(groups).map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
        let schema = Arc::new(Schema::new(from.fields().iter().cloned().chain(keys).collect::<Vec<_>>()));
        let changing = self.nodes[input].changing;
        // Where a grouping set hides the time, its groups never close.
        let before = &self.nodes[input].times;
        let time = |key: usize| {
            let (expression, _) = group_by.expr().get(key)?;
            let is_in_all = group_by.groups().iter().all(|hidden| !hidden[key]);
            event_time::of_expression(expression, before, self.lateness.as_ref()).filter(|_| is_in_all)
        };
        let times = before.iter().copied().chain((0..groups).map(time)).collect();
        let expand = Expand { group_by, schema: schema.clone() };
        let node = self.operator(expand, vec![input], schema, changing, times);
        let start = from.fields().len();
        Ok((node, (start..start + groups).collect()))
    }
}

/// DataFusion plans the least of what has no order, and fails on the first row.
pub(super) fn check_order(function: &str, data_type: &DataType) -> Result<()> {
    if matches!(function, "min" | "max") && matches!(data_type, DataType::Map(..) | DataType::Union(..)) {
        return not_impl_err!("{function}(…) of a MAP is not supported, as maps have no order; write {function}(m['key'])");
    }
    Ok(())
}

/// An expression whose floats are never -0.0, which is a key of its own as bytes, and 0.0 to DataFusion's groups and joins.
pub(super) fn one_zero(expression: Arc<dyn PhysicalExpr>, input: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let data_type = expression.data_type(input)?;
    if !data_type.is_floating() {
        return Ok(expression);
    }
    let zero = lit(ScalarValue::new_zero(&data_type)?);
    Ok(Arc::new(BinaryExpr::new(expression, datafusion::logical_expr::Operator::Plus, zero)))
}

fn with_one_zero(group_by: &PhysicalGroupBy, input: &Schema) -> Result<PhysicalGroupBy> {
    let keys = group_by.expr().iter().map(|(expression, name)| Ok((one_zero(expression.clone(), input)?, name.clone())));
    let keys = keys.collect::<Result<_>>()?;
    Ok(PhysicalGroupBy::new(keys, group_by.null_expr().to_vec(), group_by.groups().to_vec(), group_by.has_grouping_set()))
}

/// The columns of the groups that empty grouping sets make, which are there even over nothing.
fn standing_groups(group_by: &PhysicalGroupBy, input: &SchemaRef) -> Result<Vec<Vec<ArrayRef>>> {
    let nullable = input.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let nulls = input.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let row = batch_of(Arc::new(Schema::new(nullable)), nulls, 1)?;
    let groups = evaluate_group_by(group_by, &row)?;
    Ok(groups
        .into_iter()
        .zip(group_by.groups())
        .filter(|(_, hidden)| hidden.iter().all(|hidden| *hidden))
        .map(|(group, _)| group)
        .collect())
}
