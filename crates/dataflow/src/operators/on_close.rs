//! Holds an answer's rows back until their windows are closed: EMIT ON WINDOW CLOSE of what changes until then, and, where late rows are allowed, after that.
use arrow::{array::Int64Array, datatypes::SchemaRef};
use datafusion::common::Result;
use polybolos_state::{Entry, Table, TableKind};

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
    /// Rows come out so long before the watermark says that they change no more. In between changes pass as they come: they end with the epoch that brings them.
    pub ahead_us: i64,
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
            let closing = |(column, time): &(usize, TimeColumn)| {
                let column = delta.batch().column(*column).clone();
                (column, time.earlier(self.ahead_us))
            };
            let times: Vec<_> = self.times.iter().map(closing).collect();
            for (row, expiry) in expiries(&times)?.into_iter().enumerate() {
                table.add(rows.row(row), &[], delta.weight(row), expiry);
            }
        }
        let mut output = vec![];
        if let Some(watermark) = context.watermark_us {
            // Only what came out before is taken back.
            let comes_out = |entry: &Entry| entry.weight > 0 || self.ahead_us > 0;
            let (rows, weights): (Vec<&[u8]>, Vec<i64>) =
                table.due(watermark).filter(|(.., entry)| comes_out(entry)).map(|(row, _, entry)| (row, entry.weight)).unzip();
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
        let then = if self.ahead_us > 0 { ", then on update" } else { "" };
        format!("Emit on window close{then}")
    }

    fn kept(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| typed_column("key", field)).collect()
    }

    fn state(&self) -> Option<String> {
        let named = |(column, time): &(usize, TimeColumn)| (self.schema.field(*column).name().clone(), *time);
        let dropped = dropped(&self.times.iter().map(named).collect::<Vec<_>>());
        // The others drop theirs so much later.
        let dropped = if self.ahead_us > 0 { dropped.replace("once", "as soon as") } else { dropped };
        Some(format!("rows of open windows, emitted and {dropped}"))
    }
}
