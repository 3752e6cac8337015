//! Between wire messages and the streaming domain's types. A message that lacks a part is an error, never a default.
use std::fmt;

use polybolos_streaming::{
    frame::{OffsetRange, PartRange},
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, Nonce, PartIndex, SinkId, SourceId, SourcePartition},
    report,
};

use crate::executor::v1 as wire;

/// A message that cannot be understood: scheduler and executor are of different versions, or one of them is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete(pub &'static str);

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message has no valid {}; scheduler and executor must be of one version", self.0)
    }
}

impl std::error::Error for Incomplete {}

impl From<report::PartFile> for wire::PartFile {
    fn from(file: report::PartFile) -> Self {
        Self {
            part: file.part.0.into(),
            name: file.name,
            bytes: file.bytes,
            crc32: file.crc32,
            rows: file.rows.into_iter().map(|(sink, rows)| (sink.0, rows)).collect(),
        }
    }
}

impl TryFrom<wire::PartFile> for report::PartFile {
    type Error = Incomplete;

    fn try_from(file: wire::PartFile) -> Result<Self, Incomplete> {
        Ok(Self {
            part: part_index(file.part)?,
            name: file.name,
            bytes: file.bytes,
            crc32: file.crc32,
            rows: file.rows.into_iter().map(|(sink, rows)| (SinkId(sink), rows)).collect(),
        })
    }
}

fn part_index(part: u32) -> Result<PartIndex, Incomplete> {
    part.try_into().map(PartIndex).map_err(|_| Incomplete("part"))
}

impl From<report::PartReport> for wire::PartReport {
    fn from(report: report::PartReport) -> Self {
        let PartRange { part, source, range } = report.range;
        let (counts, times) = (report.counts, report.times);
        Self {
            incarnation: report.incarnation.0,
            generation: report.generation.0,
            epoch: report.epoch.0,
            attempt: report.attempt.0,
            execution: report.execution.0,
            range: Some(wire::PartRange {
                part: part.0.into(),
                source: source.source.0,
                partition: source.partition,
                range: Some(wire::OffsetRange { start: range.start, end: range.end }),
            }),
            file: Some(report.file.into()),
            counts: Some(wire::Counts {
                records_in: counts.records_in,
                bytes_in: counts.bytes_in,
                rows_out: counts.rows_out,
                dead_letters: counts.dead_letters,
                refused: counts.refused,
                lost: counts.lost,
            }),
            times: Some(wire::StepTimes {
                fetch_us: times.fetch_us,
                decode_us: times.decode_us,
                compute_us: times.compute_us,
                write_us: times.write_us,
            }),
            max_timestamp_ms: report.max_timestamp_ms,
        }
    }
}

impl wire::PartReport {
    /// The report as `executor` made it.
    pub fn from_executor(self, executor: ExecutorId) -> Result<report::PartReport, Incomplete> {
        let range = self.range.ok_or(Incomplete("range"))?;
        let offsets = range.range.ok_or(Incomplete("offset range"))?;
        if offsets.start > offsets.end {
            return Err(Incomplete("offset range"));
        }
        let counts = self.counts.ok_or(Incomplete("counts"))?;
        let times = self.times.ok_or(Incomplete("times"))?;
        Ok(report::PartReport {
            incarnation: Incarnation(self.incarnation),
            generation: Generation(self.generation),
            epoch: Epoch(self.epoch),
            attempt: Attempt(self.attempt),
            execution: Nonce(self.execution),
            executor,
            range: PartRange {
                part: part_index(range.part)?,
                source: SourcePartition { source: SourceId(range.source), partition: range.partition },
                range: OffsetRange::new(offsets.start, offsets.end),
            },
            file: self.file.ok_or(Incomplete("file"))?.try_into()?,
            counts: report::Counts {
                records_in: counts.records_in,
                bytes_in: counts.bytes_in,
                rows_out: counts.rows_out,
                dead_letters: counts.dead_letters,
                refused: counts.refused,
                lost: counts.lost,
            },
            times: report::StepTimes {
                fetch_us: times.fetch_us,
                decode_us: times.decode_us,
                compute_us: times.compute_us,
                write_us: times.write_us,
            },
            max_timestamp_ms: self.max_timestamp_ms,
        })
    }
}

impl From<report::PublishReport> for wire::PublishReport {
    fn from(report: report::PublishReport) -> Self {
        Self {
            incarnation: report.incarnation.0,
            generation: report.generation.0,
            epoch: report.epoch.0,
            sink: report.sink.0,
            part: report.part.0.into(),
            rows: report.rows,
            retries: report.retries,
            write_us: report.write_us,
            refused: report.refused.map(Into::into),
        }
    }
}

impl TryFrom<wire::PublishReport> for report::PublishReport {
    type Error = Incomplete;

    fn try_from(report: wire::PublishReport) -> Result<Self, Incomplete> {
        Ok(Self {
            incarnation: Incarnation(report.incarnation),
            generation: Generation(report.generation),
            epoch: Epoch(report.epoch),
            sink: SinkId(report.sink),
            part: part_index(report.part)?,
            rows: report.rows,
            retries: report.retries,
            write_us: report.write_us,
            refused: report.refused.map(TryInto::try_into).transpose()?,
        })
    }
}
