//! What a job's plan becomes on this platform: its sources, its sinks, and the template that every epoch fills in.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use datafusion::{
    arrow::datatypes::{Field, Schema, SchemaRef},
    common::{DFSchema, tree_node::TreeNodeRecursion},
    execution::SessionState,
    physical_expr::expressions::Column,
    physical_plan::ExecutionPlan,
};
use datafusion_proto::physical_plan::to_proto::serialize_physical_expr;
use polybolos_dataflow::{event_time::length, planning};
use polybolos_kafka::{connection::Connection, decode::Field as Source, encode::EncodeOptions};
use polybolos_operators::{
    codec::PolybolosCodec,
    dead_letters,
    epoch::{
        flow::fuse_scans,
        lookup,
        spec::{EpochSpec, EventTime, SinkSection, encode_plan},
    },
    part_write::WriteSpec,
    publish::{SinkSpec, topic::TopicTarget},
    record_scan::{OnError, RecordScanExec},
    steps::Step,
    template::{EpochTemplate, JobIdentity, JobTemplate, PlanTemplate},
};
use polybolos_sql::{
    catalog::{ColumnKind, Connector, JobDefinition, MetadataKey, TableDefinition},
    clock,
    error::SqlError,
    execution,
    options::{
        job::{OnError as SqlOnError, StateUnbounded},
        kafka::OnDataLoss as SqlOnDataLoss,
    },
    planner::{InsertPlan, JobPlan, WatermarkSource},
    statement::Emit,
};
use polybolos_streaming::{
    coordinator::{CoordinatorConfig, IDLE_TIMEOUT_US, OnDataLoss, PartLayout},
    ids::{Incarnation, SinkId, SourceId},
    manifest::{DEAD_LETTERS, LATE_ROWS},
};
use polybolos_tables::{TableName, TableSchema, WriteOptions};
use prost::Message;

use super::{
    sink::sink,
    spec::{JobSpec, SourceSpec},
};
use crate::providers::PlatformTables;

/// The topics that a job reads, each once however many tables are declared over it.
#[derive(Debug, Default)]
struct Topics {
    specs: BTreeMap<SourceId, SourceSpec>,
}

impl Topics {
    fn id_of(&self, connection: &Connection, topic: &str) -> Option<SourceId> {
        let reads = |spec: &SourceSpec| spec.topic == topic && spec.connection == *connection;
        self.specs.iter().find(|(_, spec)| reads(spec)).map(|(id, _)| *id)
    }
}

fn topics(platform: &PlatformTables, job: &str, plan: &JobPlan) -> anyhow::Result<Topics> {
    let mut topics = Topics::default();
    let mut first: BTreeMap<SourceId, &TableDefinition> = BTreeMap::new();
    for table in plan.inserts.iter().flat_map(|insert| &insert.sources) {
        let kafka = match (table.topic(), &table.connector) {
            (Some(kafka), _) => kafka,
            (None, Connector::Filesystem(_)) => continue,
            _ => bail!("job {job} reads {}, which is neither a Kafka table nor files", table.name),
        };
        let connection = platform.connection(&kafka)?;
        let of_headers = |kind: &ColumnKind| matches!(kind, ColumnKind::Metadata { from: MetadataKey::Headers, .. });
        let headers = table.columns.iter().any(|column| of_headers(&column.kind));
        if let Some(id) = topics.id_of(&connection, &kafka.topic)
            && let Some(spec) = topics.specs.get_mut(&id)
        {
            spec.headers |= headers;
            let other = first[&id];
            let keeps_rows = table.keeps_last_record() || other.keeps_last_record();
            // What a query says itself is not passed over, as its topic is read once.
            let is_told = [table, other].iter().any(|table| table.name.without_options().is_some());
            if (keeps_rows || is_told) && other.topic().is_some_and(|other| other.startup != kafka.startup) {
                bail!(
                    "job {job} reads topic {} as {} and as {}, which begin at different records; leave 'scan.startup.mode' out, or give each a job of its own",
                    kafka.topic,
                    other.name,
                    table.name
                );
            }
        } else {
            let id = SourceId(topics.specs.len() as u32);
            first.insert(id, table);
            let spec = SourceSpec {
                table: table.name.to_string(),
                topic: kafka.topic.clone(),
                connection,
                headers,
                group: format!("polybolos.{job}"),
            };
            topics.specs.insert(id, spec);
        }
    }
    Ok(topics)
}

