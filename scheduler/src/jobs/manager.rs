//! All jobs of this leader: made from the catalog, kept running, ended by statements.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use parking_lot::RwLock;
use polybolos_kafka::admin::Admin;
use polybolos_operators::{
    dead_letters,
    part_write::{Keeping, WriteSpec},
    publish::SinkSpec,
    record_scan::OnError,
    steps::Check,
    template::{JobIdentity, PlanTemplate},
};
use polybolos_persist::{Expected, Swap, keys};
use polybolos_sql::{
    catalog::{Catalog, Connector, JobDefinition, TableDefinition},
    options::{job::OnError as SqlOnError, kafka::OnDataLoss as SqlOnDataLoss, kafka::StartupMode},
    planner::{InsertPlan, JobPlan, Planner},
};
use polybolos_streaming::{
    coordinator::{Command, CoordinatorConfig, OnDataLoss},
    ids::{Epoch, Generation, Incarnation, JobName, Nonce, SinkId, SourceId, Version},
    manifest::{DEAD_LETTERS, Life, Manifest, SourcePosition},
    report::Counts,
};
use polybolos_tables::{TableError, TableSchema, WriteOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    runner::{self, JobHandle, RunnerContext, load_manifest},
    spec::{JobSpec, SourceSpec},
};
use crate::{
    catalog::CatalogStore,
    metrics::Families,
    ownership,
    providers::{PlatformTables, start_offsets},
};

/// Between two tries to start a job whose Kafka or Cassandra is away.
const RETRY: Duration = Duration::from_secs(2);

/// The sink of a job's one INSERT.
const MAIN_SINK: SinkId = SinkId(0);

pub struct JobManager {
    context: RunnerContext,
    catalog: Arc<CatalogStore>,
    platform: PlatformTables,
    families: Families,
    jobs: RwLock<BTreeMap<String, Entry>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A job on this leader.
#[derive(Clone)]
pub enum Entry {
    Running(JobHandle),
    /// It could not be started yet, and is tried again.
    Starting {
        incarnation: Incarnation,
        error: String,
    },
}

impl JobManager {
    pub fn new(
        context: RunnerContext,
        catalog: Arc<CatalogStore>,
        platform: PlatformTables,
        families: Families,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { context, catalog, platform, families, jobs: RwLock::default(), tasks: TaskTracker::new(), shutdown })
    }

    /// Starts every job of the catalog; those that cannot start yet are tried again in the background.
    pub fn start_all(self: &Arc<Self>) {
        for definition in self.catalog.current().jobs.clone() {
            self.start_in_background(definition);
        }
    }

    /// Waits for all loops to end, after the shutdown token was cancelled.
    pub async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub fn list(&self) -> BTreeMap<String, Entry> {
        self.jobs.read().clone()
    }

    pub fn find(&self, job: &str) -> Option<Entry> {
        self.jobs.read().get(job).cloned()
    }

    /// Everything that can be wrong with a job, before it is in the catalog: plan, target table, sole writer. Answers notices.
    pub async fn prepare(&self, catalog: Arc<Catalog>, definition: &JobDefinition) -> anyhow::Result<()> {
        let plan = self.plan(catalog, definition).await?;
        let insert = only_insert(&plan)?;
        self.ensure_target(&insert.target).await?;
        self.spec(definition, &plan).await?;
        if let Some(stored) = insert.target.table_schema() {
            let incarnation = Incarnation(definition.incarnation.clone());
            ownership::acquire(&*self.context.store, &stored.name, &definition.name, &incarnation).await?;
        }
        Ok(())
    }

    /// Starts a job that is in the catalog.
    pub async fn start(self: &Arc<Self>, definition: &JobDefinition) -> anyhow::Result<()> {
        let catalog = self.catalog.current();
        let plan = self.plan(catalog, definition).await?;
        let insert = only_insert(&plan)?;
        self.ensure_target(&insert.target).await?;
        self.ensure_dead_letters().await?;
        let spec = self.spec(definition, &plan).await?;
        let (manifest, version) = self.manifest(definition, insert, &spec).await?;
        let handle = runner::start(
            self.context.clone(),
            spec,
            manifest,
            version,
            self.families.of(&definition.name),
            self.shutdown.child_token(),
            &self.tasks,
        );
        self.jobs.write().insert(definition.name.clone(), Entry::Running(handle));
        Ok(())
    }

