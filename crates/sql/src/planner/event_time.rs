//! Where a job's event time comes from, and what it is used for. A column is event time when it is a table's watermark column, unchanged or
//! moved by a fixed length; cut into windows it says by its value when a group is finished. The engine judges lateness by when windows end: a row is late
//! when the first window that it falls into has ended at the watermark. Timers are due at multiples of the *granule*, the greatest common divisor of all
//! windows' lengths and offsets.
use std::collections::BTreeSet;

use datafusion::{
    arrow::datatypes::{DataType, IntervalMonthDayNano},
    common::{Column, Result, ScalarValue, tree_node::TreeNodeRecursion},
    execution::SessionState,
    logical_expr::{Aggregate, Expr, Join, JoinType, LogicalPlan, Operator, expr::ScalarFunction, utils::split_conjunction},
};

use crate::{
    catalog::{Connector, TableDefinition, computed},
    error::SqlError,
    functions::{EVENT_TIME, MultipleWindows, SessionBound, WHOLE_UNITS},
    names::RelationName,
    types::is_utc,
};

/// A declared table with a watermark, as a job reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct WatermarkSource {
    pub table: RelationName,
    /// The column that is followed; it may be computed.
    pub column: String,
    /// Its value over the columns that the connector gives ([`TableDefinition::stored`]), without qualifiers.
    pub expression: Expr,
    /// The watermark stays so far behind the largest value seen.
    pub delay_us: i64,
    /// A partition without records for this long no longer holds the watermark back.
    pub idle_timeout_us: Option<i64>,
}

/// When windows of one kind end: so far apart, and so far after the multiples of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowEnds {
    pub every_us: i64,
    pub offset_us: i64,
}

impl WindowEnds {
    /// Of sessions and interval joins, for which a row is late as soon as its time is below the watermark.
    pub const ALWAYS: Self = Self { every_us: 1, offset_us: 0 };

    fn new(every_us: i64, offset_us: i64) -> Self {
        let every_us = every_us.max(1);
        Self { every_us, offset_us: offset_us.rem_euclid(every_us) }
    }

    /// Whether each end of the others is one of these.
    fn include(self, other: Self) -> bool {
        other.every_us % self.every_us == 0 && (other.offset_us - self.offset_us) % self.every_us == 0
    }

    /// Ends among which are those of both.
    fn common(self, other: Self) -> Self {
        Self::new(gcd(gcd(self.every_us, other.every_us), self.offset_us - other.offset_us), self.offset_us)
    }
}

/// What a job uses event time for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTimeUse {
    /// `None`: for nothing, so that no row is late. `Some(0)`: otherwise than through windows of a fixed length (sessions, interval joins). Else the greatest
    /// common divisor of the windows' lengths and offsets.
    pub granule_us: Option<i64>,
    /// When the windows end by which rows are late, in order, each that says more than the others.
    pub ends: Vec<WindowEnds>,
}

