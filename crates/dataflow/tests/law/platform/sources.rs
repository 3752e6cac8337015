//! Where the rows of a case come from on a platform: topics, files that a job reads once, a topic that keeps the last record of each
//! key, and a table in which rows are looked up.
use std::{fs, path::PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value as Json, json};

use super::{folder, stem};
use crate::{
    cases::Case,
    queries::Generated,
    spelling::either,
    tables::{BEGIN_DAY, Column, Kind, Shape, Table, Value},
};

/// Of every so many cases, these read files where they can, one has a topic that keeps last records, and one, among those with a job
/// that looks at each row for itself, looks rows up.
const EVERY: u64 = 8;
const WITH_FILES: [u64; 2] = [2, 6];
const WITH_LAST_RECORDS: u64 = 5;
const WITH_LOOK_UP: u64 = 4;

/// So many keys have last records, and one record in so many deletes its key.
const KEYS: usize = 15;
const DELETED_IN: usize = 4;
/// Of the table that rows are looked up in; keys of rows go beyond.
const LOOKED_UP: usize = 8;

fn sql_type(column: &Column) -> &'static str {
    match (column.name, column.kind) {
        ("k", _) => "INT",
        (_, Kind::Integer) => "BIGINT",
        (_, Kind::Double) => "DOUBLE",
        (_, Kind::Decimal) => "DECIMAL(12, 2)",
        (_, Kind::Text) => "STRING",
        (_, Kind::Flag) => "BOOLEAN",
        (_, Kind::Time) => "TIMESTAMP(3)",
        (_, Kind::Date) => "DATE",
        (_, Kind::Instant) => "TIMESTAMP_LTZ(3)",
    }
}

fn columns(table: &Table) -> String {
    let columns: Vec<String> = table.columns.iter().map(|column| format!("{} {}", column.name, sql_type(column))).collect();
    columns.join(", ")
}

