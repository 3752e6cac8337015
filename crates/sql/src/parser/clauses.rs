//! What sqlparser reads and DataFusion passes over, answers wrongly, or would change something by: refused by name, with what to write instead.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, GroupByExpr, Join, JoinConstraint, JoinOperator, LimitClause, Query, Select, SelectFlavor,
    SelectItem, SetExpr, SetOperator, SetQuantifier, Statement, TableFactor, UnaryOperator, Visit, Visitor,
};

use crate::{
    error::SqlError,
    location::Location,
    walk::{visit, visit_expressions},
};

/// Refuses what queries cannot say.
pub(super) fn refuse(query: &Query, at: Location) -> Result<(), SqlError> {
    match visit(query, &mut Clauses) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::unsupported_at(at, message)),
    }
}

struct Clauses;

impl Visitor for Clauses {
    type Break = String;

    fn pre_visit_statement(&mut self, _: &Statement) -> ControlFlow<String> {
        ControlFlow::Break("a query only reads; write INSERT INTO t SELECT … as a statement of its own".into())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() {
            return ControlFlow::Break("FOR UPDATE and FOR SHARE do not exist, as there are no locks; leave them out".into());
        }
        if let Some(message) = refused_of_query(query) {
            return ControlFlow::Break(message.into());
        }
        if asks_in_values(&query.body) {
            return ControlFlow::Break(
                "VALUES with a subquery is not supported; write INSERT INTO … SELECT 'a', (SELECT max(x) FROM u), and UNION ALL between several rows"
                    .into(),
            );
        }
        let Some(operator) = counted(&query.body) else { return ControlFlow::Continue(()) };
        ControlFlow::Break(format!(
            "{operator} ALL is not supported; write {operator} for rows that differ, or number equal ones: ROW_NUMBER() OVER (PARTITION BY every column)"
        ))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
        if let Some(modifier) = modifiers.first() {
            let message =
                format!("GROUP BY … {modifier} is not supported; write GROUP BY ROLLUP (…), CUBE (…) or GROUPING SETS (…)");
            return ControlFlow::Break(message);
        }
        if select.into.is_some() {
            return ControlFlow::Break("SELECT … INTO does not exist; write CREATE TABLE and INSERT INTO t SELECT …".into());
        }
        if !select.lateral_views.is_empty() {
            return ControlFlow::Break(
                "LATERAL VIEW is not supported; write FROM t CROSS JOIN UNNEST(array) AS x (item) for explode(array)".into(),
            );
        }
        if let Some(message) = refused_of_select(select) {
            return ControlFlow::Break(message.into());
        }
        let conditions = [&select.selection, &select.having, &select.qualify];
        if let Some(message) = conditions.into_iter().flatten().find_map(|condition| unanswerable(condition, true, true)) {
            return ControlFlow::Break(message.into());
        }
        select.from.iter().try_for_each(|table| refuse_joins(&table.joins))
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<String> {
        match table {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                ControlFlow::Break("TABLESAMPLE is not supported; choose rows by a column: WHERE id % 10 = 0".into())
            }
            TableFactor::Table { with_ordinality: true, .. } | TableFactor::Function { with_ordinality: true, .. } => {
                ControlFlow::Break("WITH ORDINALITY is not supported; number the rows: ROW_NUMBER() OVER (ORDER BY …)".into())
            }
            TableFactor::Table { name, with_hints, partitions, index_hints, .. }
                if !(with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty()) =>
            {
                ControlFlow::Break(format!("table {name} takes no WITH (…), PARTITION (…) or INDEX (…) in a query; leave it out"))
            }
            TableFactor::Pivot { .. } | TableFactor::Unpivot { .. } => ControlFlow::Break(
                "PIVOT and UNPIVOT are not supported; write sum(v) FILTER (WHERE k = 'a') AS a, or UNION ALL".into(),
            ),
            TableFactor::NestedJoin { table_with_joins, .. } => refuse_joins(&table_with_joins.joins),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<String> {
        match expression {
            Expr::AnyOp { compare_op, right, .. } if matches!(right.as_ref(), Expr::Subquery(_)) => {
                let remedy = match compare_op {
                    BinaryOperator::Eq => "write IN (SELECT …)",
                    BinaryOperator::Lt | BinaryOperator::LtEq => "compare with (SELECT max(…) …)",
                    BinaryOperator::Gt | BinaryOperator::GtEq => "compare with (SELECT min(…) …)",
                    _ => "write EXISTS (SELECT 1 … WHERE …)",
                };
                ControlFlow::Break(format!("{compare_op} ANY (SELECT …) is not supported; {remedy}"))
            }
            Expr::AllOp { compare_op, right, .. } if matches!(right.as_ref(), Expr::Subquery(_)) => {
                let remedy = match compare_op {
                    BinaryOperator::NotEq => "write NOT IN (SELECT …)",
                    BinaryOperator::Lt | BinaryOperator::LtEq => "compare with (SELECT min(…) …)",
                    BinaryOperator::Gt | BinaryOperator::GtEq => "compare with (SELECT max(…) …)",
                    _ => "write NOT EXISTS (SELECT 1 … WHERE …)",
                };
                ControlFlow::Break(format!("{compare_op} ALL (SELECT …) is not supported; {remedy}"))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// What stands around a query and would say nothing.
fn refused_of_query(query: &Query) -> Option<&'static str> {
    if query.format_clause.is_some() || query.for_clause.is_some() {
        return Some(
            "FORMAT, FOR JSON and FOR XML do not exist; how an answer is written is the client's: polybolos sql --output json",
        );
    }
    if query.settings.is_some() {
        return Some("SETTINGS is not supported; leave it out");
    }
    match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit_by, .. }) if !limit_by.is_empty() => {
            Some("LIMIT n BY is not supported; write QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY …) <= n")
        }
        _ => None,
    }
}

/// What other systems have in a SELECT.
fn refused_of_select(select: &Select) -> Option<&'static str> {
    let is_like = |item: &SelectItem| match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => options.opt_ilike.is_some(),
        _ => false,
    };
    if select.prewhere.is_some() {
        Some("PREWHERE is not supported; write WHERE")
    } else if !select.connect_by.is_empty() {
        Some("CONNECT BY is not supported; write a join per level, or in a query WITH RECURSIVE")
    } else if select.top.is_some() {
        Some("TOP is not supported; write LIMIT n")
    } else if !(select.sort_by.is_empty() && select.cluster_by.is_empty() && select.distribute_by.is_empty()) {
        Some("SORT BY, CLUSTER BY and DISTRIBUTE BY are not supported; write ORDER BY, or leave them out")
    } else if select.flavor == SelectFlavor::FromFirstNoSelect {
        Some("FROM t by itself selects nothing; write SELECT * FROM t")
    } else if select.projection.iter().any(is_like) {
        Some("* ILIKE is not supported; name the columns")
    } else {
        None
    }
}

