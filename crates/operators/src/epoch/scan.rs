//! Decodes the records of a range, sets late ones aside, and runs the stateless steps over the rest. The same work as a stateless job's scan, for several scans of one
//! topic, and without waiting.
use std::{sync::Arc, time::Instant};

use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_null_array},
        compute::{filter, filter_record_batch},
        datatypes::{Int64Type, SchemaRef},
    },
    common::{DataFusionError, Result},
    physical_plan::PhysicalExpr,
};
use polybolos_dataflow::{
    evaluate,
    event_time::{Lateness, microseconds},
};
use polybolos_kafka::{decode::JsonDecoder, records::RecordChunk};
use polybolos_tables::plain::lasting;

use super::lookup::Stage;
use crate::{
    dead_letters::{DeadLetter, Place},
    external,
    record_scan::{BATCH_RECORDS, OnError, ScanSpec},
    steps::{self, Failure, Step},
};

/// Event time of decoded rows.
#[derive(Clone, Debug)]
pub struct ScanTime {
    /// Over the decoded columns.
    pub expression: Arc<dyn PhysicalExpr>,
    pub delay_us: i64,
    pub lateness: Lateness,
}

/// One scan of the job's plans: its steps over what is decoded for all scans of its source.
#[derive(Debug)]
pub struct Reader {
    /// Its place among the graph's sources.
    pub source: usize,
    pub steps: Arc<[Step]>,
    /// What becomes of its rows before the dataflow takes them: look-ups.
    pub stages: Vec<Stage>,
}

/// All scans of one source, which is read and decoded once.
#[derive(Debug)]
pub struct EpochScan {
    pub spec: Arc<ScanSpec>,
    pub decoded: SchemaRef,
    pub time: Option<ScanTime>,
    /// How much the job's watermark is behind the one that the table tells of.
    pub allowed_lateness_us: i64,
    pub readers: Vec<Reader>,
}

#[derive(Debug, Default)]
pub struct Scanned {
    /// Per reader.
    pub batches: Vec<Vec<RecordBatch>>,
    pub dead_letters: Vec<DeadLetter>,
    pub late_rows: Vec<DeadLetter>,
    /// Largest event time less the watermark's delay, and less the lateness that is allowed.
    pub event_time_us: Option<i64>,
    pub decode_us: u64,
    pub compute_us: u64,
}

impl EpochScan {
    /// Runs over the records of one partition. `steps` are the readers', with the epoch's clock filled in.
    pub fn run(&self, chunks: &[RecordChunk], place: Place<'_>, steps: &[Vec<Step>], watermark_us: Option<i64>) -> Result<Scanned> {
        let spec = &self.spec;
        let mut decoder = JsonDecoder::new(self.decoded.clone(), spec.fields.clone(), spec.options.clone()).map_err(external)?;
        let mut scanned = Scanned { batches: vec![vec![]; steps.len()], ..Scanned::default() };
        for chunk in chunks {
            for start in (0..chunk.len()).step_by(BATCH_RECORDS) {
                let end = chunk.len().min(start + BATCH_RECORDS);
                let started = Instant::now();
                let decoded = decoder.decode(chunk, start..end, &spec.topic, place.partition).map_err(external)?;
                scanned.decode_us += started.elapsed().as_micros() as u64;

                let started = Instant::now();
                let failed = decoded.failures.into_iter().map(|failure| Failure { record: failure.record, error: failure.error });
                self.bury("decode", failed, chunk, place, &mut scanned)?;
                let records = UInt32Array::from(decoded.records);
                let (batch, records) = self.set_late_aside(decoded.batch, records, chunk, place, watermark_us, &mut scanned)?;
                for (reader, steps) in steps.iter().enumerate() {
                    let mut failures = vec![];
                    let output = steps::run(steps, &spec.checks, batch.clone(), records.clone(), &mut failures)?;
                    self.bury("compute", failures.into_iter(), chunk, place, &mut scanned)?;
                    scanned.batches[reader].extend(output);
                }
                scanned.compute_us += started.elapsed().as_micros() as u64;
            }
        }
        Ok(scanned)
    }

