//! `GET /api/v1/events[?table=…]`: server-sent events. `status` each second, the first with all history and the others with its newest
//! points; `rows` when the watched table has rows that were not sent before; `trouble` when it cannot be read.
use std::{collections::HashSet, convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    MAX_WATCHERS, Shared,
    rows::{self, Column},
};
use crate::{auth::Principal, engine::Engine, error::EngineError};

const EVERY: Duration = Duration::from_secs(1);
/// Rows looked at each second: more cannot be read by a person anyway.
const NEWEST_ROWS: usize = 50;
/// Points of history in every status after the first: some more than one, for a browser that was busy.
const NEWEST_POINTS: usize = 5;
/// Events in flight to one browser: a slow one is waited for, and so sees fewer, newer events.
const IN_FLIGHT: usize = 2;

#[derive(Deserialize)]
pub struct Watched {
    table: Option<String>,
}

#[derive(Serialize)]
struct Rows<'a> {
    table: &'a str,
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
}

pub async fn watch(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Query(watched): Query<Watched>,
) -> Response {
    let Ok(permit) = shared.watchers.clone().try_acquire_owned() else {
        let message = format!("too many browsers watch: the HTTP door takes {MAX_WATCHERS} at once; close some\n");
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    };
    let (sender, receiver) = mpsc::channel::<Result<Event, Infallible>>(IN_FLIGHT);
    tokio::spawn(async move {
        let stop = shared.door.stop.clone();
        // The loop ends by itself when the browser goes: its channel closes.
        stop.run_until_cancelled(tell(&shared, &principal, watched.table.as_deref(), sender)).await;
        drop(permit);
    });
    Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()).into_response()
}

async fn tell(shared: &Shared, principal: &Principal, table: Option<&str>, sender: mpsc::Sender<Result<Event, Infallible>>) {
    let engine = shared.door.engine.as_ref();
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    let mut news = News::default();
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = sender.closed() => return,
        }
        let mut status = engine.status().await;
        if !first {
            for job in &mut status.jobs {
                job.history.drain(..job.history.len().saturating_sub(NEWEST_POINTS));
            }
        }
        first = false;
        if send(&sender, "status", &status).await.is_err() {
            return;
        }
        let Some(table) = table else { continue };
        let sent = match news.of(engine, principal, table).await {
            Ok(Some(rows)) => send(&sender, "rows", &rows).await,
            Ok(None) => Ok(()),
            Err(message) => send(&sender, "trouble", &json!({ "table": table, "message": message })).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

struct Gone;

async fn send(sender: &mpsc::Sender<Result<Event, Infallible>>, name: &str, data: &impl Serialize) -> Result<(), Gone> {
    // Our own types always serialize; a status without its body would only be skipped.
    let Ok(event) = Event::default().event(name).json_data(data) else { return Ok(()) };
    sender.send(Ok(event)).await.map_err(|_| Gone)
}

/// What the last look at the table showed.
#[derive(Default)]
struct News {
    looked: bool,
    seen: HashSet<String>,
    trouble: Option<String>,
}

impl News {
    /// Rows that the last look did not show; the first look answers even when there are none.
    async fn of<'a>(&mut self, engine: &dyn Engine, principal: &Principal, table: &'a str) -> Result<Option<Rows<'a>>, String> {
        let (columns, all) = match look(engine, principal, table).await {
            Ok(found) => found,
            Err(error) => {
                let message = error.to_string();
                if self.trouble.as_ref() == Some(&message) {
                    return Ok(None);
                }
                self.trouble = Some(message.clone());
                return Err(message);
            }
        };
        let recovered = self.trouble.take().is_some();
        let keyed: Vec<(String, Vec<Value>)> = all.into_iter().map(|row| (Value::from(row.clone()).to_string(), row)).collect();
        let seen = keyed.iter().map(|(key, _)| key.clone()).collect();
        let rows: Vec<Vec<Value>> = keyed.into_iter().filter(|(key, _)| !self.seen.contains(key)).map(|(_, row)| row).collect();
        self.seen = seen;
        let tell = !rows.is_empty() || !self.looked || recovered;
        self.looked = true;
        Ok(tell.then_some(Rows { table, columns, rows }))
    }
}

async fn look(engine: &dyn Engine, principal: &Principal, table: &str) -> Result<(Vec<Column>, Vec<Vec<Value>>), EngineError> {
    let (schema, batches) = engine.latest_rows(principal, table, NEWEST_ROWS).await?;
    let mut all = Vec::new();
    for batch in &batches {
        rows::append(&mut all, batch, NEWEST_ROWS)?;
    }
    Ok((rows::columns(&schema), all))
}