const UNKNOWN: &str = "whether IN (SELECT …) is NULL, false or equal to something cannot be asked, as a NULL would count as false; write NOT EXISTS (SELECT 1 … WHERE …), or EXISTS";
const NOT_IN: &str = "NOT IN (SELECT …) beside OR or under IS TRUE is not supported, as a NULL would count as true; write NOT EXISTS (SELECT 1 … WHERE …), or two queries with UNION";

/// Why a condition cannot ask what it does of IN of a subquery: where nobody knows, DataFusion finds it false, which must not show.
/// `is_wanted`: of what has to be true, and not false; `is_term`: of what nothing but AND joins to the rest, where it finds NOT IN as it should.
fn unanswerable(condition: &Expr, is_wanted: bool, is_term: bool) -> Option<&'static str> {
    match condition {
        // Of several columns EXISTS is made, to which a NULL is false.
        Expr::InSubquery { expr, negated, .. } => {
            let is_denied = *negated == is_wanted && !matches!(expr.as_ref(), Expr::Tuple(_));
            (is_denied && !is_term).then_some(NOT_IN)
        }
        Expr::Nested(inner) => unanswerable(inner, is_wanted, is_term),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => unanswerable(expr, !is_wanted, is_term),
        Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            // NOT (… OR …) is the AND of what it denies.
            let is_term = is_term && (*op == BinaryOperator::And) == is_wanted;
            unanswerable(left, is_wanted, is_term).or_else(|| unanswerable(right, is_wanted, is_term))
        }
        Expr::IsTrue(inner) | Expr::IsNotTrue(inner) => unanswerable(inner, true, false),
        Expr::Case { operand: None, conditions, else_result, .. } => {
            let of_branch = |branch: &CaseWhen| {
                unanswerable(&branch.condition, true, false).or_else(|| unanswerable(&branch.result, is_wanted, false))
            };
            let of_others = || else_result.as_ref().and_then(|result| unanswerable(result, is_wanted, false));
            conditions.iter().find_map(of_branch).or_else(of_others)
        }
        other => visit(other, &mut InOfSubquery { depth: 0 }).is_break().then_some(UNKNOWN),
    }
}

