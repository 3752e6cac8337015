//! What is under test, as the law sees it: something that takes epochs, can lose what is not recorded, and comes back from what is.
use datafusion::arrow::array::RecordBatch;

use super::cases::{Case, EPOCH_US};

/// Rows of an epoch: by table, batches with the topic-partition they come from.
pub struct Feed {
    pub tables: Vec<Vec<(usize, RecordBatch)>>,
    /// So much behind the tables' own as lateness is allowed.
    pub watermark_us: Option<i64>,
    /// The watermark as of the epoch's end.
    pub after_us: Option<i64>,
    pub clock_us: i64,
}

impl Feed {
    pub fn of(case: &Case, epoch: usize) -> Self {
        let batches = |table: usize| {
            let parts = (0..case.partitions).map(|partition| (partition, case.rows(table, epoch, partition)));
            parts
                .filter(|(_, rows)| !rows.is_empty())
                .map(|(partition, rows)| (partition, case.tables[table].batch(&rows)))
                .collect()
        };
        Self {
            tables: (0..case.tables.len()).map(batches).collect(),
            watermark_us: case.given_us(case.watermarks_us()[epoch]),
            after_us: case.given_us(case.watermarks_us()[epoch + 1]),
            clock_us: epoch as i64 * EPOCH_US,
        }
    }
}

/// By statement: rows with weights.
pub type Deltas = Vec<Vec<(RecordBatch, Vec<i64>)>>;

pub struct Ran {
    pub deltas: Deltas,
    /// Rows judged late.
    pub late: usize,
    /// Timers have fired through this time.
    pub fired_us: Option<i64>,
    /// Of each row that an expression failed on, why.
    pub failed: Vec<String>,
}

pub trait Engine {
    /// When the windows of the job end, if it judges rows late.
    fn window_ends(&self) -> Option<Vec<(i64, i64)>>;
    /// Computes an epoch; nothing of it is kept until [`Self::record`].
    fn run(&mut self, feed: &Feed) -> Result<Ran, String>;
    fn discard(&mut self);
    fn record(&mut self) -> Result<(), String>;
    /// Entries of the state.
    fn held(&self) -> usize {
        0
    }
    /// Operators whose state is said to grow without bound.
    fn growing(&self) -> Vec<String> {
        Vec::new()
    }
    /// The plan, for a report.
    fn explain(&self) -> String {
        String::new()
    }
    /// Forgets all and loads what was recorded, into so many lanes.
    fn reload(&mut self, lanes: usize) -> Result<(), String>;
}
