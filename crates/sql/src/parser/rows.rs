//! Rows of values, compared column by column: DataFusion makes structs of them, to which NULL is as NULL, where SQL does not know. `(a, b) = (1, 2)` is
//! `a = 1 AND b = 2`, IN is the OR of such, and `(a, b) < (1, 2)` is `a < 1 OR (a = 1 AND b < 2)`.
use datafusion::sql::sqlparser::ast::{
    BinaryOperator::{self, And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or},
    Expr, UnaryOperator, Value, VisitMut,
};
use polybolos_tables::plain::shortened;

use super::{
    building::{MAX_REPEATED, row_of},
    clauses::has_query,
    rewrite_each,
};
use crate::{error::SqlError, location::Location};

/// Most bytes of what IN repeats for each of its rows, all together.
const MAX_REPEATED_BY_IN: usize = 1024 * 1024;

/// Most columns of rows that are ordered: each is one level deeper than the one before.
const MAX_ORDERED: usize = 32;

pub(super) fn rewrite<T: VisitMut>(node: &mut T, at: Location) -> Result<(), SqlError> {
    rewrite_each(node, at, |expression| {
        if let Some(comparison) = by_column(expression)? {
            *expression = comparison;
        }
        Ok(())
    })
}

/// What a comparison of rows is; `None`: it is none.
fn by_column(expression: &Expr) -> Result<Option<Expr>, String> {
    let (comparison, is_denied) = match expression {
        Expr::BinaryOp { left, op: op @ (Eq | NotEq | Lt | LtEq | Gt | GtEq), right } if is_row(left) && is_row(right) => {
            (compared(left, op, right)?, false)
        }
        Expr::Between { expr, negated, low, high } if [expr, low, high].into_iter().all(|side| is_row(side)) => {
            (joined(&And, &[compared(expr, &GtEq, low)?, compared(expr, &LtEq, high)?]), *negated)
        }
        Expr::InList { expr, list, negated } if is_row(expr) && !list.is_empty() => {
            if list.len() > 1 && (expr.to_string().len() * list.len() > MAX_REPEATED_BY_IN || has_query(expr)) {
                return Err("a row that IN compares with so many rows is too long or has a query in it; compute its values in a subquery of FROM".to_owned());
            }
            let equals: Vec<Expr> = list.iter().map(|row| equal_in(expr, row)).collect::<Result<_, _>>()?;
            (joined(&Or, &equals), *negated)
        }
        _ => return Ok(None),
    };
    Ok(Some(if is_denied { not(comparison) } else { comparison }))
}

fn equal_in(left: &Expr, right: &Expr) -> Result<Expr, String> {
    match right {
        Expr::Value(value) if value.value == Value::Null => Ok(right.clone()),
        Expr::Value(_) => {
            let (left, right) = (shortened(&left.to_string()), shortened(&right.to_string()));
            Err(format!(
                "{left} IN (…) compares a row with {right}, which is none; write rows of as many values: {left} IN ((1, 'x'), (2, 'y'))"
            ))
        }
        _ => compared(left, &Eq, right),
    }
}

fn compared(left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Expr, String> {
    let (Some(lefts), Some(rights)) = (row_of(left), row_of(right)) else {
        return Ok(binary(operand(left), op, operand(right)));
    };
    if lefts.len() != rights.len() {
        return Err(format!(
            "{} has {} values and {} has {}; a row is compared with one of as many values",
            shortened(&left.to_string()),
            lefts.len(),
            shortened(&right.to_string()),
            rights.len()
        ));
    }
    // A query that is repeated would be a join each time.
    match op {
        Eq => {
            let equals = lefts.iter().zip(&rights).map(|(left, right)| compared(left, &Eq, right));
            Ok(joined(&And, &equals.collect::<Result<Vec<_>, _>>()?))
        }
        NotEq => Ok(not(compared(left, &Eq, right)?)),
        _ if lefts.len() > MAX_ORDERED
            || left.to_string().len() + right.to_string().len() > MAX_REPEATED
            || has_query(left)
            || has_query(right) =>
        {
            Err(format!(
                "rows that {op} compares have up to {MAX_ORDERED} values and {MAX_REPEATED} bytes, and no query in them; compute them in a subquery of FROM"
            ))
        }
        _ => ordered(&lefts, op, &rights),
    }
}

/// By the first columns that differ.
fn ordered(lefts: &[Expr], op: &BinaryOperator, rights: &[Expr]) -> Result<Expr, String> {
    let ([left, lefts @ ..], [right, rights @ ..]) = (lefts, rights) else {
        return Err("a row without values is not compared".to_owned());
    };
    if lefts.is_empty() {
        return compared(left, op, right);
    }
    let strictly = if matches!(op, Lt | LtEq) { Lt } else { Gt };
    let rest = joined(&And, &[compared(left, &Eq, right)?, ordered(lefts, op, rights)?]);
    Ok(joined(&Or, &[compared(left, &strictly, right)?, rest]))
}

fn is_row(expression: &Expr) -> bool {
    row_of(expression).is_some()
}

/// Halved again and again, so that many parts do not become a deep tree; in parentheses, so that the text means the same.
fn joined(op: &BinaryOperator, parts: &[Expr]) -> Expr {
    if let [part] = parts {
        return part.clone();
    }
    let (left, right) = parts.split_at(parts.len() / 2);
    Expr::Nested(Box::new(binary(joined(op, left), op, joined(op, right))))
}

fn binary(left: Expr, op: &BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
}

fn not(comparison: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(comparison) }))
}