/// Finds one that is the query's own, and not of a query within it.
struct InOfSubquery {
    depth: usize,
}

impl Visitor for InOfSubquery {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::InSubquery { .. } if self.depth == 0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Whether VALUES has a subquery, of which DataFusion makes no plan.
fn asks_in_values(body: &SetExpr) -> bool {
    match body {
        SetExpr::Values(values) => has_query(values),
        SetExpr::SetOperation { left, right, .. } => asks_in_values(left) || asks_in_values(right),
        _ => false,
    }
}

/// Whether one of its expressions asks a query.
pub(super) fn has_query<T: Visit>(node: &T) -> bool {
    let found = visit_expressions(node, |expression| match expression {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// EXCEPT or INTERSECT that counts how often a row is there.
fn counted(body: &SetExpr) -> Option<SetOperator> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return None };
    let counts = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName) && *op != SetOperator::Union;
    if counts { Some(*op) } else { counted(left).or_else(|| counted(right)) }
}

/// Joins that DataFusion does not know, and those by columns of the same name where the left side may lack a row: such a column is the left one's
/// alone to DataFusion, and NULL there.
fn refuse_joins(joins: &[Join]) -> ControlFlow<String> {
    if joins.iter().any(|join| matches!(join.join_operator, JoinOperator::AsOf { .. })) {
        return ControlFlow::Break(
            "ASOF JOIN is not supported; write JOIN … ON a.k = b.k AND b.ts <= a.ts, and keep the newest: ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.ts DESC) = 1"
                .into(),
        );
    }
    if let Some(message) = joins.iter().find_map(|join| unknown_join(&join.join_operator)) {
        return ControlFlow::Break(message.into());
    }
    let refused = joins.iter().find_map(|join| match &join.join_operator {
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => Some(("RIGHT", constraint)),
        JoinOperator::FullOuter(constraint) => Some(("FULL", constraint)),
        _ => None,
    });
    if let Some((words, _)) =
        refused.filter(|(_, constraint)| matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural))
    {
        return ControlFlow::Break(format!(
            "{words} JOIN by columns of the same name (USING, NATURAL) is not supported; write {words} JOIN … ON a.k = b.k, and select coalesce(a.k, b.k) AS k"
        ));
    }
    match joins.iter().filter_map(condition_of).find_map(|condition| unanswerable(condition, true, true)) {
        Some(message) => ControlFlow::Break(message.into()),
        None => ControlFlow::Continue(()),
    }
}

fn unknown_join(operator: &JoinOperator) -> Option<&'static str> {
    match operator {
        JoinOperator::Semi(_) => Some("SEMI JOIN is not supported; write LEFT SEMI JOIN"),
        JoinOperator::Anti(_) => Some("ANTI JOIN is not supported; write LEFT ANTI JOIN"),
        JoinOperator::StraightJoin(_) => Some("STRAIGHT_JOIN is not supported; write JOIN"),
        JoinOperator::CrossApply | JoinOperator::OuterApply => {
            Some("CROSS APPLY and OUTER APPLY are not supported; write FROM t, LATERAL (SELECT …) AS x")
        }
        JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
            Some("ARRAY JOIN is not supported; write CROSS JOIN UNNEST(array) AS x (item)")
        }
        _ => None,
    }
}

/// What stands in its ON.
fn condition_of(join: &Join) -> Option<&Expr> {
    use JoinOperator::{FullOuter, Inner, Join, Left, LeftAnti, LeftOuter, LeftSemi, Right, RightAnti, RightOuter, RightSemi};
    let (Join(constraint)
    | Inner(constraint)
    | Left(constraint)
    | LeftOuter(constraint)
    | Right(constraint)
    | RightOuter(constraint)
    | FullOuter(constraint)
    | LeftSemi(constraint)
    | LeftAnti(constraint)
    | RightSemi(constraint)
    | RightAnti(constraint)) = &join.join_operator
    else {
        return None;
    };
    match constraint {
        JoinConstraint::On(condition) => Some(condition),
        _ => None,
    }
}
