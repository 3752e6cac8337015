//! Intervals times numbers, which DataFusion does not multiply: `INTERVAL '1' HOUR * 2` is one interval, as `INTERVAL '1' HOUR / 2` is,
//! and `ts + n * INTERVAL '1' HOUR` is `timestampadd('hour', n, ts)`.
use datafusion::{
    arrow::{
        compute::kernels::cast_utils::{IntervalParseConfig, IntervalUnit, parse_interval_month_day_nano_config},
        temporal_conversions::NANOSECONDS_IN_DAY,
    },
    sql::sqlparser::ast::{BinaryOperator, Expr, Interval, UnaryOperator, Value},
};

use super::{
    building::{call, text},
    dates::interval,
};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// From the largest on, in nanoseconds.
const UNITS: [(&str, i64); 5] = [
    ("hour", 3_600 * NANOS_PER_SECOND),
    ("minute", 60 * NANOS_PER_SECOND),
    ("second", NANOS_PER_SECOND),
    ("millisecond", 1_000_000),
    ("microsecond", 1_000),
];

struct Length {
    months: i64,
    days: i64,
    nanos: i64,
}

/// What an operation is here; `None`: what it says.
pub(super) fn multiple(operation: &Expr) -> Option<Expr> {
    let Expr::BinaryOp { left, op, right } = operation else { return None };
    match op {
        BinaryOperator::Multiply => {
            let (of, count) = product(left, right)?;
            let length = Length::of(of)?.times(whole_number(count)?)?;
            Some(interval(&length.written()))
        }
        BinaryOperator::Divide => {
            let Expr::Interval(of) = bare(left) else { return None };
            let length = Length::of(of)?.over(whole_number(right)?)?;
            Some(interval(&length.written()))
        }
        BinaryOperator::Plus => moved(left, right, false).or_else(|| moved(right, left, false)),
        BinaryOperator::Minus => moved(left, right, true),
        _ => None,
    }
}

/// A time that a product of an interval and an expression is added to.
fn moved(time: &Expr, by: &Expr, is_back: bool) -> Option<Expr> {
    let Expr::BinaryOp { left, op: BinaryOperator::Multiply, right } = bare(by) else { return None };
    let (of, count) = product(left, right)?;
    if matches!(bare(count), Expr::Interval(_)) || matches!(bare(time), Expr::Interval(_)) {
        return None;
    }
    let (amount, unit) = Length::of(of)?.in_one_unit()?;
    let amount = if is_back { -amount } else { amount };
    let count = match amount {
        1 => count.clone(),
        -1 => minus(nested(count.clone())),
        _ => {
            Expr::BinaryOp { left: Box::new(number(amount)), op: BinaryOperator::Multiply, right: Box::new(nested(count.clone())) }
        }
    };
    Some(call("timestampadd", [text(unit), count, time.clone()]))
}

/// The interval and what it is multiplied by, in either order.
fn product<'e>(left: &'e Expr, right: &'e Expr) -> Option<(&'e Interval, &'e Expr)> {
    match (bare(left), bare(right)) {
        (Expr::Interval(of), _) => Some((of, right)),
        (_, Expr::Interval(of)) => Some((of, left)),
        _ => None,
    }
}

fn bare(expression: &Expr) -> &Expr {
    match expression {
        Expr::Nested(inner) => bare(inner),
        other => other,
    }
}

fn nested(expression: Expr) -> Expr {
    Expr::Nested(Box::new(expression))
}

fn minus(expression: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(expression) }
}

fn number(amount: i64) -> Expr {
    let digits = Expr::Value(Value::Number(amount.unsigned_abs().to_string(), false).into());
    if amount < 0 { minus(digits) } else { digits }
}

fn whole_number(expression: &Expr) -> Option<i64> {
    match bare(expression) {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => whole_number(expr)?.checked_neg(),
        Expr::BinaryOp { left, op: BinaryOperator::Multiply, right } => whole_number(left)?.checked_mul(whole_number(right)?),
        _ => None,
    }
}

