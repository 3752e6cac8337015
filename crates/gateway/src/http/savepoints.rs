//! `GET /api/v1/savepoints/NAME/archive` gives a savepoint as one file, `POST /api/v1/savepoints[?as=NAME]` takes one in. Bodies travel piece by piece, whatever
//! their size. Only `application/octet-stream` is taken: a form of another site cannot send it.
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::Shared;
use crate::{
    auth::Principal,
    error::{EngineError, ErrorKind},
};

const ARCHIVE: &str = "application/octet-stream";

pub async fn export(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
) -> Response {
    match shared.door.engine.export_savepoint(&principal, &name).await {
        Ok(archive) => ([(header::CONTENT_TYPE, ARCHIVE)], Body::from_stream(archive)).into_response(),
        Err(error) => error.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    #[serde(rename = "as")]
    name: Option<String>,
}

pub async fn import(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Query(import): Query<Import>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != ARCHIVE) {
        return EngineError::new(ErrorKind::Invalid, format!("an archive is sent as {ARCHIVE}")).into_response();
    }
    let broken = |error: axum::Error| EngineError::new(ErrorKind::Failed, format!("the archive did not arrive: {error}"));
    let archive = body.into_data_stream().map(move |piece| piece.map_err(broken)).boxed();
    match shared.door.engine.import_savepoint(&principal, import.name.as_deref(), archive).await {
        Ok(name) => Json(json!({ "savepoint": name })).into_response(),
        Err(error) => error.into_response(),
    }
}