/// Everything that a runner needs of a job.
pub async fn job_spec(
    platform: &PlatformTables,
    session: &SessionState,
    definition: &JobDefinition,
    plan: &JobPlan,
) -> anyhow::Result<JobSpec> {
    let topics = topics(platform, &definition.name, plan)?;
    let mut sinks = BTreeMap::new();
    for (index, insert) in plan.inserts.iter().enumerate() {
        let (_, _, sink) = sink(platform, insert)?;
        sinks.insert(SinkId(index as u32), (insert.target.name.to_string(), sink));
    }
    let letters = [
        (DEAD_LETTERS, dead_letters::table(), vec![], &plan.options.dead_letters_topic),
        (LATE_ROWS, dead_letters::late_rows(), late_tables(plan), &plan.options.late_rows_topic),
    ];
    for (id, table, others, topic) in letters {
        let others = others.into_iter().map(|other| other.name).collect();
        sinks.insert(id, (table.name.to_string(), letters_sink(platform, table, others, topic.as_ref())));
    }
    let mut config = CoordinatorConfig { on_data_loss: on_data_loss(plan), ..CoordinatorConfig::default() };
    let to_topics = sinks.iter().filter(|(_, (_, spec))| spec.topic().is_some());
    config.staying = to_topics.map(|(id, _)| *id).collect();
    let template = if plan.is_stateful {
        let template = stateful(platform, session, (&definition.name, &definition.incarnation), plan, &topics).await?;
        config.layout = PartLayout::Shared { most: plan.options.parallelism };
        config.has_timers = template.flow().dataflow.graph().has_timers();
        config.timer_granule_us = plan.event_time.timer_granule_us(plan.options.allowed_lateness_us);
        config.watermarked = idle_timeouts(platform, plan, &topics)?;
        JobTemplate::Stateful(template)
    } else {
        JobTemplate::Stateless(stateless(platform, session, definition, plan).await?)
    };
    Ok(JobSpec { name: definition.name.clone(), template: Arc::new(template), sources: topics.specs, sinks, config })
}

/// Tables that take the job's late rows, beside the system's.
pub fn late_tables(plan: &JobPlan) -> Vec<TableSchema> {
    let named = plan.options.late_rows_table.iter();
    named.map(|(keyspace, name)| TableSchema { name: TableName::new(keyspace, name), ..dead_letters::late_rows() }).collect()
}

/// Where letters of one kind go: the system's table, and what the job names beside it; in a topic they are keyed by their identity.
fn letters_sink(platform: &PlatformTables, table: TableSchema, others: Vec<TableName>, topic: Option<&String>) -> SinkSpec {
    let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let options = WriteOptions { batch_rows: 1, ..WriteOptions::default() };
    if topic.is_none() && others.is_empty() {
        return SinkSpec::Table { table: table.name, key: None, columns, options };
    }
    let key = table.primary_key().filter_map(|key| columns.iter().position(|column| column == key)).collect();
    let topic = topic.map(|topic| TopicTarget {
        connection: platform.kafka.clone(),
        topic: topic.clone(),
        key,
        raw_key: false,
        payload: (0..columns.len()).collect(),
        encode: EncodeOptions::default(),
    });
    SinkSpec::Letters { table: table.name, columns, options, others, topic }
}

fn on_data_loss(plan: &JobPlan) -> OnDataLoss {
    let continues = |table: &TableDefinition| table.topic().is_some_and(|kafka| kafka.on_data_loss == SqlOnDataLoss::Continue);
    let mut tables = plan.inserts.iter().flat_map(|insert| &insert.sources).filter(|table| table.is_unbounded()).peekable();
    let of_tables = tables.peek().is_some() && tables.all(continues);
    match plan.options.on_data_loss {
        Some(SqlOnDataLoss::Continue) => OnDataLoss::Continue,
        None if of_tables => OnDataLoss::Continue,
        _ => OnDataLoss::Fail,
    }
}

fn on_error(plan: &JobPlan) -> OnError {
    match plan.options.on_error {
        SqlOnError::DeadLetter => OnError::DeadLetter,
        SqlOnError::Fail => OnError::Fail,
    }
}

async fn stateless(
    platform: &PlatformTables,
    session: &SessionState,
    definition: &JobDefinition,
    plan: &JobPlan,
) -> anyhow::Result<PlanTemplate> {
    let [insert] = plan.inserts.as_slice() else { bail!("job {} has several INSERTs and no state", definition.name) };
    let (keeping, checks, _) = sink(platform, insert)?;
    let identity = JobIdentity {
        job: definition.name.clone(),
        incarnation: Incarnation(definition.incarnation.clone()),
        on_error: on_error(plan),
    };
    let write = WriteSpec { sink: SinkId(0), keeping };
    let template = PlanTemplate::build(session, &insert.plan, identity, write, checks).await.map_err(SqlError::from)?;
    template.check(&*execution::plan_context()?).with_context(|| format!("job {}", definition.name))?;
    Ok(template)
}

