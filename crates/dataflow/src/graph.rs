//! DataFusion's physical plans as one graph of incremental operators. Plans are those that DataFusion makes before its physical optimiser runs
//! ([`crate::planning`]): one partition, no sorts, no exchanges but ours.
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, new_null_array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    common::{DataFusionError, JoinType, NullEquality, Result, ScalarValue, not_impl_err},
    execution::SessionState,
    logical_expr::LogicalPlan,
    physical_expr::{
        LexOrdering,
        aggregate::AggregateExprBuilder,
        conjunction,
        expressions::{BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal, NotExpr, lit},
        split_conjunction,
        utils::collect_columns,
        window::WindowExpr,
    },
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy, aggregate_expressions, evaluate_group_by},
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        empty::EmptyExec,
        filter::FilterExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec, utils::JoinFilter},
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
use polybolos_state::TableSpec;

mod closing;
pub mod kept;
mod times;

use crate::{
    bounds,
    delta::batch_of,
    event_time::{self, Lateness, TimeColumn, TimeColumns},
    operators::{
        Aggregate, Appends, Call, ChangingAggregate, Constant, Exchange, Expand, Grouping, Join, JoinSpec, Map, Once, Operator,
        Side, SortedRows, TopN, Union, Unnest, Window, may_fail,
    },
    planning,
};

/// When the rows of windows come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// With every change.
    #[default]
    OnUpdate,
    /// Once, when the window is closed.
    OnWindowClose,
    /// When the window is closed, and with every change after that. The watermark that windows close by is so far ahead of the one that the dataflow is given,
    /// by which rows are late and state is dropped.
    OnWindowCloseThenUpdate { ahead_us: i64 },
}

/// One INSERT of a job.
#[derive(Clone, Debug)]
pub struct SinkPlan<Plan = LogicalPlan> {
    pub plan: Plan,
    pub emit: Emit,
}

/// What a leaf of a plan reads.
#[derive(Clone, Debug)]
pub struct SourceLeaf {
    /// Leaves with one number are one source: their rows are given once.
    pub source: usize,
    pub times: TimeColumns,
    /// What is done to its rows before they come, for EXPLAIN; empty: nothing.
    pub label: String,
    /// All its rows come in the first epoch, when [`crate::Dataflow::awaits`] them, and none after it.
    pub whole: bool,
}

/// Tells the sources among a plan's nodes.
pub type FindSource<'a> = dyn Fn(&Arc<dyn ExecutionPlan>) -> Option<SourceLeaf> + 'a;

#[derive(Debug)]
pub enum NodeKind {
    /// Index among the graph's sources.
    Source(usize),
    Exchange {
        exchange: Exchange,
        input: usize,
    },
    Operator {
        operator: Arc<dyn Operator>,
        inputs: Vec<usize>,
        tables: Range<usize>,
    },
}

#[derive(Debug)]
pub struct Node {
    pub kind: NodeKind,
    pub schema: SchemaRef,
    /// Rows may be taken away again.
    pub changing: bool,
    pub times: TimeColumns,
    /// All its rows come in the first epoch.
    whole: bool,
    /// Exchanges on the way from a source.
    level: usize,
    /// Of a source, what is done to its rows; of an operator, what EXPLAIN calls it instead of its own words.
    label: String,
    /// EXPLAIN passes it over: it makes rows of records, which the query does not say.
    is_hidden: bool,
}

impl Node {
    /// As EXPLAIN shows it.
    fn shown(&self, operator: &dyn Operator) -> String {
        if self.label.is_empty() { operator.describe() } else { self.label.clone() }
    }

    /// Of each table of its operator, whether it grows without bound. What is whole grows no more after the first epoch.
    fn growing_tables(&self, operator: &dyn Operator) -> Vec<bool> {
        operator.growing_tables().into_iter().map(|grows| grows && !self.whole).collect()
    }
}

#[derive(Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    levels: Vec<Vec<usize>>,
    sinks: Vec<usize>,
    /// The caller's number of each source.
    sources: Vec<usize>,
    tables: Vec<TableSpec>,
    /// Of sources that are whole, the table that tells whether they came.
    came: BTreeMap<usize, usize>,
    last_readers: Vec<Option<usize>>,
    ttl_us: Option<i64>,
}

