//! Names of windows, resolved as in PostgreSQL: `OVER (w ORDER BY b)` has the PARTITION BY of `WINDOW w AS (PARTITION BY a)`. DataFusion passes over a name that
//! other words may follow, and looks for one alone in SELECT, not in QUALIFY and ORDER BY.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, Query, Select, SetExpr, VisitorMut, WindowSpec, WindowType,
};

use super::headings::folded;
use crate::{error::SqlError, location::Location, walk::visit_mut};

/// Puts what each name of a window stands for in its place.
pub(super) fn resolve(query: &mut Query, at: Location) -> Result<(), SqlError> {
    match visit_mut(query, &mut Scopes::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(SqlError::invalid_at(at, message)),
    }
}

/// The windows of one WINDOW clause.
type Windows = Vec<(String, WindowSpec)>;

/// Those of each query and SELECT that is being visited, the innermost last: a subquery sees its own alone.
#[derive(Default)]
struct Scopes(Vec<Windows>);

impl Scopes {
    fn enter(&mut self, definitions: &[NamedWindowDefinition]) -> ControlFlow<String> {
        match defined(definitions) {
            Ok(windows) => {
                self.0.push(windows);
                ControlFlow::Continue(())
            }
            Err(message) => ControlFlow::Break(message),
        }
    }

    fn leave(&mut self) -> ControlFlow<String> {
        self.0.pop();
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Scopes {
    type Break = String;

    // What a query is ordered by stands outside its SELECT, and sees the same windows.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<String> {
        match query.body.as_ref() {
            SetExpr::Select(select) => self.enter(&select.named_window),
            _ => self.enter(&[]),
        }
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<String> {
        self.leave()
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<String> {
        self.enter(&select.named_window)
    }

    fn post_visit_select(&mut self, _: &mut Select) -> ControlFlow<String> {
        self.leave()
    }

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<String> {
        let Expr::Function(function) = expression else { return ControlFlow::Continue(()) };
        let windows = self.0.last().map(Vec::as_slice).unwrap_or_default();
        let meant = match &function.over {
            Some(WindowType::NamedWindow(name)) => named(windows, name).cloned(),
            Some(WindowType::WindowSpec(window)) if window.window_name.is_some() => refined(windows, window.clone()),
            _ => return ControlFlow::Continue(()),
        };
        match meant {
            Ok(window) => {
                function.over = Some(WindowType::WindowSpec(window));
                ControlFlow::Continue(())
            }
            Err(message) => ControlFlow::Break(message),
        }
    }
}

/// Each of the definitions, which may name those before it.
fn defined(definitions: &[NamedWindowDefinition]) -> Result<Windows, String> {
    let mut windows = Windows::new();
    for NamedWindowDefinition(name, meant) in definitions {
        let window = match meant {
            NamedWindowExpr::NamedWindow(other) => named(&windows, other)?.clone(),
            NamedWindowExpr::WindowSpec(window) => refined(&windows, window.clone())?,
        };
        windows.push((folded(name), window));
    }
    Ok(windows)
}

fn named<'a>(windows: &'a [(String, WindowSpec)], name: &Ident) -> Result<&'a WindowSpec, String> {
    let wanted = folded(name);
    windows.iter().find(|(known, _)| *known == wanted).map(|(_, window)| window).ok_or_else(|| {
        format!("window {name} does not exist; define it in the same SELECT, before others that name it: WINDOW {name} AS (PARTITION BY …)")
    })
}

/// The window that `window` is, when the one that it names is taken for its beginning.
fn refined(windows: &[(String, WindowSpec)], mut window: WindowSpec) -> Result<WindowSpec, String> {
    let Some(name) = window.window_name.take() else { return Ok(window) };
    let base = named(windows, &name)?;
    if window.partition_by.is_empty() && window.order_by.is_empty() && window.window_frame.is_none() {
        return Ok(base.clone());
    }
    let orders_again = !window.order_by.is_empty() && !base.order_by.is_empty();
    if !window.partition_by.is_empty() || orders_again || base.window_frame.is_some() {
        return Err(format!(
            "a window made of window {name} may add an ORDER BY that {name} has not, and a frame if {name} has none, but no PARTITION BY; write all of it: OVER (PARTITION BY … ORDER BY …)"
        ));
    }
    window.partition_by.clone_from(&base.partition_by);
    if window.order_by.is_empty() {
        window.order_by.clone_from(&base.order_by);
    }
    Ok(window)
}

#[cfg(test)]
mod tests {
    use crate::{parser::parse, statement::StatementKind};

