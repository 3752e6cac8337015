//! What of a pipeline a case runs: every table and view, and the jobs that the expected tables are filled by, directly or through what other jobs write.
//! Tables are declared so that nothing outside the test is touched: topics are the test platform's own, stored tables are created.
use std::collections::{BTreeMap, BTreeSet};

use polybolos_sql::{
    catalog::{Catalog, Connector, JobDefinition, TableDefinition},
    names::{RelationName, SYSTEM_SCHEMA, quoted},
    options::upsert_kafka::KeyFormat,
    show,
    statement::StatementKind,
    validate::Validation,
};
use serde_json::Value;

use crate::{
    GoldenError,
    case::{Case, Input, relation},
};

/// Stands for the folder of a run in which the files of tables are, in statements.
pub const FILES: &str = "file:///files-of-this-run";

/// Rows of one INSERT of look-up rows.
const INSERT_ROWS: usize = 100;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Statements that come first, in order.
    pub setup: Vec<String>,
    /// Names and statements of the jobs.
    pub jobs: Vec<(String, String)>,
    /// Every topic that the jobs read, with the case's records for it; none for what other jobs write.
    pub topics: BTreeMap<String, Vec<Record>>,
    /// Per job, the topics it reads.
    pub reads: BTreeMap<String, BTreeSet<String>>,
    /// By folder in [`FILES`], the lines of a file.
    pub files: BTreeMap<String, Vec<String>>,
}

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Option<String>,
    /// `None`: a tombstone.
    pub value: Option<String>,
}

impl From<&String> for Record {
    fn from(line: &String) -> Self {
        Self { key: None, value: Some(line.clone()) }
    }
}

/// Of a line for an upsert-kafka table, the member that says that the row is deleted, as Debezium's transformation to flat records has it.
const DELETED: &str = "__deleted";

/// The tables that `--update` writes where the case expects nothing yet: those that jobs fill from the case's input alone.
pub fn filled_by_input(catalog: &Catalog, case: &Case) -> Vec<RelationName> {
    let mut known: BTreeSet<RelationName> =
        case.inputs.iter().flat_map(|input| named(catalog, input)).map(|table| table.name.clone()).collect();
    let files = catalog.tables.iter().filter(|table| matches!(table.connector, Connector::Filesystem(_)));
    known.extend(files.map(|table| table.name.clone()));
    let mut filled = vec![];
    loop {
        let ready = |job: &&JobDefinition| !job.sources.is_empty() && job.sources.iter().all(|source| known.contains(source));
        let new: Vec<RelationName> = catalog
            .jobs
            .iter()
            .filter(ready)
            .flat_map(|job| &job.targets)
            .filter(|target| !known.contains(*target))
            .cloned()
            .collect();
        if new.is_empty() {
            break;
        }
        known.extend(new.iter().cloned());
        filled.extend(new);
    }
    filled.retain(|name| catalog.find_table(name).is_some_and(|table| table.primary_key.is_some()));
    filled
}

/// The tables over an input's topic, or the table it is named after.
fn named<'a>(catalog: &'a Catalog, input: &Input) -> Vec<&'a TableDefinition> {
    let over_topic = |table: &&TableDefinition| table.topic().is_some_and(|topic| topic.topic == input.name);
    match catalog.find_table(&relation(&input.name)) {
        Some(table) => vec![table],
        None => catalog.tables.iter().filter(over_topic).collect(),
    }
}

/// # Errors
/// When the case names what the pipeline does not have.
pub fn script(validation: &Validation, case: &Case, targets: &[RelationName]) -> Result<Script, GoldenError> {
    let catalog = &validation.catalog;
    let jobs = needed(catalog, case, targets)?;
    let mut script = Script::default();
    for (_, statement) in &validation.statements {
        match &statement.kind {
            StatementKind::CreateTable(create) => script.setup.push(declare(catalog, case, catalog.table(&create.name)?)),
            StatementKind::CreateView(_) | StatementKind::CreateFunction(_) | StatementKind::Insert(_) => {
                script.setup.push(statement.sql.clone());
            }
            StatementKind::CreateJob(create) if jobs.contains(&create.name) => {
                script.jobs.push((create.name.clone(), statement.sql.clone()));
            }
            _ => {}
        }
    }
    for job in catalog.jobs.iter().filter(|job| jobs.contains(&job.name)) {
        for source in &job.sources {
            if let Some(kafka) = catalog.table(source)?.topic() {
                script.topics.entry(kafka.topic.clone()).or_default();
                script.reads.entry(job.name.clone()).or_default().insert(kafka.topic.clone());
            }
        }
    }
    for input in &case.inputs {
        give(&mut script, catalog, case, input)?;
    }
    Ok(script)
}

