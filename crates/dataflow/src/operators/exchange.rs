//! Brings all rows of a key into one lane, of this part of the job or of another. Not an operator: the dataflow runs it between lanes.
use arrow::{array::UInt32Array, datatypes::SchemaRef};
use datafusion::common::Result;
use polybolos_state::{Share, lane_of};

use crate::{delta::Delta, keys::RowFormat};

/// Rows by part of the job, and by lane of it.
pub type ByPart = Vec<Vec<Vec<Delta>>>;

/// The other parts of an epoch, which work elsewhere at the same time and exchange rows at the same steps.
pub trait Peers: Sync {
    /// Gives each part the rows of its lanes, and answers what each has for the lanes of this one; its own come back as they were.
    ///
    /// # Errors
    /// When a part is gone or gives up: the epoch is to be computed again.
    fn trade(&self, step: usize, schema: &SchemaRef, rows: ByPart) -> Result<ByPart>;
}

/// Of a job that is computed as a whole.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn trade(&self, _: usize, _: &SchemaRef, rows: ByPart) -> Result<ByPart> {
        Ok(rows)
    }
}

#[derive(Clone, Debug)]
pub struct Exchange {
    /// Columns of the key; none: all rows go to the lane of the empty key.
    pub columns: Vec<usize>,
    pub schema: SchemaRef,
}

impl Exchange {
    /// What comes to each of this part's lanes, in the order of the parts and lanes that it comes from, so that an epoch's result does not depend on timing.
    pub(crate) fn run(&self, step: usize, lanes: Vec<Vec<Delta>>, share: Share, peers: &dyn Peers) -> Result<Vec<Vec<Delta>>> {
        let count = lanes.len();
        let mut given = vec![vec![vec![]; count]; share.parts];
        for lane in lanes {
            for (target, deltas) in self.split(lane, count * share.parts)?.into_iter().enumerate() {
                given[target / count][target % count].extend(deltas);
            }
        }
        let mut arrived = vec![vec![]; count];
        let traded = if share == Share::WHOLE { given } else { peers.trade(step, &self.schema, given)? };
        for part in traded {
            for (lane, deltas) in part.into_iter().enumerate() {
                arrived[lane].extend(deltas);
            }
        }
        Ok(arrived)
    }

    /// The deltas' rows by target lane.
    fn split(&self, deltas: Vec<Delta>, lanes: usize) -> Result<Vec<Vec<Delta>>> {
        let mut split = vec![vec![]; lanes];
        if lanes == 1 || self.columns.is_empty() {
            split[lane_of(&[], lanes)] = deltas;
            return Ok(split);
        }
        let format = RowFormat::new(self.columns.iter().map(|&column| self.schema.field(column).data_type()))?;
        for delta in deltas {
            let keys: Vec<_> = self.columns.iter().map(|&column| delta.batch().column(column).clone()).collect();
            let keys = format.encode(&keys)?;
            let mut rows = vec![vec![]; lanes];
            for row in 0..delta.rows() {
                rows[lane_of(keys.row(row), lanes)].push(row as u32);
            }
            for (lane, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
                let whole = rows.len() == delta.rows();
                split[lane].push(if whole { delta.clone() } else { delta.take(&UInt32Array::from(rows))? });
            }
        }
        Ok(split)
    }

    pub fn describe(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|&column| self.schema.field(column).name().as_str()).collect();
        if names.is_empty() { "Exchange: all rows to one lane".into() } else { format!("Exchange: by {}", names.join(", ")) }
    }
}