    #[test]
    fn a_window_by_name_is_what_the_name_stands_for() {
        for (written, meant) in [
            ("SELECT sum(b) OVER w FROM t WINDOW w AS (PARTITION BY a)", "SELECT sum(b) OVER (PARTITION BY a) FROM t"),
            (
                "SELECT sum(b) OVER (w ORDER BY b) FROM t WINDOW W AS (PARTITION BY a)",
                "SELECT sum(b) OVER (PARTITION BY a ORDER BY b) FROM t",
            ),
            (
                "SELECT sum(b) OVER w2 FROM t WINDOW w AS (PARTITION BY a), w2 AS (w ORDER BY id)",
                "SELECT sum(b) OVER (PARTITION BY a ORDER BY id) FROM t",
            ),
            (
                "SELECT sum(b) OVER (w ROWS 1 PRECEDING) FROM t WINDOW w AS (PARTITION BY a ORDER BY b)",
                "SELECT sum(b) OVER (PARTITION BY a ORDER BY b ROWS 1 PRECEDING) FROM t",
            ),
            (
                "SELECT sum(b) OVER (w) FROM t WINDOW w AS (ORDER BY b ROWS 1 PRECEDING)",
                "SELECT sum(b) OVER (ORDER BY b ROWS 1 PRECEDING) FROM t",
            ),
            (
                "SELECT a FROM t QUALIFY sum(b) OVER w > 1 WINDOW w AS (PARTITION BY a)",
                "SELECT a FROM t QUALIFY sum(b) OVER (PARTITION BY a) > 1",
            ),
        ] {
            let read = |sql: &str| {
                let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("{sql} is a query") };
                let mut select = query.ast.body.as_select().unwrap().clone();
                select.named_window.clear();
                select.to_string()
            };
            assert_eq!(read(written), meant);
        }
        let ordered = "SELECT a FROM t WINDOW w AS (PARTITION BY a) ORDER BY sum(b) OVER (w ORDER BY b)";
        let StatementKind::Query(query) = parse(ordered).unwrap().remove(0).kind else { panic!("{ordered} is a query") };
        assert!(query.ast.to_string().ends_with(" ORDER BY sum(b) OVER (PARTITION BY a ORDER BY b)"), "{}", query.ast);
    }

    #[test]
    fn what_no_window_can_be_is_refused_by_its_name() {
        for (sql, reason) in [
            ("SELECT sum(b) OVER (nosuch ORDER BY id) FROM t", "window nosuch does not exist"),
            ("SELECT sum(b) OVER nosuch FROM t", "window nosuch does not exist"),
            ("SELECT sum(b) OVER w FROM t WINDOW w AS (v ORDER BY b), v AS (PARTITION BY a)", "window v does not exist"),
            ("SELECT (SELECT sum(b) OVER w FROM u) FROM t WINDOW w AS (PARTITION BY a)", "window w does not exist"),
            ("SELECT sum(b) OVER (w PARTITION BY a) FROM t WINDOW w AS (ORDER BY b)", "but no PARTITION BY"),
            ("SELECT sum(b) OVER (w ORDER BY a) FROM t WINDOW w AS (ORDER BY b)", "an ORDER BY that w has not"),
            ("SELECT sum(b) OVER (w ORDER BY a) FROM t WINDOW w AS (ROWS 1 PRECEDING)", "a frame if w has none"),
        ] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(reason), "{sql}: {error}");
        }
    }
}