impl EventTimeUse {
    /// Both uses in one job.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let granule_us = match (self.granule_us, other.granule_us) {
            (Some(0), _) | (_, Some(0)) => Some(0),
            (Some(a), Some(b)) => Some(gcd(a, b)),
            (known, None) | (None, known) => known,
        };
        let mut all = [self.ends, other.ends].concat();
        all.sort_unstable();
        // What others include ends less often, or is the same.
        let mut ends: Vec<WindowEnds> = Vec::with_capacity(all.len());
        for one in all {
            if !ends.iter().any(|known| known.include(one)) {
                ends.push(one);
            }
        }
        Self { granule_us, ends }
    }

    fn add(&mut self, granule_us: i64, ends: WindowEnds) {
        *self = std::mem::take(self).and(Self { granule_us: Some(granule_us), ends: vec![ends] });
    }

    /// Timers are due at multiples of it. Windows that come out before their state is dropped do so so much `ahead_us`.
    pub fn timer_granule_us(&self, ahead_us: i64) -> i64 {
        match self.granule_us {
            Some(granule_us) if granule_us > 0 => gcd(granule_us, ahead_us),
            _ => 1,
        }
    }

    /// When a row is late of which so much lateness is allowed, in words; `None`: never.
    pub fn lateness(&self, allowed_us: i64) -> Option<String> {
        let words = self.late_once()?;
        Some(if allowed_us > 0 { format!("{words}, with {} ms of allowed lateness", allowed_us / 1_000) } else { words })
    }

    fn late_once(&self) -> Option<String> {
        let of_one = |ends: &WindowEnds| match (ends.every_us / 1_000, ends.offset_us / 1_000) {
            (every_ms, 0) => format!("every {every_ms} ms"),
            (every_ms, offset_ms) => format!("every {every_ms} ms from {offset_ms} ms on"),
        };
        match self.ends.as_slice() {
            [] => None,
            [WindowEnds::ALWAYS] => Some("a row is late once its time is below the watermark".to_owned()),
            [WindowEnds { every_us, offset_us: 0 }] => {
                Some(format!("a row is late once its {} ms of event time are below the watermark", every_us / 1_000))
            }
            ends => Some(format!(
                "a row is late once the first window that it falls into has ended at the watermark; windows end {}",
                ends.iter().map(of_one).collect::<Vec<_>>().join(", and ")
            )),
        }
    }
}

/// Of all tables of a job that have a watermark.
pub(super) fn sources(state: &SessionState, tables: &[TableDefinition]) -> Result<Vec<WatermarkSource>, SqlError> {
    let mut sources = Vec::new();
    for table in tables {
        let (Some(watermark), Connector::Kafka(options)) = (&table.watermark, &table.connector) else { continue };
        let Some(delay_us) = watermark.delay_us() else {
            let message = format!(
                "the watermark of table {} is {}, which cannot be followed; declare the table again with {} - INTERVAL '5' SECOND",
                table.name, watermark.expression, watermark.column
            );
            return Err(SqlError::unsupported(message));
        };
        let index = table.columns.iter().position(|column| column.name == watermark.column);
        let expression = index.and_then(|index| computed::expressions(state, table).map(|mut all| all.swap_remove(index)).ok());
        let Some(expression) = expression else {
            return Err(SqlError::invalid(format!("the watermark of table {} has no column; declare the table again", table.name)));
        };
        sources.push(WatermarkSource {
            table: table.name.clone(),
            column: watermark.column.clone(),
            expression: expression.unalias(),
            delay_us,
            idle_timeout_us: options.idle_timeout_us,
        });
    }
    Ok(sources)
}

/// What an expression says about event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// The time itself, or moved by a fixed length.
    Raw,
    /// A bound of windows; their lengths are multiples of the granule.
    Bin { granule_us: i64, ends: WindowEnds },
    /// A bound of sessions.
    Session,
}

/// Follows columns down to the tables whose watermark they are.
pub(super) struct Lineage<'a> {
    pub tables: &'a [TableDefinition],
}

