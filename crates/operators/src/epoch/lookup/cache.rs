//! Rows that were looked up a short while ago, by partition key. What a table has no rows of is remembered too.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use datafusion::arrow::array::RecordBatch;
use hashbrown::HashMap;
use polybolos_tables::LookupOptions;

type Key = Box<[u8]>;

/// Rows kept when the table's options say only how long.
const DEFAULT_MAX_ROWS: usize = 10_000;

#[derive(Debug)]
pub(super) struct LookupCache {
    /// `None`: nothing is kept.
    ttl: Option<Duration>,
    max_rows: usize,
    entries: HashMap<Key, (Instant, RecordBatch)>,
    /// Keys in the order in which they were put, which is that in which they end.
    order: VecDeque<Key>,
    rows: usize,
}

/// An entry without rows takes room too.
fn weight(batch: &RecordBatch) -> usize {
    batch.num_rows().max(1)
}

impl LookupCache {
    pub fn new(options: &LookupOptions) -> Self {
        Self {
            ttl: options.cache_ttl_ms.map(Duration::from_millis),
            max_rows: options.cache_max_rows.unwrap_or(DEFAULT_MAX_ROWS),
            entries: HashMap::new(),
            order: VecDeque::new(),
            rows: 0,
        }
    }

    pub fn get(&self, key: &[u8], now: Instant) -> Option<&RecordBatch> {
        let (put, batch) = self.entries.get(key)?;
        self.ttl.filter(|ttl| now.saturating_duration_since(*put) < *ttl).map(|_| batch)
    }

    /// Puts what was read at `now`; what ended by then, and then the oldest, makes room.
    pub fn put(&mut self, key: &[u8], batch: &RecordBatch, now: Instant) {
        let Some(ttl) = self.ttl else { return };
        self.remove(key);
        while let Some(oldest) = self.order.front() {
            let ended = self.entries.get(oldest).is_none_or(|(put, _)| now.saturating_duration_since(*put) >= ttl);
            if !ended && self.rows + weight(batch) <= self.max_rows {
                break;
            }
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
        if weight(batch) > self.max_rows {
            return;
        }
        self.rows += weight(batch);
        self.order.push_back(key.into());
        self.entries.insert(key.into(), (now, batch.clone()));
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((_, batch)) = self.entries.remove(key) {
            self.rows -= weight(&batch);
            if self.order.front().is_some_and(|front| front.as_ref() == key) {
                self.order.pop_front();
            } else {
                self.order.retain(|known| known.as_ref() != key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn rows(count: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1; count]));
        RecordBatch::try_from_iter([("v", column)]).expect("a batch")
    }

    #[test]
    fn what_is_old_or_too_much_makes_room() {
        let options = LookupOptions { cache_ttl_ms: Some(10), cache_max_rows: Some(5), ..LookupOptions::default() };
        let mut cache = LookupCache::new(&options);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        cache.put(b"a", &rows(2), at(0));
        cache.put(b"nothing", &rows(0), at(1));
        assert_eq!(cache.get(b"a", at(9)).map(RecordBatch::num_rows), Some(2));
        assert_eq!(cache.get(b"nothing", at(9)).map(RecordBatch::num_rows), Some(0));
        assert!(cache.get(b"a", at(10)).is_none());
        cache.put(b"b", &rows(3), at(2));
        assert!(cache.get(b"a", at(3)).is_none(), "the oldest made room");
        assert!(cache.get(b"nothing", at(3)).is_some());
        cache.put(b"c", &rows(9), at(4));
        assert!(cache.get(b"c", at(4)).is_none(), "more than there is room for");
        cache.put(b"d", &rows(1), at(30));
        assert_eq!((cache.entries.len(), cache.order.len(), cache.rows), (1, 1, 1));
        cache.put(b"d", &rows(2), at(31));
        assert_eq!((cache.entries.len(), cache.order.len(), cache.rows), (1, 1, 2));
    }

    #[test]
    fn without_a_ttl_nothing_is_kept() {
        let mut cache = LookupCache::new(&LookupOptions::default());
        let now = Instant::now();
        cache.put(b"a", &rows(1), now);
        assert!(cache.get(b"a", now).is_none());
    }
}