impl Graph {
    /// Plans and lowers the INSERTs of a job.
    ///
    /// # Errors
    /// When DataFusion cannot plan one, or something in it has no incremental operator; the message names it.
    pub async fn build(
        session: &SessionState,
        sinks: Vec<SinkPlan>,
        find_source: &FindSource<'_>,
        lateness: Option<&Lateness>,
    ) -> Result<Self> {
        let mut physical = Vec::with_capacity(sinks.len());
        for sink in sinks {
            physical.push(SinkPlan { plan: planning::plan(session, &sink.plan).await?, emit: sink.emit });
        }
        Self::lower(&physical, find_source, lateness)
    }

    /// Lowers planned INSERTs. `lateness`: by which windows' ends a row is late; `None`: no row is.
    pub fn lower(
        sinks: &[SinkPlan<Arc<dyn ExecutionPlan>>],
        find_source: &FindSource<'_>,
        lateness: Option<&Lateness>,
    ) -> Result<Self> {
        let mut builder = Builder {
            nodes: vec![],
            sources: vec![],
            tables: vec![],
            whole: BTreeMap::new(),
            known: HashMap::new(),
            find_source,
            lateness: lateness.cloned(),
            emit: Emit::OnUpdate,
        };
        let mut ends = vec![];
        for sink in sinks {
            builder.emit = sink.emit;
            ends.push(builder.lower_closing(&sink.plan)?);
        }
        Ok(builder.finish(ends))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Nodes in an order in which inputs come first, cut where exchanges are.
    pub(crate) fn levels(&self) -> &[Vec<usize>] {
        &self.levels
    }

    /// The last node of each sink.
    pub fn sinks(&self) -> &[usize] {
        &self.sinks
    }

    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    pub fn tables(&self) -> &[TableSpec] {
        &self.tables
    }

    /// The table that tells whether the rows of a source came that is whole.
    pub(crate) fn came(&self, source: usize) -> Option<usize> {
        self.came.get(&source).copied()
    }

    /// What nothing else bounds ends so long after its last change.
    #[must_use]
    pub fn with_ttl(mut self, ttl_us: Option<i64>) -> Self {
        self.ttl_us = ttl_us;
        let mut specs = vec![];
        for node in &self.nodes {
            let NodeKind::Operator { operator, tables, .. } = &node.kind else { continue };
            specs.extend(tables.clone().zip(node.growing_tables(operator.as_ref())));
        }
        specs.into_iter().for_each(|(table, grows)| self.tables[table].has_ttl = grows && ttl_us.is_some());
        self
    }

    pub fn ttl_us(&self) -> Option<i64> {
        self.ttl_us
    }

    pub fn is_changing(&self, sink: usize) -> bool {
        self.nodes[self.sinks[sink]].changing
    }

    /// Whether the watermark alone can make changes: an epoch without rows is of use then.
    pub fn has_timers(&self) -> bool {
        self.nodes.iter().any(|node| matches!(&node.kind, NodeKind::Operator { operator, .. } if operator.has_timers()))
    }

    /// Operators whose state grows without bound, as EXPLAIN shows them.
    pub fn growing(&self) -> Vec<String> {
        if self.ttl_us.is_some() {
            return vec![];
        }
        let growing = self.nodes.iter().filter_map(|node| match &node.kind {
            NodeKind::Operator { operator, .. } if node.growing_tables(operator.as_ref()).contains(&true) => {
                Some(node.shown(operator.as_ref()))
            }
            _ => None,
        });
        growing.collect()
    }

    pub(crate) fn last_reader(&self, node: usize) -> Option<usize> {
        self.last_readers[node]
    }

    /// The operators of a sink as an indented tree, for EXPLAIN.
    pub fn explain(&self, sink: usize) -> String {
        let mut text = String::new();
        self.explain_node(self.sinks[sink], 0, &mut text);
        text
    }

    fn explain_node(&self, index: usize, depth: usize, text: &mut String) {
        let node = &self.nodes[index];
        let (line, inputs, state) = match &node.kind {
            NodeKind::Source(source) if node.label.is_empty() => (format!("Source {source}"), vec![], None),
            NodeKind::Source(source) => (format!("Source {source}, {}", node.label), vec![], None),
            NodeKind::Exchange { exchange, input } => (exchange.describe(), vec![*input], None),
            NodeKind::Operator { operator, inputs, .. } => {
                let never = self.ttl_us.filter(|_| node.growing_tables(operator.as_ref()).contains(&true));
                let state = operator.state().map(|state| match never {
                    Some(ttl_us) => {
                        state.replace("never dropped", &format!("dropped {} after the last change", event_time::length(ttl_us)))
                    }
                    None => state,
                });
                (node.shown(operator.as_ref()), inputs.clone(), state)
            }
        };
        if node.is_hidden {
            return inputs.into_iter().for_each(|input| self.explain_node(input, depth, text));
        }
        let kind = if node.changing { "changing" } else { "append-only" };
        let state = state.map_or(String::new(), |state| format!("; keeps {state}"));
        text.push_str(&format!("{}{line} [{kind}{state}]\n", "  ".repeat(depth)));
        inputs.into_iter().for_each(|input| self.explain_node(input, depth + 1, text));
    }
}

struct Builder<'a> {
    nodes: Vec<Node>,
    sources: Vec<usize>,
    tables: Vec<TableSpec>,
    /// By source that is whole: the node that passes its rows.
    whole: BTreeMap<usize, usize>,
    /// By all that there is to tell of a node: what is said twice is computed once.
    known: HashMap<String, usize>,
    find_source: &'a FindSource<'a>,
    lateness: Option<Lateness>,
    emit: Emit,
}

