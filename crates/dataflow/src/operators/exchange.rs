//! Brings all rows of a key into one lane. Not an operator: the dataflow runs it between lanes.
use arrow::{array::UInt32Array, datatypes::SchemaRef};
use datafusion::common::Result;
use polybolos_state::lane_of;

use crate::{delta::Delta, keys::RowFormat};

#[derive(Clone, Debug)]
pub struct Exchange {
    /// Columns of the key; none: all rows go to the lane of the empty key.
    pub columns: Vec<usize>,
    pub schema: SchemaRef,
}

impl Exchange {
    /// The deltas' rows by target lane.
    pub fn split(&self, deltas: Vec<Delta>, lanes: usize) -> Result<Vec<Vec<Delta>>> {
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
