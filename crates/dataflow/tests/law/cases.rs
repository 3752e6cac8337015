//! One case: tables, statements, in which order rows come and how that is cut into epochs, what crashes, when the number of lanes changes, how event time
//! goes on. All of it follows from a seed.
use std::fmt::Write;

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    queries::{Construct, Generated, Grammar},
    tables::{Shape, Table},
};

/// A row comes: from which topic-partition, and in which epoch.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub table: usize,
    pub row: usize,
    pub partition: usize,
    pub epoch: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The epoch's changes are dropped, and it runs again.
    Attempt,
    /// So is everything in memory; it is loaded from what was recorded.
    ExecutorEarly { lanes: usize },
    /// Everything in memory is lost once the epoch is recorded.
    ExecutorLate { lanes: usize },
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Epoch {
    pub crash: Option<Crash>,
    /// The answer so far is compared once this epoch is recorded; it is always compared at the end.
    pub is_checked: bool,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub tables: Vec<Table>,
    pub statements: Vec<Generated>,
    pub arrivals: Vec<Arrival>,
    pub epochs: Vec<Epoch>,
    pub lanes: usize,
    /// `WATERMARK FOR ts AS ts - …` of all tables; none: they have no event time.
    pub delay_ms: Option<i64>,
    /// `'allowed_lateness'` of the job.
    pub allowed_ms: i64,
    pub partitions: usize,
    /// `'state.ttl'`, by a clock of one second per epoch.
    pub ttl_us: Option<i64>,
    /// A table that is not a stream: all its rows come in the first epoch, and it has no event time.
    pub whole: Option<usize>,
}

/// How far apart epochs are by the clock.
pub const EPOCH_US: i64 = 1_000_000;

const MOST_LANES: usize = 5;

impl Case {
    pub fn random(seed: u64, left_out: &[Construct]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let one_row_epochs = rng.random_bool(0.15);
        let most_rows = if one_row_epochs { 30 } else { *[40, 120, 300].choose(&mut rng).expect("sizes") };
        let shape = Shape::random(&mut rng);
        let tables: Vec<Table> = (0..rng.random_range(1..4))
            .map(|number| {
                let rows = rng.random_range(most_rows / 4..=most_rows);
                Table::random(&format!("t{number}"), rows, shape, &mut rng)
            })
            .collect();
        let count = if rng.random_bool(0.15) { 2 } else { 1 };
        let statements = (0..count).map(|_| Grammar::generate(&tables, left_out, &mut rng)).collect();
        let partitions = rng.random_range(1..4);
        let (mut arrivals, count) = arrivals(&tables, partitions, one_row_epochs, &mut rng);
        let epochs = epochs(count, &mut rng);
        let delay_ms = rng.random_bool(0.6).then(|| *[0, 2_000, 20_000].choose(&mut rng).expect("delays"));
        let lanes = rng.random_range(1..=MOST_LANES);
        let whole = (tables.len() > 1 && rng.random_bool(0.2)).then(|| rng.random_range(0..tables.len()));
        arrivals.iter_mut().filter(|arrival| Some(arrival.table) == whole).for_each(|arrival| arrival.epoch = 0);
        let allowed_ms = *[0, 0, 1_500, 10_000].choose(&mut rng).expect("lengths");
        let case =
            Self { seed, tables, statements, arrivals, epochs, lanes, delay_ms, allowed_ms, partitions, ttl_us: None, whole };
        // Without a watermark nothing closes.
        if delay_ms.is_some() && whole.is_none() { case } else { case.on_update() }
    }

    /// Numbers of the rows of `table` that come in `epoch` through `partition`, in order.
    pub fn rows(&self, table: usize, epoch: usize, partition: usize) -> Vec<usize> {
        let here = |arrival: &&Arrival| arrival.table == table && arrival.epoch == epoch && arrival.partition == partition;
        self.arrivals.iter().filter(here).map(|arrival| arrival.row).collect()
    }

    /// The job's watermark as of the end of each epoch's predecessor, and of the last epoch: one more than there are epochs.
    pub fn watermarks_us(&self) -> Vec<Option<i64>> {
        let mut newest = vec![vec![None::<i64>; self.partitions]; self.tables.len()];
        let mut watermarks = vec![None];
        for epoch in 0..self.epochs.len() {
            let timed = |arrival: &&Arrival| arrival.epoch == epoch && Some(arrival.table) != self.whole;
            for arrival in self.arrivals.iter().filter(timed) {
                let seen = &mut newest[arrival.table][arrival.partition];
                *seen = (*seen).max(self.tables[arrival.table].event_time_ms(arrival.row));
            }
            // A partition that had no event time yet is idle.
            let least = newest.iter().flatten().flatten().min();
            let now = self.delay_ms.and_then(|delay_ms| least.map(|least| (least - delay_ms) * 1_000));
            watermarks.push(now.max(*watermarks.last().expect("it starts with one")));
        }
        watermarks
    }

