//! What a runner needs of a job: its plan template, its sinks and its sources, derived from the definition in the catalog.
use std::{collections::BTreeMap, sync::Arc};

use polybolos_kafka::connection::Connection;
use polybolos_operators::{publish::SinkSpec, template::JobTemplate};
use polybolos_streaming::{
    coordinator::CoordinatorConfig,
    ids::{SinkId, SourceId},
};

/// A Kafka source of a job.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    pub table: String,
    pub topic: String,
    pub connection: Connection,
    /// Whether a table of the job has a column for the records' headers.
    pub headers: bool,
    /// Its consumer group, where committed offsets are shown to lag tools.
    pub group: String,
}

/// A job, planned.
#[derive(Clone, Debug)]
pub struct JobSpec {
    pub name: String,
    pub template: Arc<JobTemplate>,
    pub sources: BTreeMap<SourceId, SourceSpec>,
    /// Sinks by id, the dead letters among them; with the names that people know them by.
    pub sinks: BTreeMap<SinkId, (String, SinkSpec)>,
    pub config: CoordinatorConfig,
}
