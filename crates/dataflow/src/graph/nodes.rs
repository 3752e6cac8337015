//! How lowering adds nodes to a graph. A node comes after its inputs; what is said twice is one node, unless its answers differ from call to call; and
//! a node's tables follow those of the nodes before it.
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::{common::Result, physical_expr::expressions::Column, physical_plan::PhysicalExpr};
use polybolos_state::TableSpec;

use super::{Builder, Graph, Node, NodeKind, SourceLeaf};
use crate::{
    event_time::{self, TimeColumn, TimeColumns},
    operators::{Exchange, Map, Once, Operator, may_fail},
};

impl Builder<'_> {
    pub(super) fn finish(self, sinks: Vec<usize>) -> Graph {
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

    pub(super) fn operator(
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

    pub(super) fn exchange(&mut self, input: usize, columns: Vec<usize>) -> usize {
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

    pub(super) fn source(&mut self, leaf: SourceLeaf, schema: SchemaRef) -> usize {
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

    pub(super) fn project(&mut self, input: usize, expressions: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef) -> usize {
        let times = expressions
            .iter()
            .map(|expression| event_time::of_expression(expression, &self.nodes[input].times, self.lateness.as_ref()))
            .collect();
        let changing = self.nodes[input].changing;
        self.operator(Map::Project { expressions, schema: schema.clone() }, vec![input], schema, changing, times)
    }

    pub(super) fn filter(&mut self, input: usize, predicate: Arc<dyn PhysicalExpr>) -> usize {
        let Node { schema, changing, times, .. } = &self.nodes[input];
        let (schema, changing, times) = (schema.clone(), *changing, times.clone());
        self.operator(Map::Filter(predicate), vec![input], schema, changing, times)
    }

    /// Lets rows through on which none of what an operator evaluates by itself fails.
    pub(super) fn guarded(&mut self, input: usize, evaluated: impl Iterator<Item = Arc<dyn PhysicalExpr>>) -> usize {
        let schema = self.nodes[input].schema.clone();
        let failing: Vec<_> = evaluated.filter(|expression| may_fail(expression, &schema)).collect();
        if failing.is_empty() { input } else { self.guard(input, failing) }
    }

    fn guard(&mut self, input: usize, expressions: Vec<Arc<dyn PhysicalExpr>>) -> usize {
        let Node { schema, changing, times, .. } = &self.nodes[input];
        let (schema, changing, times) = (schema.clone(), *changing, times.clone());
        self.operator(Map::Guard(expressions), vec![input], schema, changing, times)
    }

    pub(super) fn keep_columns(&mut self, input: usize, columns: &[usize], schema: SchemaRef) -> usize {
        let from = self.nodes[input].schema.clone();
        let column = |&index: &usize| Arc::new(Column::new(from.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
        let expressions = columns.iter().map(column).collect();
        self.project(input, expressions, schema)
    }

    /// The node with columns for `expressions`, appended where they are not columns already.
    pub(super) fn with_columns(&mut self, input: usize, expressions: &[Arc<dyn PhysicalExpr>]) -> Result<(usize, Vec<usize>)> {
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
}
