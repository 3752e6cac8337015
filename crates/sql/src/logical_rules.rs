//! The rules of DataFusion's logical optimiser, of which one changes types: where a sum of DECIMALs stands beside one `DISTINCT`, it becomes a sum of sums, which has
//! ten digits more than the query, and whatever compares or writes it, was planned with.
use std::sync::Arc;

use datafusion::{
    common::{DFSchema, Result, tree_node::Transformed},
    logical_expr::{Expr, ExprSchemable, LogicalPlan, Projection},
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule, single_distinct_to_groupby::SingleDistinctToGroupBy},
};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The same rules in their order, each leaving a plan's types as they are.
pub fn keeping_types(rules: &[Rule]) -> Vec<Rule> {
    let single_distinct: Rule = Arc::new(SingleDistinct::default());
    let kept = |rule: &Rule| if rule.name() == single_distinct.name() { single_distinct.clone() } else { rule.clone() };
    rules.iter().map(kept).collect()
}

/// DataFusion's rule, with casts to the types that were there before.
#[derive(Debug, Default)]
struct SingleDistinct(SingleDistinctToGroupBy);

impl OptimizerRule for SingleDistinct {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let wanted = plan.schema().clone();
        let rewritten = self.0.rewrite(plan, config)?;
        if !rewritten.transformed {
            return Ok(rewritten);
        }
        rewritten.map_data(|plan| with_types(plan, &wanted))
    }
}

/// What the rule makes is a projection over aggregates, its columns those of `wanted`.
fn with_types(plan: LogicalPlan, wanted: &DFSchema) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(projection) = plan else { return Ok(plan) };
    let given = projection.input.schema().clone();
    let mut columns = Vec::with_capacity(projection.expr.len());
    for (column, field) in projection.expr.into_iter().zip(wanted.fields()) {
        columns.push(match column {
            Expr::Alias(mut alias) => {
                let value = alias.expr.as_ref().clone();
                alias.expr = Box::new(value.cast_to(field.data_type(), &given)?);
                Expr::Alias(alias)
            }
            column => column.cast_to(field.data_type(), &given)?,
        });
    }
    Projection::try_new(columns, projection.input).map(LogicalPlan::Projection)
}

#[cfg(test)]
mod tests {
    use datafusion::{arrow::datatypes::DataType, execution::SessionStateBuilder, prelude::SessionContext};

    use super::*;

    fn types(plan: &LogicalPlan) -> Vec<DataType> {
        plan.schema().fields().iter().map(|field| field.data_type().clone()).collect()
    }

    #[tokio::test]
    async fn a_sum_of_decimals_beside_a_distinct_count_has_the_type_that_it_was_planned_with() {
        let state = SessionStateBuilder::new().with_default_features().build();
        let rules = keeping_types(state.optimizers());
        let state = SessionStateBuilder::new_from_existing(state).with_optimizer_rules(rules).build();
        let context = SessionContext::new_with_state(state);
        let made = "CREATE TABLE t AS SELECT k, CAST(v AS DECIMAL(10, 2)) AS d, w FROM (VALUES ('x', 1.5, 'a'), ('x', 1.5, 'b'), ('y', 0.5, 'a')) AS s (k, v, w)";
        context.sql(made).await.unwrap().collect().await.unwrap();
        let grouped = "SELECT k, sum(d) AS s, count(DISTINCT w) AS n FROM t GROUP BY k";
        for (sql, rows) in [
            (grouped.to_owned(), 2),
            ("SELECT sum(d) AS s, count(DISTINCT w) AS n FROM t".to_owned(), 1),
            (format!("{grouped} HAVING sum(d) > 1"), 1),
            (format!("SELECT n, s FROM ({grouped}) WHERE s > 1"), 1),
        ] {
            let plan = context.state().create_logical_plan(&sql).await.unwrap();
            let optimised = context.state().optimize(&plan).unwrap();
            assert_eq!(types(&optimised), types(&plan), "{sql}");
            let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
            assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), rows, "{sql}");
        }
    }
}