/// A row as JSON.
pub fn record(table: &Table, row: usize) -> Json {
    let cell = |value: &Value| match value {
        Value::Null => Json::Null,
        Value::Int(value) => json!(value),
        Value::BigInt(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Cents(value) => json!(*value as f64 / 100.0),
        Value::Text(value) => json!(value),
        Value::Flag(value) => json!(value),
        Value::TimeMs(value) => json!(value),
        // Event times begin on the 14th.
        Value::Days(value) => json!(format!("2023-11-{:02}", 14 + value - BEGIN_DAY)),
    };
    table.columns.iter().zip(&table.rows[row]).map(|(column, value)| (column.name.to_owned(), cell(value))).collect()
}

fn declared(name: &str, connector: &str, sql: String) -> Json {
    json!({"name": name, "connector": connector, "sql": sql})
}

/// The declaration of a table of the case.
pub fn table(case: &Case, number: usize) -> Json {
    let table = &case.tables[number];
    let (name, columns) = (&table.name, columns(table));
    if Some(number) == case.whole {
        let place = place(table).display().to_string();
        let options = format!("'connector' = 'filesystem', 'path' = 'file://{place}', 'format' = 'json'");
        return declared(name, "filesystem", format!("CREATE TABLE {name} ({columns}) WITH ({options})"));
    }
    let watermark = case
        .delay_ms
        .map_or_else(String::new, |delay_ms| format!(", WATERMARK FOR ts AS ts - INTERVAL '{}' SECOND", delay_ms / 1_000));
    let options = format!("'connector' = 'kafka', 'topic' = '{name}', 'format' = 'json', 'scan.watermark.idle-timeout' = '5 s'");
    declared(name, "kafka", format!("CREATE TABLE {name} ({columns}{watermark}) WITH ({options})"))
}

/// Which table is read from files: one that no statement reads alone.
pub fn read_once(case: &Case) -> Option<usize> {
    let reads = |statement: &Generated, table: usize| statement.ours.contains(&format!(" {} AS ", case.tables[table].name));
    let is_beside = |whole: usize| {
        let has_stream = |statement: &Generated| (0..case.tables.len()).any(|table| table != whole && reads(statement, table));
        case.statements.iter().any(|statement| reads(statement, whole)) && case.statements.iter().all(has_stream)
    };
    match case.whole {
        Some(whole) => is_beside(whole).then_some(whole),
        None if WITH_FILES.contains(&(case.seed % EVERY)) => (0..case.tables.len()).rev().find(|whole| is_beside(*whole)),
        None => None,
    }
}

fn place(table: &Table) -> PathBuf {
    folder().join("files").join(&table.name)
}

/// Writes the files of a case that has some.
pub fn write_files(case: &Case) {
    let Some(table) = case.whole.map(|whole| &case.tables[whole]) else { return };
    let place = place(table);
    fs::create_dir_all(&place).expect("the folder can be written to");
    let lines: String = (0..table.rows.len()).map(|row| format!("{}\n", record(table, row))).collect();
    fs::write(place.join("rows.json"), lines).expect("the folder can be written to");
}

/// A topic that keeps of each key the last record of a table, if that does not delete the key.
pub struct LastRecords {
    name: String,
    of: usize,
}

impl LastRecords {
    pub fn of(case: &Case) -> Option<Self> {
        let of = (0..case.tables.len()).find(|table| Some(*table) != case.whole)?;
        (case.seed % EVERY == WITH_LAST_RECORDS).then(|| Self { name: format!("{}{}_latest", stem(), case.seed), of })
    }

    pub fn table<'a>(&self, case: &'a Case) -> &'a Table {
        &case.tables[self.of]
    }

    pub fn declared(&self, case: &Case) -> Json {
        let (name, columns) = (&self.name, columns(self.table(case)));
        let options = format!("'connector' = 'upsert-kafka', 'topic' = '{name}', 'key.format' = 'json', 'value.format' = 'json'");
        let sql = format!("CREATE TABLE {name} (rk BIGINT, {columns}, PRIMARY KEY (rk) NOT ENFORCED) WITH ({options})");
        declared(name, "upsert-kafka", sql)
    }

    /// Each key has a partition. A row's number is its `id`.
    pub fn arrivals(&self, case: &Case) -> Vec<Json> {
        let arrivals = case.arrivals.iter().filter(|arrival| arrival.table == self.of);
        let sent = arrivals.map(|arrival| {
            let key = arrival.row % KEYS;
            let value = if arrival.row.is_multiple_of(DELETED_IN) { Json::Null } else { record(self.table(case), arrival.row) };
            json!([self.name, key % case.partitions, arrival.epoch, value, {"rk": key}])
        });
        sent.collect()
    }

    /// In FROM, under this alias.
    pub fn from(&self, case: &Case, alias: &str) -> String {
        let all = &self.table(case).name;
        let numbered = format!("SELECT *, row_number() OVER (PARTITION BY id % {KEYS} ORDER BY id DESC) AS place FROM {all}");
        let plain = format!("(SELECT * FROM ({numbered}) AS n WHERE n.place = 1 AND n.id % {DELETED_IN} <> 0)");
        format!("{} AS {alias}", either(&self.name, &plain))
    }
}

/// The table in which a case looks rows up by `id`.
pub fn looked_up(case: &Case) -> Option<Table> {
    (case.seed % EVERY == WITH_LOOK_UP).then(|| {
        let mut rng = ChaCha8Rng::seed_from_u64(case.seed);
        Table::random(&format!("{}{}_found", stem(), case.seed), LOOKED_UP, Shape::steady(), &mut rng)
    })
}

/// The declaration of that table, and its rows.
pub fn filled(table: &Table) -> Json {
    let name = &table.name;
    let rows = (0..table.rows.len()).map(|row| record(table, row));
    let rows: Vec<String> = rows.map(|row| format!("({}, {})", row["id"], row["k"])).collect();
    let options = format!("'connector' = 'cassandra', 'keyspace' = 'law', 'table' = '{name}', 'table.create' = 'true'");
    let create = format!("CREATE TABLE {name} (id BIGINT, k INT, PRIMARY KEY (id) NOT ENFORCED) WITH ({options})");
    declared(name, "cassandra", format!("{create};\nINSERT INTO {name} VALUES {}", rows.join(", ")))
}

/// Behind a stream under the alias `a`: what is found for its `k`, as `l`.
pub fn look_up(case: &Case, table: &Table) -> String {
    let keeps_all = (case.seed / EVERY).is_multiple_of(2);
    let (words, name) = (if keeps_all { "LEFT JOIN" } else { "JOIN" }, &table.name);
    let found = either(&format!("{name} FOR SYSTEM_TIME AS OF PROCTIME()"), name);
    format!(" {words} {found} AS l ON a.k = l.id")
}