/// In parentheses where it could bind less tightly than a comparison.
fn operand(expression: &Expr) -> Expr {
    match expression {
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::Value(_)
        | Expr::Function(_)
        | Expr::Cast { .. }
        | Expr::Nested(_) => expression.clone(),
        _ => Expr::Nested(Box::new(expression.clone())),
    }
}

#[cfg(test)]
mod tests {
    use crate::parser::equivalents::rewritten;

    #[test]
    fn rows_are_compared_by_column() {
        for (written, meant) in [
            ("(a, b) = (1, 2)", "(a = 1 AND b = 2)"),
            ("(a, b) <> (1, 2)", "(NOT (a = 1 AND b = 2))"),
            ("ROW(a, b) = ((1, 2))", "(a = 1 AND b = 2)"),
            ("(a OR c, -b) = (x, 2)", "((a OR c) = x AND (-b) = 2)"),
            ("(a, b) < (1, 2)", "(a < 1 OR (a = 1 AND b < 2))"),
            ("(a, b, c) >= (1, 2, 3)", "(a > 1 OR (a = 1 AND (b > 2 OR (b = 2 AND c >= 3))))"),
            ("(a, b) IN ((1, 2))", "(a = 1 AND b = 2)"),
            ("(a, b) NOT IN ((1, 2), (3, 4))", "(NOT ((a = 1 AND b = 2) OR (a = 3 AND b = 4)))"),
            ("(a, b) IN ((1, 2), NULL, r)", "((a = 1 AND b = 2) OR (NULL OR ((a, b)) = r))"),
            ("((a, b), c) = ((1, 2), 3)", "((a = 1 AND b = 2) AND c = 3)"),
            ("(a, b) BETWEEN (1, 2) AND (3, 4)", "((a > 1 OR (a = 1 AND b >= 2)) AND (a < 3 OR (a = 3 AND b <= 4)))"),
            ("a = 1 AND b IN (1, 2)", "a = 1 AND b IN (1, 2)"),
            ("(a, b) IS DISTINCT FROM (1, 2)", "(a, b) IS DISTINCT FROM (1, 2)"),
            ("(a, b) IN (SELECT 1, 2)", "(a, b) IN (SELECT 1, 2)"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn rows_of_other_lengths_are_refused() {
        for (written, reason) in [
            ("(a, b) = (1, 2, 3)", "(a, b) has 2 values and (1, 2, 3) has 3; a row is compared with one of as many values"),
            ("(a, b) IN ((1, 2), (3, 4, 5))", "(3, 4, 5) has 3"),
            ("(a, b) IN ((1, 2), 3)", "compares a row with 3, which is none"),
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }

    #[test]
    fn what_is_repeated_does_not_grow_without_bound() {
        let nested = format!("{}true{}", "(".repeat(40), ", b) < (true, 2)".repeat(40));
        assert!(rewritten(&nested).unwrap_err().to_string().contains("in a subquery"));
        let nested = format!("{}true{}", "(".repeat(40), ", b) IN ((true, 2), (false, 1))".repeat(40));
        assert!(rewritten(&nested).unwrap_err().to_string().contains("in a subquery"));
        let many = format!("(a, b) IN ({})", vec!["(1, 2)"; 10_000].join(", "));
        assert!(rewritten(&many).is_ok());
        for repeated in ["((SELECT 1), b) IN ((1, 2), (3, 4))", "(a, b) < ((SELECT 1), 2)"] {
            assert!(rewritten(repeated).unwrap_err().to_string().contains("in a subquery of FROM"), "{repeated}");
        }
    }
}