    /// Starts a job, and goes on trying when something it needs is away.
    pub fn start_in_background(self: &Arc<Self>, definition: JobDefinition) {
        let manager = self.clone();
        self.tasks.spawn(async move {
            loop {
                let error = match manager.start(&definition).await {
                    Ok(()) => return,
                    Err(error) => format!("{error:#}"),
                };
                tracing::warn!(job = %definition.name, %error, "job cannot be started yet; trying again");
                let incarnation = Incarnation(definition.incarnation.clone());
                manager.jobs.write().insert(definition.name.clone(), Entry::Starting { incarnation, error });
                tokio::select! {
                    () = manager.shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
                if manager.catalog.current().find_job(&definition.name).is_none_or(|job| job.incarnation != definition.incarnation)
                {
                    manager.jobs.write().remove(&definition.name);
                    return;
                }
            }
        });
    }

    pub async fn command(&self, job: &str, command: Command) -> anyhow::Result<()> {
        match self.find(job) {
            Some(Entry::Running(handle)) => handle.command(command).await,
            Some(Entry::Starting { error, .. }) => bail!("job {job} has not started yet: {error}"),
            None => bail!("job {job} is not running on this scheduler"),
        }
    }

    /// Ends a job's incarnation: nothing recorded is lost, what is unpublished is published first unless `discard`.
    pub async fn drop_job(&self, definition: &JobDefinition, discard: bool) -> anyhow::Result<()> {
        let entry = self.find(&definition.name);
        match entry {
            Some(Entry::Running(handle)) => {
                handle.command(Command::Drop { discard }).await?;
                let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                while !handle.view().over {
                    if tokio::time::Instant::now() > deadline {
                        bail!(
                            "job {} is still publishing what it recorded; it ends when that is done (its sink may be away)",
                            definition.name
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Some(Entry::Starting { .. }) | None => {}
        }
        self.jobs.write().remove(&definition.name);
        Ok(())
    }

    async fn plan(&self, catalog: Arc<Catalog>, definition: &JobDefinition) -> anyhow::Result<JobPlan> {
        let state = self.context.ballista.session().state();
        let planner = Planner::new(&state, catalog, Arc::new(self.platform.clone()));
        // One partition: the frame says how many there really are.
        Ok(planner.plan_stored_job(definition, 1).await?)
    }

    /// Creates the target when asked to, else checks that it is as declared: all mismatches at once.
    async fn ensure_target(&self, target: &TableDefinition) -> anyhow::Result<()> {
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
        let mismatches = polybolos_tables::check::mismatches(&declared, &stored);
        if !mismatches.is_empty() {
            return Err(TableError::Mismatch { table: declared.name.to_string(), mismatches }.into());
        }
        // Rows that expire end as deletions (EPOCHS rule 14).
        if options.write.ttl_ms.is_some() {
            polybolos_tables::check::deletes(&**tables, &declared.name).await?;
        }
        Ok(())
    }

    async fn ensure_dead_letters(&self) -> anyhow::Result<()> {
        let created = self.platform.tables.create(&dead_letters::table(), &Default::default()).await;
        created.context("the table of dead letters cannot be created")
    }

    async fn spec(&self, definition: &JobDefinition, plan: &JobPlan) -> anyhow::Result<JobSpec> {
        let insert = only_insert(plan)?;
        let [source] = insert.sources.as_slice() else {
            bail!("job {} must read exactly one Kafka table; joins and unions come later", definition.name);
        };
        let Connector::Kafka(kafka) = &source.connector else {
            bail!("job {} reads {}, which is not a Kafka table", definition.name, source.name);
        };
        let incarnation = Incarnation(definition.incarnation.clone());
        let identity = JobIdentity {
            job: definition.name.clone(),
            incarnation,
            on_error: match plan.options.on_error {
                SqlOnError::DeadLetter => OnError::DeadLetter,
                SqlOnError::Fail => OnError::Fail,
            },
        };
        let (keeping, checks, sink) = sink(insert)?;
        let state = self.context.ballista.session().state();
        let write = WriteSpec { sink: MAIN_SINK, keeping };
        let template = PlanTemplate::build(&state, &insert.plan, identity, write, checks).await?;
        let letters = dead_letters::table();
        let letters_spec = SinkSpec::Table {
            table: letters.name.clone(),
            columns: letters.columns.iter().map(|column| column.name.clone()).collect(),
            options: WriteOptions { batch_rows: 1, ..WriteOptions::default() },
        };
        let source_spec = SourceSpec {
            table: source.name.to_string(),
            topic: kafka.topic.clone(),
            connection: self.platform.connection(kafka)?,
            group: format!("polybolos.{}", definition.name),
        };
        let on_data_loss = match plan.options.on_data_loss.unwrap_or(kafka.on_data_loss) {
            SqlOnDataLoss::Fail => OnDataLoss::Fail,
            SqlOnDataLoss::Continue => OnDataLoss::Continue,
        };
        Ok(JobSpec {
            name: definition.name.clone(),
            template: Arc::new(template),
            sources: BTreeMap::from([(SourceId(0), source_spec)]),
            sinks: BTreeMap::from([
                (MAIN_SINK, (insert.target.name.to_string(), sink)),
                (DEAD_LETTERS, (letters.name.to_string(), letters_spec)),
            ]),
            config: CoordinatorConfig { on_data_loss, ..CoordinatorConfig::default() },
        })
    }

    /// The incarnation's manifest: the stored one, or the first one.
    async fn manifest(
        &self,
        definition: &JobDefinition,
        insert: &InsertPlan,
        spec: &JobSpec,
    ) -> anyhow::Result<(Manifest, Version)> {
        let incarnation = Incarnation(definition.incarnation.clone());
        let store = &*self.context.store;
        if let Some(found) = load_manifest(store, &incarnation).await? {
            return Ok(found);
        }
        let floor_us = match insert.target.table_schema() {
            Some(TableSchema { name, .. }) => ownership::acquire(store, &name, &definition.name, &incarnation).await?,
            None => 0,
        };
        let source = spec.sources.get(&SourceId(0)).ok_or_else(|| anyhow!("job {} has no source", definition.name))?;
        let startup = match (&definition.options.start, insert.sources.first().map(|table| &table.connector)) {
            (Some(start), _) => start.clone(),
            (None, Some(Connector::Kafka(options))) => options.startup.clone(),
            (None, _) => StartupMode::Earliest,
        };
        let position = first_position(source, &startup).await?;
        let manifest = Manifest {
            job: JobName(definition.name.clone()),
            incarnation: incarnation.clone(),
            generation: Generation(0),
            nonce: Nonce(uuid::Uuid::new_v4().simple().to_string()),
            epoch: Epoch(0),
            life: Life::Running,
            sources: BTreeMap::from([(SourceId(0), position)]),
            window_end_us: floor_us,
            counts: Counts::default(),
            unpublished: vec![],
            published: BTreeMap::from([(MAIN_SINK, Epoch(0)), (DEAD_LETTERS, Epoch(0))]),
            recorded_at_us: self.context.clock.now().wall_us,
        };
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
}

fn only_insert(plan: &JobPlan) -> anyhow::Result<&InsertPlan> {
    match plan.inserts.as_slice() {
        [insert] => Ok(insert),
        _ => Err(anyhow!("a job has exactly one INSERT for now")),
    }
}

/// What becomes of an INSERT's rows: what a part keeps, what is checked, where they go.
fn sink(insert: &InsertPlan) -> anyhow::Result<(Keeping, Vec<Check>, SinkSpec)> {
    Ok(match &insert.target.connector {
        Connector::Blackhole => (Keeping::Nothing, vec![], SinkSpec::Blackhole),
        Connector::Print { identifier } => {
            let name = identifier.clone().unwrap_or_else(|| insert.target.name.to_string());
            (Keeping::All, vec![], SinkSpec::Print { name })
        }
        Connector::Cassandra(options) => {
            let stored = insert.target.table_schema().ok_or_else(|| anyhow!("table {} has no primary key", insert.target.name))?;
            let index = |column: &str| {
                let found = insert.columns.iter().position(|name| name == column);
                found.ok_or_else(|| anyhow!("key column {column} of {} is not inserted", insert.target.name))
            };
            let key = stored.primary_key().map(index).collect::<anyhow::Result<Vec<_>>>()?;
            let alone = stored.partition_key.len() == 1;
            let checks = stored.primary_key().zip(&key).map(|(name, &column)| Check {
                column,
                name: name.to_owned(),
                refuse_empty: alone && stored.partition_key.iter().any(|part| part == name),
            });
            let checks = checks.collect();
            let spec =
                SinkSpec::Table { table: stored.name.clone(), columns: insert.columns.clone(), options: options.write.clone() };
            (Keeping::LastPerKey(key), checks, spec)
        }
        Connector::Kafka(_) => bail!("table {} is a Kafka topic; jobs cannot write to Kafka yet", insert.target.name),
    })
}

/// Where a new job begins. A topic that does not exist yet has no offsets: its partitions begin at their beginning when they appear.
async fn first_position(source: &SourceSpec, startup: &StartupMode) -> anyhow::Result<SourcePosition> {
    let admin = Admin::connect(&source.connection)?;
    let mut position =
        SourcePosition { topic: source.topic.clone(), topic_id: None, next: BTreeMap::new(), max_timestamp_ms: BTreeMap::new() };
    let Some(description) = admin.describe(&source.topic).await? else { return Ok(position) };
    let offsets = admin.offsets(&source.topic, &description.partitions).await?;
    position.next = start_offsets(&admin, &source.topic, startup, &offsets.beginnings, &offsets.ends).await?;
    position.topic_id = description.topic_id;
    Ok(position)
}
