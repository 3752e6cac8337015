//! Between wire messages and the streaming domain's types. A message that lacks a part is an error, never a default.
use std::fmt;

use polybolos_streaming::{
    frame::{OffsetRange, PartWork, SourceRange},
    ids::{Attempt, Epoch, ExecutorId, Generation, Incarnation, Nonce, PartIndex, SinkId, SourceId, SourcePartition},
    manifest, report,
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
            state_bytes: file.state_bytes,
            state_end: file.state_end.map(Into::into),
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
            state_bytes: file.state_bytes,
            state_end: file.state_end.map(Into::into),
        })
    }
}

fn part_index(part: u32) -> Result<PartIndex, Incomplete> {
    part.try_into().map(PartIndex).map_err(|_| Incomplete("part"))
}

impl From<PartWork> for wire::PartWork {
    fn from(work: PartWork) -> Self {
        let range = |SourceRange { source, range }| wire::SourceRange {
            source: source.source.0,
            partition: source.partition,
            range: Some(wire::OffsetRange { start: range.start, end: range.end }),
        };
        Self { part: work.part.0.into(), ranges: work.ranges.into_iter().map(range).collect() }
    }
}

impl TryFrom<wire::PartWork> for PartWork {
    type Error = Incomplete;

    fn try_from(work: wire::PartWork) -> Result<Self, Incomplete> {
        let range = |of: wire::SourceRange| {
            let offsets = of.range.filter(|offsets| offsets.start <= offsets.end).ok_or(Incomplete("offset range"))?;
            let source = SourcePartition { source: SourceId(of.source), partition: of.partition };
            Ok(SourceRange { source, range: OffsetRange::new(offsets.start, offsets.end) })
        };
        Ok(Self { part: part_index(work.part)?, ranges: work.ranges.into_iter().map(range).collect::<Result<_, _>>()? })
    }
}

impl From<manifest::StateRun> for wire::StateRun {
    fn from(run: manifest::StateRun) -> Self {
        Self {
            name: run.name,
            bytes: run.bytes,
            crc32: run.crc32,
            state_bytes: run.state_bytes,
            first_epoch: run.first_epoch.0,
            last_epoch: run.last_epoch.0,
            end: run.end.map(Into::into),
        }
    }
}

impl From<wire::StateRun> for manifest::StateRun {
    fn from(run: wire::StateRun) -> Self {
        Self {
            name: run.name,
            bytes: run.bytes,
            crc32: run.crc32,
            state_bytes: run.state_bytes,
            first_epoch: Epoch(run.first_epoch),
            last_epoch: Epoch(run.last_epoch),
            end: run.end.map(Into::into),
        }
    }
}

impl From<manifest::StateEnd> for wire::StateEnd {
    fn from(manifest::StateEnd { watermark_us, clock_us }: manifest::StateEnd) -> Self {
        Self { watermark_us, clock_us }
    }
}

impl From<wire::StateEnd> for manifest::StateEnd {
    fn from(wire::StateEnd { watermark_us, clock_us }: wire::StateEnd) -> Self {
        Self { watermark_us, clock_us }
    }
}

impl From<report::CompactReport> for wire::StateCompacted {
    fn from(report: report::CompactReport) -> Self {
        Self {
            incarnation: report.incarnation.0,
            generation: report.generation.0,
            replaced: report.replaced,
            run: Some(report.run.into()),
        }
    }
}

impl TryFrom<wire::StateCompacted> for report::CompactReport {
    type Error = Incomplete;

    fn try_from(report: wire::StateCompacted) -> Result<Self, Incomplete> {
        Ok(Self {
            incarnation: Incarnation(report.incarnation),
            generation: Generation(report.generation),
            replaced: report.replaced,
            run: report.run.ok_or(Incomplete("run"))?.into(),
        })
    }
}

impl wire::CompactFailed {
    /// The failure as `executor` told it.
    pub fn from_executor(self, executor: ExecutorId) -> report::CompactFailure {
        report::CompactFailure {
            incarnation: Incarnation(self.incarnation),
            generation: Generation(self.generation),
            replaced: self.replaced,
            executor,
            message: self.message,
            retryable: self.retryable,
        }
    }
}