/// Where an input's lines go: records of a topic, rows of a table that is looked up, lines of a file.
fn give(script: &mut Script, catalog: &Catalog, case: &Case, input: &Input) -> Result<(), GoldenError> {
    let place = case.folder.join("input").join(format!("{}.ndjson", input.name));
    let mut tables = named(catalog, input);
    // Where a topic is declared in several ways, the one that asks for keys.
    tables.sort_by_key(|table| !matches!(table.connector, Connector::UpsertKafka(_)));
    let topic = match tables.first().map(|table| &table.connector) {
        Some(Connector::Kafka(_) | Connector::UpsertKafka(_)) => {
            tables[0].topic().map(|topic| topic.topic.clone()).unwrap_or_default()
        }
        Some(Connector::Cassandra(_)) => {
            script.setup.extend(inserts(&place.display().to_string(), tables[0], &input.lines)?);
            return Ok(());
        }
        Some(Connector::Filesystem(_)) => {
            script.files.entry(tables[0].name.to_string()).or_default().extend(input.lines.iter().cloned());
            return Ok(());
        }
        Some(_) | None => {
            let message = format!("the pipeline has no table or topic {:?} that rows can be given to", input.name);
            return Err(GoldenError::invalid(place.display(), message));
        }
    };
    match script.topics.get_mut(&topic) {
        Some(records) => {
            let place = place.display().to_string();
            for (number, line) in input.lines.iter().enumerate() {
                records.push(
                    record(tables[0], line).map_err(|why| GoldenError::invalid(&place, format!("line {}: {why}", number + 1)))?,
                );
            }
        }
        None => {
            let message = format!(
                "no job that the case needs reads topic {topic}; leave the file out, or expect a table that is filled from it"
            );
            return Err(GoldenError::invalid(place.display(), message));
        }
    }
    Ok(())
}

/// A line as a record: of an upsert-kafka table, with the key that its columns make.
fn record(table: &TableDefinition, line: &String) -> Result<Record, String> {
    let (Connector::UpsertKafka(options), Some(primary_key)) = (&table.connector, &table.primary_key) else {
        return Ok(line.into());
    };
    let row: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let member =
        |name: &str| row.get(name).cloned().ok_or_else(|| format!("it has no {name}, which is in the key of {}", table.name));
    let members = primary_key.columns().map(|name| Ok((name.to_owned(), member(name)?))).collect::<Result<Vec<_>, String>>()?;
    let key = match (options.key, members.as_slice()) {
        (KeyFormat::Raw, [(_, Value::String(text))]) => text.clone(),
        (KeyFormat::Raw, _) => return Err("its key must be text, as the table has 'key.format' = 'raw'".into()),
        (KeyFormat::Json, _) => Value::Object(members.into_iter().collect()).to_string(),
    };
    let is_deleted = row.get(DELETED).is_some_and(|deleted| *deleted == Value::Bool(true) || *deleted == "true");
    Ok(Record { key: Some(key), value: (!is_deleted).then(|| line.clone()) })
}

/// Names of the jobs that fill the targets, and of those that fill what these read.
fn needed(catalog: &Catalog, case: &Case, targets: &[RelationName]) -> Result<BTreeSet<String>, GoldenError> {
    let mut wanted = BTreeSet::new();
    for target in targets.iter().filter(|target| target.schema != SYSTEM_SCHEMA) {
        let table = catalog.table(target)?;
        if catalog.job_that_fills(&table.name).is_none() {
            return Err(GoldenError::invalid(
                case.folder.display(),
                format!("it expects rows of {target}, and no job fills that table"),
            ));
        }
        if matches!(table.connector, Connector::Blackhole | Connector::Print { .. }) {
            return Err(GoldenError::invalid(case.folder.display(), format!("it expects rows of {target}, which keeps none")));
        }
        wanted.insert(table.name.clone());
    }
    let mut jobs = BTreeSet::new();
    if wanted.is_empty() {
        // Only dead letters or late rows are expected: whatever reads the input makes them.
        let read: Vec<&RelationName> =
            case.inputs.iter().flat_map(|input| named(catalog, input)).map(|table| &table.name).collect();
        let reads = |job: &&JobDefinition| job.sources.iter().any(|source| read.contains(&source));
        wanted.extend(catalog.jobs.iter().filter(reads).flat_map(|job| job.targets.clone()));
    }
    loop {
        let before = jobs.len();
        for job in &catalog.jobs {
            if job.targets.iter().any(|target| wanted.contains(target)) {
                jobs.insert(job.name.clone());
                wanted.extend(job.sources.iter().cloned());
            }
        }
        if jobs.len() == before {
            return Ok(jobs);
        }
    }
}

