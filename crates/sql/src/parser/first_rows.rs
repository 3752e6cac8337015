//! `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{LimitClause, Query, VisitorMut};

use super::building::number;
use crate::{error::SqlError, location::Location, walk::visit_mut};

/// The query with LIMIT wherever it says FETCH.
pub(super) fn limit(query: &mut Query, at: Location) -> Result<(), SqlError> {
    match visit_mut(query, &mut Fetches) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::unsupported_at(at, message)),
    }
}

struct Fetches;

impl VisitorMut for Fetches {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let Some(fetch) = query.fetch.take() else { return ControlFlow::Continue(()) };
        if fetch.with_ties {
            return ControlFlow::Break(
                "FETCH FIRST n ROWS WITH TIES is not supported; write SELECT … FROM (SELECT *, RANK() OVER (ORDER BY …) AS r FROM t) WHERE r <= n",
            );
        }
        if fetch.percent {
            return ControlFlow::Break("FETCH FIRST n PERCENT is not supported; write how many rows: LIMIT n");
        }
        let rows = fetch.quantity.unwrap_or_else(|| number(1));
        let nothing = LimitClause::LimitOffset { limit: None, offset: None, limit_by: Vec::new() };
        match query.limit_clause.get_or_insert(nothing) {
            LimitClause::LimitOffset { limit: limit @ None, .. } => *limit = Some(rows),
            _ => return ControlFlow::Break("LIMIT and FETCH FIRST both say how many rows there are; leave one out"),
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        parser::parse,
        statement::{Statement, StatementKind},
    };

    #[test]
    fn what_is_fetched_is_limited() {
        for (written, meant) in [
            ("SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS ONLY", "SELECT a FROM t ORDER BY a LIMIT 3"),
            ("SELECT a FROM t ORDER BY a FETCH NEXT ROW ONLY", "SELECT a FROM t ORDER BY a LIMIT 1"),
            ("SELECT a FROM t ORDER BY a OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY", "SELECT a FROM t ORDER BY a LIMIT 3 OFFSET 2 ROWS"),
            (
                "SELECT a FROM (SELECT a FROM t ORDER BY a FETCH FIRST 1 ROW ONLY) AS x",
                "SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 1) AS x",
            ),
        ] {
            let Statement { kind: StatementKind::Query(query), .. } = parse(written).unwrap().remove(0) else {
                panic!("{written}")
            };
            assert_eq!(query.ast.to_string(), meant);
        }
        for (written, reason) in [
            ("SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS WITH TIES", "RANK() OVER"),
            ("SELECT a FROM t ORDER BY a FETCH FIRST 3 PERCENT ROWS ONLY", "LIMIT n"),
            ("SELECT a FROM t ORDER BY a LIMIT 3 FETCH FIRST 3 ROWS ONLY", "leave one out"),
        ] {
            let error = parse(written).unwrap_err().to_string();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }
}