async fn stateful(
    platform: &PlatformTables,
    session: &SessionState,
    (job, incarnation): (&str, &str),
    plan: &JobPlan,
    topics: &Topics,
) -> anyhow::Result<EpochTemplate> {
    let mut event_times = vec![];
    for source in &plan.watermarks {
        event_times.extend(event_time(platform, session, plan, source, topics)?);
    }
    let mut sections = vec![];
    for (index, insert) in plan.inserts.iter().enumerate() {
        let (keeping, checks, _) = sink(platform, insert)?;
        let physical = planning::plan(session, &insert.plan).await.map_err(SqlError::from)?;
        let physical = lookup::into_branches(physical)?;
        let sources = Sources { job, incarnation, plan, topics, event_times: &event_times };
        let physical = sources.name(fuse_scans(physical)?)?;
        sections.push(SinkSection {
            sink: SinkId(index as u32),
            keeping,
            checks,
            emit_on_close: insert.emit == Emit::OnWindowClose,
            plan: encode_plan(&physical).context("the job's plan cannot travel to executors")?,
        });
    }
    let event_times = event_times.into_iter().map(|(time, _)| time).collect();
    let spec = EpochSpec {
        job: job.to_owned(),
        incarnation: Incarnation(incarnation.to_owned()),
        lanes: usize::from(plan.options.state_partitions),
        window_ends: plan.event_time.ends.iter().map(|ends| (ends.every_us, ends.offset_us)).collect(),
        allowed_lateness_us: plan.options.allowed_lateness_us,
        ttl_us: plan.options.state_ttl_us,
        event_times,
        sinks: sections,
    };
    let template = EpochTemplate::build(spec, &*execution::plan_context()?).with_context(|| format!("job {job}"))?;
    for reader in template.flow().scans.iter().flat_map(|scan| &scan.readers) {
        lookup::check(&reader.stages, platform.tables.as_ref()).with_context(|| format!("job {job}"))?;
    }
    for (index, insert) in plan.inserts.iter().enumerate() {
        let changing = template.flow().dataflow.graph().is_changing(index);
        check_sink(job, insert, changing, plan.options.allowed_lateness_us > 0)?;
    }
    Ok(template)
}

/// What a job's operators are, for EXPLAIN: one line each, indented; nothing of a stateless job.
pub async fn operators(platform: &PlatformTables, session: &SessionState, plan: &JobPlan) -> anyhow::Result<String> {
    if !plan.is_stateful {
        return Ok(String::new());
    }
    let topics = topics(platform, &plan.name, plan)?;
    let template = stateful(platform, session, (&plan.name, "explained"), plan, &topics).await?;
    let graph = template.flow().dataflow.graph().clone();
    let passes = match plan.options.allowed_lateness_us {
        0 => "once the watermark passes".to_owned(),
        allowed_us => format!("once the watermark is {} past", length(allowed_us)),
    };
    let mut text = String::from("\n  operators");
    for index in 0..plan.inserts.len() {
        for line in graph.explain(index).lines() {
            text.push_str("\n    ");
            text.push_str(&line.replace("once the watermark passes", &passes));
        }
    }
    Ok(text)
}

/// What a person should know of a plan before it runs for months.
pub fn notices(plan: &JobPlan, template: &JobTemplate) -> anyhow::Result<Vec<String>> {
    let idle = idle_lateness(plan);
    let JobTemplate::Stateful(template) = template else { return Ok(idle.into_iter().collect()) };
    let declare = undeclared_watermarks(plan);
    let notice = |operator: String| {
        format!(
            "the state of job {} grows with its input and is never dropped: {operator}; {declare}group or join by windows or intervals of a watermarked time, set 'state.ttl', or say 'state.unbounded' = 'allow'",
            plan.name
        )
    };
    let growing: Vec<String> = template.flow().dataflow.graph().growing().into_iter().map(notice).collect();
    let growing = match (plan.options.state_unbounded, growing.first()) {
        (StateUnbounded::Allow, _) => vec![],
        (StateUnbounded::Refuse, Some(first)) => bail!("{first}"),
        _ => growing,
    };
    Ok(growing.into_iter().chain(shared_lateness(plan)).chain(idle).collect())
}

