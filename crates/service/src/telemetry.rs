//! Logs on standard error, metrics for Prometheus, traces by OpenTelemetry when configured.
use std::{collections::HashMap, io::IsTerminal};

use anyhow::Context;
use opentelemetry::{propagation::TextMapPropagator, trace::TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use prometheus::{
    IntGauge, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

/// Ours at info; engines and drivers only when something is wrong. A dropped job's state on disk goes with its folder, and `lsm_tree` warns
/// afterwards of each file in there that compaction had given up already and that it cannot delete once more: of nothing. That Cassandra is away
/// we say ourselves; its driver says it again each second.
const DEFAULT_FILTER: &str = "info,ballista_scheduler=warn,ballista_executor=warn,ballista_core=warn,datafusion=warn,librdkafka=error,rdkafka=error,fjall=warn,lsm_tree=warn,lsm_tree::table::inner=error,scylla=error,scylla::cluster::metadata::cc_establisher=off,h2=warn,hyper=warn";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// `scheduler`: traces name the process `polybolos-scheduler`.
    pub service: &'static str,
    pub json: bool,
    /// `http://host:4317` of an OTLP collector; traces go there.
    pub otlp_endpoint: Option<String>,
}

/// The header of W3C Trace Context in which a trace goes on elsewhere.
const TRACE_PARENT: &str = "traceparent";

/// Starts logging, and traces where they are wanted. The filter is `POLYBOLOS_LOG`, in `RUST_LOG`'s syntax.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = match std::env::var("POLYBOLOS_LOG") {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("POLYBOLOS_LOG is {text:?}, which is not a log filter"))?,
        Err(_) => EnvFilter::new(DEFAULT_FILTER),
    };
    let registry = tracing_subscriber::registry();
    let started = match &settings.otlp_endpoint {
        // A filter for all tells each place in the code once that nobody listens.
        None => registry.with(filter).with(lines(settings.json)).try_init(),
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let resource = Resource::builder().with_service_name(format!("polybolos-{}", settings.service)).build();
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
            let lines = lines::<tracing_subscriber::Registry>(settings.json).with_filter(filter).boxed();
            registry.with(vec![lines, traces(&provider)]).try_init()
        }
    };
    started.context("logging was started twice")
}

/// The log.
fn lines<S: Subscriber + for<'span> LookupSpan<'span>>(json: bool) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json { lines.json().boxed() } else { lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed() }
}

/// Takes our own spans, whatever the log shows: those of the exporter's connection would never end, as sending them makes more.
fn traces(provider: &SdkTracerProvider) -> Box<dyn Layer<tracing_subscriber::Registry> + Send + Sync> {
    let ours =
        filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("polybolos") && *metadata.level() <= Level::DEBUG);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("polybolos"))
        .with_location(false)
        .with_threads(false)
        .with_filter(ours.with_max_level_hint(Level::DEBUG))
        .boxed()
}

/// What another process needs to go on with the trace of a span; empty where nobody traces.
pub fn trace_parent(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let mut carrier: HashMap<String, String> = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACE_PARENT).unwrap_or_default()
}

/// Makes a span that has just begun part of the trace that another process has told of.
pub fn follow(span: &Span, trace_parent: String) {
    if span.is_disabled() || trace_parent.is_empty() {
        return;
    }
    let carrier = HashMap::from([(TRACE_PARENT.to_owned(), trace_parent)]);
    if let Err(error) = span.set_parent(TraceContextPropagator::new().extract(&carrier)) {
        tracing::debug!(%error, "a trace is not gone on with");
    }
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
        assert!(filter.contains("scylla::cluster::metadata::cc_establisher=off") && filter.contains("scylla=error"), "{filter}");
    }

    #[test]
    fn a_trace_goes_on_in_another_process() {
        let provider = SdkTracerProvider::builder().build();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(vec![traces(&provider)]), || {
            let trace_of = |span: &Span| trace_parent(span).split('-').nth(1).map(str::to_owned);
            let attempt = tracing::debug_span!("attempt");
            let (task, other) = (tracing::debug_span!("task"), tracing::debug_span!("task"));
            follow(&task, trace_parent(&attempt));
            assert!(trace_of(&attempt).is_some_and(|trace| trace.len() == 32));
            assert_eq!(trace_of(&task), trace_of(&attempt));
            assert_ne!(trace_of(&other), trace_of(&attempt));
            follow(&other, "nonsense".into());
            assert!(tracing::debug_span!(target: "h2", "frame").is_disabled(), "others' are not sent");
        });
        assert_eq!(trace_parent(&tracing::debug_span!("attempt")), "", "nobody traces");
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(process_usage().resident_bytes > 1 << 20);
        assert!(encode(&metrics().expect("registers")).contains("polybolos_process_resident_bytes"));
    }
}
