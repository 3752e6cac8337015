//! What an engine answers when it cannot: a kind, one line, a remedy. Each door turns it into its own protocol's words: SQLSTATE and
//! hint, gRPC status, HTTP status and JSON.
use std::fmt;

use datafusion::arrow::error::ArrowError;
use polybolos_tables::{plain::plain, statement};
use serde::Serialize;
use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The statement does not parse.
    Syntax,
    /// The statement parses and does not make sense: types, columns, options.
    Invalid,
    /// A table, job, column or function that does not exist.
    NotFound,
    AlreadyExists,
    /// The principal's role is not enough.
    Forbidden,
    /// Something that exists elsewhere and not here.
    Unsupported,
    /// A limit was reached: statement size, memory, time, rows.
    LimitExceeded,
    Cancelled,
    /// Kafka, Cassandra, the store or an executor is away: the same statement may work later.
    Unavailable,
    /// The statement was fine and failed all the same.
    Failed,
}

/// PostgreSQL's `query_canceled`.
pub(crate) const CANCELLED: &str = "57014";
const UNDEFINED_COLUMN: &str = "42703";
const UNDEFINED_FUNCTION: &str = "42883";
const DIVISION_BY_ZERO: &str = "22012";
const OUT_OF_RANGE: &str = "22003";
const INVALID_TEXT: &str = "22P02";

#[derive(Clone, Debug, Error)]
pub struct EngineError {
    pub kind: ErrorKind,
    /// One line: object, reason.
    pub message: String,
    /// What the person can do.
    pub hint: Option<String>,
    /// PostgreSQL's code, where it says more than the kind's.
    code: Option<&'static str>,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl EngineError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, code: None }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    pub fn with_sqlstate(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Of a text that no door takes.
    pub(crate) fn too_long() -> Self {
        Self::new(ErrorKind::LimitExceeded, statement::too_long()).with_sqlstate("54001")
    }

    /// PostgreSQL's code (appendix A of its manual).
    pub fn sqlstate(&self) -> &'static str {
        if let Some(code) = self.code {
            return code;
        }
        match self.kind {
            ErrorKind::Syntax => "42601",
            ErrorKind::Invalid => "42000",
            ErrorKind::NotFound => "42P01",
            ErrorKind::AlreadyExists => "42P07",
            ErrorKind::Forbidden => "42501",
            ErrorKind::Unsupported => "0A000",
            ErrorKind::LimitExceeded => "54000",
            ErrorKind::Cancelled => CANCELLED,
            ErrorKind::Unavailable => "57P03",
            ErrorKind::Failed => "XX000",
        }
    }

    pub fn http_status(&self) -> u16 {
        match self.kind {
            ErrorKind::Syntax | ErrorKind::Invalid => 400,
            ErrorKind::NotFound => 404,
            ErrorKind::AlreadyExists => 409,
            ErrorKind::Forbidden => 403,
            ErrorKind::Unsupported => 501,
            ErrorKind::LimitExceeded => 413,
            ErrorKind::Cancelled => 499,
            ErrorKind::Unavailable => 503,
            ErrorKind::Failed => 500,
        }
    }

    pub fn grpc_code(&self) -> tonic::Code {
        match self.kind {
            ErrorKind::Syntax | ErrorKind::Invalid => tonic::Code::InvalidArgument,
            ErrorKind::NotFound => tonic::Code::NotFound,
            ErrorKind::AlreadyExists => tonic::Code::AlreadyExists,
            ErrorKind::Forbidden => tonic::Code::PermissionDenied,
            ErrorKind::Unsupported => tonic::Code::Unimplemented,
            ErrorKind::LimitExceeded => tonic::Code::ResourceExhausted,
            ErrorKind::Cancelled => tonic::Code::Cancelled,
            ErrorKind::Unavailable => tonic::Code::Unavailable,
            ErrorKind::Failed => tonic::Code::Internal,
        }
    }
}

impl From<EngineError> for tonic::Status {
    fn from(error: EngineError) -> Self {
        tonic::Status::new(error.grpc_code(), error.to_string())
    }
}

