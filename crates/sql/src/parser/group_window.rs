//! Flink's older group windows, `GROUP BY k, TUMBLE(ts, size)` with `TUMBLE_START(ts, size)` in SELECT, written as the table function
//! over the same rows: what WHERE keeps becomes its input, the windows' bounds its columns.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectName, Query, Select, TableAlias,
        TableFactor, VisitorMut,
    },
    parser::Parser,
};

use super::{
    dialect::Generic,
    tokenise,
    window::{Place, lower},
};
use crate::{
    error::SqlError,
    location::Location,
    walk::{visit_expressions_mut, visit_mut},
};

const WINDOWS: [&str; 3] = ["TUMBLE", "HOP", "SESSION"];
/// What follows the window's name in a function of its bounds, and the column that it becomes.
const BOUNDS: [(&str, &str); 4] =
    [("_START", "window_start"), ("_END", "window_end"), ("_ROWTIME", "window_time"), ("_PROCTIME", "window_time")];

/// Rewrites every SELECT of `query` that groups by a window.
pub(super) fn rewrite(query: &mut Query, at: Location, place: Place) -> Result<(), SqlError> {
    let mut rewriter = Rewriter { at, place };
    match visit_mut(query, &mut rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter {
    at: Location,
    place: Place,
}

impl VisitorMut for Rewriter {
    type Break = Box<SqlError>;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        match self.select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

impl Rewriter {
    fn select(&self, select: &mut Select) -> Result<(), SqlError> {
        let GroupByExpr::Expressions(groups, _) = &select.group_by else { return Ok(()) };
        let Some((index, name, arguments)) =
            groups.iter().enumerate().find_map(|(index, group)| window_of(group).map(|(name, arguments)| (index, name, arguments)))
        else {
            return Ok(());
        };
        let refuse = |why: &str| {
            let message = format!(
                "GROUP BY {name}(…) {why}; write FROM TABLE({name}(TABLE t, DESCRIPTOR(ts), …)) and GROUP BY window_start, window_end"
            );
            Err(SqlError::unsupported_at(self.at, message))
        };
        let [time, lengths @ ..] = arguments.as_slice() else { return refuse("lacks its column") };
        let time = match time {
            Expr::Identifier(column) => column.clone(),
            Expr::CompoundIdentifier(parts) => match parts.last() {
                Some(column) => column.clone(),
                None => return refuse("lacks its column"),
            },
            _ => return refuse("takes a column, not an expression"),
        };
        let mut keys: Vec<Expr> = Vec::new();
        for (other, group) in groups.iter().enumerate().filter(|(other, _)| *other != index) {
            match group {
                Expr::Identifier(_) | Expr::CompoundIdentifier(_) => keys.push(group.clone()),
                _ if name != "SESSION" => {}
                _ => return refuse(&format!("with another key than columns (the {}th)", other + 1)),
            }
        }
        let [table] = select.from.as_slice() else { return refuse("reads one table") };
        if !table.joins.is_empty() {
            return refuse("reads one table, not a join");
        }
        let alias = match &table.relation {
            TableFactor::Table { name, alias, .. } => match (alias, name.0.last().and_then(|part| part.as_ident())) {
                (Some(alias), _) => Some(alias.name.clone()),
                (None, part) => part.cloned(),
            },
            TableFactor::Derived { alias, .. } => alias.as_ref().map(|alias| alias.name.clone()),
            _ => return refuse("reads a table or subquery"),
        };
        let condition = select.selection.take().map_or_else(String::new, |condition| format!(" WHERE {condition}"));
        let partition = match name {
            "SESSION" if !keys.is_empty() => {
                let keys: Vec<String> = keys.iter().map(|key| last_part(key).to_string()).collect();
                format!(" PARTITION BY ({})", keys.join(", "))
            }
            _ => String::new(),
        };
        let lengths: Vec<String> = lengths.iter().map(ToString::to_string).collect();
        // Without `TABLE` in front of the subquery, so that PARTITION BY may follow it as it follows a name.
        let call = format!(
            "SELECT * FROM TABLE({name}(TABLE (SELECT * FROM {}{condition}){partition}, DESCRIPTOR({time}), {}))",
            table.relation,
            lengths.join(", ")
        );
        let derived = self.table(&call)?;
        // Before the lowered table is in: what it calls has the same names.
        let uses_window_time = Self::replace_bounds(select, name);
        if let Some(table) = select.from.first_mut() {
            table.relation = with_alias(derived, alias);
        }
        if let GroupByExpr::Expressions(groups, _) = &mut select.group_by {
            let bound = |name: &str| Expr::Identifier(Ident::new(name));
            let bounds = ["window_start", "window_end"].into_iter().chain(uses_window_time.then_some("window_time"));
            groups.splice(index..=index, bounds.map(bound));
        }
        Ok(())
    }

    /// The one table of a query that is given as text.
    fn table(&self, sql: &str) -> Result<TableFactor, SqlError> {
        let tokens = lower(&tokenise(sql)?, self.place).map_err(|error| SqlError::invalid_at(self.at, error.to_string()))?;
        let mut parser =
            Parser::new(&Generic).with_recursion_limit(self.place.limits.expression_depth + 16).with_tokens_with_locations(tokens);
        let query = parser.parse_query().map_err(|error| SqlError::syntax(self.at, error.to_string()))?;
        let mut select = query.body.as_select().cloned();
        let table = select.as_mut().and_then(|select| select.from.pop());
        table.map(|table| table.relation).ok_or_else(|| SqlError::syntax(self.at, "the window has no table"))
    }

    /// `TUMBLE_START(…)` and its like become the columns of the window; whether `window_time` is among them.
    fn replace_bounds(select: &mut Select, window: &str) -> bool {
        let mut uses_window_time = false;
        let replaced: ControlFlow<()> = visit_expressions_mut(select, |expression| {
            if let Expr::Function(function) = expression
                && let Some(column) = bound_of(function, window)
            {
                uses_window_time |= column == "window_time";
                *expression = Expr::Identifier(Ident::new(column));
            }
            ControlFlow::Continue(())
        });
        debug_assert!(replaced.is_continue(), "the visitor never breaks");
        uses_window_time
    }
}

fn function_name(function: &Function) -> Option<String> {
    let ObjectName(parts) = &function.name;
    let [part] = parts.as_slice() else { return None };
    part.as_ident().filter(|ident| ident.quote_style.is_none()).map(|ident| ident.value.to_ascii_uppercase())
}

/// A window in GROUP BY: its name and its arguments.
fn window_of(expression: &Expr) -> Option<(&'static str, Vec<Expr>)> {
    let Expr::Function(function) = expression else { return None };
    let found = function_name(function)?;
    let name = WINDOWS.into_iter().find(|name| *name == found)?;
    let FunctionArguments::List(list) = &function.args else { return None };
    let argument = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    list.args.iter().map(argument).collect::<Option<Vec<Expr>>>().map(|arguments| (name, arguments))
}

fn bound_of(function: &Function, window: &str) -> Option<&'static str> {
    let name = function_name(function)?;
    let bound = name.strip_prefix(window)?;
    BOUNDS.iter().find(|(suffix, _)| *suffix == bound).map(|(_, column)| *column)
}

fn last_part(expression: &Expr) -> Expr {
    match expression {
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(|| expression.clone(), |part| Expr::Identifier(part.clone())),
        other => other.clone(),
    }
}

fn with_alias(table: TableFactor, name: Option<Ident>) -> TableFactor {
    let Some(name) = name else { return table };
    match table {
        TableFactor::Derived { lateral, subquery, sample, .. } => TableFactor::Derived {
            lateral,
            subquery,
            alias: Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None }),
            sample,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::{StatementKind, parse};

    #[test]
    fn group_windows_become_table_functions() {
        let sql = "SELECT B.k, TUMBLE_START(B.ts, INTERVAL '10' SECOND) AS s FROM t B WHERE v > 1 GROUP BY B.k, TUMBLE(B.ts, INTERVAL '10' SECOND)";
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query") };
        assert_eq!(
            query.ast.to_string(),
            "SELECT B.k, window_start AS s FROM (SELECT *, date_bin(INTERVAL '10 seconds', ts) AS window_start, date_bin(INTERVAL '10 seconds', ts) + INTERVAL '10 seconds' AS window_end, date_bin(INTERVAL '10 seconds', ts) + INTERVAL '9999 milliseconds' AS window_time FROM (SELECT * FROM t B WHERE v > 1) WHERE ts IS NOT NULL) AS B GROUP BY B.k, window_start, window_end"
        );
    }
}
