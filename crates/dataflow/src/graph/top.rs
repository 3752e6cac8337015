//! The first rows by an order: `ORDER BY … LIMIT`, and `ROW_NUMBER()` or `last_record()` by partition with a filter of the number.
use std::sync::Arc;

use datafusion::{
    common::{Result, ScalarValue, not_impl_err},
    logical_expr::Operator as Op,
    physical_expr::{
        LexOrdering, conjunction,
        expressions::{BinaryExpr, Column, Literal, NotExpr},
        split_conjunction,
        utils::collect_columns,
    },
    physical_plan::{
        ExecutionPlan, PhysicalExpr, coalesce_partitions::CoalescePartitionsExec, filter::FilterExec, limit::LocalLimitExec,
        projection::ProjectionExec, sorts::sort::SortExec,
    },
};

use super::{Builder, NodeKind, windows_of};
use crate::operators::TopN;

impl Builder<'_> {
    /// `ROW_NUMBER() OVER (…)` filtered to the first rows, possibly through projections of columns; and what else the filter says.
    pub(super) fn lower_numbered(&mut self, filter: &FilterExec) -> Result<Option<usize>> {
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
        self.spans_windows |= forgets.is_none() && rows.times.is_empty();
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

    pub(super) fn lower_limit(&mut self, input: &Arc<dyn ExecutionPlan>, skip: usize, fetch: usize) -> Result<usize> {
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

    pub(super) fn lower_top(&mut self, sort: &SortExec, skip: usize, fetch: usize) -> Result<usize> {
        // The sort has a LIMIT of its own where an OFFSET is around it.
        let fetch = sort.fetch().map_or(fetch, |most| fetch.min(most.saturating_sub(skip)));
        let node = self.lower(sort.input())?;
        let order: &LexOrdering = sort.expr();
        let (rows, node) = self.sorted(node, &[], order)?;
        self.spans_windows = true;
        let changing = self.nodes[node].changing;
        let output = sort.schema();
        let times = self.partition_times(node, &rows, &[], output.fields().len());
        let top = TopN { rows, skip, fetch, numbered: false, changing, forgets: None, output: output.clone() };
        Ok(self.operator(top, vec![node], output, true, times))
    }
}

/// `ROW_NUMBER()`'s column compared with a number: rows through that number.
fn row_number_limit(predicate: &Arc<dyn PhysicalExpr>, column: usize) -> Option<usize> {
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

/// `NOT column`.
fn is_not(predicate: &Arc<dyn PhysicalExpr>, column: usize) -> bool {
    let negated = predicate.downcast_ref::<NotExpr>().and_then(|not| not.arg().downcast_ref::<Column>());
    negated.is_some_and(|found| found.index() == column)
}

/// The columns that a projection keeps, if it does nothing else.
fn plain_columns(projection: &ProjectionExec) -> Option<Vec<usize>> {
    projection.expr().iter().map(|item| Some(item.expr.downcast_ref::<Column>()?.index())).collect()
}