/// The one place that reads DataFusion's errors: who is to blame, and what it says to people.
impl From<datafusion::error::DataFusionError> for EngineError {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        use datafusion::sql::sqlparser::parser::ParserError;
        use datafusion::{common::SchemaError, error::DataFusionError};
        let mut code = None;
        let kind = match error.find_root() {
            DataFusionError::SQL(parser, _) => {
                let message = match parser.as_ref() {
                    ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.as_str(),
                    ParserError::RecursionLimitExceeded => "the statement is nested too deeply",
                };
                return Self::new(ErrorKind::Syntax, plain(message));
            }
            DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
                SchemaError::FieldNotFound { .. } => {
                    code = Some(UNDEFINED_COLUMN);
                    ErrorKind::NotFound
                }
                _ => ErrorKind::Invalid,
            },
            DataFusionError::Plan(message) if message.contains("not found") => ErrorKind::NotFound,
            DataFusionError::Plan(message) => {
                code = message.starts_with("Invalid function").then_some(UNDEFINED_FUNCTION);
                ErrorKind::Invalid
            }
            DataFusionError::ArrowError(arrow, _) => {
                let told;
                (told, code) = of_values(arrow);
                told
            }
            DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
            DataFusionError::ResourcesExhausted(_) => ErrorKind::LimitExceeded,
            _ => ErrorKind::Failed,
        };
        Self { code, ..Self::new(kind, plain(&error.to_string())) }
    }
}

impl From<ArrowError> for EngineError {
    fn from(error: ArrowError) -> Self {
        let (kind, code) = of_values(&error);
        Self { code, ..Self::new(kind, plain(&error.to_string())) }
    }
}

/// What is wrong with a value is the statement's fault, and has a number of PostgreSQL's.
fn of_values(error: &ArrowError) -> (ErrorKind, Option<&'static str>) {
    match error {
        ArrowError::DivideByZero => (ErrorKind::Invalid, Some(DIVISION_BY_ZERO)),
        ArrowError::ArithmeticOverflow(_) => (ErrorKind::Invalid, Some(OUT_OF_RANGE)),
        ArrowError::CastError(_) | ArrowError::ParseError(_) => (ErrorKind::Invalid, Some(INVALID_TEXT)),
        _ => (ErrorKind::Failed, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn datafusion_errors_keep_their_kind() {
        let session = SessionContext::new();
        for (sql, kind, code) in [
            ("SELEC 1", ErrorKind::Syntax, "42601"),
            ("SELECT * FROM nowhere", ErrorKind::NotFound, "42P01"),
            ("SELECT x FROM (VALUES (1)) t(a)", ErrorKind::NotFound, "42703"),
            ("SELECT nonsense(1)", ErrorKind::Invalid, "42883"),
            ("SELECT 1 / a FROM (VALUES (0)) t(a)", ErrorKind::Invalid, "22012"),
            ("SELECT CAST(a AS INT) FROM (VALUES ('x')) t(a)", ErrorKind::Invalid, "22P02"),
        ] {
            let answer = match session.sql(sql).await {
                Ok(frame) => frame.collect().await.map(drop),
                Err(error) => Err(error),
            };
            let error = EngineError::from(answer.expect_err(sql));
            assert_eq!((error.kind, error.sqlstate()), (kind, code), "{error}");
            assert!(!error.message.contains('\n'));
        }
    }

    #[tokio::test]
    async fn what_people_read_begins_with_what_is_wrong() {
        let session = SessionContext::new();
        for (sql, expected) in [
            ("SELECT * FROM nowhere", "table 'datafusion.public.nowhere' not found"),
            ("SELECT x FROM (VALUES (1)) t(a)", "No field named x"),
            ("SELECT 1 / a FROM (VALUES (0)) t(a)", "division by zero; write a / NULLIF(b, 0)"),
            ("SELECT CAST(a AS INT) FROM (VALUES ('x')) t(a)", "Cannot cast string 'x' to value of Int32 type"),
            // Found by a rule of the optimizer.
            ("SELECT CAST('x' AS INT)", "Cannot cast string 'x' to value of Int32 type"),
        ] {
            let answer = match session.sql(sql).await {
                Ok(frame) => frame.collect().await.map(drop),
                Err(error) => Err(error),
            };
            let error = EngineError::from(answer.expect_err(sql));
            assert!(error.message.starts_with(expected), "{sql}: {error}");
        }
    }
}
