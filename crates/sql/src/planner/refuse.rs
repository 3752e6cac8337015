//! What a job cannot do, found when it is created, by name and with what to write instead. What is let through, the engine keeps right at
//! every change; what would run wrongly, or differently each time it is computed again, is refused.
use datafusion::{
    arrow::{
        compute::kernels::cast_utils::parse_interval_month_day_nano, datatypes::IntervalMonthDayNano,
        temporal_conversions::NANOSECONDS_IN_DAY,
    },
    common::{
        DFSchema, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::SessionState,
    logical_expr::{Distinct, Expr, ExprSchemable, JoinType, LogicalPlan, Volatility, WindowFrameBound, WindowFrameUnits},
};

use super::event_time::unaliased;
use crate::{catalog::TableDefinition, error::SqlError, names::RelationName};

/// Checks a plan before it is optimised, as it was written. `sources`: the tables that it reads.
pub(super) fn check_written(subject: &str, plan: &LogicalPlan, sources: &[TableDefinition]) -> Result<(), SqlError> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        refused = refuse_node(node)
            .or_else(|| refuse_lookup(node))
            .or_else(|| refuse_lookup_of_changes(node, sources))
            .or_else(|| refuse_volatile(node))
            .or_else(|| refuse_windows_of_text(node));
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if refused.is_none() {
        refused = refuse_sorts(plan, false);
    }
    match refused {
        Some(why) => Err(SqlError::unsupported(format!("{subject} {why}"))),
        None => Ok(()),
    }
}

/// Checks what optimising made of it.
pub(super) fn check_optimised(subject: &str, plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        refused = refuse_optimised(node).or_else(|| refuse_volatile(node));
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match refused {
        Some(why) => Err(SqlError::unsupported(format!("{subject} {why}"))),
        None => Ok(()),
    }
}

/// Refuses a window function where rows are still being chosen or grouped, of which DataFusion makes a plan that nothing can run, and
/// frames that it takes otherwise than they are written.
pub(super) fn refuse_windows(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        refused = match node {
            LogicalPlan::Filter(_) | LogicalPlan::Join(_) | LogicalPlan::Aggregate(_) => {
                has(node, |part| matches!(part, Expr::WindowFunction(_))).then(|| MISPLACED.to_owned())
            }
            LogicalPlan::Window(window) => {
                window.window_expr.iter().find_map(|call| refused_range(unaliased(call), window.input.schema()))
            }
            _ => None,
        };
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match refused {
        Some(why) => Err(SqlError::unsupported(why)),
        None => Ok(()),
    }
}

const MISPLACED: &str = "a function OVER (…) does not stand in WHERE, ON, GROUP BY or HAVING, as it is computed after them; write QUALIFY ROW_NUMBER() OVER (…) = 1, or compute it in a subquery of FROM";

/// Of a time, a number without a unit would be one of months; before a row, a negative one is after it.
fn refused_range(call: &Expr, schema: &DFSchema) -> Option<String> {
    let Expr::WindowFunction(function) = call else { return None };
    let frame = &function.params.window_frame;
    let [key] = function.params.order_by.as_slice() else { return None };
    if frame.units != WindowFrameUnits::Range {
        return None;
    }
    let key_type = key.expr.get_type(schema).ok()?;
    let refused = |offset: &str| {
        let number = offset.trim().parse::<f64>().ok();
        if !key_type.is_numeric() && !key_type.is_temporal() {
            Some(format!("RANGE goes so far from a number or a time, and {} is neither; write ROWS, or CAST it", key.expr))
        } else if number.map_or_else(|| is_back(offset), |number| number < 0.0) {
            Some(format!(
                "RANGE goes {offset} from a row, which is less than nothing; write FOLLOWING for PRECEDING, or the other way round"
            ))
        } else if number.is_none() && key_type.is_numeric() {
            Some(format!("RANGE goes {offset} from {}, which is a number; write a number", key.expr))
        } else if number.is_some() && key_type.is_temporal() {
            Some(format!(
                "RANGE goes {offset} from {}, which is a time, and says no unit; write INTERVAL '{offset}' SECOND PRECEDING",
                key.expr
            ))
        } else {
            None
        }
    };
    [&frame.start_bound, &frame.end_bound].into_iter().filter_map(offset_of).find_map(refused)
}

