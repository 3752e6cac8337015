//! What the output of joins and windows tells of time, and when their state is dropped.
use std::sync::Arc;

use datafusion::{common::JoinType, physical_expr::window::WindowExpr, physical_plan::PhysicalExpr};

use super::Builder;
use crate::{
    bounds::Bound,
    event_time::{self, Lateness, TimeColumn, TimeColumns},
    operators::{Session, SortedRows},
};

impl Builder<'_> {
    /// A row of a partition may come and go as long as others of it do: only what partitions tells when that ends.
    pub(super) fn partition_times(
        &self,
        node: usize,
        rows: &SortedRows,
        partition: &[Arc<dyn PhysicalExpr>],
        width: usize,
    ) -> TimeColumns {
        let mut times = vec![None; self.nodes[node].times.len()];
        rows.times.iter().for_each(|(column, time)| times[*column] = Some(*time));
        for (expression, column) in partition.iter().zip(&rows.partition) {
            of_what_is_rounded(expression, *column, &mut times);
        }
        times.truncate(rows.columns);
        times.resize(width, None);
        times
    }
}

/// A time that a key rounds down tells what the key tells.
pub(super) fn of_what_is_rounded(key: &Arc<dyn PhysicalExpr>, column: usize, times: &mut TimeColumns) {
    if let (Some(rounded), Some(time)) = (event_time::rounded_column(key), times[column])
        && times[rounded].is_none()
    {
        times[rounded] = Some(time);
    }
}

/// Of the columns of both sides of a join: when no row that holds a value can come, go, or meet another any more.
pub(super) fn joined(bounds: &[Bound], [left, right]: [&TimeColumns; 2]) -> [TimeColumns; 2] {
    let mut times = [vec![None; left.len()], vec![None; right.len()]];
    for bound in bounds {
        let (Some(of_left), Some(of_right)) = (left[bound.left], right[bound.right]) else { continue };
        if let Some(ahead_us) = bound.right_ahead_us {
            soonest(&mut times[0][bound.left], of_left.with_other(of_right, ahead_us));
        }
        if let Some(ahead_us) = bound.left_ahead_us {
            soonest(&mut times[1][bound.right], of_right.with_other(of_left, ahead_us));
        }
    }
    times
}

fn soonest(known: &mut Option<TimeColumn>, time: TimeColumn) {
    if known.is_none_or(|known| time.closes_after_us < known.closes_after_us) {
        *known = Some(time);
    }
}

pub(super) fn known(times: &TimeColumns) -> Vec<(usize, TimeColumn)> {
    times.iter().enumerate().filter_map(|(column, time)| Some((column, (*time)?))).collect()
}

/// Of a join's output.
pub(super) fn shown(join_type: JoinType, left: &[Option<TimeColumn>], right: &[Option<TimeColumn>]) -> TimeColumns {
    match join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => left.iter().chain(right).copied().collect(),
        JoinType::LeftSemi | JoinType::LeftAnti => left.to_vec(),
        JoinType::RightSemi | JoinType::RightAnti => right.to_vec(),
        JoinType::LeftMark => left.iter().copied().chain([None]).collect(),
        JoinType::RightMark => right.iter().copied().chain([None]).collect(),
    }
}

/// Windows that are bounds of the same sessions and nothing else.
pub(super) fn session(
    expressions: &[Arc<dyn WindowExpr>],
    input: &[Option<TimeColumn>],
    lateness: Option<&Lateness>,
) -> Option<Session> {
    let name = |expression: &Arc<dyn WindowExpr>| expression.name().split('(').next().map(|name| name.trim().to_lowercase());
    let arguments = expressions.first()?.expressions();
    let is_bound = |expression: &Arc<dyn WindowExpr>| {
        matches!(name(expression).as_deref(), Some("session_start" | "session_end")) && expression.expressions() == arguments
    };
    if !expressions.iter().all(is_bound) {
        return None;
    }
    let end = expressions.iter().position(|expression| name(expression).as_deref() == Some("session_end"))?;
    let time = event_time::of_expression(arguments.first()?, input, lateness)?;
    // A row that touches a session is at its end at the latest.
    Some(Session { end, time: TimeColumn { step_us: 1, is_source: false, ..time } })
}
