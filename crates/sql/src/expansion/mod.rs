//! Calls of the functions that users have created, written out before anything is planned: `f(x)` is `CAST(<its expression, with CAST(x AS type) for each
//! parameter> AS type)`, so that jobs, EXPLAIN and `VERIFY` see what a function means and none has to know it. The functions travel in the state in which
//! a statement is planned. A built-in function keeps its name. A function whose expression has aggregates is one.
mod aggregates;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    ops::ControlFlow,
    sync::Arc,
};

use datafusion::{
    execution::SessionState,
    logical_expr::Volatility,
    sql::sqlparser::ast::{
        CastKind, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Select, SelectItem, Visit, VisitMut,
        Visitor, VisitorMut,
    },
};
use polybolos_tables::{
    plain::counted,
    statement::{MAX_STATEMENT_BYTES, too_long},
};

use self::aggregates::{Aggregates, Rows, is_aggregate};
use crate::{
    catalog::FunctionDefinition,
    error::SqlError,
    limits::Limits,
    location::Location,
    parser::{data_type, folded},
    statement::CreateFunction,
    types::SqlType,
    walk::{visit, visit_expressions, visit_expressions_mut, visit_mut},
};

/// Most functions that call each other, one inside another.
const MAX_NESTED: usize = 32;

/// Deepest expression that a call is written out to.
const MAX_DEPTH: usize = 256;

/// Functions that DataFusion knows without a registry.
const KNOWN_TO_THE_PLANNER: [&str; 2] = ["unnest", "unnest_outer"];

/// What a state carries.
struct Declared(Vec<FunctionDefinition>);

/// Has calls of these functions written out in all that is planned in `state`.
pub(crate) fn declare(state: &mut SessionState, functions: &[FunctionDefinition]) {
    if !functions.is_empty() {
        state.config_mut().set_extension(Arc::new(Declared(functions.to_vec())));
    }
}

/// `node` with the calls of users' functions written out.
///
/// # Errors
/// When a call does not fit its function, or becomes too long or too deep.
pub(crate) fn written_out<'a, T: Clone + VisitMut>(node: &'a T, state: &SessionState) -> Result<Cow<'a, T>, SqlError> {
    let Some(declared) = state.config().get_extension::<Declared>() else { return Ok(Cow::Borrowed(node)) };
    let mut writer = Writer { functions: &declared.0, state, learnt: BTreeMap::new(), open: Vec::new(), bytes: 0 };
    let mut node = node.clone();
    match visit_mut(&mut node, &mut writer) {
        ControlFlow::Continue(()) => Ok(Cow::Owned(node)),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Whether `state` has a function of that name itself.
pub(crate) fn is_built_in(name: &str, state: &SessionState) -> bool {
    KNOWN_TO_THE_PLANNER.contains(&name)
        || state.scalar_functions().contains_key(name)
        || state.higher_order_functions().contains_key(name)
        || state.aggregate_functions().contains_key(name)
        || state.window_functions().contains_key(name)
        || state.table_functions().contains_key(name)
}

/// The names of all functions that are called in `node`.
pub(crate) fn called(node: &impl Visit) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let _: ControlFlow<Infallible> = visit_expressions(node, |expression| {
        if let Expr::Function(call) = expression {
            names.extend(name_of(call));
        }
        ControlFlow::Continue(())
    });
    names
}

/// How often `expression` names a parameter.
pub(crate) fn uses(expression: &Expr, parameter: &str) -> usize {
    let mut uses = 0;
    let _: ControlFlow<Infallible> = visit_expressions(expression, |part| {
        uses += usize::from(matches!(part, Expr::Identifier(name) if folded(name) == parameter));
        ControlFlow::Continue(())
    });
    uses
}

fn name_of(call: &Function) -> Option<String> {
    match call.name.0.as_slice() {
        [name] => name.as_ident().map(folded),
        _ => None,
    }
}

struct Writer<'a> {
    functions: &'a [FunctionDefinition],
    state: &'a SessionState,
    /// Those that were called, the calls in them written out.
    learnt: BTreeMap<String, Learnt>,
    /// Those that are being learnt, each for the one before it.
    open: Vec<String>,
    /// How much was written so far.
    bytes: usize,
}

struct Learnt {
    function: CreateFunction,
    /// How often its expression names each parameter.
    uses: Vec<usize>,
    aggregates: Aggregates,
    bytes: usize,
}

impl VisitorMut for Writer<'_> {
    type Break = Box<SqlError>;

    /// What is selected is called as it is written.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expression) = &*item else { continue };
            if called(expression).iter().any(|name| self.is_declared(name)) {
                let alias = Ident::with_quote('"', expression.to_string());
                *item = SelectItem::ExprWithAlias { expr: expression.clone(), alias };
            }
        }
        ControlFlow::Continue(())
    }

    /// Those inside come first, so that arguments are written out already.
    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Function(call) = &*expression else { return ControlFlow::Continue(()) };
        match self.meant(call) {
            Ok(Some(meant)) => *expression = meant,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(Box::new(error)),
        }
        ControlFlow::Continue(())
    }
}