    fn bury(
        &self,
        step: &'static str,
        failures: impl Iterator<Item = Failure>,
        chunk: &RecordChunk,
        place: Place<'_>,
        scanned: &mut Scanned,
    ) -> Result<()> {
        for failure in failures {
            let letter = self.letter(step, failure.error, failure.record, chunk, place);
            if self.spec.on_error == OnError::Fail {
                return Err(DataFusionError::Execution(format!(
                    "record {} cannot be processed: {}; correct or skip it, or set 'on_error' = 'dead_letter'",
                    letter.id, letter.error
                )));
            }
            scanned.dead_letters.push(letter);
        }
        Ok(())
    }

    /// Rows are late that fall into a window which has ended at the watermark. Rows without a time are not.
    fn set_late_aside(
        &self,
        batch: RecordBatch,
        records: UInt32Array,
        chunk: &RecordChunk,
        place: Place<'_>,
        watermark_us: Option<i64>,
        scanned: &mut Scanned,
    ) -> Result<(RecordBatch, UInt32Array)> {
        let Some(time) = self.time.as_ref().filter(|_| batch.num_rows() > 0) else { return Ok((batch, records)) };
        let times = times_of(&time.expression, &batch)?;
        if let Some(newest) = datafusion::arrow::compute::max(&times) {
            let seen = newest.saturating_sub(time.delay_us).saturating_sub(self.allowed_lateness_us);
            scanned.event_time_us = scanned.event_time_us.max(Some(seen));
        }
        let Some(watermark) = watermark_us else { return Ok((batch, records)) };
        let late_before_us = time.lateness.late_before_us(watermark);
        let in_time: BooleanArray =
            (0..times.len()).map(|row| Some(times.is_null(row) || times.value(row) >= late_before_us)).collect();
        if in_time.true_count() == in_time.len() {
            return Ok((batch, records));
        }
        let less = if self.allowed_lateness_us > 0 { " less 'allowed_lateness'" } else { "" };
        for row in (0..in_time.len()).filter(|&row| !in_time.value(row)) {
            let behind_us = u64::try_from(watermark.saturating_sub(times.value(row))).unwrap_or_default();
            let error = format!("its event time is {} before the watermark{less}", lasting(behind_us));
            scanned.late_rows.push(self.letter("late", error, records.value(row), chunk, place));
        }
        Ok((filter_record_batch(&batch, &in_time)?, filter(&records, &in_time)?.as_primitive().clone()))
    }

    fn letter(&self, step: &'static str, error: String, record: u32, chunk: &RecordChunk, place: Place<'_>) -> DeadLetter {
        self.spec.dead_letter(step, error, record, chunk, place)
    }
}

/// Event times of rows, in microseconds. A row for which there is none, as the expression fails on it, is set aside by the steps that
/// compute it.
fn times_of(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Int64Array> {
    let data_type = expression.data_type(&batch.schema())?;
    let times = evaluate(expression, batch, |_, _| Ok(new_null_array(&data_type, 1)))?;
    Ok(microseconds(&times)?.as_primitive::<Int64Type>().clone())
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::StringArray,
            datatypes::{DataType, Field, Schema, TimeUnit},
        },
        physical_expr::expressions::{CastExpr, Column},
    };

    use super::*;

    #[test]
    fn a_record_whose_event_time_cannot_be_computed_has_none() {
        let texts = [Some("1970-01-01T00:00:01"), Some("no time"), None, Some("1970-01-01T00:00:02"), Some("")];
        let schema = Schema::new(vec![Field::new("raw", DataType::Utf8, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(texts.to_vec()))]).expect("a batch");
        let timestamp = DataType::Timestamp(TimeUnit::Millisecond, None);
        let time: Arc<dyn PhysicalExpr> = Arc::new(CastExpr::new(Arc::new(Column::new("raw", 0)), timestamp, None));
        let times = times_of(&time, &batch).expect("the others have theirs");
        assert_eq!(times.iter().collect::<Vec<_>>(), [Some(1_000_000), None, None, Some(2_000_000), None]);
    }
}
