//! A number with a point is a DOUBLE to DataFusion. One with more digits than a DOUBLE keeps is a DECIMAL, or `INSERT … VALUES (123456789012345678.12)`
//! would store another number than what is written.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, Query, Value, visit_expressions_mut},
    parser::Parser,
};

use super::dialect::Generic;

/// A DOUBLE keeps so many digits of any number.
const DOUBLE_DIGITS: usize = 15;

const DECIMAL_DIGITS: usize = 38;

pub(super) fn keep_digits(query: &mut Query) {
    let done: ControlFlow<()> = visit_expressions_mut(query, |expression| {
        if let Expr::Value(value) = expression
            && let Value::Number(text, _) = &value.value
            && let Some(decimal) = decimal(text)
        {
            *expression = decimal;
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

fn decimal(text: &str) -> Option<Expr> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').len();
    let precision = significant.max(fraction.len());
    if significant <= DOUBLE_DIGITS || precision > DECIMAL_DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let cast = format!("CAST('{text}' AS DECIMAL({precision}, {}))", fraction.len());
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
}