/// `ROW_NUMBER()`'s column compared with a number: rows through that number.
fn row_number_limit(predicate: &Arc<dyn PhysicalExpr>, column: usize) -> Option<usize> {
    use datafusion::{
        common::ScalarValue,
        logical_expr::Operator as Op,
        physical_expr::expressions::{BinaryExpr, Literal},
    };
    let binary = predicate.downcast_ref::<BinaryExpr>()?;
    let number = |side: &Arc<dyn PhysicalExpr>| match side.downcast_ref::<Literal>()?.value() {
        ScalarValue::UInt64(Some(number)) => usize::try_from(*number).ok(),
        ScalarValue::Int64(Some(number)) => usize::try_from(*number).ok(),
        _ => None,
    };
    let is_number = |side: &Arc<dyn PhysicalExpr>| side.downcast_ref::<Column>().is_some_and(|found| found.index() == column);
    let (limit, op) = match (is_number(binary.left()), is_number(binary.right())) {
        (true, false) => (number(binary.right())?, *binary.op()),
        (false, true) => (number(binary.left())?, binary.op().swap()?),
        _ => return None,
    };
    match (op, limit) {
        (Op::LtEq, limit) => Some(limit),
        (Op::Lt, limit) => limit.checked_sub(1),
        (Op::Eq, 1) => Some(1),
        _ => None,
    }
}

