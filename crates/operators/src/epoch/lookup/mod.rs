//! Look-up joins (`JOIN t FOR SYSTEM_TIME AS OF …`): an epoch asks a keyed table for the keys of a stream's rows, between reading them and computing with them. What
//! was found goes on with the row and is recorded with the epoch, so that nothing above asks again (ADR 11). Here: which join of a plan is one, and what
//! it asks for; [`branches`] takes it into the branches of a union, [`refusal`] says what rows cannot be looked up for, and [`run`] asks.
mod branches;
mod cache;
#[cfg(test)]
mod law;
#[cfg(test)]
mod plans;
mod refusal;
mod run;
#[cfg(test)]
mod store;

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    common::{JoinType, Result, ScalarValue, plan_err},
    logical_expr::Operator,
    physical_expr::{
        expressions::{BinaryExpr, CastExpr, Column, Literal},
        split_conjunction,
    },
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        filter::FilterExec,
        joins::{HashJoinExec, utils::JoinFilter},
        projection::ProjectionExec,
        unnest::UnnestExec,
    },
};
use parking_lot::Mutex;
use polybolos_dataflow::{Lateness, TimeColumn, event_time, operators::Unnest};
use polybolos_tables::{KeyPredicate, PredicateOp, TableBackend};

pub use self::branches::into_branches;
use self::cache::LookupCache;
pub use self::run::{Asking, UnfitRow, resolve};
use crate::{lookup_scan::LookupScanExec, record_scan::RecordScanExec, steps::Step};

/// What becomes of a scan's rows before the dataflow takes them.
#[derive(Debug)]
pub enum Stage {
    Step(Step),
    /// Each row becomes several, as those of HOP and CUMULATE do too.
    Unnest(Unnest),
    Lookup(Box<LookupJoin>),
}

/// What a column of the partition key is compared with.
#[derive(Debug)]
enum Key {
    /// An expression over the stream's rows.
    Of(Arc<dyn PhysicalExpr>),
    Value(ScalarValue),
}

#[derive(Debug)]
pub struct LookupJoin {
    scan: LookupScanExec,
    /// One per column of the partition key.
    keys: Vec<Key>,
    /// What stands between the table and the join.
    steps: Vec<Step>,
    right: SchemaRef,
    on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    filter: Option<JoinFilter>,
    /// Rows without a match go on too.
    is_left: bool,
    projection: Option<Vec<usize>>,
    output: SchemaRef,
    cache: Mutex<LookupCache>,
}

/// A scan and its stages, where a plan is nothing else and the last of them is a look-up. `None`: it is something else.
///
/// # Errors
/// When it joins a table that is looked up in a way in which that cannot be done; the message says what to write.
pub fn of_plan(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<(RecordScanExec, Vec<Stage>)>> {
    if let Some(scan) = plan.downcast_ref::<LookupScanExec>() {
        return plan_err!(
            "table {} is looked up without its whole partition key ({}); compare each of its columns with = in ON",
            scan.table().name,
            scan.table().partition_key.join(", ")
        );
    }
    if !plan.is::<HashJoinExec>() {
        return Ok(None);
    }
    stages(plan)
}

fn stages(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<(RecordScanExec, Vec<Stage>)>> {
    if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
        return Ok(Some((scan.clone(), vec![])));
    }
    if let Some((input, steps)) = step(plan)? {
        let Some((scan, mut known)) = stages(input)? else { return Ok(None) };
        known.extend(steps.into_iter().map(Stage::Step));
        return Ok(Some((scan, known)));
    }
    if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
        let Some((scan, mut known)) = stages(unnest.input())? else { return Ok(None) };
        known.push(Stage::Unnest(Unnest::of(unnest)));
        return Ok(Some((scan, known)));
    }
    let Some(join) = plan.downcast_ref::<HashJoinExec>() else { return Ok(None) };
    let Some((scan, steps)) = looked_up(join.right())? else { return Ok(None) };
    let Some((source, mut known)) = stages(join.left())? else {
        return Err(refusal::refusal(&scan.table().name, join.left()));
    };
    known.push(Stage::Lookup(Box::new(LookupJoin::of(join, scan, steps)?)));
    Ok(Some((source, known)))
}

