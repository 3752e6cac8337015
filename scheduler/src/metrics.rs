//! Metrics of jobs: `polybolos_job_*`, labelled by job.
use polybolos_streaming::coordinator::{EpochPublished, EpochRecorded};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The families, registered once.
#[derive(Clone, Debug)]
pub struct Families {
    records_in: IntCounterVec,
    bytes_in: IntCounterVec,
    rows_out: IntCounterVec,
    bytes_out: IntCounterVec,
    dead_letters: IntCounterVec,
    refused: IntCounterVec,
    lost: IntCounterVec,
    retries: IntCounterVec,
    attempts: IntCounterVec,
    step_seconds: HistogramVec,
    lag_records: IntGaugeVec,
    unpublished_epochs: IntGaugeVec,
}

impl Families {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["job"])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["job"])?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let buckets = prometheus::exponential_buckets(0.0005, 2.0, 16)?;
        let steps = HistogramOpts::new("polybolos_job_step_seconds", "Time of an epoch's steps.").buckets(buckets);
        let step_seconds = HistogramVec::new(steps, &["job", "step"])?;
        registry.register(Box::new(step_seconds.clone()))?;
        Ok(Self {
            records_in: counter("polybolos_job_records_in_total", "Records read from sources.")?,
            bytes_in: counter("polybolos_job_bytes_in_total", "Bytes of records read from sources.")?,
            rows_out: counter("polybolos_job_rows_out_total", "Changes computed for sinks.")?,
            bytes_out: counter("polybolos_job_bytes_out_total", "Bytes of recorded part files, without state.")?,
            dead_letters: counter("polybolos_job_dead_letters_total", "Records that became dead letters.")?,
            refused: counter("polybolos_job_refused_total", "Rows that a sink refused.")?,
            lost: counter("polybolos_job_lost_records_total", "Records lost to retention or with their topic, and skipped.")?,
            retries: counter("polybolos_job_publish_retries_total", "Retries of sink writes.")?,
            attempts: counter("polybolos_job_attempts_total", "Attempts at epochs.")?,
            step_seconds,
            lag_records: gauge("polybolos_job_lag_records", "Records that no recorded epoch has read.")?,
            unpublished_epochs: gauge("polybolos_job_unpublished_epochs", "Epochs recorded and not yet published.")?,
        })
    }

    pub fn of(&self, job: &str) -> JobMetrics {
        JobMetrics {
            job: job.to_owned(),
            lag_records: self.lag_records.with_label_values(&[job]),
            unpublished_epochs: self.unpublished_epochs.with_label_values(&[job]),
            families: self.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct JobMetrics {
    job: String,
    families: Families,
    pub lag_records: IntGauge,
    pub unpublished_epochs: IntGauge,
}

impl JobMetrics {
    pub fn recorded(&self, epoch: &EpochRecorded) {
        let count = |family: &IntCounterVec, by: u64| family.with_label_values(&[&self.job]).inc_by(by);
        let (families, counts, times) = (&self.families, epoch.counts, epoch.times);
        count(&families.records_in, counts.records_in);
        count(&families.bytes_in, counts.bytes_in);
        count(&families.rows_out, counts.rows_out);
        count(&families.bytes_out, epoch.bytes_out);
        count(&families.dead_letters, counts.dead_letters);
        count(&families.refused, counts.refused);
        count(&families.lost, counts.lost);
        count(&families.attempts, epoch.attempts);
        self.step("fetch", times.fetch_us);
        self.step("decode", times.decode_us);
        self.step("compute", times.compute_us);
        self.step("write", times.write_us);
        self.step("record", epoch.record_us);
        self.step("epoch", epoch.compute_us + epoch.record_us);
    }

    pub fn published(&self, published: &EpochPublished) {
        self.families.retries.with_label_values(&[&self.job]).inc_by(published.retries);
        self.step("publish", published.write_us);
        self.step("record_to_visible", published.latency_us);
    }

    fn step(&self, step: &str, us: u64) {
        self.families.step_seconds.with_label_values(&[&self.job, step]).observe(us as f64 / 1e6);
    }
}
