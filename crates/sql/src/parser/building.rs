//! Expressions built and taken apart: calls and their arguments, texts, numbers, CASE, rows.
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, UnaryOperator, Value, helpers::attached_token::AttachedToken,
};

/// Most bytes of what is written twice in place of once: nested, it grows with each level.
pub(super) const MAX_REPEATED: usize = 4_096;

pub(super) fn call(name: &str, arguments: impl IntoIterator<Item = Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

pub(super) fn number(value: usize) -> Expr {
    Expr::Value(Value::Number(value.to_string(), false).into())
}

pub(super) fn text(words: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(words.to_owned()).into())
}

pub(super) fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
}

/// Whether a text has a match of a regular expression, or has none.
pub(super) fn matches(negated: bool, value: &Expr, pattern: Expr) -> Expr {
    let matches = call("regexp_like", [value.clone(), pattern]);
    let not = |expr| Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) };
    Expr::Nested(Box::new(if negated { not(matches) } else { matches }))
}

pub(super) fn name_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// The arguments, if they are all expressions and have no names.
pub(super) fn plain(arguments: &[FunctionArg]) -> Option<Vec<Expr>> {
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    arguments.iter().map(plain).collect()
}

/// The values of a row: `(a, b)`, or `ROW(a, b)`.
pub(super) fn row_of(expression: &Expr) -> Option<Vec<Expr>> {
    let values = match expression {
        Expr::Nested(inner) => row_of(inner)?,
        Expr::Tuple(values) => values.clone(),
        Expr::Function(Function { name, args: FunctionArguments::List(list), .. })
            if name.to_string().eq_ignore_ascii_case("row") =>
        {
            plain(&list.args)?
        }
        _ => return None,
    };
    Some(values).filter(|values| !values.is_empty())
}

pub(super) fn rename(function: &mut Function, name: &str) {
    function.name = ObjectName::from(vec![Ident::new(name)]);
}

pub(super) fn set_arguments(function: &mut Function, args: Vec<FunctionArg>) {
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = args;
    }
}

/// Aggregates the rows alone of which `condition` is true.
pub(crate) fn only(function: &mut Function, condition: Expr) {
    let condition = Expr::Nested(Box::new(condition));
    function.filter = Some(Box::new(match function.filter.take() {
        Some(filter) => {
            Expr::BinaryOp { left: Box::new(Expr::Nested(filter)), op: BinaryOperator::And, right: Box::new(condition) }
        }
        None => condition,
    }));
}
