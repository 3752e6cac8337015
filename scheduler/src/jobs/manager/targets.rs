//! What a job writes to: the topics and tables of its sinks, the topics of their positions, and who owns the tables.
use anyhow::Context;
use polybolos_kafka::{
    admin::Admin,
    publish::{POSITIONS_CONFIG, positions_topic},
};
use polybolos_operators::{dead_letters, publish::topic::TopicTarget};
use polybolos_sql::{
    catalog::{Connector, JobDefinition, TableDefinition},
    planner::JobPlan,
};
use polybolos_streaming::ids::{Incarnation, PUBLISHERS};
use polybolos_tables::TableError;

use super::JobManager;
use crate::{
    jobs::{planning, sink::topic_of, spec::JobSpec},
    ownership,
};

impl JobManager {
    /// Creates the target's topic where there is none.
    pub(super) async fn ensure_target_topic(&self, target: &TableDefinition) -> anyhow::Result<()> {
        let Some(written) = topic_of(&self.platform, target)? else { return Ok(()) };
        // Of an upsert topic the broker may forget all but a key's last record.
        let upserts = matches!(target.connector, Connector::UpsertKafka(_));
        let config: &[(&str, &str)] = if upserts { &[("cleanup.policy", "compact")] } else { &[] };
        let admin = Admin::connect(&written.connection).with_context(|| format!("table {}", target.name))?;
        let ensured = admin.ensure_topic(&written.topic, None, config).await;
        ensured.with_context(|| format!("topic {:?} of table {}", written.topic, target.name))
    }

    /// Creates the target's table when asked to, else checks that it is as declared: all mismatches at once.
    pub(super) async fn ensure_table(&self, target: &TableDefinition) -> anyhow::Result<()> {
        let (Connector::Cassandra(options), Some(declared)) = (&target.connector, target.table_schema()) else { return Ok(()) };
        let tables = &self.platform.tables;
        let stored = match tables.describe(&declared.name).await? {
            Some(stored) => stored,
            None if options.create => {
                tables.create(&declared, &options.create_options()).await?;
                let created = tables.describe(&declared.name).await?;
                created.ok_or_else(|| TableError::NoSuchTable { table: declared.name.to_string() })?
            }
            None => return Err(TableError::NoSuchTable { table: declared.name.to_string() }.into()),
        };
        polybolos_tables::check::columns(&**tables, &declared, &stored)?;
        // Rows that expire end as deletions (EPOCHS rule 14).
        if options.write.ttl_ms.is_some() {
            polybolos_tables::check::deletes(&**tables, &declared.name).await?;
        }
        Ok(())
    }

    /// For a statement: the topics and tables that its job writes to.
    pub(in crate::jobs) async fn ensure_targets(&self, plan: &JobPlan) -> anyhow::Result<()> {
        for insert in &plan.inserts {
            self.ensure_target_topic(&insert.target).await?;
        }
        self.ensure_tables(plan).await
    }

    pub(super) async fn ensure_tables(&self, plan: &JobPlan) -> anyhow::Result<()> {
        for insert in &plan.inserts {
            self.ensure_table(&insert.target).await?;
            // A job with state may take rows back, and a tombstone must outlive the epochs before it (EPOCHS rule 14).
            if let (true, Some(declared)) = (insert.is_stateful, insert.target.table_schema()) {
                polybolos_tables::check::deletes(&*self.platform.tables, &declared.name).await?;
            }
        }
        for table in planning::late_tables(plan) {
            let tables = &self.platform.tables;
            tables.create(&table, &Default::default()).await.with_context(|| format!("'late_rows.table' {}", table.name))?;
            if let Some(stored) = tables.describe(&table.name).await? {
                let same = polybolos_tables::check::columns(&**tables, &table, &stored);
                same.context("'late_rows.table' must have the columns of polybolos.late_rows")?;
            }
        }
        Ok(())
    }

    /// Makes the job the only writer of its tables; answers where its write times may begin.
    pub(super) async fn own_targets(&self, definition: &JobDefinition, plan: &JobPlan) -> anyhow::Result<i64> {
        let incarnation = Incarnation(definition.incarnation.clone());
        let mut floor_us = 0;
        for stored in plan.inserts.iter().filter_map(|insert| insert.target.table_schema()) {
            let floor = ownership::acquire(&*self.context.store, &stored.name, &definition.name, &incarnation).await?;
            floor_us = floor.max(floor_us);
        }
        Ok(floor_us)
    }

    pub(super) async fn ensure_dead_letters(&self) -> anyhow::Result<()> {
        for table in [dead_letters::table(), dead_letters::late_rows()] {
            let created = self.platform.tables.create(&table, &Default::default()).await;
            created.with_context(|| format!("table {} cannot be created", table.name))?;
        }
        Ok(())
    }

    /// For a statement: all topics that its job writes to, that of its dead letters among them.
    pub(in crate::jobs) async fn ensure_topics(&self, spec: &JobSpec) -> anyhow::Result<()> {
        for target in spec.sinks.values().filter_map(|(_, sink)| sink.topic()) {
            let ensured = Admin::connect(&target.connection)?.ensure_topic(&target.topic, None, &[]).await;
            ensured.with_context(|| format!("topic {:?}, which job {} writes to", target.topic, spec.name))?;
        }
        Ok(())
    }

    /// The topics in which sinks keep their positions.
    pub(super) async fn ensure_positions(&self, definition: &JobDefinition, spec: &JobSpec) -> anyhow::Result<()> {
        for (target, positions) in positions(&Incarnation(definition.incarnation.clone()), spec) {
            let admin = Admin::connect(&target.connection)?;
            let ensured = admin.ensure_topic(&positions, Some(i32::from(PUBLISHERS)), POSITIONS_CONFIG).await;
            ensured.with_context(|| format!("topic {positions:?}, which keeps how far job {} has published", definition.name))?;
        }
        Ok(())
    }

    /// An incarnation that has ended publishes no more.
    pub(super) async fn delete_positions(&self, incarnation: &Incarnation, spec: &JobSpec) {
        for (target, name) in positions(incarnation, spec) {
            let deleted = match Admin::connect(&target.connection) {
                Ok(admin) => admin.delete_topic(&name).await,
                Err(error) => Err(error),
            };
            if let Err(error) = deleted {
                tracing::warn!(topic = %name, %error, "the positions of an ended job stay; delete the topic by hand");
            }
        }
    }
}

/// Per sink that writes to a topic: that, and the topic of its positions.
fn positions<'a>(incarnation: &Incarnation, spec: &'a JobSpec) -> Vec<(&'a TopicTarget, String)> {
    let sinks = spec.sinks.iter();
    let written = sinks.filter_map(|(sink, (_, spec))| Some((spec.topic()?, positions_topic(incarnation.as_str(), sink.0))));
    written.collect()
}
