//! The law of look-ups: over a table that stays as it is, rows beside what was looked up for them are what plain DataFusion's
//! join answers over all rows that came, whatever the cuts into epochs and lanes, with attempts that are dropped, a cache that
//! forgets, and a store that is away now and then. Random queries, as jobs say them but for `FOR SYSTEM_TIME AS OF`.
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datafusion::{
    arrow::{
        array::{ArrayRef, Int32Array, Int64Array, RecordBatch, Scalar, StringArray, UInt32Array},
        compute::{filter_record_batch, kernels::cmp, take_record_batch},
        datatypes::{DataType, Field as ArrowField, Schema, SchemaRef},
        error::ArrowError,
        util::display::{ArrayFormatter, FormatOptions},
    },
    datasource::MemTable,
    prelude::{SessionConfig, SessionContext},
};
use polybolos_dataflow::planning;
use polybolos_kafka::{connection::Connection, decode::Field};
use polybolos_tables::{Column, KeyPredicate, LookupOptions, ScanRequest, TableBackend, TableName, TableSchema};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    Asking, describe, resolve, stages,
    store::{Rows, Store},
};
use crate::{
    epoch::flow::fuse_scans,
    lookup_scan::LookupTable,
    providers::{KafkaTable, Reading},
    record_scan::{OnError, ScanSpec},
    steps,
};

const SEEDS: u64 = 300;

/// What queries are made of, as it is written in them, and what EXPLAIN says of their plans.
const WORDS: &[&str] = &[
    " JOIN names AS c",
    " LEFT JOIN names AS c",
    " JOIN places AS c",
    " LEFT JOIN places AS c",
    " JOIN places AS d",
    " LEFT JOIN places AS d",
    "WHERE b > 2) AS a",
    "b + 1 AS b",
    "a.b = c.k",
    "a.b % 4 = c.k",
    "region = 'eu'",
    "AND a.s = c.name",
    "AND a.b < c.v",
    "AND c.name <> 'n1'",
    "WHERE c.v IS NULL OR",
    "c.v = d.k",
    "looks up ks.names (inner)",
    "looks up ks.names (left)",
    "looks up ks.places (inner)",
    "; looks up ks.places (left) by [region, k]",
    "kept for",
];

/// The tables, which stay as they are. Every few questions they are away.
#[derive(Debug)]
struct Fixed {
    tables: Vec<(TableSchema, RecordBatch)>,
    asked: AtomicUsize,
}

impl Fixed {
    fn new() -> Self {
        let schema = |name: &str, columns: &[(&str, DataType)], key: &[&str], clustering: &[&str]| TableSchema {
            name: TableName::new("ks", name),
            columns: columns.iter().map(|(name, data_type)| Column::new(*name, data_type.clone())).collect(),
            partition_key: key.iter().map(ToString::to_string).collect(),
            clustering_key: clustering.iter().map(ToString::to_string).collect(),
        };
        let columns = [("k", DataType::Int32), ("n", DataType::Int64), ("name", DataType::Utf8), ("v", DataType::Int64)];
        let names = schema("names", &columns, &["k"], &["n"]);
        // Of a key none, one or two rows.
        let rows: Vec<(i32, i64)> = (0..8_i32).flat_map(|k| (0..i64::from(k % 3)).map(move |n| (k, n))).collect();
        let name = |(k, n): &(i32, i64)| (k % 5 != 4).then(|| if *n == 1 { "eu".to_owned() } else { format!("n{k}") });
        let of_names: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(k, _)| Some(*k)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|(_, n)| Some(*n)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(name).collect::<StringArray>()),
            Arc::new(rows.iter().map(|(k, n)| (k % 4 != 2).then_some(i64::from(*k) + 3 * n)).collect::<Int64Array>()),
        ];
        let columns = [("region", DataType::Utf8), ("k", DataType::Int32), ("w", DataType::Int64)];
        let places = schema("places", &columns, &["region", "k"], &[]);
        let rows: Vec<(&str, i32)> = (0..6).flat_map(|k| [("eu", k), ("us", 2 * k)]).filter(|(_, k)| *k != 3).collect();
        let of_places: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(region, _)| Some(*region)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|(_, k)| Some(*k)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|(_, k)| (k % 4 != 1).then_some(i64::from(*k) * 2)).collect::<Int64Array>()),
        ];
        let of = |schema: TableSchema, columns| {
            let batch = RecordBatch::try_new(schema.arrow(), columns).unwrap();
            (schema, batch)
        };
        Self { tables: vec![of(names, of_names), of(places, of_places)], asked: AtomicUsize::new(0) }
    }

    fn table(&self, table: &TableName) -> RecordBatch {
        self.tables.iter().find(|(schema, _)| schema.name == *table).map(|(_, rows)| rows.clone()).unwrap()
    }
}