fn declare(catalog: &Catalog, case: &Case, table: &TableDefinition) -> String {
    let is_given = case.inputs.iter().any(|input| named(catalog, input).iter().any(|named| named.name == table.name));
    let mut table = table.clone();
    let set = |table: &mut TableDefinition, key: &str, value: String| {
        table.options.retain(|(known, _)| known != key);
        table.options.push((key.into(), value));
    };
    // Another cluster's topic is the test's own here.
    table.options.retain(|(key, _)| !key.starts_with("properties."));
    if matches!(table.connector, Connector::Cassandra(_)) {
        set(&mut table, "table.create", "true".into());
    }
    if matches!(table.connector, Connector::Filesystem(_)) {
        let place = format!("{FILES}/{}", table.name);
        set(&mut table, "path", place);
        if is_given {
            set(&mut table, "format", "json".into());
        }
    }
    show::create_table(&table)
}

fn inserts(place: &str, table: &TableDefinition, lines: &[String]) -> Result<Vec<String>, GoldenError> {
    let rows = crate::rows::Format::Ndjson.read(place, &lines.join("\n"))?;
    let columns = rows.columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let mut statements = vec![];
    for rows in rows.rows.chunks(INSERT_ROWS) {
        let mut values = vec![];
        for row in rows {
            let literals = row.iter().map(|value| literal(place, value)).collect::<Result<Vec<_>, _>>()?;
            values.push(format!("({})", literals.join(", ")));
        }
        statements.push(format!("INSERT INTO {} ({columns}) VALUES {}", table.name, values.join(", ")));
    }
    Ok(statements)
}

fn literal(place: &str, value: &Value) -> Result<String, GoldenError> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::String(text) => Ok(format!("'{}'", text.replace('\'', "''"))),
        Value::Array(_) | Value::Object(_) => {
            Err(GoldenError::invalid(place, format!("{value} cannot be a value of a stored table; write it as text")))
        }
    }
}

#[cfg(test)]
mod tests {
    use polybolos_sql::validate::{SourceFile, validate};

    use super::*;

    const PIPELINE: &str = "
        CREATE TABLE readings (device STRING, v INT) WITH ('connector' = 'kafka', 'topic' = 'raw', 'format' = 'json',
          'properties.bootstrap.servers' = 'elsewhere:9092');
        CREATE TABLE others (v INT) WITH ('connector' = 'kafka', 'topic' = 'others', 'format' = 'json');
        CREATE TABLE a (device STRING, v INT, PRIMARY KEY (device) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 'k');
        CREATE TABLE b (v INT, PRIMARY KEY (v) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 'k');
        CREATE JOB a_job AS INSERT INTO a SELECT device, v FROM readings;
        CREATE JOB b_job AS INSERT INTO b SELECT v FROM others;";

    async fn validation() -> Validation {
        let validation = validate(&[SourceFile { name: "p.sql".into(), text: PIPELINE.into() }]).await;
        assert!(validation.problems.is_empty(), "{:?}", validation.problems);
        validation
    }

    fn case(inputs: &[(&str, &str)]) -> Case {
        let input =
            |(name, text): &(&str, &str)| Input { name: (*name).to_owned(), lines: text.lines().map(str::to_owned).collect() };
        Case { name: "c".into(), folder: "tests/c".into(), inputs: inputs.iter().map(input).collect(), expected: vec![] }
    }

