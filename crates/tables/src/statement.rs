//! How long a text of statements may be. Doors refuse a longer one before they look into it, the dialect wherever else it comes from.

pub const MAX_STATEMENT_BYTES: usize = 256 << 10;

/// What whoever sends a longer one is told.
pub fn too_long() -> String {
    let kib = MAX_STATEMENT_BYTES >> 10;
    format!("the statement is longer than {kib} KiB; send its parts one by one, or values as records of a topic")
}
