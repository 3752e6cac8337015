//! Holds an answer's rows back until their windows are closed: EMIT ON WINDOW CLOSE of what changes until then.
use arrow::{array::Int64Array, datatypes::SchemaRef};
use datafusion::common::Result;
use polybolos_state::{Table, TableKind};

use super::{EpochContext, Operator, buckets, external};
use crate::{
    delta::{Delta, batch_of},
    event_time::{TimeColumn, dropped, expiries},
    keys::{RowFormat, typed_column},
};

#[derive(Debug)]
pub struct OnClose {
    pub schema: SchemaRef,
    /// Columns that tell when a row changes no more.
    pub times: Vec<(usize, TimeColumn)>,
}

impl Operator for OnClose {
    fn tables(&self) -> Vec<TableKind> {
        vec![TableKind::Buckets]
    }

    fn step(&self, context: &EpochContext<'_>, tables: &mut [Table], inputs: Vec<Vec<Delta>>) -> Result<Vec<Delta>> {
        let format = RowFormat::of(self.schema.fields())?;
        let table = buckets(&mut tables[0]);
        for delta in inputs.iter().flatten().filter(|delta| delta.rows() > 0) {
            let rows = format.encode(delta.batch().columns())?;
            table.load(rows.rows(delta.rows())).map_err(external)?;
            let times: Vec<_> = self.times.iter().map(|(column, time)| (delta.batch().column(*column).clone(), *time)).collect();
            for (row, expiry) in expiries(&times)?.into_iter().enumerate() {
                table.add(rows.row(row), &[], delta.weight(row), expiry);
            }
        }
        let mut output = vec![];
        if let Some(watermark) = context.watermark_us {
            let (rows, weights): (Vec<&[u8]>, Vec<i64>) =
                table.due(watermark).filter(|(.., entry)| entry.weight > 0).map(|(row, _, entry)| (row, entry.weight)).unzip();
            if !rows.is_empty() {
                let batch = batch_of(self.schema.clone(), format.decode(rows.iter().copied())?, rows.len())?;
                output.push(Delta::weighted(batch, Int64Array::from(weights)));
            }
        }
        Ok(output)
    }

    fn has_timers(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "Emit on window close".into()
    }

    fn kept(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| typed_column("key", field)).collect()
    }

    fn state(&self) -> Option<String> {
        let named = |(column, time): &(usize, TimeColumn)| (self.schema.field(*column).name().clone(), *time);
        Some(format!("rows of open windows, emitted and {}", dropped(&self.times.iter().map(named).collect::<Vec<_>>())))
    }
}
