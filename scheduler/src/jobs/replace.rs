//! `RESTART JOB … REPLACE` (EPOCHS rule 18): once the new run has caught up and all of it is in the tables, every row's key is deleted as of just before the new run's
//! first write time. What it wrote stays, as it is newer; what only the earlier run wrote goes. Doing it twice is the same as once.
use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use polybolos_operators::publish::{DeclaredKey, SinkSpec};
use polybolos_streaming::{coordinator::Event, grant::GRANT_US, manifest::Replace};
use polybolos_tables::{Grant, ScanRequest, TableBackend, TableError, TableName, WriteOptions};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::runner::{JobHandle, View};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Until the last grant has run out by which a publisher may still write of the earlier run, for an earlier leader perhaps.
const GRANTS_END: Duration = Duration::from_micros(GRANT_US);

/// After a failure of the table's store.
const RETRY: Duration = Duration::from_secs(2);

const SLICES: usize = 8;

struct WhileLeading<'a>(&'a CancellationToken);

impl Grant for WhileLeading<'_> {
    fn holds(&self) -> bool {
        !self.0.is_cancelled()
    }
}

/// Waits for its time, deletes, and says so to the job. Ends without, when the job or this leader does.
pub async fn run(handle: JobHandle, replace: Replace, tables: Arc<dyn TableBackend>, shutdown: CancellationToken) {
    let look = || {
        let view = handle.view();
        (!view.over).then(|| is_due(&view, &replace))
    };
    if !is_time(tables.writes_linger(), look, &shutdown).await {
        return;
    }
    let targets: Vec<(TableName, Option<DeclaredKey>, WriteOptions)> = handle
        .spec
        .sinks
        .iter()
        .filter(|(id, _)| !polybolos_streaming::manifest::is_shared(**id))
        .filter_map(|(_, (_, sink))| match sink {
            SinkSpec::Table { table, key, options, .. } => Some((table.clone(), key.clone(), options.clone())),
            _ => None,
        })
        .collect();
    for (table, key, options) in targets {
        loop {
            match delete_before(&*tables, (&table, key.as_ref()), &options, replace.before_us, &shutdown).await {
                Ok(keys) => {
                    tracing::info!(job = %handle.spec.name, %table, keys, "rows of the earlier run that were not written again are deleted");
                    break;
                }
                Err(error) => {
                    tracing::warn!(job = %handle.spec.name, %table, %error, "rows of the earlier run cannot be deleted yet")
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(RETRY) => {}
            }
        }
    }
    // A job that is over has no use for it.
    let _ = handle.tell(Event::Replaced).await;
}

/// Waits until it `is_due` (`None`: the job is over), and until rows of the earlier run come no more: the last grant has run out,
/// and what was sent just before lingers no longer. A row that comes when its key has been looked for would stay; one that comes
/// later to a key that was found is older than the deletion. Only what is discarded may be under way, but by whichever restart.
/// False: the job or this leader has ended.
async fn is_time(writes_linger: Duration, is_due: impl Fn() -> Option<bool>, shutdown: &CancellationToken) -> bool {
    let writes_end = Instant::now() + GRANTS_END + writes_linger;
    loop {
        match is_due() {
            None => return false,
            Some(is_due) if is_due && Instant::now() >= writes_end => return true,
            Some(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// Everything that there was when the job was restarted is read, recorded and published.
fn is_due(view: &View, replace: &Replace) -> bool {
    replace.is_due(&view.manifest.sources) && view.status.published.values().all(|published| *published >= view.manifest.epoch)
}

async fn delete_before(
    tables: &dyn TableBackend,
    (table, key): (&TableName, Option<&DeclaredKey>),
    options: &WriteOptions,
    before_us: i64,
    shutdown: &CancellationToken,
) -> Result<u64, TableError> {
    let Some(stored) = tables.describe(table).await? else { return Err(TableError::NoSuchTable { table: table.to_string() }) };
    let schema = DeclaredKey::applied(key, stored);
    let key: Vec<String> = schema.primary_key().map(str::to_owned).collect();
    let writer = tables.writer(&schema, &key, options).await?;
    let request = ScanRequest { table: schema, columns: key, predicates: vec![], limit: None };
    let mut deleted = 0;
    for slice in tables.slices(&request, SLICES).await? {
        let mut batches = tables.scan(&request, &slice);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            deleted += writer.delete(&batch, before_us - 1, &WhileLeading(shutdown)).await?.rows;
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LINGER: Duration = Duration::from_secs(10);

    async fn waited(due_after: Duration) -> Duration {
        let began = Instant::now();
        assert!(is_time(LINGER, || Some(began.elapsed() >= due_after), &CancellationToken::new()).await);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_looked_for_when_no_row_of_the_earlier_run_can_come_any_more() {
        let writes_end = GRANTS_END + LINGER;
        for (due_after, expected) in [(Duration::ZERO, writes_end), (LINGER, writes_end), (2 * writes_end, 2 * writes_end)] {
            let waited = waited(due_after).await;
            assert!(waited >= expected && waited < expected + 2 * LOOK_EVERY, "{waited:?} instead of {expected:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_deleted_for_a_job_or_a_leader_that_has_ended() {
        let (looks, shutdown) = (Cell::new(0), CancellationToken::new());
        let ends = || {
            looks.set(looks.get() + 1);
            (looks.get() < 3).then_some(true)
        };
        assert!(!is_time(LINGER, ends, &shutdown).await);
        assert_eq!(looks.get(), 3);
        shutdown.cancel();
        assert!(!is_time(LINGER, || Some(true), &shutdown).await);
    }
}
