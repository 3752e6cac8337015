//! Operators that other systems write as functions: `BITAND(a, b)` is `a & b`, `EQUAL_NULL(a, b)` is `a IS NOT DISTINCT FROM b`, and
//! `DECODE(x, 1, 'a', 'b')` a CASE.
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, UnaryOperator, Value, helpers::attached_token::AttachedToken,
};

use super::building::{MAX_REPEATED, call, number};

/// What a call is as an expression of operators; `None`: it is another function.
pub(super) fn call_of(name: &str, arguments: &[Expr]) -> Result<Option<Expr>, String> {
    let binary = |operator, left: &Expr, right: &Expr| {
        Expr::Nested(Box::new(Expr::BinaryOp { left: nested(left), op: operator, right: nested(right) }))
    };
    Ok(Some(match (name, arguments) {
        ("bitand", [a, b]) => binary(BinaryOperator::BitwiseAnd, a, b),
        ("bitor", [a, b]) => binary(BinaryOperator::BitwiseOr, a, b),
        ("bitxor", [a, b]) => binary(BinaryOperator::BitwiseXor, a, b),
        ("bitshiftleft" | "shiftleft", [a, b]) => binary(BinaryOperator::PGBitwiseShiftLeft, a, b),
        ("bitshiftright" | "shiftright", [a, b]) => binary(BinaryOperator::PGBitwiseShiftRight, a, b),
        ("bitnot", [a]) => inverted(a),
        ("equal_null", [a, b]) => Expr::Nested(Box::new(Expr::IsNotDistinctFrom(nested(a), nested(b)))),
        ("zeroifnull", [a]) => call("coalesce", [a.clone(), number(0)]),
        ("nullifzero", [a]) => call("nullif", [a.clone(), number(0)]),
        ("decode", [value, rest @ ..]) if rest.len() > 1 => decoded(value, rest)?,
        _ => return Ok(None),
    }))
}

/// All bits the other way round: DataFusion has no `~`.
pub(super) fn inverted(bits: &Expr) -> Expr {
    let ones = Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number(1)) };
    Expr::Nested(Box::new(Expr::BinaryOp { left: nested(bits), op: BinaryOperator::BitwiseXor, right: Box::new(ones) }))
}

/// The result behind the first of the values that is this one, else the last, which stands alone. NULL is NULL here.
fn decoded(value: &Expr, rest: &[Expr]) -> Result<Expr, String> {
    let pairs = rest.chunks_exact(2);
    let otherwise = pairs.remainder().first().cloned();
    let is_known = |searched: &Expr| matches!(searched, Expr::Value(known) if known.value != Value::Null);
    let is_plain = pairs.clone().all(|pair| is_known(&pair[0]));
    // It stands there as often as something is compared with it.
    if !is_plain && value.to_string().len().saturating_mul(rest.len()) > MAX_REPEATED {
        return Err(format!("what decode compares is longer than {MAX_REPEATED} bytes in all; compute it in a subquery"));
    }
    let conditions = pairs
        .map(|pair| CaseWhen {
            condition: match is_plain {
                true => pair[0].clone(),
                false => Expr::IsNotDistinctFrom(nested(value), nested(&pair[0])),
            },
            result: pair[1].clone(),
        })
        .collect();
    Ok(Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: is_plain.then(|| Box::new(value.clone())),
        conditions,
        else_result: otherwise.map(Box::new),
    })
}

/// As it is where nothing can bind more tightly.
fn nested(expression: &Expr) -> Box<Expr> {
    Box::new(match expression {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::Nested(_) | Expr::Function(_) => {
            expression.clone()
        }
        _ => Expr::Nested(Box::new(expression.clone())),
    })
}

#[cfg(test)]
mod tests {
    use crate::parser::equivalents::rewritten;

    #[test]
    fn operators_by_name_are_operators() {
        for (written, meant) in [
            ("BITAND(a, b + 1) = 0", "(a & (b + 1)) = 0"),
            ("bitor(a, 3)", "(a | 3)"),
            ("BITXOR(a, b)", "(a ^ b)"),
            ("BITNOT(a)", "(a ^ -1)"),
            ("~a", "(a ^ -1)"),
            ("BITSHIFTLEFT(a, 2)", "(a << 2)"),
            ("shiftright(a, 2)", "(a >> 2)"),
            ("EQUAL_NULL(a, b) AND c", "(a IS NOT DISTINCT FROM b) AND c"),
            ("ZEROIFNULL(a)", "coalesce(a, 0)"),
            ("NULLIFZERO(a)", "nullif(a, 0)"),
            ("IFF(a, b, c)", "CASE WHEN a THEN b ELSE c END"),
            ("DECODE(a, 1, 'x', 2, 'y', 'z')", "CASE a WHEN 1 THEN 'x' WHEN 2 THEN 'y' ELSE 'z' END"),
            ("decode(a, 1, 'x')", "CASE a WHEN 1 THEN 'x' END"),
            (
                "decode(a, NULL, 'x', b, 'y')",
                "CASE WHEN a IS NOT DISTINCT FROM NULL THEN 'x' WHEN a IS NOT DISTINCT FROM b THEN 'y' END",
            ),
            ("decode(a, 'hex')", "decode(a, 'hex')"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }

    #[test]
    fn what_is_decoded_does_not_grow_without_bound() {
        let nested = format!("{}1{}", "decode(".repeat(40), ", b, c, d, e)".repeat(40));
        assert!(rewritten(&nested).unwrap_err().to_string().contains("compute it in a subquery"));
    }
}
