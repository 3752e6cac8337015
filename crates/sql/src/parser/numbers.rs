//! A number with a point is a DOUBLE to DataFusion, and so is a whole one beyond its integers. One with more digits than a DOUBLE keeps is a DECIMAL, or
//! `INSERT … VALUES (123456789012345678.12)` would store another number than what is written.
use datafusion::sql::sqlparser::{
    ast::{Expr, UnaryOperator, Value, VisitMut},
    parser::Parser,
};
use polybolos_tables::plain::shortened;

use super::{dialect::Generic, rewrite_each};
use crate::{error::SqlError, location::Location};

/// A DOUBLE keeps so many digits of any number.
const DOUBLE_DIGITS: usize = 15;

const DECIMAL_DIGITS: usize = 38;

pub(super) fn keep_digits<T: VisitMut>(node: &mut T, at: Location) -> Result<(), SqlError> {
    rewrite_each(node, at, |expression| {
        if let Some(decimal) = exact(expression)? {
            *expression = decimal;
        }
        Ok(())
    })
}

/// The number as a DECIMAL, where DataFusion would lose digits of it.
fn exact(expression: &Expr) -> Result<Option<Expr>, String> {
    if let Some(text) = number(expression) {
        return Ok(whole(text, u64::MAX)?.or_else(|| decimal(text)));
    }
    // A number and its minus are one BIGINT to DataFusion.
    let Expr::UnaryOp { op: UnaryOperator::Minus, expr } = expression else { return Ok(None) };
    let Some(text) = number(expr) else { return Ok(None) };
    let decimal = whole(text, i64::MIN.unsigned_abs())?;
    Ok(decimal.map(|decimal| Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(decimal) }))
}

fn number(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A whole number beyond `most`.
fn whole(text: &str, most: u64) -> Result<Option<Expr>, String> {
    let digits = text.trim_start_matches('0');
    if !text.bytes().all(|digit| digit.is_ascii_digit()) || text.parse::<u128>().is_ok_and(|number| number <= u128::from(most)) {
        return Ok(None);
    }
    if digits.len() > DECIMAL_DIGITS {
        return Err(format!(
            "the number {} has more than {DECIMAL_DIGITS} digits, the most of a DECIMAL; write a DOUBLE with an exponent, like 1e40",
            shortened(digits)
        ));
    }
    Ok(cast(digits, digits.len(), 0))
}

fn decimal(text: &str) -> Option<Expr> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').len();
    let precision = significant.max(fraction.len());
    if significant <= DOUBLE_DIGITS || precision > DECIMAL_DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    cast(text, precision, fraction.len())
}

fn cast(text: &str, precision: usize, scale: usize) -> Option<Expr> {
    let cast = format!("CAST('{text}' AS DECIMAL({precision}, {scale}))");
    Parser::new(&Generic).try_with_sql(&cast).and_then(|mut parser| parser.parse_expr()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_double_keeps_stay() {
        for (text, expected) in [
            ("123456789012345678.12", Some("CAST('123456789012345678.12' AS DECIMAL(20,2))")),
            ("0.1234567890123456789", Some("CAST('0.1234567890123456789' AS DECIMAL(19,19))")),
            ("0.00000000000000001234567890123456", Some("CAST('0.00000000000000001234567890123456' AS DECIMAL(32,32))")),
            ("1234567890123.45", None),
            ("0.00000000000000000000012", None),
            ("1.2345678901234567e10", None),
            ("123456789012345678", None),
            ("1234567890123456789012345678901234567.12", None),
        ] {
            assert_eq!(decimal(text).map(|decimal| decimal.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn whole_numbers_beyond_those_of_64_bits_are_decimals() {
        use crate::parser::equivalents::rewritten;

        for (written, meant) in [
            ("12345678901234567890123", "CAST('12345678901234567890123' AS DECIMAL(23,0))"),
            ("-12345678901234567890123", "-CAST('12345678901234567890123' AS DECIMAL(23,0))"),
            ("0012345678901234567890123", "CAST('12345678901234567890123' AS DECIMAL(23,0))"),
            ("18446744073709551616", "CAST('18446744073709551616' AS DECIMAL(20,0))"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775809", "-CAST('9223372036854775809' AS DECIMAL(19,0))"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("00000000000000000000000000000000000000000001", "00000000000000000000000000000000000000000001"),
            ("12345678901234567890123e0", "12345678901234567890123e0"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
        let error = rewritten("1 + 123456789012345678901234567890123456789").unwrap_err().to_string();
        assert!(error.contains("has more than 38 digits"), "{error}");
    }
}
