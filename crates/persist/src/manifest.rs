//! The manifest as an object of the store.
use bytes::Bytes;
use polybolos_streaming::manifest::Manifest;

use crate::{StoreError, envelope};

pub fn encode(manifest: &Manifest) -> Result<Bytes, StoreError> {
    envelope::encode("manifest", manifest)
}

pub fn decode(object: &str, bytes: &[u8]) -> Result<Manifest, StoreError> {
    envelope::decode(object, "manifest", bytes)
}