/// The input of a node whose rows are each made of one of its input's.
fn input_of_each_row(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let is_row_by_row = plan.is::<ProjectionExec>()
        || plan.is::<FilterExec>()
        || plan.is::<UnnestExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<CooperativeExec>();
    match plan.children().as_slice() {
        [input] if is_row_by_row => Some(*input),
        _ => None,
    }
}

/// A filter or a projection as steps over its input.
fn step(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<(&Arc<dyn ExecutionPlan>, Vec<Step>)>> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expressions = projection.expr().iter().map(|item| (item.expr.clone(), item.alias.clone())).collect();
        let step = Step::project(expressions, &projection.input().schema())?;
        return Ok(Some((projection.input(), vec![step])));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let mut steps = vec![Step::Filter(filter.predicate().clone())];
        if let Some(kept) = filter.projection().as_ref() {
            let input = filter.input().schema();
            let column = |&index: &usize| {
                let name = input.field(index).name().clone();
                (Arc::new(Column::new(&name, index)) as Arc<dyn PhysicalExpr>, name)
            };
            steps.push(Step::project(kept.iter().map(column).collect(), &input)?);
        }
        return Ok(Some((filter.input(), steps)));
    }
    match plan.children().as_slice() {
        [child] if plan.is::<CoalescePartitionsExec>() || plan.is::<CooperativeExec>() => Ok(Some((*child, vec![]))),
        _ => Ok(None),
    }
}

/// The table that stands below, and what is between.
fn looked_up(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<(LookupScanExec, Vec<Step>)>> {
    if let Some(scan) = plan.downcast_ref::<LookupScanExec>() {
        return Ok(Some((scan.clone(), vec![])));
    }
    let Some((input, steps)) = step(plan)? else { return Ok(None) };
    let Some((scan, mut known)) = looked_up(input)? else { return Ok(None) };
    known.extend(steps);
    Ok(Some((scan, known)))
}

/// The table's column that an expression over the right of a join is, as long as equal values stay equal and others do not become so.
fn column_of(expression: &Arc<dyn PhysicalExpr>, scan: &LookupScanExec, steps: &[Step]) -> Option<usize> {
    if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        let column = column_of(cast.expr(), scan, steps)?;
        return keeps_values(&scan.table().columns[column].data_type, cast.cast_type()).then_some(column);
    }
    let column = expression.downcast_ref::<Column>()?.index();
    match steps.split_last() {
        None => scan.columns().get(column).copied(),
        Some((Step::Filter(_), before)) => column_of(expression, scan, before),
        Some((Step::Project { expressions, .. }, before)) => column_of(&expressions.get(column)?.0, scan, before),
    }
}

fn keeps_values(from: &DataType, to: &DataType) -> bool {
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    from == to || (is_text(from) && is_text(to)) || (from.is_signed_integer() && to.is_signed_integer() && from.size() <= to.size())
}

impl LookupJoin {
    fn of(join: &HashJoinExec, scan: LookupScanExec, steps: Vec<Step>) -> Result<Self> {
        let table = scan.table();
        let is_left = match join.join_type() {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => return plan_err!("table {} is looked up by a {other} join; write JOIN or LEFT JOIN", table.name),
        };
        let mut keys = vec![];
        for name in &table.partition_key {
            let is_it = |expression: &Arc<dyn PhysicalExpr>, steps: &[Step]| {
                column_of(expression, &scan, steps).is_some_and(|column| table.columns[column].name == *name)
            };
            let compared = join.on().iter().find(|(_, right)| is_it(right, &steps)).map(|(left, _)| Key::Of(left.clone()));
            let key = compared.or_else(|| constant(&steps, is_it).map(Key::Value));
            let Some(key) = key else {
                return plan_err!(
                    "table {} is looked up without column {name} of its partition key ({}); compare it with = in ON",
                    table.name,
                    table.partition_key.join(", ")
                );
            };
            keys.push(key);
        }
        Ok(Self {
            keys,
            right: join.right().schema(),
            on: join.on().to_vec(),
            filter: join.filter().cloned(),
            is_left,
            projection: join.projection.as_ref().map(|kept| kept.to_vec()),
            output: join.schema(),
            cache: Mutex::new(LookupCache::new(scan.options())),
            steps,
            scan,
        })
    }

