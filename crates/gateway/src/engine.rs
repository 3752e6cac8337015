//! The contract between the doors and whatever runs SQL behind them. The scheduler implements it; tests implement it over a plain
//! DataFusion session. Doors know nothing of epochs, Kafka or Ballista.
use async_trait::async_trait;
use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    common::TableReference,
    logical_expr::LogicalPlan,
    prelude::SessionContext,
};
use futures::{TryStreamExt, stream::BoxStream};

use crate::{
    auth::Principal,
    error::{EngineError, ErrorKind},
    status::Status,
};

/// What a client is told whose time is up, or that cancels, where [`Engine::outlives_call`].
pub const GOES_ON: &str = "a change that has begun goes on to its end; SHOW JOBS shows what becomes of it";

/// A file on its way, piece by piece.
pub type Archive = BoxStream<'static, Result<axum::body::Bytes, EngineError>>;

/// Notices that are known once the rows were read; before that, those of the rows read until then.
pub type ToldLast = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// One statement's answer.
pub struct Answer {
    /// Equal to the schema of every batch, to the nullability. No fields: the statement returns no rows.
    pub schema: SchemaRef,
    pub batches: BoxStream<'static, Result<RecordBatch, EngineError>>,
    /// PostgreSQL's command tag without the count: `SELECT`, `CREATE TABLE`, `PAUSE JOB`.
    pub tag: String,
    /// One line each, for the person.
    pub notices: Vec<String>,
    /// More of them.
    pub told_last: Option<ToldLast>,
    /// Rows come as they arrive somewhere, until the stream is dropped or has given as many as were asked for: whoever wants all of an answer first refuses it.
    pub is_endless: bool,
}

impl Answer {
    /// An answer without rows.
    pub fn done(tag: impl Into<String>) -> Self {
        Self {
            schema: SchemaRef::new(datafusion::arrow::datatypes::Schema::empty()),
            batches: Box::pin(futures::stream::empty()),
            tag: tag.into(),
            notices: Vec::new(),
            told_last: None,
            is_endless: false,
        }
    }

    /// That the rows end.
    ///
    /// # Errors
    /// When they do not, for doors and calls that give all of them together.
    pub fn must_end(&self) -> Result<(), EngineError> {
        if !self.is_endless {
            return Ok(());
        }
        let message = "SELECT … EMIT CHANGES gives rows until it is ended, and here an answer is given once all its rows are there";
        let hint = "send it by itself over Flight SQL or PostgreSQL, or by polybolos sql; or leave EMIT CHANGES out";
        Err(EngineError::new(ErrorKind::Unsupported, message).with_hint(hint))
    }

    /// All that it has to tell, once its rows were read.
    pub fn take_notices(&mut self) -> Vec<String> {
        let mut notices = std::mem::take(&mut self.notices);
        notices.extend(self.told_last.take().map(|told_last| told_last()).unwrap_or_default());
        notices
    }

    pub fn returns_rows(&self) -> bool {
        !self.schema.fields().is_empty()
    }
}

#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Runs one or more statements separated by semicolons, in order, as `principal`. The engine checks the role. Dropping an answer's
    /// stream cancels its query. Dropping the call ends what reads; what changes something goes on to its end, and nothing after it is
    /// begun.
    async fn execute(&self, principal: &Principal, sql: &str) -> Result<Vec<Answer>, EngineError>;

    /// Whether there is a statement in the text that goes on when the call is dropped.
    fn outlives_call(&self, _sql: &str) -> bool {
        false
    }

    /// The schema that [`Engine::execute`] of this one statement would answer with, without running it. `$1`, `$2`… may stand in it.
    async fn describe(&self, principal: &Principal, sql: &str) -> Result<SchemaRef, EngineError>;

    /// The plan of one statement, in which `$1`, `$2`… may stand, for the types of these. Nothing is run.
    async fn planned(&self, sql: &str) -> Result<LogicalPlan, EngineError> {
        let state = self.session().state();
        Ok(state.create_logical_plan(sql).await?)
    }

    /// For metadata: catalogs and `pg_catalog`. Its catalog list is live: tables made later appear in it.
    fn session(&self) -> SessionContext;

    /// The columns of a table's primary key, in its order; none where it has none, and where there is no such table.
    fn primary_key(&self, _schema: &str, _table: &str) -> Vec<String> {
        Vec::new()
    }

    async fn status(&self) -> Status;

    /// A savepoint with its files as one archive, in pieces.
    async fn export_savepoint(&self, _: &Principal, name: &str) -> Result<Archive, EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, format!("savepoint {name} cannot be exported here")))
    }

    /// Takes an archive in as a savepoint of that name, or of the one it has; answers the name.
    async fn import_savepoint(&self, _: &Principal, _name: Option<&str>, _: Archive) -> Result<String, EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, "savepoints cannot be imported here"))
    }

    /// The newest rows of a table, newest first, at most `limit`; asked every second while somebody watches, so it must not cost a scan
    /// of the whole table. An engine that knows what it published lately answers from that; this default has [`first_rows`].
    async fn latest_rows(
        &self,
        principal: &Principal,
        table: &str,
        limit: usize,
    ) -> Result<(SchemaRef, Vec<RecordBatch>), EngineError> {
        first_rows(self, principal, table, limit).await
    }
}

/// Some rows of a table, at most `limit`, as the store has them.
pub async fn first_rows<E: Engine + ?Sized>(
    engine: &E,
    principal: &Principal,
    table: &str,
    limit: usize,
) -> Result<(SchemaRef, Vec<RecordBatch>), EngineError> {
    let table = TableReference::parse_str(table).to_quoted_string();
    let answers = engine.execute(principal, &format!("SELECT * FROM {table} LIMIT {limit}")).await?;
    let Some(answer) = answers.into_iter().next_back() else {
        return Err(EngineError::new(ErrorKind::Failed, format!("table {table} gave no answer")));
    };
    Ok((answer.schema, answer.batches.try_collect().await?))
}
