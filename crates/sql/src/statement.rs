//! What can be said: one value per statement, names normalised, nothing looked up yet.
use std::fmt;

use datafusion::sql::sqlparser::ast;

use crate::{
    catalog::Watermark,
    error::ObjectKind,
    location::Location,
    names::{RelationName, quoted},
    options::kafka::StartupMode,
    types::SqlType,
};

#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub kind: StatementKind,
    /// As written, without the semicolon. May hold secrets: show it through [`crate::redact::sql`] only.
    pub sql: String,
    /// Where it starts in its script.
    pub at: Location,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StatementKind {
    CreateTable(CreateTable),
    CreateView(CreateView),
    CreateFunction(CreateFunction),
    CreateJob(CreateJob),
    DropView {
        name: RelationName,
        if_exists: bool,
    },
    DropTable {
        name: RelationName,
        if_exists: bool,
    },
    DropFunction {
        name: String,
        if_exists: bool,
    },
    DropJob {
        name: String,
        if_exists: bool,
    },
    ControlJob {
        name: String,
        action: JobAction,
    },
    RestartJob(RestartJob),
    /// Another definition for a job that goes on from where it is, with its state.
    UpgradeJob(CreateJob),
    /// `VERIFY JOB name`: its tables beside a batch query over what it has read.
    VerifyJob {
        name: String,
    },
    /// `REPLAY DEAD LETTERS [FOR JOB name | 'id']`: sends them back to their topics.
    ReplayDeadLetters {
        job: Option<String>,
        id: Option<String>,
    },
    CreateSavepoint {
        name: String,
        job: String,
    },
    DropSavepoint {
        name: String,
        if_exists: bool,
    },
    Show(Show),
    Describe(RelationName),
    Explain(Explain),
    Query(Query),
    /// Without a name: over an unbounded source it starts a job, over bounded ones it runs to the end.
    Insert(Insert),
    /// About the session, not about data: a gateway answers it.
    Session(SessionStatement),
}

impl StatementKind {
    /// Whether carrying it out needs the right to change something.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Show(_) | Self::Describe(_) | Self::Explain(_) | Self::Query(_) | Self::Session(_))
    }

    /// What a PostgreSQL client is told once it is done.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::CreateTable(_) => "CREATE TABLE",
            Self::CreateView(_) => "CREATE VIEW",
            Self::CreateFunction(_) => "CREATE FUNCTION",
            Self::CreateJob(_) => "CREATE JOB",
            Self::DropView { .. } => "DROP VIEW",
            Self::DropTable { .. } => "DROP TABLE",
            Self::DropFunction { .. } => "DROP FUNCTION",
            Self::DropJob { .. } => "DROP JOB",
            Self::ControlJob { action: JobAction::Pause, .. } => "PAUSE JOB",
            Self::ControlJob { action: JobAction::Resume, .. } => "RESUME JOB",
            Self::ControlJob { action: JobAction::Stop, .. } => "STOP JOB",
            Self::RestartJob(_) => "RESTART JOB",
            Self::UpgradeJob(_) => "UPGRADE JOB",
            Self::VerifyJob { .. } => "VERIFY JOB",
            Self::ReplayDeadLetters { .. } => "REPLAY DEAD LETTERS",
            Self::CreateSavepoint { .. } => "CREATE SAVEPOINT",
            Self::DropSavepoint { .. } => "DROP SAVEPOINT",
            Self::Show(_) => "SHOW",
            Self::Describe(_) => "DESCRIBE",
            Self::Explain(_) => "EXPLAIN",
            Self::Query(_) => "SELECT",
            Self::Insert(_) => "INSERT",
            Self::Session(session) => session.tag(),
        }
    }
}

/// SELECT, WITH, VALUES, TABLE: rows, and what their columns are called.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub ast: Box<ast::Query>,
    /// One per item of SELECT; empty where the planner's names are left as they are.
    pub headings: Vec<Heading>,
    /// `EMIT CHANGES`: rows as they come, without an end of their own.
    pub emit_changes: bool,
}

/// What is known of the name of a column that an item of SELECT makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Heading {
    /// The planner knows it: the item has an alias.
    Given,
    /// The planner knows it, of as many columns as it finds: the item is a wildcard.
    Several,
    /// The first of these that no other column has: what a column, or a cast of it, is called; the item as it is written.
    Wanted(Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    pub name: RelationName,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnClause>,
    pub primary_key: Option<PrimaryKeyClause>,
    pub watermark: Option<Watermark>,
    pub options: Vec<OptionEntry>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ColumnClause {
    pub name: String,
    pub sql_type: SqlType,
    pub not_null: bool,
    pub metadata: Option<MetadataClause>,
    /// `name AS expression`: computed when read. Its type follows from the expression; `sql_type` says nothing then.
    pub computed: Option<String>,
    pub at: Location,
}

/// `METADATA [FROM 'key'] [VIRTUAL]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataClause {
    /// The column's own name when `FROM` is left out.
    pub from: String,
    pub is_virtual: bool,
}

/// `PRIMARY KEY (a, b)`: `a` chooses the partition, `b` orders within it; `PRIMARY KEY ((a, b), c)` as Cassandra writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct PrimaryKeyClause {
    pub partition: Vec<String>,
    pub clustering: Vec<String>,
    pub at: Location,
}

/// One `'key' = 'value'` of a WITH clause.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionEntry {
    pub key: String,
    pub value: String,
    pub at: Location,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateJob {
    pub name: String,
    pub if_not_exists: bool,
    pub options: Vec<OptionEntry>,
    /// At least one; several when written as `BEGIN INSERT …; INSERT …; END`.
    pub inserts: Vec<Insert>,
}