/// Whether a length of time is less than nothing, its months of thirty days.
fn is_back(length: &str) -> bool {
    parse_interval_month_day_nano(length.trim()).is_ok_and(|IntervalMonthDayNano { months, days, nanoseconds }| {
        (i128::from(months) * 30 + i128::from(days)) * i128::from(NANOSECONDS_IN_DAY) + i128::from(nanoseconds) < 0
    })
}

/// As it is written, before types are settled.
fn offset_of(bound: &WindowFrameBound) -> Option<&str> {
    match bound {
        WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) => offset.try_as_str().flatten(),
        WindowFrameBound::CurrentRow => None,
    }
}

/// Checks a query that is not yet optimised: that rules make a join of whatever asks EXISTS, IN or a value of a subquery that looks at the outer query, and
/// one that can be computed.
pub(super) fn check_query(plan: &LogicalPlan, state: &SessionState) -> Result<(), SqlError> {
    if who_asks(plan)?.is_none() {
        return Ok(());
    }
    // What cannot be optimised says why when it is.
    let Ok(optimised) = state.optimize(plan) else { return Ok(()) };
    let why = match who_asks(&optimised)? {
        None if has_conditional_not_in(&optimised)? => CONDITIONAL_NOT_IN,
        None => return Ok(()),
        Some(node) if !has(&node, is_question) => {
            "this subquery cannot be written as a join; have it compare columns of the outer query by = alone, or join it as a table: LEFT JOIN (SELECT k, max(v) AS v FROM u GROUP BY k) AS u ON t.k = u.k"
        }
        Some(LogicalPlan::Join(_)) => {
            "EXISTS (SELECT …) and IN (SELECT …) are not supported in the ON of a join; write them in WHERE, or join the subquery too: JOIN (SELECT DISTINCT k FROM u) AS u ON t.k = u.k"
        }
        Some(LogicalPlan::Filter(_)) => {
            "this EXISTS (SELECT …) or IN (SELECT …) cannot be written as a join; have the subquery compare columns of the outer query by = alone, or join it as a table: LEFT JOIN (SELECT k, max(v) AS v FROM u GROUP BY k) AS u ON t.k = u.k"
        }
        Some(_) => {
            "EXISTS (SELECT …) and IN (SELECT …) are not supported among what is selected; write WHERE EXISTS (SELECT 1 …), or LEFT JOIN (SELECT DISTINCT k FROM u) AS u ON t.k = u.k and select u.k IS NOT NULL"
        }
    };
    Err(SqlError::unsupported(why))
}

fn is_question(expression: &Expr) -> bool {
    matches!(expression, Expr::Exists(_) | Expr::InSubquery(_))
}

/// The first node that has EXISTS or IN of a subquery, or the value of one that looks at the outer query.
fn who_asks(plan: &LogicalPlan) -> Result<Option<LogicalPlan>, SqlError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        let is_of_outer = |part: &Expr| matches!(part, Expr::ScalarSubquery(subquery) if !subquery.outer_ref_columns.is_empty());
        if has(node, is_question) || has(node, is_of_outer) {
            found = Some(node.clone());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Whether it takes more than looking at each record for itself.
pub(super) fn is_stateful(plan: &LogicalPlan) -> bool {
    !is_row_by_row(plan)
}

/// Projections and filters over one scan.
fn is_row_by_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => RelationName::from(&scan.table_name).looked_up().is_none(),
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Repartition(_) => {
            plan.inputs().into_iter().all(is_row_by_row)
        }
        _ => false,
    }
}

fn refuse_node(node: &LogicalPlan) -> Option<String> {
    let why = match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Aggregate(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Distinct(Distinct::All(_))
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::EmptyRelation(_)
        | LogicalPlan::Subquery(_) => return None,
        LogicalPlan::Distinct(Distinct::On(_)) => {
            "selects DISTINCT ON: write SELECT … FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY …) AS n FROM t) WHERE n = 1"
                .to_owned()
        }
        LogicalPlan::RecursiveQuery(_) => {
            "is a recursive query (WITH RECURSIVE): it is not supported over a stream; write as many joins as the recursion is deep"
                .to_owned()
        }
        other => format!("uses {}, which is not supported in a stream; leave it out", other.display()),
    };
    Some(why)
}

