//! Joins of two inputs by key, by a condition, or by neither; `NOT IN` as anti joins. What bounds the rows that can still meet bounds what is kept.
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::{
    common::{JoinType, NullEquality, Result, not_impl_err},
    physical_expr::expressions::{Column, IsNotNullExpr, IsNullExpr},
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        joins::{HashJoinExec, utils::JoinFilter},
    },
};

use super::{Builder, aggregates::one_zero, times};
use crate::{
    bounds,
    operators::{Join, JoinSpec, Side, Union},
};

impl Builder<'_> {
    pub(super) fn lower_join(
        &mut self,
        (left, right): (&Arc<dyn ExecutionPlan>, &Arc<dyn ExecutionPlan>),
        on: &[(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)],
        filter: Option<JoinFilter>,
        join_type: JoinType,
        nulls: NullEquality,
        (schema, projection, output): (SchemaRef, Option<Vec<usize>>, SchemaRef),
    ) -> Result<usize> {
        let (left, left_columns) = self.join_input(left, on.iter().map(|(left, _)| left.clone()).collect())?;
        let (right, right_columns) = self.join_input(right, on.iter().map(|(_, right)| right.clone()).collect())?;
        let side = |(node, (columns, keys)): (usize, (usize, Vec<usize>))| {
            let schema: SchemaRef = self.nodes[node].schema.clone();
            Side { schema, columns, keys, times: vec![], compared: vec![], whole: self.nodes[node].whole }
        };
        let (mut left_side, mut right_side) = (side((left, left_columns)), side((right, right_columns)));
        let only_come = !self.nodes[left].changing && !self.nodes[right].changing;
        let of_condition = filter.as_ref().map(bounds::of_condition).unwrap_or_default();
        for bound in &of_condition {
            left_side.compared.push(bound.left);
            right_side.compared.push(bound.right);
        }
        let band = filter.as_ref().and_then(|filter| bounds::band(filter, &left_side.schema, &right_side.schema));
        let of_keys = left_side.keys.iter().zip(&right_side.keys).map(|(left, right)| bounds::Bound::equal(*left, *right));
        let bounds: Vec<_> = of_keys.chain(of_condition).collect();
        let [mut left_times, mut right_times] = times::joined(&bounds, [&self.nodes[left].times, &self.nodes[right].times]);
        left_side.times = times::known(&left_times);
        right_side.times = times::known(&right_times);
        for (key, (left, right)) in on.iter().enumerate() {
            times::of_what_is_rounded(left, left_side.keys[key], &mut left_times);
            times::of_what_is_rounded(right, right_side.keys[key], &mut right_times);
        }
        let mut times = times::shown(join_type, &left_times[..left_side.columns], &right_times[..right_side.columns]);
        if let Some(kept) = &projection {
            times = kept.iter().map(|&column| times[column]).collect();
        }
        let (left_keys, right_keys) = (left_side.keys.clone(), right_side.keys.clone());
        let spec = JoinSpec {
            join_type,
            left: left_side,
            right: right_side,
            filter,
            band,
            null_equals_null: nulls == NullEquality::NullEqualsNull,
            schema,
            projection,
            output: output.clone(),
        };
        let left = self.exchange(left, left_keys);
        let right = self.exchange(right, right_keys);
        let changing = !(only_come && spec.appends());
        Ok(self.operator(Join::new(spec), vec![left, right], output, changing, times))
    }

    /// `x NOT IN (SELECT s …)`: no `s` equals `x`, no `s` is NULL, and where `x` is NULL there is no `s` at all. Each is an anti join; the last two by no
    /// key, against one row that stands for all.
    pub(super) fn lower_not_in(&mut self, join: &HashJoinExec) -> Result<usize> {
        let ([(x, s)], JoinType::LeftAnti, None) = (join.on(), join.join_type(), join.filter()) else {
            return not_impl_err!("NOT IN with more than one column or a condition of its own; write NOT EXISTS");
        };
        let (left, (columns, left_keys)) = self.join_input(join.left(), vec![x.clone()])?;
        let (right, (_, right_keys)) = self.join_input(join.right(), vec![s.clone()])?;
        let (left_schema, right_schema) = (self.nodes[left].schema.clone(), self.nodes[right].schema.clone());
        let column =
            |schema: &SchemaRef, index: usize| Arc::new(Column::new(schema.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
        let (x, s) = (column(&left_schema, left_keys[0]), column(&right_schema, right_keys[0]));
        let nothing = Arc::new(Schema::empty());
        let right_may_be_null = right_schema.field(right_keys[0]).is_nullable();

        let mut node = self.anti(left, left_keys.clone(), right, right_keys);
        if right_may_be_null {
            let nulls = self.filter(right, Arc::new(IsNullExpr::new(s)));
            let nulls = self.project(nulls, vec![], nothing.clone());
            node = self.anti(node, vec![], nulls, vec![]);
        }
        if left_schema.field(left_keys[0]).is_nullable() {
            let any = self.project(right, vec![], nothing);
            let unknown = self.filter(node, Arc::new(IsNullExpr::new(x.clone())));
            let unknown = self.anti(unknown, vec![], any, vec![]);
            let known = self.filter(node, Arc::new(IsNotNullExpr::new(x)));
            let times = self.nodes[node].times.clone();
            let changing = self.nodes[known].changing || self.nodes[unknown].changing;
            node = self.operator(Union { schema: left_schema.clone() }, vec![known, unknown], left_schema.clone(), changing, times);
        }
        let kept: Vec<usize> = match join.projection.as_ref() {
            Some(kept) => kept.to_vec(),
            None => (0..columns).collect(),
        };
        let is_all = kept.len() == left_schema.fields().len() && kept.iter().enumerate().all(|(place, column)| place == *column);
        Ok(if is_all { node } else { self.keep_columns(node, &kept, join.schema()) })
    }

    /// The left rows that have no right row of their key.
    fn anti(&mut self, left: usize, left_keys: Vec<usize>, right: usize, right_keys: Vec<usize>) -> usize {
        let side = |node: usize, keys: &[usize]| {
            let schema: SchemaRef = self.nodes[node].schema.clone();
            let (columns, whole) = (schema.fields().len(), self.nodes[node].whole);
            Side { columns, schema, keys: keys.to_vec(), times: vec![], compared: vec![], whole }
        };
        let output = self.nodes[left].schema.clone();
        let spec = JoinSpec {
            join_type: JoinType::LeftAnti,
            left: side(left, &left_keys),
            right: side(right, &right_keys),
            filter: None,
            band: None,
            null_equals_null: false,
            schema: output.clone(),
            projection: None,
            output: output.clone(),
        };
        let times = vec![None; output.fields().len()];
        let left = self.exchange(left, left_keys);
        let right = self.exchange(right, right_keys);
        let changing = self.nodes[left].changing || self.nodes[right].changing || !spec.appends();
        self.operator(Join::new(spec), vec![left, right], output, changing, times)
    }

    fn join_input(
        &mut self,
        plan: &Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<(usize, (usize, Vec<usize>))> {
        let node = self.lower(plan)?;
        let schema = self.nodes[node].schema.clone();
        let keys = keys.into_iter().map(|key| one_zero(key, &schema)).collect::<Result<Vec<_>>>()?;
        let (node, keys) = self.with_columns(node, &keys)?;
        Ok((node, (schema.fields().len(), keys)))
    }
}
