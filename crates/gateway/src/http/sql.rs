//! `POST /api/v1/sql {"sql": "…", "limit": 100}`: runs statements and answers with the last one's rows, bounded in rows, bytes and time.
//! Only JSON bodies are taken: a form of another site cannot send one.
use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use polybolos_tables::statement::MAX_STATEMENT_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Shared,
    rows::{self, Column},
};
use crate::{
    auth::Principal,
    engine::{Answer, Engine, GOES_ON},
    error::{EngineError, ErrorKind},
};

const DEFAULT_ROWS: usize = 1_000;
const MAX_ROWS: usize = 10_000;
/// Of Arrow data, measured before JSON.
const MAX_BYTES: usize = 16 << 20;
const MAX_TIME: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    sql: String,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Rows {
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
    /// There was more than the limits allow.
    truncated: bool,
    tag: String,
    notices: Vec<String>,
}

pub async fn run(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<Request>, JsonRejection>,
) -> Response {
    let request = match body {
        Ok(Json(request)) if request.sql.len() <= MAX_STATEMENT_BYTES => request,
        Ok(_) => return EngineError::too_long().into_response(),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => return EngineError::too_long().into_response(),
        Err(rejection) => {
            let error = EngineError::new(ErrorKind::Syntax, rejection.body_text());
            let hint = "send Content-Type: application/json and a body like {\"sql\": \"SELECT 1\"}";
            return (rejection.status(), error.with_hint(hint).body()).into_response();
        }
    };
    let limit = request.limit.unwrap_or(DEFAULT_ROWS).min(MAX_ROWS);
    match tokio::time::timeout(MAX_TIME, execute(&shared.door.engine, &principal, &request.sql, limit)).await {
        Ok(Ok(rows)) => Json(rows).into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(_) => {
            let hint = if shared.door.engine.outlives_call(&request.sql) {
                GOES_ON
            } else {
                "narrow it with WHERE or LIMIT, or use the PostgreSQL or Flight SQL door"
            };
            let message = format!("the statement took longer than {} s", MAX_TIME.as_secs());
            EngineError::new(ErrorKind::LimitExceeded, message).with_hint(hint).into_response()
        }
    }
}

async fn execute(engine: &Arc<dyn Engine>, principal: &Principal, sql: &str, limit: usize) -> Result<Rows, EngineError> {
    let mut last = None;
    for answer in engine.execute(principal, sql).await? {
        answer.must_end()?;
        last = Some(collect(answer, limit).await?);
    }
    last.ok_or_else(|| EngineError::new(ErrorKind::Syntax, "there is no statement in the text"))
}

async fn collect(mut answer: Answer, limit: usize) -> Result<Rows, EngineError> {
    let mut all = Vec::new();
    let mut bytes = 0;
    let mut truncated = false;
    while let Some(batch) = answer.batches.next().await {
        let batch = batch?;
        bytes += batch.get_array_memory_size();
        truncated = all.len() + batch.num_rows() > limit || bytes > MAX_BYTES;
        rows::append(&mut all, &batch, limit)?;
        if truncated {
            break;
        }
    }
    let notices = answer.take_notices();
    Ok(Rows { columns: rows::columns(&answer.schema), rows: all, truncated, tag: answer.tag, notices })
}
