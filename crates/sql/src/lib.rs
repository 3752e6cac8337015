//! The dialect, the catalog, and SQL → the logical plan of a job. Every door (files, prompt, PostgreSQL wire, Flight SQL, HTTP) comes
//! through here. Flink's words where Flink has them, DataFusion's SQL for queries.
//!
//! * [`parser`]: text → [`statement::Statement`]s, with places in errors and [`limits`] checked before anything recursive;
//! * [`catalog`]: declared tables, views, functions and jobs, and [`catalog::apply`], which makes the next catalog of a statement;
//! * [`options`]: every `WITH` key, typed; [`types`]: every column type and what it is in Arrow;
//! * [`schema`]: the catalog as DataFusion sees it, over [`schema::Providers`] that the scheduler implements;
//! * [`planner`]: queries, INSERTs and jobs → logical plans; what a stream cannot do yet is refused by name;
//! * [`functions`]: what DataFusion lacks, and what windows are lowered to;
//! * [`execution`]: what an executor needs to run these plans; [`clock`]: `now()` of a job is its epoch's time;
//! * [`explain`], [`show`], [`validate`], [`redact`]: answers for people.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), polybolos_sql::SqlError> {
//! use std::sync::Arc;
//!
//! use datafusion::execution::SessionStateBuilder;
//! use polybolos_sql::{Catalog, Change, Planner, StatementKind, apply, explain, parse, validate::Declared};
//!
//! let script = "
//!     CREATE TABLE users (id STRING, name STRING, age INT)
//!     WITH ('connector' = 'kafka', 'topic' = 'users_created', 'format' = 'json');
//!
//!     CREATE TABLE created_users (id STRING, name STRING, PRIMARY KEY (id) NOT ENFORCED)
//!     WITH ('connector' = 'cassandra', 'keyspace' = 'spark_streams');
//!
//!     CREATE JOB created_users_job AS
//!     INSERT INTO created_users SELECT id, name FROM users WHERE age >= 18;
//! ";
//! let statements = parse(script)?;
//! let mut catalog = Catalog::default();
//! for statement in &statements {
//!     catalog = apply(&catalog, statement, &Change { now_us: 0, incarnation: "a1".into() })?;
//! }
//! assert_eq!(catalog.jobs[0].name, "created_users_job");
//!
//! // `Declared` has the tables' columns and no rows; the scheduler brings tables that can be read.
//! let state = SessionStateBuilder::new().with_default_features().build();
//! let planner = Planner::new(&state, Arc::new(catalog), Arc::new(Declared));
//! let StatementKind::CreateJob(create) = &statements[2].kind else { unreachable!() };
//! let job = planner.plan_job(create, 4).await?;
//! assert_eq!(job.inserts[0].columns, ["id", "name"]);
//! assert!(explain::job(&job, false).contains("upsert by (id)"));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod cast_types;
pub mod catalog;
pub mod clock;
mod elsewhere;
pub mod error;
pub mod execution;
mod expansion;
pub mod explain;
pub mod functions;
pub mod limits;
pub mod location;
pub mod logical_rules;
pub mod names;
pub mod options;
pub mod parser;
pub mod planner;
pub mod redact;
pub mod schema;
pub mod show;
pub mod statement;
pub mod types;
pub mod validate;
pub mod walk;

pub use catalog::{
    Catalog, Change, ColumnDefinition, ColumnKind, Connector, FunctionDefinition, JobDefinition, MetadataKey, PrimaryKey,
    TableDefinition, ViewDefinition, apply,
};
pub use error::{ObjectKind, SqlError};
pub use limits::Limits;
pub use location::Location;
pub use names::RelationName;
pub use options::{
    cassandra::CassandraOptions,
    filesystem::{FileFormat, FilesystemOptions},
    job::{JobOptions, OnError, StateUnbounded},
    kafka::{BoundedMode, KafkaOptions, OnDataLoss, StartupMode},
    upsert_kafka::{KeyFormat, UpsertKafkaOptions},
};
pub use parser::{parse, parse_one};
pub use planner::{EventTimeUse, Explained, FollowedQuery, InsertPlan, JobPlan, Planner, WatermarkSource, WindowEnds};
pub use schema::{PolybolosCatalog, Providers, Use};
pub use statement::{Emit, Statement, StatementKind};
pub use types::SqlType;
