//! Functions in FROM, as Flink and Snowflake write them: `TABLE(UNNEST(a))`, `LATERAL TABLE(UNNEST(a))` and `TABLE(generate_series(1, 3))` are the
//! functions by themselves, and names without quotes are lower case. Those of windows are read before.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, TableFactor, VisitorMut,
};

use super::calls::clause_of;
use crate::{error::SqlError, location::Location, walk::visit_mut};

pub(super) fn rewrite(query: &mut Query, at: Location) -> Result<(), SqlError> {
    match visit_mut(query, &mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::unsupported_at(at, message)),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = &'static str;

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<Self::Break> {
        let (called, lateral, with_ordinality, alias) = match table {
            TableFactor::TableFunction { expr, alias } => (call_in(expr), false, false, alias.take()),
            TableFactor::Function { name, args, lateral, with_ordinality, alias }
                if name.to_string().eq_ignore_ascii_case("table") =>
            {
                let called = match args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => call_in(expr),
                    _ => None,
                };
                (called, *lateral, *with_ordinality, alias.take())
            }
            TableFactor::Table { name, args: Some(_), .. } => {
                *name = folded(name);
                return ControlFlow::Continue(());
            }
            _ => return ControlFlow::Continue(()),
        };
        let Some((name, args)) = called else {
            return ControlFlow::Break(
                "TABLE(…) takes a function of rows: UNNEST(array), generate_series(a, b), or windows as TUMBLE(TABLE t, …) makes them",
            );
        };
        *table = TableFactor::Function { lateral, name, args, with_ordinality, alias };
        ControlFlow::Continue(())
    }
}

/// The name and the arguments of a call that has nothing else.
fn call_in(expression: &Expr) -> Option<(ObjectName, Vec<FunctionArg>)> {
    let Expr::Function(called) = expression else { return None };
    match &called.args {
        FunctionArguments::List(list) if clause_of(called).is_none() => Some((called.name.clone(), list.args.clone())),
        _ => None,
    }
}

/// As it is looked up.
fn folded(name: &ObjectName) -> ObjectName {
    match name.0.as_slice() {
        [part] => match part.as_ident().filter(|ident| ident.quote_style.is_none()) {
            Some(ident) => ObjectName::from(vec![Ident::new(ident.value.to_lowercase())]),
            None => name.clone(),
        },
        _ => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use crate::{parser::parse, statement::StatementKind};

    fn query(sql: &str) -> String {
        let StatementKind::Query(query) = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).remove(0).kind else {
            panic!("not a query: {sql}")
        };
        query.ast.to_string()
    }

    #[test]
    fn functions_are_called_with_and_without_table() {
        for (written, meant) in [
            ("SELECT x FROM k, LATERAL TABLE(UNNEST(a)) AS t(x)", "SELECT x FROM k CROSS JOIN UNNEST(a) AS t(x)"),
            ("SELECT x FROM k CROSS JOIN LATERAL TABLE(unnest(a)) t(x)", "SELECT x FROM k CROSS JOIN UNNEST(a) AS t(x)"),
            ("SELECT x FROM k, TABLE(UNNEST(a)) AS t(x)", "SELECT x FROM k CROSS JOIN UNNEST(a) AS t(x)"),
            (
                "SELECT x FROM k LEFT JOIN LATERAL TABLE(UNNEST(a)) AS t(x) ON TRUE",
                "SELECT x FROM k LEFT JOIN UNNEST(a) AS t(x) ON TRUE",
            ),
            ("SELECT * FROM GENERATE_SERIES(1, 3)", "SELECT * FROM generate_series(1, 3)"),
            ("SELECT * FROM TABLE(generate_series(1, 3)) AS s", "SELECT * FROM generate_series(1, 3) AS s"),
        ] {
            assert_eq!(query(written), query(meant), "{written}");
        }
    }

    #[test]
    fn what_gives_no_rows_is_refused() {
        for sql in
            ["SELECT * FROM TABLE(1 + 1)", "SELECT * FROM k, LATERAL TABLE(a, b)", "SELECT * FROM TABLE(f(a) FILTER (WHERE b))"]
        {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains("takes a function of rows: UNNEST(array)"), "{sql}: {error}");
        }
    }
}
