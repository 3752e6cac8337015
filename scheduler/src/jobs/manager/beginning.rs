//! What an incarnation begins with: its manifest, the stored one or the first one.
use std::collections::BTreeMap;

use anyhow::anyhow;
use polybolos_kafka::admin::Admin;
use polybolos_persist::{Expected, Swap, keys};
use polybolos_sql::{catalog::JobDefinition, options::kafka::StartupMode, planner::JobPlan};
use polybolos_streaming::{
    ids::{Epoch, Generation, Incarnation, JobName, Nonce, Version},
    manifest::{Manifest, SourcePosition},
};

use super::JobManager;
use crate::{
    jobs::{
        runner::load_manifest,
        spec::{JobSpec, SourceSpec},
    },
    providers::start_offsets,
};

impl JobManager {
    /// The incarnation's manifest: the stored one, or the first one.
    pub(super) async fn manifest(
        &self,
        definition: &JobDefinition,
        plan: &JobPlan,
        spec: &JobSpec,
    ) -> anyhow::Result<(Manifest, Version)> {
        let incarnation = Incarnation(definition.incarnation.clone());
        let store = &*self.context.store;
        if let Some(found) = load_manifest(store, &incarnation).await? {
            return Ok(found);
        }
        let manifest = self.first_manifest(definition, plan, spec).await?;
        let bytes = polybolos_persist::manifest::encode(&manifest)?;
        match store.put_if(&keys::manifest(&incarnation), bytes, Expected::Absent).await? {
            Swap::Stored(version) => Ok((manifest, Version(version.0))),
            Swap::Conflict => {
                let found = load_manifest(store, &incarnation).await?;
                found.ok_or_else(|| {
                    anyhow!("the manifest of job {} appeared and vanished; is somebody deleting files?", definition.name)
                })
            }
        }
    }

    /// What an incarnation begins with when nothing else is said: no state, the offsets of its options. Makes it the owner of its tables.
    pub(in crate::jobs) async fn first_manifest(
        &self,
        definition: &JobDefinition,
        plan: &JobPlan,
        spec: &JobSpec,
    ) -> anyhow::Result<Manifest> {
        let floor_us = self.own_targets(definition, plan).await?;
        let mut sources = BTreeMap::new();
        for (id, source) in &spec.sources {
            let mut tables = plan.inserts.iter().flat_map(|insert| &insert.sources);
            let table = tables.find(|table| table.name.to_string() == source.table);
            let declared = table.and_then(|table| table.topic()).map(|topic| topic.into_owned().startup);
            let startup = definition.options.start.clone().or(declared).unwrap_or_default();
            sources.insert(*id, first_position(source, &startup).await?);
        }
        let (job, incarnation) = (JobName(definition.name.clone()), Incarnation(definition.incarnation.clone()));
        let nonce = Nonce(uuid::Uuid::new_v4().simple().to_string());
        Ok(Manifest {
            sources,
            window_end_us: floor_us,
            layout: spec.template.layout(),
            kept_columns: spec.template.kept_columns(),
            published: spec.sinks.keys().map(|sink| (*sink, Epoch(0))).collect(),
            recorded_at_us: self.context.clock.now().wall_us,
            ..Manifest::new(job, incarnation, Generation(0), nonce)
        })
    }
}

/// Where a new job begins. A topic that does not exist yet has no offsets: its partitions begin at their beginning when they appear.
async fn first_position(source: &SourceSpec, startup: &StartupMode) -> anyhow::Result<SourcePosition> {
    let admin = Admin::connect(&source.connection)?;
    let mut position = SourcePosition { topic: source.topic.clone(), first: Some(BTreeMap::new()), ..SourcePosition::default() };
    let Some(description) = admin.describe(&source.topic).await? else { return Ok(position) };
    let offsets = admin.offsets(&source.topic, &description.partitions).await?;
    position.next = start_offsets(&admin, &source.topic, startup, &offsets.beginnings, &offsets.ends).await?;
    position.first = Some(position.next.clone());
    position.topic_id = description.topic_id;
    Ok(position)
}
