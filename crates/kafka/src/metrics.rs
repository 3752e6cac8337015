//! Names of what this crate counts; no labels, so their number is bounded.
use prometheus::{IntCounter, IntGauge, Registry, core::Collector};

use crate::error::{KafkaError, Result};

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub fetched_records: IntCounter,
    pub fetched_bytes: IntCounter,
    /// Assignments made: each interrupts the reading of its partition for a moment.
    pub placements: IntCounter,
    pub lost_ranges: IntCounter,
    pub buffered_bytes: IntGauge,
    pub sources_away: IntGauge,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Result<Self> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help));
        Ok(Self {
            fetched_records: counter("polybolos_kafka_fetched_records_total", "Records fetched from Kafka.")?,
            fetched_bytes: counter("polybolos_kafka_fetched_bytes_total", "Bytes of records fetched from Kafka.")?,
            placements: counter("polybolos_kafka_placements_total", "Times that a partition was assigned at some offset.")?,
            lost_ranges: counter("polybolos_kafka_lost_ranges_total", "Times that records to read were gone from the broker.")?,
            buffered_bytes: gauge("polybolos_kafka_buffered_bytes", "Bytes of records read ahead and not yet recorded.")?,
            sources_away: gauge("polybolos_kafka_sources_away", "Sources whose brokers do not answer.")?,
        })
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> Result<C> {
    let collector = collector.map_err(|error| KafkaError::Bug(error.to_string()))?;
    registry.register(Box::new(collector.clone())).map_err(|error| KafkaError::Bug(error.to_string()))?;
    Ok(collector)
}