/// A table's rows with these keys.
fn found(mut rows: RecordBatch, request: &ScanRequest) -> Result<RecordBatch, ArrowError> {
    for KeyPredicate { column, values, .. } in &request.predicates {
        let column = rows.column(rows.schema().index_of(column)?).clone();
        rows = filter_record_batch(&rows, &cmp::eq(&column, &Scalar::new(values.clone()))?)?;
    }
    let places = request.columns.iter().map(|column| rows.schema().index_of(column)).collect::<Result<Vec<_>, _>>()?;
    rows.project(&places)
}

impl Rows for Fixed {
    fn is_away(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) % 11 == 3
    }

    fn rows(&self, request: &ScanRequest) -> RecordBatch {
        found(self.table(&request.table.name), request).unwrap()
    }
}

fn stream_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        ArrowField::new("id", DataType::Int64, false),
        ArrowField::new("k", DataType::Int32, true),
        ArrowField::new("b", DataType::Int64, true),
        ArrowField::new("s", DataType::Utf8, true),
    ]))
}

fn stream_rows(rng: &mut ChaCha8Rng) -> RecordBatch {
    let count = rng.random_range(20..80);
    let mut maybe = |range: std::ops::Range<i64>| -> Vec<Option<i64>> {
        (0..count).map(|_| rng.random_bool(0.9).then(|| rng.random_range(range.clone()))).collect()
    };
    let (k, b, s) = (maybe(0..10), maybe(-2..10), maybe(0..3));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..count)),
        Arc::new(k.into_iter().map(|k| k.map(|k| k as i32)).collect::<Int32Array>()),
        Arc::new(Int64Array::from(b)),
        Arc::new(s.into_iter().map(|s| s.map(|s| ["eu", "us", "n7"][s as usize])).collect::<StringArray>()),
    ];
    RecordBatch::try_new(stream_schema(), columns).unwrap()
}

fn query(rng: &mut ChaCha8Rng) -> String {
    let mut one = |texts: &[&'static str]| *texts.choose(rng).unwrap();
    let from = one(&["t AS a", "t AS a", "(SELECT * FROM t WHERE b > 2) AS a", "(SELECT id, k, b + 1 AS b, s FROM t) AS a"]);
    let kind = one(&["JOIN", "LEFT JOIN"]);
    if one(&["names", "names", "places"]) == "places" {
        let on = one(&["a.s = c.region AND a.k = c.k", "a.k = c.k AND c.region = 'eu'", "c.region = a.s AND a.b % 4 = c.k"]);
        let more = one(&["", "", " AND a.b < c.w", " WHERE a.b > 1 OR c.w IS NULL"]);
        return format!("SELECT a.id, c.w, coalesce(c.region, a.s) AS r FROM {from} {kind} places AS c ON {on}{more}");
    }
    let on = one(&["a.k = c.k", "c.k = a.k", "a.b = c.k", "a.b % 4 = c.k"]);
    let more = one(&["", "", " AND a.b < c.v", " AND c.name <> 'n1'", " AND a.s = c.name", " AND c.v > 3"]);
    let (second, items) = match one(&["", "", "JOIN", "LEFT JOIN"]) {
        "" => (String::new(), ""),
        kind => {
            let on = one(&["a.k = d.k AND d.region = 'eu'", "a.s = d.region AND a.k = d.k", "c.v = d.k AND d.region = a.s"]);
            (format!(" {kind} places AS d ON {on}"), ", d.w + c.n AS x")
        }
    };
    let condition = one(&["", "", " WHERE c.v IS NULL OR a.b > 3", " WHERE c.v > 2", " WHERE coalesce(c.name, '') <> 'n2'"]);
    format!(
        "SELECT a.id, c.name, coalesce(c.v, -1) + a.b AS y{items} FROM {from} {kind} names AS c ON {on}{more}{second}{condition}"
    )
}

/// Settings of a job's plan.
fn context() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    SessionContext::new_with_config(config)
}

fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = vec![];
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        let row = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ");
        rows.extend((0..batch.num_rows()).map(row));
    }
    rows.sort();
    rows
}

