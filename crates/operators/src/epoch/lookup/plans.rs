//! Queries as jobs plan them, for tests of look-ups: over topics `t` and `u`, and tables `names` and `places` of keyspace `ks`.
use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef},
    physical_plan::ExecutionPlan,
    prelude::{SessionConfig, SessionContext},
};
use polybolos_dataflow::planning;
use polybolos_kafka::{connection::Connection, decode::Field};
use polybolos_tables::{Column, LookupOptions, TableName, TableSchema};

use super::into_branches;
use crate::{
    epoch::flow::fuse_scans,
    lookup_scan::LookupTable,
    providers::{KafkaTable, Reading},
    record_scan::{OnError, ScanSpec},
};

pub(super) const TOPICS: [&str; 2] = ["t", "u"];

/// Of both topics.
pub(super) fn stream_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        ArrowField::new("id", DataType::Int64, false),
        ArrowField::new("k", DataType::Int32, true),
        ArrowField::new("b", DataType::Int64, true),
        ArrowField::new("s", DataType::Utf8, true),
    ]))
}

/// `names`, with several rows of a key, and `places`.
pub(super) fn tables() -> [TableSchema; 2] {
    let schema = |name: &str, columns: &[(&str, DataType)], key: &[&str], clustering: &[&str]| TableSchema {
        name: TableName::new("ks", name),
        columns: columns.iter().map(|(name, data_type)| Column::new(*name, data_type.clone())).collect(),
        partition_key: key.iter().map(ToString::to_string).collect(),
        clustering_key: clustering.iter().map(ToString::to_string).collect(),
    };
    let names = [("k", DataType::Int32), ("n", DataType::Int64), ("name", DataType::Utf8), ("v", DataType::Int64)];
    let places = [("region", DataType::Utf8), ("k", DataType::Int32), ("w", DataType::Int64)];
    [schema("names", &names, &["k"], &["n"]), schema("places", &places, &["region", "k"], &[])]
}

/// Settings of a job's plan.
pub(super) fn context() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    SessionContext::new_with_config(config)
}

pub(super) fn planned(sql: &str) -> Arc<dyn ExecutionPlan> {
    planned_with(sql, &LookupOptions::default())
}

/// A topic's source has its place among [`TOPICS`].
pub(super) fn planned_with(sql: &str, options: &LookupOptions) -> Arc<dyn ExecutionPlan> {
    let context = context();
    for (source, topic) in (0..).zip(TOPICS) {
        let schema = stream_schema();
        let fields = schema.fields().iter().map(|field| Field::Json { name: field.name().clone() }).collect();
        let spec = ScanSpec {
            job: "j".into(),
            incarnation: "i".into(),
            source,
            connection: Connection { bootstrap_servers: "kafka".into(), properties: BTreeMap::new() },
            topic: topic.into(),
            fields: vec![],
            options: Default::default(),
            on_error: OnError::Fail,
            checks: vec![],
        };
        context.register_table(topic, Arc::new(KafkaTable::new(schema, fields, spec, Reading::Job))).unwrap();
    }
    for schema in tables() {
        let name = schema.name.table.clone();
        context.register_table(name.as_str(), Arc::new(LookupTable::new(schema, options.clone()))).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let plan = runtime.block_on(async {
        let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
        planning::plan(&context.state(), &plan).await.unwrap()
    });
    fuse_scans(into_branches(plan).unwrap()).unwrap()
}