impl Builder<'_> {
    fn finish(self, sinks: Vec<usize>) -> Graph {
        let mut levels = vec![vec![]; self.nodes.iter().map(|node| node.level + 1).max().unwrap_or(0)];
        let mut last_readers = vec![None; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            levels[node.level].push(index);
        }
        // In the order in which they run: of each level operators come last.
        let is_operator = |index: &usize| matches!(self.nodes[*index].kind, NodeKind::Operator { .. });
        levels.iter_mut().for_each(|level| level.sort_by_key(is_operator));
        for &index in levels.iter().flatten() {
            match &self.nodes[index].kind {
                NodeKind::Source(_) => {}
                NodeKind::Exchange { input, .. } => last_readers[*input] = Some(index),
                NodeKind::Operator { inputs, .. } => inputs.iter().for_each(|&input| last_readers[input] = Some(index)),
            }
        }
        // What a sink shows stays.
        sinks.iter().for_each(|&sink| last_readers[sink] = None);
        let table_of = |node: usize| match &self.nodes[node].kind {
            NodeKind::Operator { tables, .. } => Some(tables.start),
            _ => None,
        };
        let came = self.whole.iter().filter_map(|(&source, &node)| Some((source, table_of(node)?))).collect();
        Graph { nodes: self.nodes, levels, sinks, sources: self.sources, tables: self.tables, came, last_readers, ttl_us: None }
    }

    fn operator(
        &mut self,
        operator: impl Operator + 'static,
        inputs: Vec<usize>,
        schema: SchemaRef,
        changing: bool,
        times: TimeColumns,
    ) -> usize {
        let is_delayed = operator.has_timers();
        let times: TimeColumns =
            times.into_iter().map(|time| if is_delayed { time.map(TimeColumn::delayed) } else { time }).collect();
        let text = format!("{operator:?} of {inputs:?} as {schema:?} {times:?} {changing}");
        if let Some(&known) = self.known.get(&text).filter(|_| !operator.is_volatile()) {
            return known;
        }
        let kinds = operator.tables();
        let tables = self.tables.len()..self.tables.len() + kinds.len();
        self.tables.extend(kinds.into_iter().map(TableSpec::from));
        let level = inputs.iter().map(|&input| self.nodes[input].level).max().unwrap_or(0);
        let whole = inputs.iter().all(|&input| self.nodes[input].whole);
        let kind = NodeKind::Operator { operator: Arc::new(operator), inputs, tables };
        self.nodes.push(Node { kind, schema, changing, times, whole, level, label: String::new(), is_hidden: false });
        self.known.insert(text, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn exchange(&mut self, input: usize, columns: Vec<usize>) -> usize {
        let Node { schema, changing, times, whole, level, .. } = &self.nodes[input];
        let exchange = Exchange { columns, schema: schema.clone() };
        let text = format!("{exchange:?} of {input}");
        if let Some(&known) = self.known.get(&text) {
            return known;
        }
        let node = Node {
            schema: schema.clone(),
            changing: *changing,
            times: times.clone(),
            whole: *whole,
            level: level + 1,
            label: String::new(),
            is_hidden: false,
            kind: NodeKind::Exchange { exchange, input },
        };
        self.nodes.push(node);
        self.known.insert(text, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn lower(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<usize> {
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
        let columns = schema.fields().len();
        let times = self.nodes[input].times.clone();
        // A list gives its rows in its own place; a struct gives several columns.
        let times = if times.len() == columns { times } else { vec![None; columns] };
        Ok(self.operator(Unnest::of(unnest), vec![input], schema, changing, times))
    }

    fn source(&mut self, leaf: SourceLeaf, schema: SchemaRef) -> usize {
        let known = self.sources.iter().position(|&source| source == leaf.source);
        let source = known.unwrap_or_else(|| {
            self.sources.push(leaf.source);
            self.sources.len() - 1
        });
        let types = |schema: &SchemaRef| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
        let is_read = |node: &Node| matches!(node.kind, NodeKind::Source(found) if found == source);
        if let Some(node) = self.nodes.iter().position(|node| is_read(node) && types(&node.schema) == types(&schema)) {
            let node = self.whole.get(&source).copied().unwrap_or(node);
            // The planner has names of its own for what it takes out of a row, other ones each time.
            let columns: Vec<usize> = (0..schema.fields().len()).collect();
            return if self.nodes[node].schema == schema { node } else { self.keep_columns(node, &columns, schema) };
        }
        self.nodes.push(Node {
            kind: NodeKind::Source(source),
            schema: schema.clone(),
            changing: false,
            times: leaf.times.clone(),
            whole: leaf.whole,
            level: 0,
            label: leaf.label,
            is_hidden: false,
        });
        let node = self.nodes.len() - 1;
        if !leaf.whole {
            return node;
        }
        let once = self.operator(Once, vec![node], schema, false, leaf.times);
        self.whole.insert(source, once);
        once
    }

    fn project(&mut self, input: usize, expressions: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> usize {
        let times = expressions
            .iter()
            .map(|expression| event_time::of_expression(expression, &self.nodes[input].times, self.lateness.as_ref()))
            .collect();
        let changing = self.nodes[input].changing;
        self.operator(Map::Project { expressions, schema: schema.clone() }, vec![input], schema, changing, times)
    }

    fn filter(&mut self, input: usize, predicate: Arc<dyn PhysicalExpr>) -> usize {
        let Node { schema, changing, times, .. } = &self.nodes[input];
        let (schema, changing, times) = (schema.clone(), *changing, times.clone());
        self.operator(Map::Filter(predicate), vec![input], schema, changing, times)
    }

    /// Lets rows through on which none of what an operator evaluates by itself fails.
    fn guarded(&mut self, input: usize, evaluated: impl Iterator<Item = Arc<dyn PhysicalExpr>>) -> usize {
        let schema = self.nodes[input].schema.clone();
        let failing: Vec<_> = evaluated.filter(|expression| may_fail(expression, &schema)).collect();
        if failing.is_empty() { input } else { self.guard(input, failing) }
    }

    fn guard(&mut self, input: usize, expressions: Vec<Arc<dyn PhysicalExpr>>) -> usize {
        let Node { schema, changing, times, .. } = &self.nodes[input];
        let (schema, changing, times) = (schema.clone(), *changing, times.clone());
        self.operator(Map::Guard(expressions), vec![input], schema, changing, times)
    }

    fn keep_columns(&mut self, input: usize, columns: &[usize], schema: SchemaRef) -> usize {
        let from = self.nodes[input].schema.clone();
        let column = |&index: &usize| Arc::new(Column::new(from.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
        let expressions = columns.iter().map(column).collect();
        self.project(input, expressions, schema)
    }

    /// The node with columns for `expressions`, appended where they are not columns already.
    fn with_columns(&mut self, input: usize, expressions: &[Arc<dyn PhysicalExpr>]) -> Result<(usize, Vec<usize>)> {
        let schema = self.nodes[input].schema.clone();
        let mut all: Vec<Arc<dyn PhysicalExpr>> =
            schema.fields().iter().enumerate().map(|(index, field)| Arc::new(Column::new(field.name(), index)) as _).collect();
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        let mut columns = vec![];
        for expression in expressions {
            if let Some(column) = expression.downcast_ref::<Column>() {
                columns.push(column.index());
                continue;
            }
            columns.push(all.len());
            fields.push(Arc::new(Field::new(
                format!("{expression}"),
                expression.data_type(&schema)?,
                expression.nullable(&schema)?,
            )));
            all.push(expression.clone());
        }
        if all.len() == schema.fields().len() {
            return Ok((input, columns));
        }
        Ok((self.project(input, all, Arc::new(Schema::new(fields))), columns))
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

    fn filtered_columns(&mut self, node: usize, filter: &FilterExec) -> Result<usize> {
        let Some(kept) = filter.projection().as_ref() else { return Ok(node) };
        let schema = Arc::new(filter.input().schema().project(kept)?);
        Ok(self.keep_columns(node, kept, schema))
    }

    /// `ROW_NUMBER() OVER (…)` filtered to the first rows, possibly through projections of columns; and what else the filter says.
    fn lower_numbered(&mut self, filter: &FilterExec) -> Result<Option<usize>> {
        let projection = filter.input().downcast_ref::<ProjectionExec>();
        let kept = projection.and_then(|projection| Some((projection.input(), plain_columns(projection)?)));
        let window = kept.as_ref().map_or(filter.input(), |(window, _)| *window);
        let Some((input, expressions)) = windows_of(window) else { return Ok(None) };
        let [expression] = expressions else { return Ok(None) };
        let name = expression.name().to_lowercase();
        let arguments = match name.split('(').next().map(str::trim) {
            Some("row_number") => vec![],
            Some("last_record") => expression.expressions(),
            _ => return Ok(None),
        };
        let forgets = arguments.first().and_then(|gone| Some(gone.downcast_ref::<Column>()?.index()));
        let table = arguments.get(1).and_then(|table| table.downcast_ref::<Literal>()?.value().try_as_str()?);
        let number = input.schema().fields().len();
        let place = kept.as_ref().map_or(Some(number), |(_, kept)| kept.iter().position(|column| *column == number));
        let Some(number) = place else { return Ok(None) };
        let terms = split_conjunction(filter.predicate());
        let Some(at) = terms.iter().position(|term| row_number_limit(term, number).is_some()) else { return Ok(None) };
        let Some(fetch) = row_number_limit(terms[at], number) else { return Ok(None) };
        let others: Vec<_> =
            terms.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, term)| Arc::clone(*term)).collect();
        // What is forgotten may never be shown: nothing would take it back.
        let flag_place = forgets.and_then(|flag| match &kept {
            Some((_, kept)) => kept.iter().position(|column| *column == flag),
            None => Some(flag),
        });
        let is_flag = |term: &Arc<dyn PhysicalExpr>| flag_place.is_some_and(|place| is_not(term, place));
        let (flags, others): (Vec<_>, Vec<_>) = others.into_iter().partition(is_flag);
        let node = self.lower(input)?;
        let start = self.nodes.len();
        let (rows, node) = self.sorted(node, expression.partition_by(), expression.order_by())?;
        let changing = self.nodes[node].changing;
        let output = window.schema();
        let times = self.partition_times(node, &rows, expression.partition_by(), output.fields().len());
        let forgets = forgets.filter(|&flag| fetch == 1 && !changing && flag < rows.columns && !flags.is_empty());
        let top = TopN { rows, skip: 0, fetch, numbered: true, changing, forgets, output: output.clone() };
        let top = self.operator(top, vec![node], output, true, times);
        let mut node = match kept {
            Some((_, kept)) => self.keep_columns(top, &kept, filter.input().schema()),
            None => top,
        };
        if !flags.is_empty() {
            node = self.filter(node, conjunction(flags));
        }
        if let Some(table) = table {
            for around in &mut self.nodes[start..] {
                around.is_hidden = matches!(around.kind, NodeKind::Operator { .. });
            }
            let key: Vec<String> =
                expression.partition_by().iter().flat_map(collect_columns).map(|column| column.name().to_owned()).collect();
            self.nodes[top].is_hidden = false;
            self.nodes[top].label = format!("ChangelogNormalize: the rows of {table} by key ({})", key.join(", "));
        }
        Ok(Some(if others.is_empty() { node } else { self.filter(node, conjunction(others)) }))
    }

    /// An input with its rows brought together by partition.
    fn sorted(
        &mut self,
        input: usize,
        partition: &[Arc<dyn PhysicalExpr>],
        order: &[datafusion::physical_expr::PhysicalSortExpr],
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

    fn lower_window(
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
        let mut times = self.partition_times(node, &rows, expressions[0].partition_by(), output.fields().len());
        if let Some(session) = &session {
            times[rows.columns + session.end] = Some(session.time);
        }
        let appends = Appends::of(expressions, &rows.schema);
        let window = Window { rows, expressions: expressions.to_vec(), session, appends, output: output.clone() };
        Ok(self.operator(window, vec![node], output, true, times))
    }

    fn lower_limit(&mut self, input: &Arc<dyn ExecutionPlan>, skip: usize, fetch: usize) -> Result<usize> {
        if let Some(sort) = input.downcast_ref::<SortExec>() {
            return self.lower_top(sort, skip, fetch);
        }
        if let Some(projection) = input.downcast_ref::<ProjectionExec>() {
            let node = self.lower_limit(projection.input(), skip, fetch)?;
            let expressions = projection.expr().iter().map(|item| item.expr.clone()).collect();
            return Ok(self.project(node, expressions, input.schema()));
        }
        if let [child] = input.children().as_slice()
            && (input.is::<CoalescePartitionsExec>() || input.is::<LocalLimitExec>())
        {
            return self.lower_limit(child, skip, fetch);
        }
        not_impl_err!("LIMIT without ORDER BY has no defined answer over a stream; add ORDER BY, or leave LIMIT out")
    }

    fn lower_top(&mut self, sort: &SortExec, skip: usize, fetch: usize) -> Result<usize> {
        // The sort has a LIMIT of its own where an OFFSET is around it.
        let fetch = sort.fetch().map_or(fetch, |most| fetch.min(most.saturating_sub(skip)));
        let node = self.lower(sort.input())?;
        let order: &LexOrdering = sort.expr();
        let (rows, node) = self.sorted(node, &[], order)?;
        let changing = self.nodes[node].changing;
        let output = sort.schema();
        let times = self.partition_times(node, &rows, &[], output.fields().len());
        let top = TopN { rows, skip, fetch, numbered: false, changing, forgets: None, output: output.clone() };
        Ok(self.operator(top, vec![node], output, true, times))
    }

    fn lower_aggregate(&mut self, aggregate: &AggregateExec) -> Result<usize> {
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

    fn lower_join(
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
    fn lower_not_in(&mut self, join: &HashJoinExec) -> Result<usize> {
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

/// DataFusion plans the least of what has no order, and fails on the first row.
fn check_order(function: &str, data_type: &DataType) -> Result<()> {
    if matches!(function, "min" | "max") && matches!(data_type, DataType::Map(..) | DataType::Union(..)) {
        return not_impl_err!("{function}(…) of a MAP is not supported, as maps have no order; write {function}(m['key'])");
    }
    Ok(())
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

/// An expression whose floats are never -0.0, which is a key of its own as bytes, and 0.0 to DataFusion's groups and joins.
fn one_zero(expression: Arc<dyn PhysicalExpr>, input: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
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

/// `NOT column`.
fn is_not(predicate: &Arc<dyn PhysicalExpr>, column: usize) -> bool {
    let negated = predicate.downcast_ref::<NotExpr>().and_then(|not| not.arg().downcast_ref::<Column>());
    negated.is_some_and(|found| found.index() == column)
}

/// The columns that a projection keeps, if it does nothing else.
fn plain_columns(projection: &ProjectionExec) -> Option<Vec<usize>> {
    projection.expr().iter().map(|item| Some(item.expr.downcast_ref::<Column>()?.index())).collect()
}

pub(crate) fn windows_of(plan: &Arc<dyn ExecutionPlan>) -> Option<(&Arc<dyn ExecutionPlan>, &[Arc<dyn WindowExpr>])> {
    if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        return Some((window.input(), window.window_expr()));
    }
    plan.downcast_ref::<BoundedWindowAggExec>().map(|window| (window.input(), window.window_expr()))
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..self.sinks.len()).try_for_each(|sink| write!(f, "{}", self.explain(sink)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Int64Array, RecordBatch},
        datatypes::Int64Type,
    };
    use datafusion::{catalog::MemTable, prelude::SessionContext};

    use super::*;
    use crate::{Dataflow, Delta, EpochInput};

    /// Of `t`, whose column is `a`, and `u`, whose column is `b`: both are one source.
    fn dataflow(sql: &str) -> Dataflow {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let graph = runtime.block_on(async {
            let context = SessionContext::new();
            for (table, column) in [("t", "a"), ("u", "b")] {
                let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Int64, false)]));
                context.register_table(table, Arc::new(MemTable::try_new(schema, vec![vec![]]).unwrap())).unwrap();
            }
            let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
            let find = |plan: &Arc<dyn ExecutionPlan>| {
                let leaf = || SourceLeaf { source: 0, times: vec![None], label: String::new(), whole: false };
                plan.children().is_empty().then(leaf)
            };
            let sinks = vec![SinkPlan { plan, emit: Emit::OnUpdate }];
            Graph::build(&context.state(), sinks, &find, None).await.unwrap()
        });
        Dataflow::new(Arc::new(graph), 1)
    }

    /// What comes of these rows in one epoch.
    fn changes(dataflow: &Dataflow, rows: Vec<i64>) -> Vec<Delta> {
        let schema = dataflow.graph().nodes()[0].schema.clone();
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(rows))]).unwrap();
        let input = EpochInput { sources: vec![vec![vec![Delta::added(rows)]]], watermark_us: None, clock_us: None };
        dataflow.run(&mut dataflow.new_state(), input).unwrap().sinks.remove(0)
    }

    #[test]
    fn each_leaf_of_a_source_has_its_rows_whatever_their_columns_are_called() {
        let dataflow = dataflow("SELECT a, b FROM t JOIN u ON a = b");
        let met = changes(&dataflow, vec![1, 2]);
        assert_eq!(met.iter().map(Delta::rows).sum::<usize>(), 2, "each row meets itself\n{}", dataflow.graph());
    }

    #[test]
    fn an_offset_around_a_limit_adds_no_rows() {
        let dataflow = dataflow("SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 3) AS s OFFSET 1");
        let shown = changes(&dataflow, vec![5, 4, 3, 2, 1]);
        let values = shown.iter().flat_map(|delta| delta.batch().column(0).as_primitive::<Int64Type>().values().to_vec());
        let mut values: Vec<i64> = values.collect();
        values.sort_unstable();
        assert_eq!(values, [2, 3], "{}", dataflow.graph());
    }
}
