//! Keys with their rows that are not in memory: how they lie in a spill, and how they go there and come back.
use super::{BucketTable, Change, Entry, size, size_of_key};
use crate::{
    StateError,
    expiry::NEVER,
    size::shrink,
    spill::{Choice, Cold, Parts, damaged},
};

impl BucketTable {
    /// Has the rows of these keys in memory. An epoch loads the keys that it will ask for or change, before it does.
    ///
    /// # Errors
    /// When what was spilled cannot be read. Nothing changed then.
    pub fn load<'a>(&mut self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<(), StateError> {
        let Some(cold) = &mut self.cold else { return Ok(()) };
        let base = &self.base;
        for (key, kept) in cold.take(keys.into_iter().filter(|key| !base.contains_key(*key)))? {
            let mut parts = Parts(&kept);
            let mut rows = vec![];
            while !parts.0.is_empty() {
                let expiry = Some(parts.number()?).filter(|at| *at != NEVER);
                let entry = Entry::from_bytes(parts.bytes(Entry::BYTES as i64)?).ok_or_else(damaged)?;
                let length = parts.number()?;
                rows.push((parts.bytes(length)?.into(), Change { entry: Some(entry), expiry }));
            }
            // They were counted all the time.
            self.rows -= rows.len();
            self.apply_all(key, rows);
        }
        Ok(())
    }

    pub(crate) fn cold(&self) -> Option<&Cold> {
        self.cold.as_ref()
    }

    /// Takes the rows of the chosen keys out of memory. There must be no changes.
    pub(crate) fn spill(&mut self, choice: Choice, cold: impl FnOnce() -> Cold) -> Result<(), StateError> {
        let (endings, bytes) = (&mut self.endings, &mut self.bytes);
        let chosen = self.base.extract_if(|key, _| choice.takes(key));
        let entries = chosen.map(|(key, bucket)| {
            *bytes -= size_of_key(&key);
            let (mut kept, mut due) = (vec![], NEVER);
            if !bucket.ends_apart {
                endings.remove(bucket.end, &key, None);
            }
            for (row, held) in bucket.rows.iter() {
                *bytes -= size(row);
                if bucket.ends_apart {
                    endings.remove(held.expiry, &key, Some(row));
                }
                due = due.min(held.expiry);
                kept.extend_from_slice(&held.expiry.to_le_bytes());
                kept.extend_from_slice(&held.entry.to_bytes());
                kept.extend_from_slice(&(row.len() as i64).to_le_bytes());
                kept.extend_from_slice(row);
            }
            (key, kept, due)
        });
        self.cold.get_or_insert_with(cold).put(entries)?;
        shrink(&mut self.base);
        Ok(())
    }
}