/// What plain DataFusion answers over all rows.
fn joined(runtime: &Runtime, sql: &str, rows: &RecordBatch, store: &Fixed) -> Vec<String> {
    let context = context();
    let table = |rows: &RecordBatch| Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap());
    context.register_table("t", table(rows)).unwrap();
    for (schema, rows) in &store.tables {
        context.register_table(schema.name.table.as_str(), table(rows)).unwrap();
    }
    texts(&runtime.block_on(async { context.sql(sql).await.unwrap().collect().await }).unwrap())
}

/// What comes out epoch by epoch, and what EXPLAIN says of the plan.
fn looked_up(
    runtime: &Runtime,
    sql: &str,
    rows: &RecordBatch,
    store: Arc<Store<Fixed>>,
    rng: &mut ChaCha8Rng,
) -> (Vec<String>, String) {
    let context = context();
    let schema = stream_schema();
    let fields = schema.fields().iter().map(|field| Field::Json { name: field.name().clone() }).collect();
    let spec = ScanSpec {
        job: "j".into(),
        incarnation: "i".into(),
        source: 0,
        connection: Connection { bootstrap_servers: "kafka".into(), properties: BTreeMap::new() },
        topic: "t".into(),
        fields: vec![],
        options: Default::default(),
        on_error: OnError::Fail,
        checks: vec![],
    };
    context.register_table("t", Arc::new(KafkaTable::new(schema, fields, spec, Reading::Job))).unwrap();
    let cache_ttl_ms = rng.random_bool(0.5).then_some(3_600_000);
    let options = LookupOptions { in_flight: rng.random_range(1..5), cache_ttl_ms, cache_max_rows: Some(rng.random_range(1..9)) };
    for (schema, _) in &store.tables {
        let table = Arc::new(LookupTable::new(schema.clone(), options.clone()));
        context.register_table(schema.name.table.as_str(), table).unwrap();
    }
    let plan = runtime.block_on(async {
        let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
        planning::plan(&context.state(), &plan).await.unwrap()
    });
    let (scan, stages) = stages(&fuse_scans(plan).unwrap()).unwrap_or_else(|error| panic!("{sql}: {error}")).unwrap();
    let tables: Arc<dyn TableBackend> = store;
    let cancelled = CancellationToken::new();
    let unfit = parking_lot::Mutex::default();
    let asking = Asking { tables: &tables, cancelled: &cancelled, unfit: &unfit };
    let decoded: Vec<usize> = scan.decoded().fields().iter().map(|field| rows.schema().index_of(field.name()).unwrap()).collect();
    let mut came = vec![];
    let mut start = 0;
    while start < rows.num_rows() {
        let count = rng.random_range(1..30).min(rows.num_rows() - start);
        let mut places = vec![vec![]; rng.random_range(1..4)];
        for row in start..start + count {
            let lane = rng.random_range(0..places.len());
            places[lane].push(row as u32);
        }
        start += count;
        let batches = |places: &Vec<u32>| {
            let of = |places: &[u32]| {
                let rows = take_record_batch(rows, &UInt32Array::from(places.to_vec())).unwrap().project(&decoded).unwrap();
                steps::apply(scan.steps(), rows, &mut vec![]).unwrap()
            };
            places.chunks(7).flat_map(of).collect::<Vec<_>>()
        };
        let lanes: Vec<Vec<RecordBatch>> = places.iter().map(batches).collect();
        if rng.random_bool(0.2) {
            // An attempt that is dropped.
            runtime.block_on(resolve(&stages, lanes.clone(), &asking)).unwrap();
        }
        came.extend(runtime.block_on(resolve(&stages, lanes, &asking)).unwrap().into_iter().flatten());
    }
    assert!(unfit.lock().is_empty(), "{:?}", unfit.lock());
    (texts(&came), describe(&stages))
}

#[test]
fn rows_beside_what_was_looked_up_are_what_a_join_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (mut said, mut matched) = (vec![], 0);
    for seed in 0..SEEDS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (sql, rows, store) = (query(&mut rng), stream_rows(&mut rng), Arc::new(Store(Fixed::new())));
        let expected = joined(&runtime, &sql, &rows, &store);
        let (came, explained) = looked_up(&runtime, &sql, &rows, store, &mut rng);
        assert_eq!(came, expected, "seed {seed}: {sql}\n{explained}");
        matched += came.len();
        said.extend([sql, explained]);
    }
    assert!(matched > 1_000, "{matched} rows");
    let lacking: Vec<_> = WORDS.iter().filter(|word| !said.iter().any(|text| text.contains(**word))).collect();
    assert!(lacking.is_empty(), "no query has {lacking:?}");
}