impl Length {
    /// As DataFusion reads it: seconds, where no unit is said.
    fn of(interval: &Interval) -> Option<Self> {
        let Interval { value, leading_field, leading_precision: None, last_field: None, fractional_seconds_precision: None } =
            interval
        else {
            return None;
        };
        let Expr::Value(value) = value.as_ref() else { return None };
        let Value::SingleQuotedString(amount) = &value.value else { return None };
        let unit = leading_field.as_ref().map(ToString::to_string).unwrap_or_default();
        let config = IntervalParseConfig::new(IntervalUnit::Second);
        let length = parse_interval_month_day_nano_config(format!("{amount} {unit}").trim(), config).ok()?;
        Some(Self { months: length.months.into(), days: length.days.into(), nanos: length.nanoseconds })
    }

    fn times(&self, count: i64) -> Option<Self> {
        let whole = |part: i64| part.checked_mul(count).filter(|part| i32::try_from(*part).is_ok());
        Some(Self { months: whole(self.months)?, days: whole(self.days)?, nanos: self.nanos.checked_mul(count)? })
    }

    /// A day has 24 hours here, as in PostgreSQL. `None` where no whole months or nanoseconds are left.
    fn over(&self, count: i64) -> Option<Self> {
        let whole = |part: i64| part.checked_div(count).filter(|whole| whole.checked_mul(count) == Some(part));
        let days = self.days.checked_div(count)?;
        let hours = (self.days - days * count).checked_mul(NANOSECONDS_IN_DAY)?;
        Some(Self { months: whole(self.months)?, days, nanos: whole(self.nanos.checked_add(hours)?)? })
    }

    fn written(&self) -> String {
        let (nanos, unit) = match self.nanos {
            whole if whole % NANOS_PER_SECOND == 0 => (whole / NANOS_PER_SECOND, "seconds"),
            other => (other, "nanoseconds"),
        };
        let parts = [(self.months, "months"), (self.days, "days"), (nanos, unit)];
        let parts: Vec<String> =
            parts.iter().filter(|(amount, _)| *amount != 0).map(|(amount, unit)| format!("{amount} {unit}")).collect();
        if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(" ") }
    }

    /// `None` where it takes several, or a finer one than timestampadd has.
    fn in_one_unit(&self) -> Option<(i64, &'static str)> {
        match (self.months, self.days, self.nanos) {
            (months, 0, 0) if months != 0 => Some((months, "month")),
            (0, days, 0) if days != 0 => Some((days, "day")),
            (0, 0, nanos) => UNITS.iter().find(|(_, unit)| nanos % unit == 0).map(|(name, unit)| (nanos / unit, *name)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::equivalents::rewritten;

    #[test]
    fn intervals_are_multiplied() {
        for (written, meant) in [
            ("INTERVAL '1' HOUR * 2", "INTERVAL '7200 seconds'"),
            ("2 * 3 * INTERVAL '1 day'", "INTERVAL '6 days'"),
            ("INTERVAL '1 month 2 days' * -3", "INTERVAL '-3 months -6 days'"),
            ("(2) * (INTERVAL '1 day')", "INTERVAL '2 days'"),
            ("INTERVAL '1 microsecond' * 1500", "INTERVAL '1500000 nanoseconds'"),
            ("ts + INTERVAL '1' DAY * 2", "ts + INTERVAL '2 days'"),
            ("ts + n * INTERVAL '1' HOUR", "timestampadd('hour', n, ts)"),
            ("n * INTERVAL '1' MONTH + ts", "timestampadd('month', n, ts)"),
            ("ts - INTERVAL '90' SECOND * (n + 1)", "timestampadd('second', -90 * ((n + 1)), ts)"),
            ("ts - n * INTERVAL '1' DAY", "timestampadd('day', -(n), ts)"),
            ("a * b + c", "a * b + c"),
            ("INTERVAL '1' HOUR * 1.5", "INTERVAL '1' HOUR * 1.5"),
            ("INTERVAL 1 HOUR / 2", "INTERVAL '1800 seconds'"),
            ("INTERVAL '3 days' / -2", "INTERVAL '-1 days -43200 seconds'"),
            ("ts - INTERVAL '1 month 1 day' * 4 / 2", "ts - INTERVAL '2 months 2 days'"),
            ("INTERVAL '1 month' / 2", "INTERVAL '1 month' / 2"),
            ("INTERVAL '1' HOUR / 0", "INTERVAL '1' HOUR / 0"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
    }
}
