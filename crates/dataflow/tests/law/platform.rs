//! Cases of the law as jobs of a running platform: `tests/python/test_law.py` makes them of what [`cases`] writes, says which records became late rows,
//! and compares what the jobs' tables hold with what [`answers`] writes: plain DataFusion's answer over all others.
//!
//! A job's table needs a key, a query of the grammar has none. So a job counts equal rows: the table's key is a text of all columns that are exact, beside it
//! are the count and the bounds of the others. What is written at once for good, on close and row by row, is written as it is, under the
//! same text: no two rows of a query that emits on close are the same, as each is of a window and a key, or of rows with ids.
mod sources;

use std::{collections::BTreeSet, fs, path::PathBuf};

use datafusion::arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float64Type, Int64Type},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value as Json, json};

use super::{
    REFUSED,
    cases::Case,
    expressions::{Name, expression, mild_predicate},
    oracle,
    queries::{Construct, Generated},
    setting, spelling,
    tables::{Kind, Table},
};

/// With every so many cases a job comes that looks at each row for itself.
const ROW_BY_ROW: u64 = 4;

/// Of every so many cases, two have a job that goes on in the middle with other numbers of state partitions and executors.
const RESCALED_IN: u64 = 7;

/// A statement as it fills a table.
struct Sink {
    table: String,
    query: String,
    /// Of the table, beside its key.
    columns: Vec<(String, &'static str)>,
    emits_on_close: bool,
}

struct Job {
    name: String,
    sinks: Vec<Sink>,
}

fn folder() -> PathBuf {
    std::env::var_os("POLYBOLOS_LAW_FOLDER").map(PathBuf::from).expect("POLYBOLOS_LAW_FOLDER says where the cases are written to")
}

/// What the names of a run's tables and jobs begin with: others may lie on the same servers.
fn stem() -> String {
    std::env::var("POLYBOLOS_LAW_STEM").unwrap_or_else(|_| "law".to_owned())
}

/// One case in so many allows late rows: where they are allowed, few are late, and those shall be told exactly, too.
const ALLOWED_IN: u64 = 8;

fn the_cases() -> impl Iterator<Item = Case> {
    let (first, count) = (setting("POLYBOLOS_LAW_SEED", 1), setting("POLYBOLOS_LAW_CASES", 1));
    (first..first + count).map(|seed| named_apart(Case::random(seed, REFUSED)))
}

/// Tables of all cases live beside each other.
fn named_apart(mut case: Case) -> Case {
    if !case.seed.is_multiple_of(ALLOWED_IN) {
        case.allowed_ms = 0;
    }
    let stem = format!("{}{}", stem(), case.seed);
    for table in &mut case.tables {
        let name = format!("{stem}_{}", table.name);
        for statement in &mut case.statements {
            for sql in [&mut statement.sql, &mut statement.ours] {
                *sql = sql.replace(&format!(" {} AS ", table.name), &format!(" {name} AS "));
            }
        }
        table.name = name;
    }
    let had_whole = case.whole.is_some();
    case.whole = sources::read_once(&case);
    if case.whole.is_some() && !had_whole {
        // What meets rows without event time may come at any time.
        case = case.on_update();
    }
    // Where rows are near each other in time and share no window, jobs refuse EMIT.
    let intervals = [Construct::IntervalJoin, Construct::IntervalExists];
    for statement in case.statements.iter_mut().filter(|statement| !statement.constructs.is_disjoint(&intervals.into())) {
        statement.closing = None;
    }
    case
}

/// The text that tells a row from others, over a query named `q`.
fn key_of(statement: &Generated) -> String {
    let parts = statement.columns.iter().map(|column| match (column.exact, column.kind) {
        (false, _) => format!("CAST(q.{} IS NULL AS VARCHAR)", column.sql),
        // Zero has two signs.
        (true, Kind::Double) => format!("coalesce(CAST(q.{} + 0.0 AS VARCHAR), '∅')", column.sql),
        (true, _) => format!("coalesce(CAST(q.{} AS VARCHAR), '∅')", column.sql),
    });
    format!("'r|' || {}", parts.collect::<Vec<_>>().join(" || '|' || "))
}

fn sink(table: String, statement: &Generated, is_as_it_is: bool) -> Sink {
    let key = key_of(statement);
    let inexact: Vec<&str> = statement.columns.iter().filter(|column| !column.exact).map(|column| column.sql.as_str()).collect();
    let emits_on_close = statement.closing.is_some();
    let from = format!("FROM ({}) AS q", statement.ours);
    if emits_on_close || is_as_it_is {
        let items: String = inexact.iter().map(|column| format!(", q.{column} AS {column}")).collect();
        let columns = inexact.iter().map(|column| ((*column).to_owned(), "DOUBLE")).collect();
        return Sink { table, query: format!("SELECT {key} AS row_key{items} {from}"), columns, emits_on_close };
    }
    let mut columns = vec![("n".to_owned(), "BIGINT")];
    let mut items = String::new();
    for column in inexact {
        for bound in ["min", "max"] {
            items += &format!(", {bound}(q.{column}) AS {column}_{bound}");
            columns.push((format!("{column}_{bound}"), "DOUBLE"));
        }
    }
    let query = format!("SELECT {key} AS row_key, count(*) AS n{items} {from} GROUP BY {key}");
    Sink { table, query, columns, emits_on_close }
}

/// A filter and expressions over the rows of a table, whose alias is `a`, with its key and more columns.
fn row_by_row(table: &Table, from: &str, more: &[&str], rng: &mut ChaCha8Rng) -> Generated {
    let name = |sql: &str, kind: Kind| Name { sql: sql.to_owned(), kind, exact: true };
    let scope: Vec<_> = table.columns.iter().map(|column| name(&format!("a.{}", column.name), column.kind)).collect();
    let mut items = vec!["a.id AS c0".to_owned()];
    let mut columns = vec![name("c0", Kind::Integer)];
    for kind in Kind::ALL {
        let column = format!("c{}", columns.len());
        items.push(format!("{} AS {column}", expression(&scope, kind, 3, rng)));
        columns.push(name(&column, kind));
    }
    for whole_number in more {
        let column = format!("c{}", columns.len());
        items.push(format!("{whole_number} AS {column}"));
        columns.push(name(&column, Kind::Integer));
    }
    let filter = mild_predicate(&scope, rng);
    let text = format!("SELECT {} FROM {from} WHERE {filter}", items.join(", "));
    Generated {
        sql: spelling::plain(&text),
        ours: spelling::ours(&text),
        columns,
        constructs: BTreeSet::new(),
        ends: vec![],
        closing: None,
    }
}

/// Over a stream, each of whose rows may be looked up for.
fn stream_by_row(case: &Case) -> Generated {
    let mut rng = ChaCha8Rng::seed_from_u64(case.seed ^ 0xfeed);
    let streams: Vec<usize> = (0..case.tables.len()).filter(|table| Some(*table) != case.whole).collect();
    let table = &case.tables[streams[rng.random_range(0..streams.len())]];
    let from = format!("{} AS a", table.name);
    match sources::looked_up(case) {
        Some(found) => {
            let from = format!("{from}{}", sources::look_up(case, &found));
            row_by_row(table, &from, &["l.k"], &mut rng)
        }
        None => row_by_row(table, &from, &[], &mut rng),
    }
}

/// The case, with what [`stream_by_row`] and last records add as its last statements, and its jobs.
fn jobs(mut case: Case) -> (Case, Vec<Job>) {
    let stem = format!("{}{}", stem(), case.seed);
    let sinks = case.statements.iter().enumerate().map(|(number, statement)| sink(format!("{stem}_s{number}"), statement, false));
    let mut jobs = vec![Job { name: stem.clone(), sinks: sinks.collect() }];
    let mut add = |case: &mut Case, name: &str, statement: Generated, is_as_it_is: bool| {
        let table = format!("{stem}_s{}", case.statements.len());
        jobs.push(Job { name: format!("{stem}_{name}"), sinks: vec![sink(table, &statement, is_as_it_is)] });
        case.statements.push(statement);
    };
    if case.seed.is_multiple_of(ROW_BY_ROW) {
        let statement = stream_by_row(&case);
        add(&mut case, "rows", statement, true);
    }
    if let Some(last) = sources::LastRecords::of(&case) {
        let mut rng = ChaCha8Rng::seed_from_u64(case.seed ^ 0xcafe);
        let statement = row_by_row(last.table(&case), &last.from(&case, "a"), &[], &mut rng);
        add(&mut case, "last", statement, false);
    }
    (case, jobs)
}

impl Sink {
    fn target(&self) -> String {
        let columns: String = self.columns.iter().map(|(name, kind)| format!(", {name} {kind}")).collect();
        let table = &self.table;
        format!(
            "CREATE TABLE {table} (row_key STRING{columns}, PRIMARY KEY (row_key) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 'law', 'table' = '{table}', 'table.create' = 'true')"
        )
    }

