//! Logs on standard error, metrics for Prometheus, traces by OpenTelemetry when configured.
use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use prometheus::{
    IntGauge, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Ours at info; engines and drivers only when something is wrong. A dropped job's state on disk goes with its folder, and `lsm_tree` warns
/// afterwards of each file in there that compaction had given up already and that it cannot delete once more: of nothing.
const DEFAULT_FILTER: &str = "info,ballista_scheduler=warn,ballista_executor=warn,ballista_core=warn,datafusion=warn,librdkafka=error,rdkafka=error,fjall=warn,lsm_tree=warn,lsm_tree::table::inner=error,scylla=error,h2=warn,hyper=warn";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    pub json: bool,
    /// `http://host:4317` of an OTLP collector; traces go there.
    pub otlp_endpoint: Option<String>,
}

/// Starts logging. The filter is `POLYBOLOS_LOG`, in `RUST_LOG`'s syntax.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = match std::env::var("POLYBOLOS_LOG") {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("POLYBOLOS_LOG is {text:?}, which is not a log filter"))?,
        Err(_) => EnvFilter::new(DEFAULT_FILTER),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = if settings.json {
        layer.json().boxed()
    } else {
        layer.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
    };
    let traces = match &settings.otlp_endpoint {
        None => None,
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().with_batch_exporter(exporter).build();
            Some(tracing_opentelemetry::layer().with_tracer(provider.tracer("polybolos")))
        }
    };
    tracing_subscriber::registry().with(filter).with(layer).with(traces).try_init().context("logging was started twice")
}

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub resident_bytes: u64,
    pub cpu_ms: u64,
}

/// Read from `/proc`; zeros where there is none.
pub fn process_usage() -> Usage {
    // `proc(5)`: fields 14 and 15 of stat, in ticks of 1/100 s; field 2 of statm, in pages of 4 KiB.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    Usage { resident_bytes: pages * 4096, cpu_ms: ticks * 10 }
}

/// A registry with this process's figures in it.
pub fn metrics() -> anyhow::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::new()?))?;
    Ok(registry)
}

/// The registry in Prometheus's text format.
pub fn encode(registry: &Registry) -> String {
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
}

struct ProcessCollector {
    resident_bytes: IntGauge,
    cpu_ms: IntGauge,
}

impl ProcessCollector {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            resident_bytes: IntGauge::new("polybolos_process_resident_bytes", "Resident memory of the process.")?,
            cpu_ms: IntGauge::new("polybolos_process_cpu_milliseconds", "CPU time of the process since its start.")?,
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.resident_bytes.desc().into_iter().chain(self.cpu_ms.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let usage = process_usage();
        self.resident_bytes.set(usage.resident_bytes as i64);
        self.cpu_ms.set(usage.cpu_ms as i64);
        self.resident_bytes.collect().into_iter().chain(self.cpu_ms.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_one() {
        let filter = EnvFilter::try_new(DEFAULT_FILTER).expect("parses").to_string();
        assert!(filter.contains("lsm_tree::table::inner=error") && filter.contains("lsm_tree=warn"), "{filter}");
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(process_usage().resident_bytes > 1 << 20);
        assert!(encode(&metrics().expect("registers")).contains("polybolos_process_resident_bytes"));
    }
}