/// A query with a name. `TEMPORARY` changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    pub name: RelationName,
    pub if_not_exists: bool,
    /// New names of the query's columns, normalised; empty when left out.
    pub columns: Vec<String>,
    pub query: Box<ast::Query>,
    pub at: Location,
}

/// `CREATE [OR REPLACE] FUNCTION name(a STRING) RETURNS STRING RETURN upper(a)`: an expression with a name. It is an aggregate when there are some in its
/// expression.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateFunction {
    pub name: String,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Whether it is said to be one (`CREATE AGGREGATE`).
    pub is_aggregate: bool,
    pub parameters: Vec<Parameter>,
    pub returns: SqlType,
    pub body: Box<ast::Expr>,
    pub at: Location,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub sql_type: SqlType,
}

impl CreateFunction {
    /// How it is called: `full_name(first STRING, last STRING)`.
    pub fn signature(&self) -> String {
        let parameters: Vec<String> = self.parameters.iter().map(ToString::to_string).collect();
        format!("{}({})", quoted(&self.name), parameters.join(", "))
    }
}

/// What it is, however it was written.
impl fmt::Display for CreateFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FUNCTION {} RETURNS {} RETURN {}", self.signature(), self.returns, self.body)
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", quoted(&self.name), self.sql_type)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub target: RelationName,
    /// The column list as written, normalised; empty when left out.
    pub columns: Vec<String>,
    pub query: Box<ast::Query>,
    pub emit: Emit,
    pub at: Location,
}

/// When a job writes the rows of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// At every change.
    #[default]
    OnUpdate,
    /// Once, when the watermark closes the window.
    OnWindowClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobAction {
    Pause,
    Resume,
    Stop,
}

/// `RESTART JOB name [FROM …] KEEP | REPLACE [DISCARD]`: a new incarnation of the job.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartJob {
    pub name: String,
    /// Where the new incarnation begins; `None`: where the job began when it was created.
    pub from: Option<RestartFrom>,
    pub earlier_rows: EarlierRows,
    /// Skips what is recorded and unpublished instead of waiting for it.
    pub discard: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RestartFrom {
    /// With no state, from these offsets.
    Offsets(StartupMode),
    /// With the state and offsets of a savepoint.
    Savepoint(String),
}

/// What becomes of rows that the earlier run wrote and the new one does not write again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierRows {
    Keep,
    /// They are deleted once the new run has caught up.
    Replace,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Show {
    Jobs,
    Savepoints,
    Tables,
    Views,
    Functions,
    CreateTable(RelationName),
    CreateView(RelationName),
    CreateFunction(String),
    CreateJob(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
    pub target: ExplainTarget,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExplainTarget {
    Query(Box<ast::Query>),
    Insert(Insert),
    Job(CreateJob),
    /// `EXPLAIN JOB name`: one that exists.
    ExistingJob(String),
}

/// What psql, JDBC and Grafana send around their queries.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionStatement {
    /// `SET name = value`, `SET TIME ZONE …`, `SET SESSION CHARACTERISTICS …`; the value as text, strings without their quotes.
    Set {
        name: String,
        value: String,
    },
    /// `SHOW name`, `SHOW ALL` (then the name is `all`).
    ShowVariable {
        name: String,
    },
    /// `RESET name`, `RESET ALL`, `DISCARD ALL`.
    Reset {
        name: String,
    },
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Release,
    Deallocate {
        name: Option<String>,
    },
    /// `USE catalog`.
    Use {
        name: String,
    },
}

impl SessionStatement {
    fn tag(&self) -> &'static str {
        match self {
            Self::Set { .. } | Self::Use { .. } => "SET",
            Self::ShowVariable { .. } => "SHOW",
            Self::Reset { .. } => "RESET",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
            Self::Savepoint => "SAVEPOINT",
            Self::Release => "RELEASE",
            Self::Deallocate { .. } => "DEALLOCATE",
        }
    }
}

impl Statement {
    /// The object a statement creates, drops or controls, for audit logs.
    pub fn object(&self) -> Option<(ObjectKind, String)> {
        let (kind, name) = match &self.kind {
            StatementKind::CreateTable(create) => (ObjectKind::Table, create.name.to_string()),
            StatementKind::DropTable { name, .. } | StatementKind::Describe(name) => (ObjectKind::Table, name.to_string()),
            StatementKind::Insert(insert) => (ObjectKind::Table, insert.target.to_string()),
            StatementKind::CreateView(create) => (ObjectKind::View, create.name.to_string()),
            StatementKind::DropView { name, .. } => (ObjectKind::View, name.to_string()),
            StatementKind::CreateFunction(create) => (ObjectKind::Function, create.name.clone()),
            StatementKind::DropFunction { name, .. } => (ObjectKind::Function, name.clone()),
            StatementKind::CreateJob(create) | StatementKind::UpgradeJob(create) => (ObjectKind::Job, create.name.clone()),
            StatementKind::DropJob { name, .. } | StatementKind::ControlJob { name, .. } => (ObjectKind::Job, name.clone()),
            StatementKind::RestartJob(restart) => (ObjectKind::Job, restart.name.clone()),
            StatementKind::VerifyJob { name } => (ObjectKind::Job, name.clone()),
            StatementKind::CreateSavepoint { name, .. } | StatementKind::DropSavepoint { name, .. } => {
                (ObjectKind::Savepoint, name.clone())
            }
            StatementKind::ReplayDeadLetters { .. }
            | StatementKind::Show(_)
            | StatementKind::Explain(_)
            | StatementKind::Query(_)
            | StatementKind::Session(_) => {
                return None;
            }
        };
        Some((kind, name))
    }
}