fn refuse_optimised(node: &LogicalPlan) -> Option<String> {
    if is_conditional_not_in(node) {
        return Some(format!("has {CONDITIONAL_NOT_IN}"));
    }
    match node {
        LogicalPlan::RecursiveQuery(_) => refuse_node(node),
        _ => remaining_subquery(node),
    }
}

const CONDITIONAL_NOT_IN: &str = "NOT IN (SELECT …) with a condition of its own over columns that may be NULL, where one NULL takes every row back; write NOT EXISTS (SELECT 1 FROM … WHERE a = b)";

/// DataFusion asks for NULLs without the condition, or not at all.
fn is_conditional_not_in(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Join(join) if join.null_aware && (join.on.len() != 1 || join.filter.is_some()))
}

fn has_conditional_not_in(plan: &LogicalPlan) -> Result<bool, SqlError> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found = found || is_conditional_not_in(node);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// A subquery that no rule turned into a join.
fn remaining_subquery(node: &LogicalPlan) -> Option<String> {
    has(node, is_subquery).then(|| {
        "has a subquery that cannot be written as a join; write the join yourself, or EXISTS, IN or an aggregate in WHERE that compares columns of the outer query by = alone; for the first rows of each key write ROW_NUMBER() OVER (PARTITION BY key ORDER BY …) <= n over the join"
            .to_owned()
    })
}

pub(super) fn has(node: &LogicalPlan, is_meant: fn(&Expr) -> bool) -> bool {
    let mut found = false;
    let walked = node.apply_expressions(|expression| {
        found = found || expression.exists(|part| Ok(is_meant(part)))?;
        Ok(TreeNodeRecursion::Continue)
    });
    found && walked.is_ok()
}

pub(super) fn is_subquery(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::OuterReferenceColumn(..)
    )
}

/// ORDER BY counts only under LIMIT n, and LIMIT n only over ORDER BY.
fn refuse_sorts(plan: &LogicalPlan, limited: bool) -> Option<String> {
    match plan {
        LogicalPlan::Sort(sort) if !limited && sort.fetch.is_none() => Some(
            "sorts (ORDER BY) without LIMIT: a stream has no end to sort at; add LIMIT n for the first n rows, or leave ORDER BY out and sort in a query over the table"
                .to_owned(),
        ),
        LogicalPlan::Sort(sort) => refuse_sorts(&sort.input, false),
        LogicalPlan::Limit(limit) => {
            let literal = |expression: &Option<Box<Expr>>| match expression.as_deref() {
                None => Some(None),
                Some(Expr::Literal(ScalarValue::Int64(Some(count)), _)) => Some(Some(*count)),
                Some(_) => None,
            };
            match (literal(&limit.skip), literal(&limit.fetch)) {
                (Some(_), Some(Some(_))) if is_sorted(&limit.input) => refuse_sorts(&limit.input, true),
                (Some(_), Some(Some(_))) => {
                    Some("limits its rows (LIMIT) without ORDER BY, so that nothing says which rows stay; add ORDER BY".to_owned())
                }
                _ => Some(
                    "uses OFFSET without LIMIT, or a LIMIT that is no number: write SELECT … FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY …) AS n FROM t) WHERE n > 10"
                        .to_owned(),
                ),
            }
        }
        // What stands between LIMIT and its ORDER BY.
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().into_iter().find_map(|input| refuse_sorts(input, limited))
        }
        other => {
            let below = other.inputs().into_iter().find_map(|input| refuse_sorts(input, false));
            below.or_else(|| refuse_sorts_in_subqueries(other))
        }
    }
}

fn refuse_sorts_in_subqueries(node: &LogicalPlan) -> Option<String> {
    let mut refused = None;
    let walked = node.apply_subqueries(|subquery| {
        // The node `Subquery` is walked into here; what is below it is a query of its own.
        refused = match subquery {
            LogicalPlan::Subquery(subquery) => refuse_sorts(&subquery.subquery, false),
            other => refuse_sorts(other, false),
        };
        Ok(TreeNodeRecursion::Stop)
    });
    refused.filter(|_| walked.is_ok())
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_sorted(&alias.input),
        _ => false,
    }
}