/// What to do before anything can be dropped, where tables of topics have no watermark.
fn undeclared_watermarks(plan: &JobPlan) -> String {
    let read = plan.inserts.iter().flat_map(|insert| &insert.sources);
    let unwatched = read.filter(|table| table.watermark.is_none() && table.topic().is_some());
    let tables: BTreeSet<String> = unwatched.map(|table| table.name.to_string()).collect();
    if tables.is_empty() {
        return String::new();
    }
    let tables = tables.into_iter().collect::<Vec<_>>().join(", ");
    format!("declare WATERMARK FOR column AS column - INTERVAL '5' SECOND in {tables}, and ")
}

/// Lateness is allowed of rows that are never late.
fn idle_lateness(plan: &JobPlan) -> Option<String> {
    (plan.options.allowed_lateness_us > 0 && plan.watermarks.is_empty()).then(|| {
        format!(
            "'allowed_lateness' of job {} does nothing, as no row is late for it; group or join by windows or intervals of a watermarked time, or leave it out",
            plan.name
        )
    })
}

/// A row that is late is so for the whole job, also for INSERTs that have no windows.
fn shared_lateness(plan: &JobPlan) -> Option<String> {
    let is_watched =
        |insert: &&InsertPlan| insert.sources.iter().any(|table| plan.watermarks.iter().any(|it| it.table == table.name));
    let judge = plan.inserts.iter().find(|insert| insert.judges_time)?;
    let bystander = plan.inserts.iter().find(|insert| !insert.judges_time && is_watched(insert))?;
    Some(format!(
        "rows that are late for the windows of {} are left out of {} as well, as job {} reads its tables once for all its INSERTs; give the INSERT INTO {} a job of its own if it is to have them",
        judge.target.name, bystander.target.name, plan.name, bystander.target.name
    ))
}

/// A table that only takes rows cannot follow an answer that takes some back.
fn check_sink(job: &str, insert: &InsertPlan, changing: bool, allows_late: bool) -> anyhow::Result<()> {
    match &insert.target.connector {
        Connector::Cassandra(_) | Connector::UpsertKafka(_) | Connector::Blackhole | Connector::Print { .. } => Ok(()),
        Connector::Kafka(_) | Connector::Filesystem(_) if !changing => Ok(()),
        Connector::Kafka(_) | Connector::Filesystem(_) if allows_late && insert.emit == Emit::OnWindowClose => bail!(
            "job {job} has 'allowed_lateness', so windows that were written change, and table {} only takes rows; write to a Cassandra or upsert-kafka table, or leave 'allowed_lateness' out",
            insert.target.name
        ),
        Connector::Filesystem(_) => bail!(
            "job {job} takes rows back that it wrote, and files of table {} only take rows; write to a Cassandra or upsert-kafka table, or group by windows and use EMIT ON WINDOW CLOSE",
            insert.target.name
        ),
        Connector::Kafka(_) => bail!(
            "job {job} takes rows back that it wrote, and table {} only takes rows; declare it with 'connector' = 'upsert-kafka' and a PRIMARY KEY, or group by windows and use EMIT ON WINDOW CLOSE",
            insert.target.name
        ),
    }
}

/// What scans of a job's plans are completed with.
struct Sources<'a> {
    job: &'a str,
    incarnation: &'a str,
    plan: &'a JobPlan,
    topics: &'a Topics,
    /// With the columns that each needs.
    event_times: &'a [(EventTime, Schema)],
}

