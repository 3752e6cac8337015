//! Metrics of feeds: `polybolos_ingest_*`, labelled by feed.
use prometheus::{IntCounterVec, Opts, Registry};

#[derive(Clone, Debug)]
pub struct Metrics {
    pub records: IntCounterVec,
    pub bytes: IntCounterVec,
    pub requests: IntCounterVec,
    pub failures: IntCounterVec,
    pub skipped: IntCounterVec,
}

impl Metrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &["feed"])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        Ok(Self {
            records: counter("polybolos_ingest_records_total", "Records that the broker acknowledged.")?,
            bytes: counter("polybolos_ingest_bytes_total", "Payload bytes that the broker acknowledged.")?,
            requests: counter("polybolos_ingest_requests_total", "Requests to feeds.")?,
            failures: counter("polybolos_ingest_failures_total", "Requests and deliveries that failed and are tried again.")?,
            skipped: counter("polybolos_ingest_skipped_total", "Items of answers that made no record.")?,
        })
    }
}
