//! The rows of a source that gives all of them in the first epoch and none after it: files that a job reads when it starts.
use datafusion::common::Result;
use polybolos_state::{JobState, Table, TableKind};

use super::{EpochContext, Operator, happens_now, values};
use crate::delta::Delta;

/// Passes them, and remembers that they came.
#[derive(Debug)]
pub struct Once;

impl Once {
    /// Whether they are still to come, and to this part of the state, where `table` is its own.
    pub(crate) fn awaits(state: &JobState, table: usize) -> bool {
        let lane = state.lane_of(&[]).map(|lane| &state.lanes()[lane]);
        lane.is_some_and(|lane| matches!(&lane.tables[table], Table::Values(came) if came.get(&[]).is_none()))
    }
}

impl Operator for Once {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Values]
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        happens_now(context, values(&mut tables[0]));
        Ok(inputs.into_iter().flatten().collect())
    }

    fn describe(&self) -> String {
        "Once: all rows come in the first epoch".to_owned()
    }
}
