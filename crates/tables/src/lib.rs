//! What a keyed table is to Polybolos, whoever stores it: Apache Cassandra on a cluster, an embedded store in `up`.
//!
//! Both promise the same: rows are upserted by full primary key, cell by cell, and of two writes to one cell the one with the higher
//! timestamp stays (equal timestamps must carry equal values, which the epoch protocol guarantees). So writing an epoch twice, or
//! after a newer one, changes nothing.
//!
//! * [`schema`]: names, column types, primary keys, and how they look in Arrow;
//! * [`backend`]: [`TableBackend`] and [`TableWriter`], the two traits that a store implements;
//! * [`check`]: whether a stored table fits its declaration;
//! * [`error`]: what can go wrong, and whose fault it is;
//! * [`plain`]: errors of the engine underneath, in words for people;
//! * [`statement`]: how long a text of statements may be.
#![forbid(unsafe_code)]

pub mod backend;
pub mod check;
pub mod error;
pub mod plain;
pub mod schema;
pub mod statement;

pub use backend::{
    CreateOptions, Grant, KeyPredicate, LookupOptions, NodeTime, PredicateOp, Refused, ScanRequest, ScanSlice, TableBackend,
    TableWriter, WriteOptions, WriteOutcome,
};
pub use error::{Blame, TableError};
pub use schema::{Column, TableName, TableSchema};