impl Lineage<'_> {
    /// What event time is used for in an optimised plan.
    pub fn usage(&self, plan: &LogicalPlan) -> Result<EventTimeUse> {
        let mut usage = EventTimeUse::default();
        plan.apply_with_subqueries(|node| {
            match node {
                LogicalPlan::Aggregate(aggregate) => {
                    self.grouped(aggregate).into_iter().for_each(|time| count(&mut usage, time));
                }
                LogicalPlan::Window(window) => {
                    for expression in &window.window_expr {
                        let Expr::WindowFunction(function) = unaliased(expression) else { continue };
                        let arguments = function.params.partition_by.iter().chain([expression]);
                        arguments
                            .filter_map(|expression| self.of(expression, &window.input))
                            .for_each(|time| count(&mut usage, time));
                    }
                }
                LogicalPlan::Join(join) => self.joined(join).into_iter().for_each(|time| count(&mut usage, time)),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(usage)
    }

    /// Whether rows come that are final when a window closes: some aggregation groups by windows, something OVER is partitioned by them, or an outer join is of
    /// rows of one window. Of rows near each other one without a time would be held back for ever.
    pub fn closes_windows(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        plan.apply_with_subqueries(|node| {
            found |= match node {
                LogicalPlan::Aggregate(aggregate) => !self.grouped(aggregate).is_empty(),
                LogicalPlan::Window(window) => window.window_expr.iter().any(|expression| match unaliased(expression) {
                    Expr::WindowFunction(function) => !self.windows(&function.params.partition_by, &window.input).is_empty(),
                    _ => false,
                }),
                LogicalPlan::Join(join) => join.join_type != JoinType::Inner && self.is_of_one_window(join),
                _ => false,
            };
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }

    fn is_of_one_window(&self, join: &Join) -> bool {
        let is_window = |side: &Expr, input: &LogicalPlan| self.of(side, input).is_some_and(|time| time != Time::Raw);
        join.on.iter().any(|(left, right)| is_window(left, &join.left) && is_window(right, &join.right))
    }

    /// Whether some join is of rows of one window, or near each other.
    pub fn joins_windows(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        plan.apply_with_subqueries(|node| {
            found |= matches!(node, LogicalPlan::Join(join) if !self.joined(join).is_empty());
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }

    /// The windows that an aggregation groups by.
    pub fn grouped(&self, aggregate: &Aggregate) -> Vec<Time> {
        let mut expressions: Vec<&Expr> = Vec::new();
        for group in &aggregate.group_expr {
            match group {
                Expr::GroupingSet(sets) => expressions.extend(sets.distinct_expr()),
                other => expressions.push(other),
            }
        }
        self.windows(expressions, &aggregate.input)
    }

    fn windows<'e>(&self, expressions: impl IntoIterator<Item = &'e Expr>, input: &LogicalPlan) -> Vec<Time> {
        let times = expressions.into_iter().filter_map(|expression| self.of(expression, input));
        times.filter(|time| *time != Time::Raw).collect()
    }

    /// Windows that have to be the same on both sides, and times that have to be near each other.
    fn joined(&self, join: &Join) -> Vec<Time> {
        let mut times = Vec::new();
        for (left, right) in &join.on {
            if let (Some(left), Some(right)) = (self.of(left, &join.left), self.of(right, &join.right)) {
                times.extend(if (left, right) == (Time::Raw, Time::Raw) { [Time::Session; 2] } else { [left, right] });
            }
        }
        let is_bound = |operator: Operator| matches!(operator, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
        let mut bounds = 0;
        for condition in join.filter.iter().flat_map(split_conjunction) {
            let Expr::BinaryExpr(binary) = condition else { continue };
            // However the sum is spelled: the dataflow finds out what it bounds.
            let compares = |side: &LogicalPlan| {
                condition.column_refs().into_iter().any(|column| self.of_column(column, side) == Some(Time::Raw))
            };
            bounds += usize::from(is_bound(binary.op) && compares(&join.left) && compares(&join.right));
        }
        // From both sides, so that rows are forgotten some time: an interval join.
        if bounds >= 2 {
            times.push(Time::Session);
        }
        times
    }

    /// What `expression` over the rows of `input` says about event time.
    pub fn of(&self, expression: &Expr, input: &LogicalPlan) -> Option<Time> {
        match expression {
            Expr::Alias(alias) => self.of(&alias.expr, input),
            Expr::Column(column) => self.of_column(column, input),
            // A cast to another zone moves what has none.
            Expr::Cast(cast) => match cast.field.data_type() {
                DataType::Timestamp(_, Some(zone)) if !is_utc(zone) => None,
                _ => self.of(&cast.expr, input),
            },
            Expr::ScalarFunction(function) => self.of_function(function, input),
            Expr::WindowFunction(function) => {
                let name = function.fun.name();
                let is_session = [SessionBound::Start, SessionBound::End].iter().any(|bound| bound.name() == name);
                let time = function.params.args.first().filter(|_| is_session)?;
                self.of(time, input).map(|_| Time::Session)
            }
            Expr::BinaryExpr(binary) if matches!(binary.op, Operator::Plus | Operator::Minus) => {
                let moved_us = literal_us(&binary.right)?;
                match self.of(&binary.left, input)? {
                    Time::Bin { granule_us, ends } => Some(Time::Bin { granule_us: gcd_bound(granule_us, moved_us), ends }),
                    other => Some(other),
                }
            }
            _ => None,
        }
    }

    fn of_function(&self, function: &ScalarFunction, input: &LogicalPlan) -> Option<Time> {
        let lengths = |arguments: &[Expr]| arguments.iter().map(literal_us).collect::<Option<Vec<i64>>>();
        let (time, lengths, ends) = match (function.func.name(), function.args.as_slice()) {
            (EVENT_TIME, [_]) => return Some(Time::Raw),
            // The cast above it says what is left of the time.
            (WHOLE_UNITS, [_, time]) => return self.of(time, input),
            ("date_bin", [width, time, origin @ ..]) => {
                let width_us = literal_us(width)?;
                let origin = lengths(origin)?;
                let ends = WindowEnds::new(width_us, origin.first().copied().unwrap_or_default());
                (time, [vec![width_us], origin].concat(), ends)
            }
            ("date_trunc", [Expr::Literal(unit, _), time]) => {
                let (width_us, offset_us) = unit_us(unit.try_as_str()??)?;
                (time, vec![width_us, offset_us], WindowEnds::new(width_us, offset_us))
            }
            (name, [time, rest @ ..]) if name == MultipleWindows::HopStarts.name() => {
                let lengths = lengths(rest)?;
                let [slide_us, size_us, offset_us] = *lengths.as_slice() else { return None };
                (time, lengths, WindowEnds::new(slide_us, offset_us.saturating_add(size_us)))
            }
            (name, [time, rest @ ..]) if name == MultipleWindows::CumulateEnds.name() => {
                let lengths = lengths(rest)?;
                let [step_us, _, offset_us] = *lengths.as_slice() else { return None };
                (time, lengths, WindowEnds::new(step_us, offset_us))
            }
            _ => return None,
        };
        let granule_us = lengths.into_iter().fold(0, gcd);
        match self.of(time, input)? {
            Time::Raw => Some(Time::Bin { granule_us, ends }),
            // Windows over windows close with those that they are made of.
            Time::Bin { granule_us: inner, ends } => Some(Time::Bin { granule_us: gcd(granule_us, inner), ends }),
            Time::Session => Some(Time::Session),
        }
    }

    fn of_column(&self, column: &Column, plan: &LogicalPlan) -> Option<Time> {
        let index = plan.schema().maybe_index_of_column(column)?;
        self.of_output(index, plan)
    }

    /// Output `index` of `plan`.
    pub fn of_output(&self, index: usize, plan: &LogicalPlan) -> Option<Time> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let name = scan.projected_schema.field(index).name();
                let table = self.tables.iter().find(|table| table.name == RelationName::from(&scan.table_name))?;
                table.watermark.as_ref().filter(|watermark| watermark.column == *name).map(|_| Time::Raw)
            }
            LogicalPlan::Projection(projection) => self.of(projection.expr.get(index)?, &projection.input),
            LogicalPlan::SubqueryAlias(alias) => self.of_output(index, &alias.input),
            LogicalPlan::Filter(filter) => self.of_output(index, &filter.input),
            LogicalPlan::Sort(sort) => self.of_output(index, &sort.input),
            LogicalPlan::Limit(limit) => self.of_output(index, &limit.input),
            LogicalPlan::Repartition(repartition) => self.of_output(index, &repartition.input),
            LogicalPlan::Distinct(datafusion::logical_expr::Distinct::All(input)) => self.of_output(index, input),
            LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.as_slice() {
                [Expr::GroupingSet(_)] => None,
                groups => self.of(groups.get(index)?, &aggregate.input),
            },
            LogicalPlan::Window(window) => {
                let width = window.input.schema().fields().len();
                if index < width {
                    return self.of_output(index, &window.input);
                }
                self.of(window.window_expr.get(index - width)?, &window.input)
            }
            LogicalPlan::Unnest(unnest) => self.of_output(*unnest.dependency_indices.get(index)?, &unnest.input),
            LogicalPlan::Union(union) => {
                let times: Option<Vec<Time>> = union.inputs.iter().map(|input| self.of_output(index, input)).collect();
                times?.into_iter().reduce(|a, b| match (a, b) {
                    (Time::Bin { granule_us: a, ends }, Time::Bin { granule_us: b, ends: others }) => {
                        Time::Bin { granule_us: gcd(a, b), ends: ends.common(others) }
                    }
                    (Time::Session, _) | (_, Time::Session) => Time::Session,
                    _ => Time::Raw,
                })
            }
            LogicalPlan::Join(join) => {
                use datafusion::logical_expr::JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
                let left = join.left.schema().fields().len();
                match join.join_type {
                    RightSemi | RightAnti | RightMark => self.of_output(index, &join.right),
                    LeftSemi | LeftAnti | LeftMark if index >= left => None,
                    _ if index < left => self.of_output(index, &join.left),
                    _ => self.of_output(index - left, &join.right),
                }
            }
            _ => None,
        }
    }
}

fn count(usage: &mut EventTimeUse, time: Time) {
    match time {
        Time::Raw => {}
        Time::Bin { granule_us, ends } => usage.add(granule_us, ends),
        Time::Session => usage.add(0, WindowEnds::ALWAYS),
    }
}

pub(super) fn unaliased(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// A literal length (or origin) in microseconds.
fn literal_us(expression: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expression else { return None };
    match value {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds })) => {
            Some(i64::from(*days) * 86_400_000_000 + nanoseconds / 1_000)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            Some(i64::from(interval.days) * 86_400_000_000 + i64::from(interval.milliseconds) * 1_000)
        }
        ScalarValue::DurationSecond(Some(length)) | ScalarValue::TimestampSecond(Some(length), _) => length.checked_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(length)) | ScalarValue::TimestampMillisecond(Some(length), _) => {
            length.checked_mul(1_000)
        }
        ScalarValue::DurationMicrosecond(Some(length)) | ScalarValue::TimestampMicrosecond(Some(length), _) => Some(*length),
        ScalarValue::DurationNanosecond(Some(length)) | ScalarValue::TimestampNanosecond(Some(length), _) => Some(length / 1_000),
        ScalarValue::Int64(Some(length)) => Some(*length),
        _ => None,
    }
}