    fn insert(&self) -> String {
        let emit = if self.emits_on_close { " EMIT ON WINDOW CLOSE" } else { "" };
        format!("INSERT INTO {} {}{emit}", self.table, self.query)
    }
}

fn described(case: Case) -> Json {
    let (case, jobs) = jobs(case);
    let mut tables: Vec<Json> = (0..case.tables.len()).map(|table| sources::table(&case, table)).collect();
    let arrivals = case.arrivals.iter().filter(|arrival| Some(arrival.table) != case.whole).map(|arrival| {
        let table = &case.tables[arrival.table];
        json!([table.name, arrival.partition, arrival.epoch, sources::record(table, arrival.row), null])
    });
    let mut arrivals: Vec<Json> = arrivals.collect();
    if let Some(last) = sources::LastRecords::of(&case) {
        tables.push(last.declared(&case));
        arrivals.extend(last.arrivals(&case));
    }
    tables.extend(sources::looked_up(&case).map(|found| sources::filled(&found)));
    let made = jobs.iter().enumerate().map(|(number, job)| {
        let inserts: Vec<String> = job.sinks.iter().map(Sink::insert).collect();
        let body = if let [one] = &inserts[..] { one.clone() } else { format!("BEGIN {}; END", inserts.join("; ")) };
        let lateness = match case.allowed_ms {
            0 => String::new(),
            allowed_ms => format!(", 'allowed_lateness' = '{allowed_ms} ms'"),
        };
        let options = |parallelism: u64| format!("'state.unbounded' = 'allow', 'parallelism' = '{parallelism}'{lateness}");
        // 4 unless it is said.
        let rescaled = (number == 0 && case.seed % RESCALED_IN < 2).then(|| {
            let state_partitions = [1, 3, 6, 9][case.seed as usize % 4];
            format!("'state.partitions' = '{state_partitions}', {}", options(1 + (case.seed + 1) % 3))
        });
        json!({
            "name": job.name,
            "sql": format!("CREATE JOB {} WITH ({}) AS {body}", job.name, options(1 + case.seed % 3)),
            "upgrade": rescaled.as_ref().map(|options| format!("UPGRADE JOB {} WITH ({options}) AS {body}", job.name)),
            "upgraded_options": rescaled,
            "sinks": job.sinks.iter().map(|sink| json!({"name": sink.table, "sql": sink.target()})).collect::<Vec<_>>(),
        })
    });
    json!({
        "seed": case.seed,
        "partitions": case.partitions,
        "epochs": case.epochs.len(),
        "tables": tables,
        "arrivals": arrivals,
        "jobs": made.collect::<Vec<_>>(),
    })
}

#[test]
#[ignore = "tests/python/test_law.py asks for it"]
fn cases() {
    let cases = the_cases().inspect(sources::write_files).map(described);
    let cases: Vec<Json> = cases.collect();
    fs::write(folder().join("cases.json"), Json::from(cases).to_string()).expect("the folder can be written to");
}

/// By job: which records were late, as `[table, partition, offset]`.
fn late_rows() -> Json {
    let text = fs::read_to_string(folder().join("late.json")).expect("test_law.py has written what was late");
    serde_json::from_str(&text).expect("it is JSON")
}

/// By table, the rows that were not late to this job.
fn on_time(case: &Case, late: &Json) -> Vec<Vec<usize>> {
    let late = late.as_array().map(Vec::as_slice).unwrap_or_default();
    let late: BTreeSet<(&str, u64, u64)> = late
        .iter()
        .map(|row| {
            let table = row[0].as_str().expect("a table");
            (table, row[1].as_u64().expect("a partition"), row[2].as_u64().expect("an offset"))
        })
        .collect();
    let mut next = vec![vec![0; case.partitions]; case.tables.len()];
    let mut rows = vec![vec![]; case.tables.len()];
    for arrival in &case.arrivals {
        let offset = &mut next[arrival.table][arrival.partition];
        if !late.contains(&(case.tables[arrival.table].name.as_str(), arrival.partition as u64, *offset)) {
            rows[arrival.table].push(arrival.row);
        }
        *offset += 1;
    }
    rows
}

/// Once all partitions are idle: the newest time of the tables that the job reads.
fn watermark_us(case: &Case, job: &Job) -> Option<i64> {
    let delay_ms = case.delay_ms?;
    let is_read = |table: &Table| job.sinks.iter().any(|sink| sink.query.contains(&format!(" {} AS ", table.name)));
    let newest = |table: &Table| (0..table.rows.len()).filter_map(|row| table.event_time_ms(row)).max();
    let newest = case.tables.iter().filter(|table| is_read(table)).filter_map(newest).max()?;
    Some((newest - delay_ms) * 1_000)
}

fn rows_of(batch: &RecordBatch, row: usize) -> Json {
    let cell = |column: &dyn Array| match column.data_type() {
        _ if column.is_null(row) => Json::Null,
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        other => panic!("a column of type {other}"),
    };
    let schema = batch.schema();
    batch.columns().iter().zip(schema.fields()).map(|(column, field)| (field.name().clone(), cell(column))).collect()
}

#[test]
#[ignore = "tests/python/test_law.py asks for it"]
fn answers() {
    let late = late_rows();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut answers = serde_json::Map::new();
    for case in the_cases() {
        let (case, jobs) = jobs(case);
        let sinks = jobs.iter().flat_map(|job| job.sinks.iter().map(move |sink| (job, sink)));
        for ((job, sink), statement) in sinks.zip(&case.statements) {
            // Of a job that was not made nothing is known.
            let Some(late) = late.get(&job.name) else { continue };
            let mut rows = on_time(&case, late);
            let watermark_us = watermark_us(&case, job);
            let mut whole = Case { statements: vec![statement.clone()], ..case.clone() };
            if let Some(found) = sources::looked_up(&case) {
                rows.push((0..found.rows.len()).collect());
                whole.tables.push(found);
            }
            // The oracle leaves rows of open windows out by a column of the statement, before the text is made.
            let wrap = |inner: String| sink.query.replacen(&statement.ours, &inner, 1);
            let answer = runtime.block_on(oracle::wrapped(&whole, 0, &rows, watermark_us, &wrap));
            let batches = answer.unwrap_or_else(|error| panic!("seed {}: {error}\n{}", case.seed, sink.query));
            let rows: Vec<Json> =
                batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| rows_of(batch, row))).collect();
            answers.insert(sink.table.clone(), rows.into());
        }
    }
    fs::write(folder().join("answers.json"), Json::Object(answers).to_string()).expect("the folder can be written to");
}