    fn describe(&self) -> String {
        let table = self.scan.table();
        let kind = if self.is_left { "left" } else { "inner" };
        let options = self.scan.options();
        let cache = match options.cache_ttl_ms {
            Some(ttl_ms) => format!(", kept for {ttl_ms} ms"),
            None => String::new(),
        };
        format!("looks up {} ({kind}) by [{}]{cache}", table.name, table.partition_key.join(", "))
    }
}

/// The literal that a filter compares a column of the key with.
fn constant(steps: &[Step], is_it: impl Fn(&Arc<dyn PhysicalExpr>, &[Step]) -> bool) -> Option<ScalarValue> {
    steps.iter().enumerate().find_map(|(index, step)| {
        let Step::Filter(predicate) = step else { return None };
        split_conjunction(predicate).into_iter().find_map(|term| {
            let binary = term.downcast_ref::<BinaryExpr>().filter(|binary| *binary.op() == Operator::Eq)?;
            let sides = [(binary.left(), binary.right()), (binary.right(), binary.left())];
            let (_, value) = sides.into_iter().find(|(column, _)| is_it(column, &steps[..index]))?;
            Some(value.downcast_ref::<Literal>()?.value().clone())
        })
    })
}

/// What stages make of a scan's event time.
pub fn times_of(stages: &[Stage], mut times: Vec<Option<TimeColumn>>, lateness: Option<&Lateness>) -> Vec<Option<TimeColumn>> {
    for stage in stages {
        times = match stage {
            Stage::Step(Step::Filter(_)) => times,
            Stage::Step(Step::Project { expressions, .. }) => {
                expressions.iter().map(|(expression, _)| event_time::of_expression(expression, &times, lateness)).collect()
            }
            Stage::Unnest(unnest) => unnest.times(times),
            Stage::Lookup(join) => {
                times.extend(join.right.fields().iter().map(|_| None));
                match &join.projection {
                    Some(kept) => kept.iter().map(|&column| times[column]).collect(),
                    None => times,
                }
            }
        };
    }
    times
}

/// That the store finds rows by keys of these types.
///
/// # Errors
/// Names a table and its key where it does not.
pub fn check(stages: &[Stage], tables: &dyn TableBackend) -> Result<()> {
    for stage in stages {
        let Stage::Lookup(join) = stage else { continue };
        let table = join.scan.table();
        let mut predicates = vec![];
        for column in table.partition_key.iter().filter_map(|name| table.column(name)) {
            let values = ScalarValue::new_default(&column.data_type)?.to_array()?;
            predicates.push(KeyPredicate { column: column.name.clone(), op: PredicateOp::Eq, values });
        }
        if tables.supports(table, &predicates).contains(&false) {
            return plan_err!(
                "table {} has a partition key ({}) of types by which rows cannot be looked up in {}; use text, integers, uuid or timestamps",
                table.name,
                table.partition_key.join(", "),
                tables.store()
            );
        }
    }
    Ok(())
}

/// For EXPLAIN.
pub fn describe(stages: &[Stage]) -> String {
    let lookups = stages.iter().filter_map(|stage| match stage {
        Stage::Lookup(join) => Some(join.describe()),
        Stage::Unnest(_) => Some("unnests".to_owned()),
        Stage::Step(_) => None,
    });
    lookups.collect::<Vec<_>>().join("; ")
}