/// How far apart bounds of `date_trunc` are, and how far after the multiples of that. Weeks begin on Mondays, and 1970 on a Thursday; months have no length.
fn unit_us(unit: &str) -> Option<(i64, i64)> {
    const DAY_US: i64 = 86_400_000_000;
    Some(match unit.to_ascii_lowercase().as_str() {
        "microsecond" => (1, 0),
        "millisecond" => (1_000, 0),
        "second" => (1_000_000, 0),
        "minute" => (60_000_000, 0),
        "hour" => (3_600_000_000, 0),
        "day" => (DAY_US, 0),
        "week" => (7 * DAY_US, 4 * DAY_US),
        _ => return None,
    })
}

/// `window_end - 1 ms` is no other granule: a bound that is a little off closes with its window.
fn gcd_bound(granule_us: i64, moved_us: i64) -> i64 {
    const WINDOW_TIME_US: i64 = 1_000;
    if moved_us % granule_us.max(1) == 0 || (moved_us + WINDOW_TIME_US) % granule_us.max(1) == 0 || moved_us == WINDOW_TIME_US {
        return granule_us;
    }
    gcd(granule_us, moved_us)
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.saturating_abs(), b.saturating_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Names of the tables of `tables` that have a watermark, for messages.
pub(super) fn without_watermark(tables: &[TableDefinition]) -> BTreeSet<String> {
    tables.iter().filter(|table| table.watermark.is_none()).map(|table| table.name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_combine() {
        let of = |granule_us: Option<i64>| {
            let ends = |granule_us: i64| WindowEnds::new(granule_us, 0);
            EventTimeUse { granule_us, ends: granule_us.map(ends).into_iter().collect() }
        };
        let both = of(Some(10)).and(of(Some(4)));
        assert_eq!((both.granule_us, both.ends), (Some(2), vec![WindowEnds::new(4, 0), WindowEnds::new(10, 0)]));
        assert_eq!(of(Some(10)).and(of(Some(5))), of(Some(5)));
        assert_eq!(of(None).and(of(Some(4))), of(Some(4)));
        assert_eq!(of(Some(0)).and(of(Some(4))), of(Some(0)));
        assert_eq!(of(None).and(of(None)), of(None));
        assert_eq!(gcd_bound(10_000_000, 9_999_000), 10_000_000);
        assert_eq!(gcd_bound(10_000_000, 5_000_000), 5_000_000);
    }

    #[test]
    fn ends_are_told_once() {
        let ends = |all: &[(i64, i64)]| {
            let mut usage = EventTimeUse::default();
            all.iter().for_each(|(every_us, offset_us)| usage.add(*every_us, WindowEnds::new(*every_us, *offset_us)));
            usage
        };
        assert_eq!(ends(&[(60_000_000, 1_000_000)]).ends, [WindowEnds { every_us: 60_000_000, offset_us: 1_000_000 }]);
        assert_eq!(ends(&[(10, -3)]).ends, [WindowEnds { every_us: 10, offset_us: 7 }]);
        assert_eq!(ends(&[(30, 23), (10, 3), (10, 13)]).ends, [WindowEnds { every_us: 10, offset_us: 3 }]);
        assert_eq!(ends(&[(10, 3), (10, 4)]).ends.len(), 2);
        assert_eq!(WindowEnds::new(10, 3).common(WindowEnds::new(15, 13)), WindowEnds::new(5, 3));
        assert_eq!(ends(&[]).lateness(0), None);
        assert_eq!(ends(&[(0, 0)]).lateness(0).unwrap(), "a row is late once its time is below the watermark");
        let words = ends(&[(10_000_000, 0)]).lateness(0).unwrap();
        assert_eq!(words, "a row is late once its 10000 ms of event time are below the watermark");
        let words = ends(&[(15_000_000, 1_000_000), (10_000_000, 0)]).lateness(0).unwrap();
        assert!(words.ends_with("windows end every 10000 ms, and every 15000 ms from 1000 ms on"), "{words}");
        let words = ends(&[(10_000_000, 0)]).lateness(60_000_000).unwrap();
        assert!(words.ends_with("are below the watermark, with 60000 ms of allowed lateness"), "{words}");
    }

    #[test]
    fn timers_are_due_when_windows_come_out_and_when_they_are_dropped() {
        let of = |granule_us: Option<i64>| EventTimeUse { granule_us, ends: vec![] };
        assert_eq!(of(Some(60)).timer_granule_us(0), 60);
        assert_eq!(of(Some(60)).timer_granule_us(90), 30);
        assert_eq!(of(Some(0)).timer_granule_us(90), 1, "sessions end at any time");
        assert_eq!(of(None).timer_granule_us(90), 1);
    }
}
