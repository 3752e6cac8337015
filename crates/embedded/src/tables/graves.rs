//! What has ended and waits for its grace to pass: deletions, and rows that expire. A grave (table, when it ended, key) leads to the row,
//! which is looked at again before anything is removed: it may have been written anew.
use std::sync::atomic::Ordering::Relaxed;

use fjall::UserKey;
use polybolos_tables::TableError;

use super::{
    BURY_EVERY_US, Damage, Store, Table,
    cells::{self, Purged},
};

/// Rows looked at in one go, so that a writer never waits long for a table's lock.
pub(super) const GO_ROWS: usize = 4096;
/// What a grave has in front of its row's key.
pub(super) const PREFIX_BYTES: usize = 16;

/// The key of a grave: by table, then by time.
pub(super) fn key(table: u64, ended_us: i64, row: &[u8]) -> Vec<u8> {
    [&table.to_be_bytes()[..], &ended_us.to_be_bytes(), row].concat()
}

/// Now and then [`bury`]; where one go was not enough, the next writer goes on.
pub(super) fn bury_now_and_then(store: &Store, table: &Table) -> Result<(), TableError> {
    let now_us = store.now_us();
    if table.may_bury(now_us) && bury(store, table)? == GO_ROWS {
        table.buried_us.store(now_us - BURY_EVERY_US, Relaxed);
    }
    Ok(())
}

/// Removes what ended more than the grace ago; answers how many rows were looked at, at most [`GO_ROWS`].
pub(super) fn bury(store: &Store, table: &Table) -> Result<usize, TableError> {
    let before_us = store.now_us().saturating_sub(store.grace_us);
    let (first, end) = (key(table.stored.number, 0, b""), key(table.stored.number, before_us.max(0), b""));
    let layouts = &table.stored.cell_layouts;
    let mut transaction = store.database.batch();
    let mut looked_at = 0;
    let _writing = table.writing.lock();
    for grave in store.graves.range(first..end).take(GO_ROWS) {
        let grave = grave.key().map_err(|error| store.error(error))?;
        let row = UserKey::from(grave.get(PREFIX_BYTES..).ok_or_else(|| table.damaged(Damage("a grave is too short")))?);
        looked_at += 1;
        if let Some(stored) = table.rows.get(&row).map_err(|error| store.error(error))? {
            match cells::purge(layouts, &stored, before_us).map_err(|damage| table.damaged(damage))? {
                Purged::Keep => {}
                Purged::Remove => transaction.remove(&table.rows, row),
                Purged::Rewrite(rest) => transaction.insert(&table.rows, row, rest),
            }
        }
        transaction.remove(&store.graves, grave);
    }
    transaction.commit().map_err(|error| store.error(error))?;
    Ok(looked_at)
}
