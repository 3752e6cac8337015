//! A number's text to a decimal, digit by digit: exact, and rounded to its scale half away from zero, as Flink does and as CAST does.
use arrow::array::ArrowNativeTypeOp;
use arrow::datatypes::{ArrowNativeType, Decimal128Type, DecimalType};

/// `text` is a number as JSON writes it. `None` when it has more digits than `precision` has room for; rounding may still have added one.
pub(super) fn parse<T: DecimalType>(text: &str, precision: u8, scale: i8) -> Option<T::Native> {
    let negative = text.starts_with('-');
    let (mantissa, point) = parts(text);
    // How many of the mantissa's digits stand before the cut; zeros beside it count as well.
    let kept = point.saturating_add(scale.into());
    let number = <T::Native as ArrowNativeType>::usize_as;
    let tenfold = |value: T::Native| ArrowNativeTypeOp::mul_wrapping(value, number(10));
    let mut value = <T::Native as ArrowNativeTypeOp>::ZERO;
    let (mut seen, mut significant, mut rounds_up) = (0_i64, 0_u8, false);
    for digit in mantissa.bytes().filter(|byte| *byte != b'.').map(|byte| byte - b'0') {
        if seen >= kept {
            rounds_up = seen == kept && digit >= 5;
            break;
        }
        seen += 1;
        if significant == 0 && digit == 0 {
            continue;
        }
        // So many digits cannot overflow.
        if significant == precision {
            return None;
        }
        significant += 1;
        value = ArrowNativeTypeOp::add_wrapping(tenfold(value), number(digit.into()));
    }
    if significant > 0 && seen < kept {
        let zeros = kept - seen;
        if zeros > i64::from(precision - significant) {
            return None;
        }
        for _ in 0..zeros {
            value = tenfold(value);
        }
    }
    if rounds_up {
        value = ArrowNativeTypeOp::add_wrapping(value, number(1));
    }
    Some(if negative { ArrowNativeTypeOp::neg_wrapping(value) } else { value })
}

/// The whole number that `text` is; `None` when anything but zeros stands behind its point, or it has more than 38 digits.
pub(super) fn whole(text: &str) -> Option<i128> {
    let (mantissa, point) = parts(text);
    let mut digits = mantissa.bytes().filter(|byte| *byte != b'.').zip(0_i64..);
    let is_whole = digits.all(|(digit, place)| digit == b'0' || place < point);
    if is_whole { parse::<Decimal128Type>(text, 38, 0) } else { None }
}

/// The digits of a number's size, and how many of them stand before the point: fewer than none, or more than there are, with an exponent.
fn parts(text: &str) -> (&str, i64) {
    let digits = text.trim_start_matches('-');
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], exponent(&digits[at + 1..])),
        None => (digits, 0),
    };
    let point = mantissa.find('.').unwrap_or(mantissa.len());
    (mantissa, exponent.saturating_add(point as i64))
}

/// One that is too large to be counted is as good as any other of its sign.
fn exponent(text: &str) -> i64 {
    let limit = if text.starts_with('-') { i64::from(i32::MIN) } else { i64::from(i32::MAX) };
    text.parse::<i32>().map_or(limit, i64::from)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Decimal256Type;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn cents(text: &str) -> Option<i128> {
        parse::<Decimal128Type>(text, 10, 2)
    }

    #[test]
    fn digits_past_the_scale_round_half_away_from_zero() {
        for (text, value) in [
            ("12.349", 1235),
            ("-12.349", -1235),
            ("12.344999", 1234),
            ("0.005", 1),
            ("-0.005", -1),
            ("0.00499999999999999999999999999999999999999999999999", 0),
            ("0.0009", 0),
            ("99.995", 10_000),
            ("12", 1200),
            ("12.3", 1230),
            ("0", 0),
            ("-0.0", 0),
            ("1.2345e2", 12_345),
            ("1.23456e2", 12_346),
            ("1234.5e-2", 1235),
            ("5e-3", 1),
            ("5e-4", 0),
            ("0.05E+1", 50),
            ("1e5", 10_000_000),
            ("0e999999999999", 0),
            ("1e-999999999999", 0),
            ("00000000000000000000000000000000000000001.5", 150),
        ] {
            assert_eq!(cents(text), Some(value), "{text}");
        }
        assert_eq!(parse::<Decimal128Type>("0.5", 5, 0), Some(1));
        assert_eq!(parse::<Decimal256Type>("-0.05", 76, 1), Some(arrow::datatypes::i256::from_i128(-1)));
    }

    #[test]
    fn what_has_no_room_is_none() {
        for text in ["123456789", "1e9", "1e999999999999", "9".repeat(300).as_str()] {
            assert_eq!(cents(text), None, "{text}");
        }
        assert_eq!(cents("99999999.99"), Some(9_999_999_999));
        let rounded = cents("99999999.995").expect("ten digits");
        assert!(!Decimal128Type::is_valid_decimal_precision(rounded, 10), "rounding took it out of range");
    }

    #[test]
    fn whole_numbers_are_exact_or_none() {
        for (text, value) in [
            ("2e3", 2_000),
            ("-2.0", -2),
            ("-0.0", 0),
            ("1500e-2", 15),
            ("0.25E2", 25),
            ("0e-999999999999", 0),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("9.223372036854775807e18", i64::MAX.into()),
            ("123456789012345678901", 123_456_789_012_345_678_901),
        ] {
            assert_eq!(whole(text), Some(value), "{text}");
        }
        for text in ["1.5", "1.00000000000000000001", "0.99999999999999999999", "1e-400", "15e-1", "1e38", "1e999999999999"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    /// Against whole numbers: `units / 1000` in hundredths.
    #[test]
    fn rounding_agrees_with_integers() {
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..10_000 {
            let thousandths: i64 = random.random_range(-99_999_999..=99_999_999);
            let size = thousandths.abs();
            let sign = if thousandths < 0 { "-" } else { "" };
            let expected = i128::from((size + 5) / 10 * thousandths.signum());
            let plain = format!("{sign}{}.{:03}", size / 1000, size % 1000);
            assert_eq!(cents(&plain), Some(expected), "{plain}");
            let scientific = format!("{sign}{size}e-3");
            assert_eq!(cents(&scientific), Some(expected), "{scientific}");
        }
    }
}
