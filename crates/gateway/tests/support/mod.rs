//! A small engine for the doors: a plain DataFusion session with a table of users, and a few statements of our dialect, among them what
//! tells of a view that the session does not know.
#![allow(dead_code, clippy::unwrap_used)]
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::{Schema, SchemaRef},
    prelude::{SessionConfig, SessionContext},
};
use futures::{StreamExt, TryStreamExt};
use polybolos_gateway::{
    auth::{Authenticate, Principal, Role},
    engine::{Answer, Engine, ToldLast},
    error::{EngineError, ErrorKind},
    status::{HistoryPoint, JobState, JobStatus, Status, TableStatus},
};
use tokio::sync::watch;

pub const TOKEN: &str = "token-of-the-admin";
pub const READER_TOKEN: &str = "token-of-a-reader";

/// What a query is told last that names something `left_out`.
pub const LEFT_OUT: &str = "1 record of topic Städte could not be read and is left out";

pub struct TestLogin;

impl Authenticate for TestLogin {
    fn check(&self, user: Option<&str>, secret: &str) -> Option<Principal> {
        let (name, role) = match secret {
            TOKEN => ("admin", Role::Admin),
            READER_TOKEN => ("reader", Role::Reader),
            _ => return None,
        };
        user.is_none_or(|user| user == name).then(|| Principal { name: name.to_owned(), role })
    }
}

pub struct MemoryEngine {
    session: SessionContext,
    /// How many statements have begun to sleep.
    pub sleeps: watch::Sender<u32>,
}

impl MemoryEngine {
    pub async fn start() -> Arc<Self> {
        let config = SessionConfig::new().with_default_catalog_and_schema("polybolos", "public").with_information_schema(true);
        let session = SessionContext::new_with_config(config);
        let users = "CREATE TABLE created_users (id VARCHAR NOT NULL, first_name VARCHAR, last_name VARCHAR, age INT, registered_date TIMESTAMP)
                     AS VALUES ('a', 'محمد', 'رضایی', 31, TIMESTAMP '2026-01-02T03:04:05'), ('b', 'Zoë', 'Müller', NULL, NULL),
                               ('c', 'O''Hara', 'Ng', -5, TIMESTAMP '2012-05-06T00:00:00.123')";
        session.sql(users).await.unwrap().collect().await.unwrap();
        Arc::new(Self { session, sleeps: watch::Sender::new(0) })
    }

    async fn run(&self, principal: &Principal, sql: &str) -> Result<Answer, EngineError> {
        let words: Vec<String> = sql.split_whitespace().map(str::to_ascii_uppercase).collect();
        if words.first().is_some_and(|word| word == "PAUSE") {
            if principal.role < Role::Operator {
                return Err(EngineError::new(ErrorKind::Forbidden, "role reader may not pause jobs").with_hint("ask an operator"));
            }
            let mut answer = Answer::done("PAUSE JOB");
            answer.notices.push("job j pauses after its epoch".to_owned());
            return Ok(answer);
        }
        if words.first().is_some_and(|word| word == "SLEEP") {
            self.sleeps.send_modify(|sleeps| *sleeps += 1);
            tokio::time::sleep(std::time::Duration::from_secs(90)).await;
        }
        let sql = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["SHOW", "JOBS"] => "SELECT 'j' AS name, 'running' AS state",
            ["SHOW", "VIEWS"] => "SELECT 'public' AS table_schema, 'Adults' AS view_name, 'created_users' AS reads",
            ["SHOW", "CREATE", "VIEW", ..] => {
                "SELECT 'CREATE VIEW \"Adults\" AS SELECT id FROM created_users WHERE age > 17' AS create_statement"
            }
            ["DESCRIBE", ..] => "SELECT 'id' AS column_name, 'VARCHAR' AS data_type, 'false' AS nullable, '' AS extra",
            _ => sql,
        };
        let frame = self.session.sql(sql).await?;
        let stream = frame.execute_stream().await?;
        let schema = stream.schema();
        let tag = if schema.fields().is_empty() { words[..2.min(words.len())].join(" ") } else { "SELECT".to_owned() };
        let told_last = sql.contains("left_out").then(|| Box::new(|| vec![LEFT_OUT.to_owned()]) as ToldLast);
        if sql.contains("endless") {
            // The rows that there are, and no end.
            let batches = stream.map_err(EngineError::from).chain(futures::stream::pending()).boxed();
            return Ok(Answer { schema, batches, tag, notices: Vec::new(), told_last, is_endless: true });
        }
        let batches = stream.map_err(EngineError::from).boxed();
        Ok(Answer { schema, batches, tag, notices: Vec::new(), told_last, is_endless: false })
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    async fn execute(&self, principal: &Principal, sql: &str) -> Result<Vec<Answer>, EngineError> {
        let mut answers = Vec::new();
        for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            answers.push(self.run(principal, statement).await?);
        }
        Ok(answers)
    }

    fn outlives_call(&self, sql: &str) -> bool {
        sql.trim() == "SLEEP ON"
    }

    async fn describe(&self, _principal: &Principal, sql: &str) -> Result<SchemaRef, EngineError> {
        let first = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        if first == "SHOW" {
            return self.describe(_principal, "SELECT 'j' AS name, 'running' AS state").await;
        }
        if first != "SELECT" && first != "WITH" {
            return Ok(Arc::new(Schema::empty()));
        }
        let frame = self.session.sql(sql).await?;
        Ok(frame.schema().inner().clone())
    }

    fn session(&self) -> SessionContext {
        self.session.clone()
    }

    fn primary_key(&self, schema: &str, table: &str) -> Vec<String> {
        let is_users = schema == "public" && table == "created_users";
        if is_users { vec!["last_name".to_owned(), "id".to_owned()] } else { Vec::new() }
    }

    async fn status(&self) -> Status {
        let history = (0..120).map(|second| HistoryPoint { at_ms: second * 1000, rows_per_s: 5.0, ..Default::default() }).collect();
        let job = JobStatus { name: "created_users_job".to_owned(), state: JobState::Running, history, ..Default::default() };
        let table = TableStatus { name: "created_users".to_owned(), connector: "cassandra".to_owned(), ..Default::default() };
        Status { version: "0.1.0".to_owned(), jobs: vec![job], tables: vec![table], ..Default::default() }
    }
}