    /// The watermark that the engine is given, where the tables tell of this one.
    pub fn given_us(&self, watermark_us: Option<i64>) -> Option<i64> {
        watermark_us.map(|us| us - self.allowed_ms * 1_000)
    }

    /// When the job's windows end, each kind every so many microseconds, so many after multiples of that: rows are late by it. Without windows, or event
    /// time, no row is.
    pub fn window_ends(&self) -> Option<Vec<(i64, i64)>> {
        self.delay_ms?;
        let ends: Vec<(i64, i64)> = self.statements.iter().flat_map(|statement| &statement.ends).copied().collect();
        (!ends.is_empty()).then_some(ends)
    }

    /// The same without EMIT ON WINDOW CLOSE.
    pub fn on_update(mut self) -> Self {
        self.statements.iter_mut().for_each(|statement| statement.closing = None);
        self
    }

    pub fn describe(&self) -> String {
        let mut text = String::new();
        for statement in &self.statements {
            let _ = writeln!(text, "sql: {}", statement.sql);
            if let Some(closing) = &statement.closing {
                let _ = writeln!(text, "  emitted once the watermark has passed {closing}");
            }
        }
        let Self { lanes, delay_ms, allowed_ms, whole, .. } = self;
        let _ = writeln!(
            text,
            "lanes {lanes}, watermark delay {delay_ms:?} ms, allowed lateness {allowed_ms} ms, whole table {whole:?}"
        );
        let watermarks = self.watermarks_us();
        for (number, epoch) in self.epochs.iter().enumerate() {
            let _ = writeln!(text, "epoch {number} (watermark {:?} us) {:?}", watermarks[number], epoch.crash);
            for arrival in self.arrivals.iter().filter(|arrival| arrival.epoch == number) {
                let table = &self.tables[arrival.table];
                let cells: Vec<String> = table
                    .columns
                    .iter()
                    .zip(&table.rows[arrival.row])
                    .map(|(column, value)| format!("{}: {value:?}", column.name))
                    .collect();
                let _ = writeln!(text, "  {} partition {}: {}", table.name, arrival.partition, cells.join(", "));
            }
        }
        text
    }
}

fn arrivals(tables: &[Table], partitions: usize, one_row_epochs: bool, rng: &mut ChaCha8Rng) -> (Vec<Arrival>, usize) {
    // Tables are interleaved so that all of them end at about the same time; each keeps its order.
    let mut next = vec![0; tables.len()];
    let total: usize = tables.iter().map(|table| table.rows.len()).sum();
    let cuts = if one_row_epochs { total } else { *[1, 2, 5, 12, 25].choose(rng).expect("cuts") };
    let mut arrivals = Vec::with_capacity(total);
    let mut epoch = 0;
    for place in 0..total {
        let mut lot = rng.random_range(0..total - place);
        let mut table = 0;
        while lot >= tables[table].rows.len() - next[table] {
            lot -= tables[table].rows.len() - next[table];
            table += 1;
        }
        arrivals.push(Arrival { table, row: next[table], partition: rng.random_range(0..partitions), epoch });
        next[table] += 1;
        // Some epochs come out empty.
        while epoch + 1 < cuts && rng.random_bool((cuts as f64 / total.max(1) as f64).min(0.9)) {
            epoch += 1;
        }
        if one_row_epochs {
            epoch = place + 1;
        }
    }
    (arrivals, cuts.max(epoch) + 1)
}

fn epochs(count: usize, rng: &mut ChaCha8Rng) -> Vec<Epoch> {
    let crashes = *[0.0, 0.1, 0.5].choose(rng).expect("shares");
    (0..count)
        .map(|_| {
            let lanes = rng.random_range(1..=MOST_LANES);
            let crash = rng.random_bool(crashes).then(|| match rng.random_range(0..3) {
                0 => Crash::Attempt,
                1 => Crash::ExecutorEarly { lanes },
                _ => Crash::ExecutorLate { lanes },
            });
            Epoch { crash, is_checked: rng.random_bool(0.1) }
        })
        .collect()
}
