//! `decimal`: digits of any number and a scale with each value. Ours have up to 38 digits and a scale per column.
use polybolos_tables::TableError;

const SCALE_BYTES: usize = 4;

/// What CQL has for a number, in `buffer`.
pub(crate) struct Written {
    buffer: [u8; SCALE_BYTES + 16],
    start: usize,
}

impl Written {
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Without the scale: a `varint`.
    pub fn digits(&self) -> &[u8] {
        &self.buffer[self.start + SCALE_BYTES..]
    }
}

/// A number of `digits` of which `scale` are behind the point: the scale, then as few bytes as the digits need.
pub(crate) fn to_cql(digits: i128, scale: i8) -> Written {
    // At least one bit is the sign's; whole bytes that only repeat it are left out.
    let sign_bits = if digits < 0 { digits.leading_ones() } else { digits.leading_zeros() };
    let start = (sign_bits as usize - 1) / 8;
    let mut buffer = [0; SCALE_BYTES + 16];
    buffer[SCALE_BYTES..].copy_from_slice(&digits.to_be_bytes());
    buffer[start..start + SCALE_BYTES].copy_from_slice(&i32::from(scale).to_be_bytes());
    Written { buffer, start }
}

/// The digits of a value of CQL at a column's scale.
pub(crate) fn from_cql(bytes: &[u8], stored: i32, precision: u8, scale: i8) -> Result<i128, TableError> {
    let unfit = || TableError::Unsupported {
        message: format!("a decimal of scale {stored} that does not fit DECIMAL({precision}, {scale}); declare more digits"),
    };
    let mut whole = [if bytes.first().is_some_and(|first| first & 0x80 != 0) { u8::MAX } else { 0 }; 16];
    let start = whole.len().checked_sub(bytes.len()).ok_or_else(unfit)?;
    whole[start..].copy_from_slice(bytes);
    let digits = i128::from_be_bytes(whole);
    let more = i64::from(scale) - i64::from(stored);
    let factor = u32::try_from(more.abs()).ok().and_then(|places| 10_i128.checked_pow(places));
    let digits = match (factor, more >= 0) {
        (Some(factor), true) => digits.checked_mul(factor),
        (Some(factor), false) => (digits % factor == 0).then_some(digits / factor),
        (None, _) => (digits == 0).then_some(0),
    };
    let limit = 10_u128.checked_pow(u32::from(precision));
    digits.filter(|digits| limit.is_none_or(|limit| digits.unsigned_abs() < limit)).ok_or_else(unfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_travel_both_ways_in_as_few_bytes_as_they_need() {
        for (digits, bytes) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0, 128]), (-128, vec![128]), (-129, vec![255, 127]), (-1, vec![255])]
        {
            let written = to_cql(digits, 2);
            let written = written.bytes();
            assert_eq!((&written[..4], &written[4..]), (&[0, 0, 0, 2][..], bytes.as_slice()), "{digits}");
            assert_eq!(from_cql(&written[4..], 2, 10, 2).unwrap(), digits);
            assert_eq!(to_cql(digits, 2).digits(), bytes);
        }
        for digits in [i128::MAX, i128::MIN, 10_i128.pow(37), -(10_i128.pow(37))] {
            assert_eq!(i128::from_be_bytes(to_cql(digits, 0).bytes()[4..].try_into().unwrap_or([0; 16])), digits);
        }
    }

    #[test]
    fn another_scale_is_read_where_no_digit_is_lost() {
        let read = |digits: i128, stored: i32, scale: i8| from_cql(&to_cql(digits, 0).bytes()[4..], stored, 10, scale).ok();
        assert_eq!((read(15, 1, 3), read(1500, 3, 1), read(1501, 3, 1)), (Some(1500), Some(15), None));
        assert_eq!(
            (read(15, -2, 1), read(9_999_999_999, 0, 0), read(9_999_999_999, 0, 1)),
            (Some(15_000), Some(9_999_999_999), None)
        );
        assert_eq!((read(0, 90, 2), read(1, 90, 2), read(1, -90, 2)), (Some(0), None, None));
        assert!(from_cql(&i128::MIN.to_be_bytes(), 0, 38, 0).is_err(), "its size is none of an i128");
    }
}