impl From<report::PartReport> for wire::PartReport {
    fn from(report: report::PartReport) -> Self {
        let (counts, times) = (report.counts, report.times);
        Self {
            incarnation: report.incarnation.0,
            generation: report.generation.0,
            epoch: report.epoch.0,
            attempt: report.attempt.0,
            execution: report.execution.0,
            work: Some(report.work.into()),
            file: Some(report.file.into()),
            counts: Some(wire::Counts {
                records_in: counts.records_in,
                bytes_in: counts.bytes_in,
                rows_out: counts.rows_out,
                dead_letters: counts.dead_letters,
                refused: counts.refused,
                lost: counts.lost,
                late: counts.late,
            }),
            times: Some(wire::StepTimes {
                fetch_us: times.fetch_us,
                decode_us: times.decode_us,
                compute_us: times.compute_us,
                write_us: times.write_us,
            }),
            max_timestamp_ms: report.max_timestamp_ms,
            fired_us: report.fired_us,
            event_times: report
                .event_time_us
                .into_iter()
                .map(|(of, event_time_us)| wire::EventTime { source: of.source.0, partition: of.partition, event_time_us })
                .collect(),
        }
    }
}

impl wire::PartReport {
    /// The report as `executor` made it.
    pub fn from_executor(self, executor: ExecutorId) -> Result<report::PartReport, Incomplete> {
        let counts = self.counts.ok_or(Incomplete("counts"))?;
        let times = self.times.ok_or(Incomplete("times"))?;
        Ok(report::PartReport {
            incarnation: Incarnation(self.incarnation),
            generation: Generation(self.generation),
            epoch: Epoch(self.epoch),
            attempt: Attempt(self.attempt),
            execution: Nonce(self.execution),
            executor,
            work: self.work.ok_or(Incomplete("work"))?.try_into()?,
            file: self.file.ok_or(Incomplete("file"))?.try_into()?,
            counts: report::Counts {
                records_in: counts.records_in,
                bytes_in: counts.bytes_in,
                rows_out: counts.rows_out,
                dead_letters: counts.dead_letters,
                refused: counts.refused,
                lost: counts.lost,
                late: counts.late,
            },
            times: report::StepTimes {
                fetch_us: times.fetch_us,
                decode_us: times.decode_us,
                compute_us: times.compute_us,
                write_us: times.write_us,
            },
            max_timestamp_ms: self.max_timestamp_ms,
            fired_us: self.fired_us,
            event_time_us: self
                .event_times
                .into_iter()
                .map(|of| (SourcePartition { source: SourceId(of.source), partition: of.partition }, of.event_time_us))
                .collect(),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_report_arrives_as_it_was_sent() {
        let source = |partition| SourcePartition { source: SourceId(1), partition };
        let range = |partition| SourceRange { source: source(partition), range: OffsetRange::new(3, 9) };
        let report = report::PartReport {
            incarnation: Incarnation::new("job-1"),
            generation: Generation(2),
            epoch: Epoch(3),
            attempt: Attempt(4),
            execution: Nonce::new("nonce"),
            executor: ExecutorId::new("executor"),
            work: PartWork { part: PartIndex(0), ranges: vec![range(0), range(7)] },
            file: report::PartFile {
                part: PartIndex(0),
                name: "file".into(),
                bytes: 9,
                crc32: 10,
                rows: BTreeMap::from([(SinkId(0), 11)]),
                state_bytes: 12,
                state_end: Some(manifest::StateEnd { watermark_us: None, clock_us: Some(13) }),
            },
            counts: report::Counts { records_in: 1, bytes_in: 2, rows_out: 3, dead_letters: 4, refused: 5, lost: 6, late: 7 },
            times: report::StepTimes { fetch_us: 1, decode_us: 2, compute_us: 3, write_us: 4 },
            max_timestamp_ms: Some(-5),
            event_time_us: BTreeMap::from([(source(0), -1), (source(7), 2)]),
            fired_us: Some(-7),
        };
        let sent = wire::PartReport::from(report.clone());
        assert_eq!(sent.from_executor(ExecutorId::new("executor")), Ok(report));
    }

    #[test]
    fn a_reversed_range_is_no_work() {
        let range = Some(wire::OffsetRange { start: 2, end: 1 });
        let work = wire::PartWork { part: 0, ranges: vec![wire::SourceRange { source: 0, partition: 0, range }] };
        assert_eq!(PartWork::try_from(work), Err(Incomplete("offset range")));
    }

    #[test]
    fn a_compacted_run_arrives_as_it_was_sent() {
        let (first_epoch, last_epoch) = (Epoch(1), Epoch(9));
        let end = Some(manifest::StateEnd { watermark_us: Some(4), clock_us: None });
        let run = manifest::StateRun { name: "run".into(), bytes: 1, crc32: 2, state_bytes: 3, first_epoch, last_epoch, end };
        let (incarnation, generation) = (Incarnation::new("job-1"), Generation(2));
        let report = report::CompactReport { incarnation, generation, replaced: vec!["a".into(), "b".into()], run };
        assert_eq!(wire::StateCompacted::from(report.clone()).try_into(), Ok(report));
    }
}