impl Writer<'_> {
    fn is_declared(&self, name: &str) -> bool {
        self.functions.iter().any(|function| function.name == name) && !is_built_in(name, self.state)
    }

    /// What a call of a user's function means; `None`: it is one of another.
    fn meant(&mut self, call: &Function) -> Result<Option<Expr>, SqlError> {
        let Some(name) = name_of(call).filter(|name| self.is_declared(name)) else { return Ok(None) };
        self.learn(&name)?;
        let Some(Learnt { function, uses, aggregates, bytes }) = self.learnt.get(&name) else { return Ok(None) };
        let rows = Rows::of(call, function, aggregates, self.state)?;
        let arguments = arguments(function, call)?;
        let mut values = Vec::with_capacity(arguments.len());
        self.bytes += bytes + rows.bytes() * aggregates.count;
        for ((argument, parameter), uses) in arguments.into_iter().zip(&function.parameters).zip(uses) {
            if *uses > 1
                && let Some(volatile) = volatile_of(argument, self.state)
            {
                return Err(SqlError::unsupported(format!(
                    "function {name} uses its {} more than once, and {volatile}() gives another value each time; compute it in a subquery of FROM",
                    parameter.name
                )));
            }
            let value = cast(argument.clone(), &parameter.sql_type)?;
            self.bytes += uses * value.to_string().len();
            values.push(value);
        }
        if self.bytes > MAX_STATEMENT_BYTES {
            let message = format!("with function {name} written out, {}", too_long());
            return Err(SqlError::TooLarge { at: Location::START, message });
        }
        let (mut body, state) = ((*function.body).clone(), self.state);
        // What is put in is not walked: names in arguments and in FILTER are the query's.
        let _: ControlFlow<Infallible> = visit_expressions_mut(&mut body, |part| {
            if let Expr::Function(call) = &mut *part
                && is_aggregate(call, state)
            {
                rows.put_on(call);
            }
            let Expr::Identifier(name) = &*part else { return ControlFlow::Continue(()) };
            let name = folded(name);
            if let Some(place) = function.parameters.iter().position(|parameter| parameter.name == name) {
                *part = values[place].clone();
            }
            ControlFlow::Continue(())
        });
        let meant = cast(body, &function.returns)?;
        if depth(&meant) > MAX_DEPTH {
            let message = format!(
                "with function {name} written out, the expression is nested more than {MAX_DEPTH} deep; compute parts of it in a subquery of FROM"
            );
            return Err(SqlError::TooLarge { at: Location::START, message });
        }
        Ok(Some(meant))
    }

    fn learn(&mut self, name: &str) -> Result<(), SqlError> {
        if self.learnt.contains_key(name) {
            return Ok(());
        }
        if self.open.iter().any(|open| open == name) {
            return Err(recursive(name));
        }
        if self.open.len() == MAX_NESTED {
            let message =
                format!("function {name} is called by more than {MAX_NESTED} functions inside one another; write it in fewer");
            return Err(SqlError::invalid(message));
        }
        let Some(definition) = self.functions.iter().find(|function| function.name == name) else { return Ok(()) };
        let mut function = definition.statement(Limits::default())?;
        self.open.push(name.to_owned());
        if let ControlFlow::Break(error) = visit_mut(&mut *function.body, self) {
            return Err(*error);
        }
        self.open.pop();
        let uses = function.parameters.iter().map(|parameter| uses(&function.body, &parameter.name)).collect();
        let aggregates = Aggregates::of(&function, self.state);
        let bytes = function.body.to_string().len();
        self.learnt.insert(name.to_owned(), Learnt { function, uses, aggregates, bytes });
        Ok(())
    }
}

/// What is said of a function that calls itself.
pub(crate) fn recursive(name: &str) -> SqlError {
    SqlError::unsupported(format!("function {name} calls itself, which would never end; write it without the call"))
}

fn arguments<'a>(function: &CreateFunction, call: &'a Function) -> Result<Vec<&'a Expr>, SqlError> {
    let FunctionArguments::List(list) = &call.args else {
        return Err(SqlError::invalid(format!(
            "function {} takes its arguments in parentheses: {}",
            function.name,
            function.signature()
        )));
    };
    let argument = |argument: &'a FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Ok(expression),
        FunctionArg::Unnamed(_) => {
            Err(SqlError::invalid(format!("function {} takes no *; name its arguments: {}", function.name, function.signature())))
        }
        FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. } => Err(SqlError::unsupported(format!(
            "function {} takes no arguments by name; write them in their order: {}",
            function.name,
            function.signature()
        ))),
    };
    let arguments: Vec<&'a Expr> = list.args.iter().map(argument).collect::<Result<_, _>>()?;
    let wanted = function.parameters.len();
    if arguments.len() == wanted {
        return Ok(arguments);
    }
    let message = format!(
        "function {} takes {}, and is given {}; write {}",
        function.name,
        counted(wanted as u64, "argument"),
        arguments.len(),
        function.signature()
    );
    Err(SqlError::invalid(message))
}

fn cast(expression: Expr, sql_type: &SqlType) -> Result<Expr, SqlError> {
    let data_type = data_type(sql_type)?;
    Ok(Expr::Cast { kind: CastKind::Cast, expr: Box::new(expression), data_type, array: false, format: None })
}

/// A function in `expression` that answers differently each time.
fn volatile_of(expression: &impl Visit, state: &SessionState) -> Option<String> {
    let is_volatile = |name: &String| {
        let function = state.scalar_functions().get(name);
        function.is_some_and(|function| function.signature().volatility == Volatility::Volatile)
    };
    called(expression).into_iter().find(is_volatile)
}

/// How many expressions stand inside one another.
fn depth(expression: &Expr) -> usize {
    let mut depth = Depth { now: 0, most: 0 };
    let _ = visit(expression, &mut depth);
    depth.most
}

struct Depth {
    now: usize,
    most: usize,
}

impl Visitor for Depth {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<Infallible> {
        self.now += 1;
        self.most = self.most.max(self.now);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Infallible> {
        self.now -= 1;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests;
