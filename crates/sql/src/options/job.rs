//! Options of `CREATE JOB name WITH (…)`.
//!
//! | key | value | default |
//! |---|---|---|
//! | `on_error` | `dead_letter`: a bad record goes to the dead letters; `fail`: it stops the job | `dead_letter` |
//! | `on_data_loss` | `fail` or `continue`, when records to read are gone | as the source table says |
//! | `start` | `earliest-offset` or `latest-offset`: where the job begins | as the source table says |
use serde::{Deserialize, Serialize};

use super::{
    OptionReader,
    kafka::{ON_DATA_LOSS, OnDataLoss, StartupMode},
};
use crate::{error::SqlError, statement::OptionEntry};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOptions {
    pub on_error: OnError,
    /// `None`: as each source table says.
    pub on_data_loss: Option<OnDataLoss>,
    /// `None`: as each source table says.
    pub start: Option<StartupMode>,
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
        reader.finish()?;
        Ok(Self { on_error, on_data_loss, start })
    }
}
