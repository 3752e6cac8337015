//! Objects that people can read and nobody can misread: a header line `polybolos-<kind> <version> <crc32>`, then JSON.
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::StoreError;

const VERSION: u32 = 1;

pub fn encode<T: Serialize>(kind: &str, value: &T) -> Result<Bytes, StoreError> {
    let corrupt = |message: String| StoreError::Corrupt { object: kind.to_owned(), message };
    let body = serde_json::to_vec_pretty(value).map_err(|error| corrupt(error.to_string()))?;
    let mut bytes = format!("polybolos-{kind} {VERSION} {:08x}\n", crc32fast::hash(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// `object` names what is read, for the message when it is damaged.
pub fn decode<T: DeserializeOwned>(object: &str, kind: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let corrupt = |message: String| StoreError::Corrupt { object: object.to_owned(), message };
    let newline = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| corrupt("it has no header line".into()))?;
    let header = std::str::from_utf8(&bytes[..newline]).map_err(|_| corrupt("its header is not text".into()))?;
    let body = bytes[newline + 1..].strip_suffix(b"\n").ok_or_else(|| corrupt("it is cut short".into()))?;
    let mut words = header.split(' ');
    if words.next() != Some(&format!("polybolos-{kind}")) {
        return Err(corrupt(format!("its header {header:?} is not that of a {kind}")));
    }
    if words.next() != Some(&VERSION.to_string()) {
        return Err(corrupt(format!("its header {header:?} has a version that this program does not know")));
    }
    if words.next() != Some(&format!("{:08x}", crc32fast::hash(body))) {
        return Err(corrupt("its checksum does not fit".into()));
    }
    serde_json::from_slice(body).map_err(|error| corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_found() {
        let value = vec!["Zoé".to_owned(), "علی".to_owned()];
        let bytes = encode("lease", &value).expect("encodes");
        assert_eq!(decode::<Vec<String>>("lease", "lease", &bytes).expect("decodes"), value);
        assert!(decode::<Vec<String>>("lease", "catalog", &bytes).is_err());
        for index in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[index / 8] ^= 1 << (index % 8);
            assert!(decode::<Vec<String>>("lease", "lease", &damaged).is_err(), "bit {index}");
        }
    }
}
