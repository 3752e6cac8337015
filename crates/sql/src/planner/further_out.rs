//! Subqueries that compare columns of a query further out than the one right around them, as "customers who bought every product" does. DataFusion joins a subquery
//! with the query around it and no other. So the query between gets these columns as a table, of which just one row is that of the outermost query: what it says
//! beside this row is what it said before.
use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, FieldRef},
    common::{
        Column, DFSchema, Result,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        BinaryExpr, Distinct, Expr, Filter, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, Subquery,
        utils::{merge_schema, split_conjunction},
    },
};
use polybolos_tables::plain::{BROUGHT, of_outer_query};

use super::{event_time::unaliased, refuse::has};
use crate::{error::SqlError, names::RelationName};

/// Aggregates that are the same in whatever order rows are read.
const OF_ANY_ORDER: [&str; 3] = ["count", "max", "min"];

/// By column of an outer query: the same one of the table that was brought.
type Brought = HashMap<Column, (FieldRef, Column)>;

/// The plan with these columns in the queries between.
///
/// # Errors
/// When they cannot be brought there, the first of them by name.
pub(super) fn brought_near(plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
    if Walk::over(&plan, vec![])?.far.is_empty() {
        return Ok(plan);
    }
    let mut tables = 0;
    let plan = plan.transform_down_with_subqueries(|node| with_subqueries_brought(node, &mut tables))?.data;
    match Walk::over(&plan, vec![])?.far.first() {
        Some((_, column)) => Err(SqlError::unsupported(of_outer_query(&column.quoted_flat_name()))),
        None => Ok(plan),
    }
}

fn with_subqueries_brought(node: LogicalPlan, tables: &mut usize) -> Result<Transformed<LogicalPlan>> {
    if !has(&node, |part| subquery_of(part).is_some()) {
        return Ok(Transformed::no(node));
    }
    let Some(outer) = Outer::of(&node) else { return Ok(Transformed::no(node)) };
    node.map_expressions(|expression| expression.transform_up(|part| outer.brought(part, tables)))
}

fn subquery_of(expression: &Expr) -> Option<&Subquery> {
    match expression {
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(within) => Some(&within.subquery),
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::SetComparison(compared) => Some(&compared.subquery),
        _ => None,
    }
}

fn subquery_in(expression: &mut Expr) -> Option<&mut Subquery> {
    match expression {
        Expr::Exists(exists) => Some(&mut exists.subquery),
        Expr::InSubquery(within) => Some(&mut within.subquery),
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::SetComparison(compared) => Some(&mut compared.subquery),
        _ => None,
    }
}

fn replace(subquery: &mut Subquery, plan: LogicalPlan) {
    subquery.outer_ref_columns = plan.all_out_ref_exprs();
    subquery.subquery = Arc::new(plan);
}

/// A walk over a plan and its subqueries.
#[derive(Default)]
struct Walk {
    /// Columns of the queries around, the outermost first.
    around: Vec<DFSchema>,
    /// What subqueries take from further out than the query right around them: the place of its query among those around, and the column.
    far: Vec<(usize, Column)>,
    /// A LATERAL subquery, which belongs to another table of its FROM, and is not walked into.
    meets_lateral: bool,
}

impl Walk {
    fn over(plan: &LogicalPlan, around: Vec<DFSchema>) -> Result<Self> {
        let mut walk = Self { around, ..Self::default() };
        walk.walk(plan)?;
        Ok(walk)
    }