impl Sources<'_> {
    /// Gives every scan its topic's number, the job's name and ways, and the columns that its table's event time is made of.
    fn name(&self, plan: Arc<dyn ExecutionPlan>) -> anyhow::Result<Arc<dyn ExecutionPlan>> {
        if let Some(scan) = plan.downcast_ref::<RecordScanExec>() {
            return Ok(Arc::new(self.complete(scan)?));
        }
        let mut reads_clock = false;
        plan.apply_expressions(&mut |expression| {
            reads_clock |= clock::reads_clock(expression);
            Ok(TreeNodeRecursion::Continue)
        })?;
        if reads_clock {
            bail!(
                "job {} reads the clock (now(), PROCTIME()) above a join or an aggregate; select it as a column where the Kafka table is read",
                self.job
            );
        }
        let children = plan.children().into_iter().map(|child| self.name(child.clone())).collect::<anyhow::Result<Vec<_>>>()?;
        if children.is_empty() {
            return Ok(plan);
        }
        Ok(datafusion::physical_plan::replace_children_if_necessary(plan, children)?)
    }

    fn complete(&self, scan: &RecordScanExec) -> anyhow::Result<RecordScanExec> {
        let mut spec = scan.spec().as_ref().clone();
        let source = self.topics.id_of(&spec.connection, &spec.topic);
        spec.source = source.ok_or_else(|| anyhow!("topic {} is not among the job's sources", spec.topic))?.0;
        (spec.job, spec.incarnation) = (self.job.to_owned(), self.incarnation.to_owned());
        spec.on_error = on_error(self.plan);
        let decoded = scan.decoded();
        let event_time = self.event_times.iter().find(|(time, _)| time.is_of(&spec));
        let missing = |field: &&Arc<Field>| decoded.index_of(field.name()).is_err();
        let missing: Vec<Arc<Field>> = event_time.iter().flat_map(|(_, needed)| needed.fields()).filter(missing).cloned().collect();
        if missing.is_empty() {
            return Ok(scan.with_spec(spec));
        }
        spec.fields.extend(missing.iter().map(|field| Source::Json { name: field.name().clone() }));
        let more: SchemaRef = Arc::new(Schema::new(decoded.fields().iter().cloned().chain(missing).collect::<Vec<_>>()));
        // What the query reads goes on alone.
        let column = |(index, field): (usize, &Arc<Field>)| (Arc::new(Column::new(field.name(), index)) as _, field.name().clone());
        let only = Step::project(decoded.fields().iter().enumerate().map(column).collect(), &more)?;
        let steps = [only].into_iter().chain(scan.steps().iter().cloned()).collect();
        Ok(RecordScanExec::new(Arc::new(spec), more, steps, scan.child().clone()))
    }
}

/// How executors find a table's event time in its records.
/// By source with a watermark, how long the watermark waits for a silent partition: as its table says, of several tables the most patient.
fn idle_timeouts(platform: &PlatformTables, plan: &JobPlan, topics: &Topics) -> anyhow::Result<BTreeMap<SourceId, u64>> {
    let mut timeouts = BTreeMap::new();
    for watermark in &plan.watermarks {
        let Some((_, source)) = watermarked(platform, plan, watermark, topics)? else { continue };
        let timeout = watermark.idle_timeout_us.map_or(IDLE_TIMEOUT_US, i64::unsigned_abs);
        let patience = timeouts.entry(source).or_insert(timeout);
        *patience = timeout.max(*patience);
    }
    Ok(timeouts)
}

/// The table that a watermark is of, and its topic's number, where the job reads it.
fn watermarked<'a>(
    platform: &PlatformTables,
    plan: &'a JobPlan,
    watermark: &WatermarkSource,
    topics: &Topics,
) -> anyhow::Result<Option<(&'a TableDefinition, SourceId)>> {
    let mut tables = plan.inserts.iter().flat_map(|insert| &insert.sources);
    let Some(table) = tables.find(|table| table.name == watermark.table) else { return Ok(None) };
    let Connector::Kafka(kafka) = &table.connector else { return Ok(None) };
    Ok(topics.id_of(&platform.connection(kafka)?, &kafka.topic).map(|source| (table, source)))
}

fn event_time(
    platform: &PlatformTables,
    session: &SessionState,
    plan: &JobPlan,
    watermark: &WatermarkSource,
    topics: &Topics,
) -> anyhow::Result<Option<(EventTime, Schema)>> {
    let Some((table, source)) = watermarked(platform, plan, watermark, topics)? else { return Ok(None) };
    let stored = table.stored();
    let schema = stored.arrow_schema();
    let mut needs: Vec<String> = watermark.expression.column_refs().into_iter().map(|column| column.name.clone()).collect();
    needs.sort();
    let fields = needs.iter().map(|name| schema.field_with_name(name).cloned()).collect::<Result<Vec<_>, _>>();
    let fields = fields.with_context(|| format!("the watermark of table {}", table.name))?;
    let needed = Schema::new(fields);
    let over = DFSchema::try_from(needed.clone())?;
    // Types are brought together as in a query.
    let expression = session.create_physical_expr(watermark.expression.clone(), &over)?;
    let time = EventTime {
        source: source.0,
        column: stored.column(&watermark.column).map(|column| column.name.clone()),
        expression: serialize_physical_expr(&expression, &PolybolosCodec::default())?.encode_to_vec(),
        needs,
        delay_us: watermark.delay_us,
    };
    // What comes from the record's envelope is there when the query reads it.
    let is_in_payload = |name: &str| stored.column(name).is_some_and(|column| matches!(column.kind, ColumnKind::Physical));
    let in_payload: Vec<_> = needed.fields().iter().filter(|field| is_in_payload(field.name())).cloned().collect();
    Ok(Some((time, Schema::new(in_payload))))
}
