//! Golden tests of a pipeline, as far as they are files and rows: no platform runs here.
//!
//! A pipeline folder has its cases in `tests/<case>/`: `input/<table or topic>.ndjson` goes in, `expected/<table>.ndjson` or `.csv` must come out.
//!
//! * [`case`]: the cases of a folder; [`rows`]: the files that people read and write;
//! * [`script`]: which statements of the pipeline a case needs, and where its input goes;
//! * [`diff`]: rows that were expected beside rows that were found.
#![forbid(unsafe_code)]

pub mod case;
pub mod diff;
mod error;
pub mod rows;
pub mod script;

pub use error::GoldenError;