/// A table that is looked up stands on the right of an inner or left join.
fn refuse_lookup(node: &LogicalPlan) -> Option<String> {
    let name = match node {
        LogicalPlan::SubqueryAlias(_) => return None,
        LogicalPlan::Join(join) => looked_up(&join.left)
            .or_else(|| looked_up(&join.right).filter(|_| !matches!(join.join_type, JoinType::Inner | JoinType::Left))),
        other => other.inputs().into_iter().find_map(looked_up),
    }?;
    Some(format!(
        "looks up {name} otherwise than on the right of JOIN or LEFT JOIN; write FROM stream AS s JOIN {name} FOR SYSTEM_TIME AS OF s.proc_time AS t ON s.key = t.key"
    ))
}

/// What rows that change and go were joined with would have to be remembered.
fn refuse_lookup_of_changes(node: &LogicalPlan, sources: &[TableDefinition]) -> Option<String> {
    let LogicalPlan::Join(join) = node else { return None };
    let name = looked_up(&join.right)?;
    let left: &LogicalPlan = &join.left;
    let mut found: Option<&TableDefinition> = None;
    let walked = left.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let read = RelationName::from(&scan.table_name);
            found = found.or_else(|| sources.iter().find(|table| table.name == read && table.keeps_last_record()));
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    let table = &found.filter(|_| walked.is_ok())?.name;
    Some(format!(
        "looks up {name} for rows of {table}, which change and go, and would be taken back otherwise when {name} says something else; join a table whose changes are followed ('connector' = 'upsert-kafka'), or declare the topic of {table} with 'connector' = 'kafka' and 'format' = 'json' and look {name} up for its records"
    ))
}

fn looked_up(plan: &LogicalPlan) -> Option<RelationName> {
    match strip_alias(plan) {
        LogicalPlan::TableScan(scan) => RelationName::from(&scan.table_name).looked_up(),
        _ => None,
    }
}

fn strip_alias(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => strip_alias(&alias.input),
        other => other,
    }
}

/// TUMBLE over a column that is text: DataFusion would read each as a time, and where it is none the row fails.
fn refuse_windows_of_text(node: &LogicalPlan) -> Option<String> {
    let LogicalPlan::Projection(projection) = node else { return None };
    projection.expr.iter().find_map(|expression| {
        let Expr::Alias(alias) = expression else { return None };
        let Expr::ScalarFunction(function) = alias.expr.as_ref() else { return None };
        let [_, time, ..] = function.args.as_slice() else { return None };
        let is_window = alias.name == "window_start" && function.name() == "date_bin";
        let is_text = time.get_type(projection.input.schema()).is_ok_and(|data_type| data_type.is_string());
        let name = time.try_as_col().filter(|_| is_window && is_text).map(|column| &column.name)?;
        Some(format!(
            "has windows over column {name}, which is STRING and no time; make one of it, in a subquery or as a computed column of the table: at AS CAST({name} AS TIMESTAMP(3)), and write DESCRIPTOR(at)"
        ))
    })
}

/// A function that answers differently each time may be asked once per record, where the record comes in, and not above state, where it
/// would be asked again whenever a row changes.
fn refuse_volatile(node: &LogicalPlan) -> Option<String> {
    if is_row_by_row(node) || matches!(node, LogicalPlan::Subquery(_)) {
        return None;
    }
    let mut found = None;
    let walked = node.apply_expressions(|expression| {
        expression.apply(|part| {
            if let Expr::ScalarFunction(function) = part
                && function.func.signature().volatility == Volatility::Volatile
            {
                found = Some(function.name().to_owned());
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    let name = found.filter(|_| walked.is_ok())?;
    Some(format!(
        "asks {name}() after an aggregation, join or window, where it would answer otherwise whenever a row changes; select it in a subquery over the Kafka table: FROM (SELECT *, {name}() AS x FROM t)"
    ))
}
