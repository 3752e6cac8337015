//! Options of `CREATE JOB name WITH (…)`.
//!
//! | key | value | default |
//! |---|---|---|
//! | `on_error` | `dead_letter`: a bad record goes to the dead letters, and so does a row on which an expression above a join or an aggregate fails (`CAST`, division by zero); `fail`: it stops the job | `dead_letter` |
//! | `on_data_loss` | `fail` or `continue`, when records to read are gone | as the source table says |
//! | `start` | `earliest-offset` or `latest-offset`: where the job begins | as the source table says |
//! | `allowed_lateness` | a length of time, `1 minute`: a row is late only when the watermark is so much past where it would be late otherwise. State is kept so much longer; windows that came out when they closed come out again when rows change them | none |
//! | `state.ttl` | a length of time, `1 d`: state that no window or interval of a watermarked time bounds is dropped so long after its last change (up to a 64th of it later), per key of an aggregate, row of a join or of a top-N, partition of a window function. What was written stays; a key that comes again begins anew | kept |
//! | `state.unbounded` | `notice`, `allow` or `refuse` a plan whose state grows without bound | `notice` |
//! | `state.partitions` | 1 to 64: into how many partitions state is cut | 4 |
//! | `parallelism` | 1 to 64: over how many executors a job with state is spread, at most; they exchange rows at every change of key | 1 |
//! | `dead_letters.topic` | a topic of the platform's Kafka that takes the job's dead letters, beside `polybolos.dead_letters` | none |
//! | `late_rows.topic` | the same for late rows, beside `polybolos.late_rows` | none |
//! | `late_rows.table` | `keyspace.table` that takes the job's late rows beside `polybolos.late_rows`, with the same columns | none |
use serde::{Deserialize, Serialize};

use super::{
    OptionReader,
    kafka::{ON_DATA_LOSS, OnDataLoss, StartupMode},
};
use crate::{error::SqlError, names::SYSTEM_SCHEMA, statement::OptionEntry};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOptions {
    pub on_error: OnError,
    /// `None`: as each source table says.
    pub on_data_loss: Option<OnDataLoss>,
    /// `None`: as each source table says.
    pub start: Option<StartupMode>,
    /// So much the watermark may be past a row's first window before the row is late.
    #[serde(default)]
    pub allowed_lateness_us: i64,
    /// State that was not touched for so long is dropped; `None`: kept.
    #[serde(default)]
    pub state_ttl_us: Option<i64>,
    #[serde(default)]
    pub state_unbounded: StateUnbounded,
    #[serde(default = "default_state_partitions")]
    pub state_partitions: u16,
    /// Over how many executors a job with state is spread, at most.
    #[serde(default = "default_parallelism")]
    pub parallelism: u16,
    /// Topics that take dead letters and late rows, beside the system's tables.
    #[serde(default)]
    pub dead_letters_topic: Option<String>,
    #[serde(default)]
    pub late_rows_topic: Option<String>,
    /// Keyspace and name of a table that takes late rows, beside the system's.
    #[serde(default)]
    pub late_rows_table: Option<(String, String)>,
}

const DEFAULT_STATE_PARTITIONS: u16 = 4;
const MAX_STATE_PARTITIONS: u16 = 64;

const DEFAULT_PARALLELISM: u16 = 1;
const MAX_PARALLELISM: u16 = 64;

fn default_state_partitions() -> u16 {
    DEFAULT_STATE_PARTITIONS
}

fn default_parallelism() -> u16 {
    DEFAULT_PARALLELISM
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            on_error: OnError::default(),
            on_data_loss: None,
            start: None,
            allowed_lateness_us: 0,
            state_ttl_us: None,
            state_unbounded: StateUnbounded::default(),
            state_partitions: DEFAULT_STATE_PARTITIONS,
            parallelism: DEFAULT_PARALLELISM,
            dead_letters_topic: None,
            late_rows_topic: None,
            late_rows_table: None,
        }
    }
}

/// What is done with a plan whose state grows without bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateUnbounded {
    /// It runs, and a notice names the operator and the remedy.
    #[default]
    Notice,
    Allow,
    Refuse,
}

/// What happens to a record that cannot be read or computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    #[default]
    DeadLetter,
    Fail,
}

impl JobOptions {
    pub(crate) fn read(job: &str, entries: &[OptionEntry]) -> Result<Self, SqlError> {
        let object = format!("job {job}");
        let mut reader = OptionReader::new(&object, entries);
        let on_error =
            reader.choice("on_error", &[("dead_letter", OnError::DeadLetter), ("fail", OnError::Fail)])?.unwrap_or_default();
        let on_data_loss = reader.choice("on_data_loss", &ON_DATA_LOSS)?;
        let start = reader.choice("start", &[("earliest-offset", false), ("latest-offset", true)])?;
        let start = start.map(|latest| if latest { StartupMode::Latest } else { StartupMode::Earliest });
        let allowed_lateness_us = reader.duration("allowed_lateness")?.unwrap_or_default();
        let state_ttl_us = reader.duration("state.ttl")?;
        let unbounded = [("notice", StateUnbounded::Notice), ("allow", StateUnbounded::Allow), ("refuse", StateUnbounded::Refuse)];
        let state_unbounded = reader.choice("state.unbounded", &unbounded)?.unwrap_or_default();
        let state_partitions = reader
            .parsed("state.partitions", "a number from 1 to 64", |count: &u16| (1..=MAX_STATE_PARTITIONS).contains(count))?
            .unwrap_or(DEFAULT_STATE_PARTITIONS);
        let parallelism = reader
            .parsed("parallelism", "a number from 1 to 64", |count: &u16| (1..=MAX_PARALLELISM).contains(count))?
            .unwrap_or(DEFAULT_PARALLELISM);
        let dead_letters_topic = reader.text("dead_letters.topic")?;
        let late_rows_topic = reader.text("late_rows.topic")?;
        let late_rows_table = match reader.text("late_rows.table")? {
            Some(text) => match text.split_once('.') {
                Some((keyspace, table)) if !keyspace.is_empty() && !table.is_empty() && keyspace != SYSTEM_SCHEMA => {
                    Some((keyspace.to_owned(), table.to_owned()))
                }
                _ => {
                    let message =
                        format!("'late_rows.table' of {object} is {text:?}; write 'keyspace.table', not one of {SYSTEM_SCHEMA}");
                    return Err(SqlError::invalid(message));
                }
            },
            None => None,
        };
        reader.finish()?;
        Ok(Self {
            on_error,
            on_data_loss,
            start,
            allowed_lateness_us,
            state_ttl_us,
            state_unbounded,
            state_partitions,
            parallelism,
            dead_letters_topic,
            late_rows_topic,
            late_rows_table,
        })
    }
}