    fn walk(&mut self, plan: &LogicalPlan) -> Result<()> {
        plan.apply(|node| {
            if matches!(node, LogicalPlan::Subquery(_)) {
                self.meets_lateral = true;
                return Ok(TreeNodeRecursion::Jump);
            }
            node.apply_expressions(|expression| {
                expression.apply(|part| {
                    if let Expr::OuterReferenceColumn(_, column) = part {
                        self.reach(column);
                    }
                    if let Some(subquery) = subquery_of(part) {
                        self.around.push(merge_schema(&node.inputs()));
                        self.walk(&subquery.subquery)?;
                        self.around.pop();
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(())
    }

    fn reach(&mut self, column: &Column) {
        let query = self.around.iter().rposition(|schema| schema.is_column_from_schema(column));
        if let Some(query) = query.filter(|query| query + 1 < self.around.len()) {
            self.far.push((query, column.clone()));
        }
    }
}

/// A query that has subqueries.
struct Outer {
    /// The rows for which they are asked.
    input: LogicalPlan,
    /// What these have to fulfil beside.
    conditions: Vec<Expr>,
}

/// What stands in a subquery above the place where a table is brought.
#[derive(Clone, Copy, Default)]
struct Above {
    /// It names the columns that it wants, so that there may be others.
    names_columns: bool,
    aggregates: bool,
}

impl Outer {
    fn of(node: &LogicalPlan) -> Option<Self> {
        match node {
            LogicalPlan::Filter(filter) => {
                let terms = split_conjunction(&filter.predicate).into_iter();
                let conditions = terms.filter(|term| is_the_same_again(term)).cloned().collect();
                Some(Self { input: filter.input.as_ref().clone(), conditions })
            }
            LogicalPlan::Projection(projection) => Some(Self { input: projection.input.as_ref().clone(), conditions: vec![] }),
            _ => None,
        }
    }

    /// A subquery, with the columns in it that subqueries of its own take from this query, where they can be had.
    fn brought(&self, mut part: Expr, tables: &mut usize) -> Result<Transformed<Expr>> {
        let Some(subquery) = subquery_in(&mut part) else { return Ok(Transformed::no(part)) };
        if self.taken(&subquery.subquery)?.is_empty() {
            return Ok(Transformed::no(part));
        }
        let plan = self.between(subquery.subquery.as_ref().clone(), Above::default(), tables)?;
        if !self.taken(&plan)?.is_empty() {
            return Ok(Transformed::no(part));
        }
        replace(subquery, plan);
        Ok(Transformed::yes(part))
    }

    /// What subqueries in a subquery's plan take from this query; nothing, where that cannot be told.
    fn taken(&self, plan: &LogicalPlan) -> Result<Vec<Column>> {
        let walk = Walk::over(plan, vec![self.input.schema().as_ref().clone()])?;
        let mut columns: Vec<Column> = vec![];
        for (query, column) in walk.far {
            if query == 0 && !walk.meets_lateral && !columns.contains(&column) {
                columns.push(column);
            }
        }
        Ok(columns)
    }

    /// A subquery's plan, down to the conditions that have subqueries.
    fn between(&self, plan: LogicalPlan, above: Above, tables: &mut usize) -> Result<LogicalPlan> {
        let below = match &plan {
            LogicalPlan::Projection(_) => Above { names_columns: true, ..above },
            LogicalPlan::Aggregate(aggregate) => {
                Above { names_columns: true, aggregates: above.aggregates || !aggregate.aggr_expr.is_empty() }
            }
            LogicalPlan::Distinct(Distinct::All(_)) => Above { names_columns: false, ..above },
            LogicalPlan::Filter(_) => above,
            _ => return Ok(plan),
        };
        match plan.map_children(|input| self.between(input, below, tables).map(Transformed::yes))?.data {
            LogicalPlan::Filter(filter) if above.names_columns => self.beside(filter, above, tables),
            other => Ok(other),
        }
    }

    /// The condition over its rows beside the values that this query's columns have, of which it is asked for those of the outer row.
    fn beside(&self, filter: Filter, above: Above, tables: &mut usize) -> Result<LogicalPlan> {
        let mut columns = self.taken(&LogicalPlan::Filter(filter.clone()))?;
        // A row of an aggregate is told by `=` alone.
        let is_told = |column: &Column| {
            let found = self.input.schema().qualified_field_from_column(column);
            found.is_ok_and(|(_, field)| is_exact(field.data_type()) && !(above.aggregates && field.is_nullable()))
        };
        if columns.is_empty() || !columns.iter().all(is_told) {
            return Ok(LogicalPlan::Filter(filter));
        }
        let Some(rows) = self.rows_with(&columns)? else { return Ok(LogicalPlan::Filter(filter)) };
        // What the condition compares by itself is joined with these values, too, before there are many rows.
        filter.predicate.apply(|part| {
            if let Expr::OuterReferenceColumn(_, column) = part
                && rows.schema().is_column_from_schema(column)
                && is_told(column)
                && !columns.contains(column)
            {
                columns.push(column.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        *tables += 1;
        let table = format!("{BROUGHT}{tables}");
        let (mut selected, mut conditions, mut brought) = (vec![], vec![], Brought::new());
        for (index, column) in columns.into_iter().enumerate() {
            let (_, field) = self.input.schema().qualified_field_from_column(&column)?;
            let own = Column::new(Some(table.as_str()), format!("{table}_{index}"));
            let operator = if field.is_nullable() { Operator::IsNotDistinctFrom } else { Operator::Eq };
            let outer = Expr::OuterReferenceColumn(field.clone(), column.clone());
            let is_of_row = BinaryExpr::new(Box::new(Expr::Column(own.clone())), operator, Box::new(outer));
            conditions.push(Expr::BinaryExpr(is_of_row));
            selected.push(Expr::Column(column.clone()).alias(own.name.as_str()));
            let field = field.as_ref().clone().with_name(own.name.as_str());
            brought.insert(column, (Arc::new(field), own));
        }
        let values = LogicalPlanBuilder::from(rows).project(selected)?.distinct()?.alias(table)?.build()?;
        let predicate = taking(filter.predicate, &mut vec![], &brought, filter.input.schema())?.data;
        let predicate = conditions.into_iter().fold(predicate, Expr::and);
        let input = LogicalPlanBuilder::from(filter.input.as_ref().clone()).cross_join(values)?.build()?;
        Filter::try_new(predicate, Arc::new(input)).map(LogicalPlan::Filter)
    }

    /// Rows that have all values which these columns have; `None`: whoever reads them twice may find others.
    fn rows_with(&self, columns: &[Column]) -> Result<Option<LogicalPlan>> {
        let has_all = |plan: &LogicalPlan| {
            columns.iter().all(|column| column.relation.is_some() && plan.schema().is_column_from_schema(column))
        };
        let mut rows = &self.input;
        // Of tables that are joined, the one that has them.
        while let LogicalPlan::Join(join) = rows
            && join.join_type == JoinType::Inner
        {
            rows = match (has_all(join.left.as_ref()), has_all(join.right.as_ref())) {
                (true, _) => join.left.as_ref(),
                (_, true) => join.right.as_ref(),
                _ => break,
            };
        }
        if !has_all(rows) || !is_read_alike(rows)? {
            return Ok(None);
        }
        let mut known = LogicalPlanBuilder::from(rows.clone());
        for condition in &self.conditions {
            if condition.column_refs().into_iter().all(|column| rows.schema().is_column_from_schema(column)) {
                known = known.filter(condition.clone())?;
            }
        }
        known.build().map(Some)
    }
}

/// An expression of the query between, or of a subquery in it, with what was brought in the place of what it took from further out. `nearer`: the queries between
/// it and that one; `schema`: what it is computed of.
fn taking(expression: Expr, nearer: &mut Vec<DFSchema>, brought: &Brought, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expression.transform_up(|mut part| {
        if let Expr::OuterReferenceColumn(_, column) = &part
            && !nearer.iter().any(|query| query.is_column_from_schema(column))
            && let Some((field, own)) = brought.get(column)
        {
            let taken = match nearer.is_empty() {
                true => Expr::Column(own.clone()),
                false => Expr::OuterReferenceColumn(field.clone(), own.clone()),
            };
            return Ok(Transformed::yes(taken));
        }
        let Some(subquery) = subquery_in(&mut part) else { return Ok(Transformed::no(part)) };
        nearer.push(schema.clone());
        let plan = subquery.subquery.as_ref().clone().transform_up(|node| {
            let schema = merge_schema(&node.inputs());
            node.map_expressions(|expression| taking(expression, nearer, brought, &schema))
        })?;
        nearer.pop();
        replace(subquery, plan.data);
        Ok(Transformed::yes(part))
    })
}

/// Whether what is equal is the same: of floats two zeros are equal, and NaN may not be.
fn is_exact(data_type: &DataType) -> bool {
    !data_type.is_floating() && !data_type.is_nested()
}

/// Whether it says of a row the same, wherever it is asked.
fn is_the_same_again(expression: &Expr) -> bool {
    let differs =
        |part: &Expr| part.is_volatile_node() || subquery_of(part).is_some() || matches!(part, Expr::OuterReferenceColumn(..));
    expression.exists(|part| Ok(differs(part))).is_ok_and(|differs| !differs)
}

/// Whether reading it again gives the same rows.
fn is_read_alike(plan: &LogicalPlan) -> Result<bool> {
    let may_differ = plan.exists(|node| {
        let mut is_alike = match node {
            LogicalPlan::TableScan(scan) => RelationName::from(&scan.table_name).looked_up().is_none(),
            LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.iter().all(|call| match unaliased(call) {
                Expr::AggregateFunction(function) => OF_ANY_ORDER.contains(&function.func.name()),
                _ => false,
            }),
            LogicalPlan::Window(window) => window.window_expr.iter().all(|call| match unaliased(call) {
                // Rows of a topic that keeps one of each key.
                Expr::WindowFunction(function) => function.fun.name() == "last_record",
                _ => false,
            }),
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Distinct(Distinct::All(_))
            | LogicalPlan::Values(_) => true,
            _ => false,
        };
        node.apply_expressions(|expression| {
            is_alike = is_alike && is_the_same_again(expression);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(!is_alike)
    })?;
    Ok(!may_differ)
}