    #[tokio::test]
    async fn only_what_a_case_needs_runs_and_nothing_outside_is_touched() {
        let validation = validation().await;
        let case = case(&[("raw", "{}\n{}")]);
        assert_eq!(filled_by_input(&validation.catalog, &case), [RelationName::public("a")]);
        let script = script(&validation, &case, &[RelationName::public("a")]).expect("a script");
        assert_eq!(script.jobs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a_job"]);
        let record = Record { key: None, value: Some("{}".into()) };
        assert_eq!(script.topics, BTreeMap::from([("raw".to_owned(), vec![record.clone(), record])]));
        assert_eq!(script.setup.len(), 4);
        assert!(!script.setup[0].contains("elsewhere"), "{}", script.setup[0]);
        assert!(script.setup[2].contains("'table.create' = 'true'"), "{}", script.setup[2]);
        let again = polybolos_sql::parser::parse(&script.setup.join(";")).expect("they parse");
        assert_eq!(again.len(), 4);
    }

    #[tokio::test]
    async fn functions_are_created_before_what_calls_them() {
        let text = format!(
            "CREATE FUNCTION twice(n INT) RETURNS INT RETURN n * 2;{}",
            PIPELINE.replace("SELECT device, v FROM", "SELECT device, twice(v) FROM")
        );
        let validation = validate(&[SourceFile { name: "p.sql".into(), text }]).await;
        assert!(validation.problems.is_empty(), "{:?}", validation.problems);
        assert!(validation.warnings.is_empty(), "{:?}", validation.warnings);
        let script = script(&validation, &case(&[("raw", "{}")]), &[RelationName::public("a")]).expect("a script");
        assert_eq!(script.setup[0], "CREATE FUNCTION twice(n INT) RETURNS INT RETURN n * 2");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_named() {
        let validation = validation().await;
        let message = |case: &Case, target: &str| {
            script(&validation, case, &[RelationName::public(target)]).expect_err("refused").to_string()
        };
        assert!(message(&case(&[("nothing", "{}")]), "a").contains("no table or topic \"nothing\""));
        assert!(message(&case(&[("others", "{}")]), "a").contains("no job that the case needs reads topic others"));
        assert!(message(&case(&[("raw", "{}")]), "readings").contains("no job fills"));
        assert!(message(&case(&[("raw", "{}")]), "z").contains('z'));
    }

    #[tokio::test]
    async fn files_of_a_table_are_those_of_the_run() {
        let pipeline = "
            CREATE TABLE readings (device STRING) WITH ('connector' = 'kafka', 'topic' = 'raw', 'format' = 'json');
            CREATE TABLE rooms (device STRING, room STRING) WITH ('connector' = 'filesystem', 'path' = 's3://lake/rooms', 'format' = 'parquet');
            CREATE TABLE a (device STRING, room STRING, PRIMARY KEY (device) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 'k');
            CREATE JOB a_job AS INSERT INTO a SELECT r.device, room FROM readings AS r JOIN rooms AS o ON r.device = o.device;";
        let validation = validate(&[SourceFile { name: "p.sql".into(), text: pipeline.into() }]).await;
        assert!(validation.problems.is_empty(), "{:?}", validation.problems);
        let case = case(&[("raw", "{}"), ("rooms", "{\"device\": \"d\"}")]);
        assert_eq!(filled_by_input(&validation.catalog, &case), [RelationName::public("a")]);
        let script = script(&validation, &case, &[RelationName::public("a")]).expect("a script");
        assert_eq!(script.files, BTreeMap::from([("rooms".to_owned(), vec!["{\"device\": \"d\"}".to_owned()])]));
        let declared = &script.setup[1];
        assert!(declared.contains("'file:///files-of-this-run/rooms'") && declared.contains("'format' = 'json'"), "{declared}");
        assert!(!declared.contains("lake") && !declared.contains("parquet"), "{declared}");
    }

    #[tokio::test]
    async fn rows_of_an_upsert_table_have_their_key_and_end_with_a_tombstone() {
        let pipeline = "
            CREATE TABLE users (id INT, region STRING, name STRING, PRIMARY KEY (region, id) NOT ENFORCED)
              WITH ('connector' = 'upsert-kafka', 'topic' = 'users', 'key.format' = 'json', 'value.format' = 'json');
            CREATE TABLE a (region STRING, n BIGINT, PRIMARY KEY (region) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 'k');
            CREATE JOB a_job AS INSERT INTO a SELECT region, count(*) FROM users GROUP BY region;";
        let validation = validate(&[SourceFile { name: "p.sql".into(), text: pipeline.into() }]).await;
        assert!(validation.problems.is_empty(), "{:?}", validation.problems);
        let rows = "{\"id\": 1, \"region\": \"eu\", \"name\": \"Ann\"}\n{\"id\": 1, \"region\": \"eu\", \"__deleted\": true}";
        let script = script(&validation, &case(&[("users", rows)]), &[RelationName::public("a")]).expect("a script");
        let [first, last] = script.topics["users"].as_slice() else { panic!("{:?}", script.topics) };
        let key = |record: &Record| serde_json::from_str::<Value>(record.key.as_ref().expect("a key")).expect("JSON");
        assert_eq!((key(first), key(last)), (serde_json::json!({"region": "eu", "id": 1}), key(first)));
        assert!(first.value.as_ref().is_some_and(|value| value.contains("Ann")) && last.value.is_none(), "{script:?}");
        let error =
            super::script(&validation, &case(&[("users", "{\"id\": 1}")]), &[RelationName::public("a")]).expect_err("no key");
        assert!(error.to_string().contains("line 1: it has no region"), "{error}");
    }

    #[tokio::test]
    async fn rows_of_a_stored_table_are_inserted() {
        let validation = validation().await;
        let case = case(&[("a", "{\"device\": \"it's\", \"v\": null}"), ("raw", "{}")]);
        let script = script(&validation, &case, &[RelationName::public("a")]).expect("a script");
        assert_eq!(script.setup[4], "INSERT INTO a (device, v) VALUES ('it''s', null)");
    }
}
