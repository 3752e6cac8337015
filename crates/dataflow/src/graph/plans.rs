//! Each of DataFusion's plans as nodes: which nodes are for which plan, and those of the plans that are one operator. A plan that has no incremental
//! operator is refused by its name.
use std::sync::Arc;

use arrow::{array::new_null_array, datatypes::SchemaRef};
use datafusion::{
    common::{JoinType, NullEquality, Result, not_impl_err},
    physical_plan::{
        ExecutionPlan,
        aggregates::AggregateExec,
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        empty::EmptyExec,
        filter::FilterExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
        limit::{GlobalLimitExec, LocalLimitExec},
        placeholder_row::PlaceholderRowExec,
        projection::ProjectionExec,
        repartition::RepartitionExec,
        sorts::sort::SortExec,
        union::UnionExec,
        unnest::UnnestExec,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};

use super::Builder;
use crate::{
    delta::batch_of,
    operators::{Constant, Union, Unnest},
};

impl Builder<'_> {
    pub(super) fn lower(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
        if let Some(leaf) = (self.find_source)(plan) {
            return Ok(self.source(leaf, plan.schema()));
        }
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            let input = self.lower(projection.input())?;
            let expressions = projection.expr().iter().map(|item| item.expr.clone()).collect();
            return Ok(self.project(input, expressions, plan.schema()));
        }
        if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            return self.lower_filter(filter);
        }
        if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
            return self.lower_aggregate(aggregate);
        }
        if let Some(union) = plan.downcast_ref::<UnionExec>() {
            return self.lower_union(union, plan.schema());
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            if join.null_aware {
                return self.lower_not_in(join);
            }
            let projection = join.projection.as_ref().map(|kept| kept.to_vec());
            let on = join.on().to_vec();
            let nulls = join.null_equality();
            return self.lower_join(
                (join.left(), join.right()),
                &on,
                join.filter().cloned(),
                *join.join_type(),
                nulls,
                (join.join_schema().clone(), projection, plan.schema()),
            );
        }
        if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
            let schema = plan.schema();
            let (on, filter, kind, nulls) = (join.on().to_vec(), join.filter().clone(), join.join_type(), join.null_equality());
            return self.lower_join((join.left(), join.right()), &on, filter, kind, nulls, (schema.clone(), None, schema));
        }
        if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let projection = join.projection().as_ref().map(|kept| kept.to_vec());
            let nothing = NullEquality::NullEqualsNothing;
            let schema = (plan.schema(), projection, plan.schema());
            return self.lower_join((join.left(), join.right()), &[], join.filter().cloned(), *join.join_type(), nothing, schema);
        }
        if let Some(join) = plan.downcast_ref::<CrossJoinExec>() {
            let schema = (plan.schema(), None, plan.schema());
            let nothing = NullEquality::NullEqualsNothing;
            return self.lower_join((join.left(), join.right()), &[], None, JoinType::Inner, nothing, schema);
        }
        if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
            return self.lower_window(window.input(), window.window_expr(), plan.schema());
        }
        if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
            return self.lower_window(window.input(), window.window_expr(), plan.schema());
        }
        if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
            let fetch = limit.fetch().unwrap_or(usize::MAX);
            return self.lower_limit(limit.input(), limit.skip(), fetch);
        }
        if let Some(limit) = plan.downcast_ref::<LocalLimitExec>() {
            return self.lower_limit(limit.input(), 0, limit.fetch());
        }
        if let Some(sort) = plan.downcast_ref::<SortExec>() {
            return match sort.fetch() {
                Some(fetch) => self.lower_top(sort, 0, fetch),
                // Rows of a table have no order.
                None => self.lower(sort.input()),
            };
        }
        if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
            return self.lower_unnest(unnest, plan.schema());
        }
        if plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>() {
            let schema = plan.schema();
            let rows = usize::from(plan.is::<PlaceholderRowExec>());
            let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), rows)).collect();
            let times = vec![None; schema.fields().len()];
            return Ok(self.operator(Constant { rows: batch_of(schema.clone(), columns, rows)? }, vec![], schema, false, times));
        }
        match plan.children().as_slice() {
            [child] if plan.is::<CoalescePartitionsExec>() || plan.is::<CooperativeExec>() || plan.is::<RepartitionExec>() => {
                self.lower(child)
            }
            _ => not_impl_err!("{} is not supported in a streaming job", plan.name()),
        }
    }

    fn lower_filter(&mut self, filter: &FilterExec) -> Result<usize> {
        let node = match self.lower_numbered(filter)? {
            Some(node) => node,
            None => {
                let input = self.lower(filter.input())?;
                self.filter(input, filter.predicate().clone())
            }
        };
        self.filtered_columns(node, filter)
    }

    pub(super) fn filtered_columns(&mut self, node: usize, filter: &FilterExec) -> Result<usize> {
        let Some(kept) = filter.projection().as_ref() else { return Ok(node) };
        let schema = Arc::new(filter.input().schema().project(kept)?);
        Ok(self.keep_columns(node, kept, schema))
    }

    fn lower_union(&mut self, union: &UnionExec, schema: SchemaRef) -> Result<usize> {
        let inputs = union.inputs().iter().map(|input| self.lower(input)).collect::<Result<Vec<_>>>()?;
        let changing = inputs.iter().any(|&input| self.nodes[input].changing);
        let mut times = self.nodes[inputs[0]].times.clone();
        for &input in &inputs[1..] {
            for (known, other) in times.iter_mut().zip(&self.nodes[input].times) {
                *known = known.zip(*other).map(|(known, other)| known.or(other));
            }
        }
        Ok(self.operator(Union { schema: schema.clone() }, inputs, schema, changing, times))
    }

    fn lower_unnest(&mut self, unnest: &UnnestExec, schema: SchemaRef) -> Result<usize> {
        let input = self.lower(unnest.input())?;
        let changing = self.nodes[input].changing;
        let operator = Unnest::of(unnest);
        let times = operator.times(self.nodes[input].times.clone());
        Ok(self.operator(operator, vec![input], schema, changing, times))
    }
}
