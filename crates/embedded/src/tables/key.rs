//! Primary keys as bytes whose order is the tables' order: a token (a hash of the partition key, 4 bytes, big endian) that spreads
//! partitions evenly over scan slices, then the partition-key columns, then the clustering columns, ascending.
//!
//! Fixed-width components are big endian with the sign turned so that bytes compare as values do; texts and blobs escape 0 as
//! `00 FF` and end in `00 01`, so that no key is a prefix of another. This is format 1 of the catalog; it never changes.
use super::{
    Damage,
    types::{Layout, Order},
};

/// Bytes of the token at the head of every key.
pub(super) const TOKEN_BYTES: usize = 4;
/// One past the highest token.
pub(super) const TOKENS: u64 = 1 << 32;

/// The store's limit.
pub(super) const BYTES_MAX: usize = 65_535;

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xFF;
const END: u8 = 0x01;

/// The token of an encoded partition key.
pub(super) fn token(partition_key: &[u8]) -> [u8; TOKEN_BYTES] {
    crc32fast::hash(partition_key).to_be_bytes()
}

/// Appends one component; `value` is little endian as in Arrow's buffers.
pub(super) fn put(layout: Layout, value: &[u8], out: &mut Vec<u8>) {
    match layout {
        Layout::Boolean | Layout::Fixed { order: Order::Raw, .. } => out.extend_from_slice(value),
        Layout::Fixed { order, .. } => {
            let start = out.len();
            out.extend(value.iter().rev());
            turn(order, &mut out[start..]);
        }
        Layout::Bytes { .. } => {
            let mut rest = value;
            while let Some(zero) = rest.iter().position(|byte| *byte == ESCAPE) {
                out.extend_from_slice(&rest[..zero]);
                out.extend_from_slice(&[ESCAPE, ESCAPED_ZERO]);
                rest = &rest[zero + 1..];
            }
            out.extend_from_slice(rest);
            out.extend_from_slice(&[ESCAPE, END]);
        }
    }
}

/// Makes big-endian bytes compare as their values; floats in IEEE 754 total order.
fn turn(order: Order, bytes: &mut [u8]) {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    if order == Order::Float && negative {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    } else if let Some(first) = bytes.first_mut() {
        *first ^= 0x80;
    }
}

/// The inverse of [`turn`].
fn turn_back(order: Order, bytes: &mut [u8]) {
    let was_negative = bytes.first().is_some_and(|byte| byte & 0x80 == 0);
    if order == Order::Float && was_negative {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    } else if let Some(first) = bytes.first_mut() {
        *first ^= 0x80;
    }
}

/// Takes one component off the front of `key`, its value into `value`.
pub(super) fn take(layout: Layout, key: &mut &[u8], value: &mut Vec<u8>) -> Result<(), Damage> {
    value.clear();
    match layout {
        Layout::Boolean => take_fixed(1, Order::Raw, key, value),
        Layout::Fixed { width, order } => take_fixed(width, order, key, value),
        Layout::Bytes { .. } => take_bytes(key, value),
    }
}

fn take_fixed(width: usize, order: Order, key: &mut &[u8], value: &mut Vec<u8>) -> Result<(), Damage> {
    let (head, tail) = key.split_at_checked(width).ok_or(Damage("a key is too short"))?;
    *key = tail;
    value.extend_from_slice(head);
    if order != Order::Raw {
        turn_back(order, value);
        value.reverse();
    }
    Ok(())
}

fn take_bytes(key: &mut &[u8], value: &mut Vec<u8>) -> Result<(), Damage> {
    loop {
        let zero = key.iter().position(|byte| *byte == ESCAPE).ok_or(Damage("a key does not end"))?;
        value.extend_from_slice(&key[..zero]);
        let mark = *key.get(zero + 1).ok_or(Damage("a key does not end"))?;
        *key = &key[zero + 2..];
        match mark {
            END => return Ok(()),
            ESCAPED_ZERO => value.push(0),
            _ => return Err(Damage("a key has an unknown escape")),
        }
    }
}

/// The least byte string above everything that starts with `prefix`; `None` where there is none.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(layout: Layout, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(layout, value, &mut bytes);
        let mut rest = bytes.as_slice();
        let mut back = Vec::new();
        take(layout, &mut rest, &mut back).unwrap();
        assert!(rest.is_empty());
        assert_eq!(back, value);
        bytes
    }

    proptest! {
        #[test]
        fn integers_keep_their_order(a: i64, b: i64) {
            let layout = Layout::Fixed { width: 8, order: Order::Signed };
            prop_assert_eq!(a.cmp(&b), round(layout, &a.to_le_bytes()).cmp(&round(layout, &b.to_le_bytes())));
        }

        #[test]
        fn floats_keep_their_total_order(a: f64, b: f64) {
            let layout = Layout::Fixed { width: 8, order: Order::Float };
            prop_assert_eq!(a.total_cmp(&b), round(layout, &a.to_le_bytes()).cmp(&round(layout, &b.to_le_bytes())));
        }

        #[test]
        fn decimals_keep_their_order(a: i128, b: i128) {
            let layout = Layout::Fixed { width: 16, order: Order::Signed };
            prop_assert_eq!(a.cmp(&b), round(layout, &a.to_le_bytes()).cmp(&round(layout, &b.to_le_bytes())));
        }

        #[test]
        fn blobs_keep_their_order_and_are_no_prefixes(
            a in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..6),
            b in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..6),
        ) {
            let layout = Layout::Bytes { text: false };
            let (x, y) = (round(layout, &a), round(layout, &b));
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
            prop_assert!(a == b || !y.starts_with(&x));
        }

        #[test]
        fn damaged_keys_are_errors_not_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut value = Vec::new();
            _ = take(Layout::Bytes { text: true }, &mut bytes.as_slice(), &mut value);
            bytes.truncate(7);
            let fixed = Layout::Fixed { width: 8, order: Order::Signed };
            prop_assert!(take(fixed, &mut bytes.as_slice(), &mut value).is_err());
        }
    }

    #[test]
    fn successors() {
        assert_eq!(successor(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(successor(&[1, 0xFF]), Some(vec![2]));
        assert_eq!(successor(&[0xFF, 0xFF]), None);
        assert_eq!(successor(&[]), None);
    }
}
