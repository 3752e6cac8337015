//! The law of look-ups: over a table that stays as it is, rows beside what was looked up for them are what plain DataFusion's
//! join answers over all rows that came, whatever the cuts into epochs and lanes, with attempts that are dropped, a cache that
//! forgets, and a store that is away now and then. Random queries over one topic or two, as jobs say them but for
//! `FOR SYSTEM_TIME AS OF`.
use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datafusion::{
    arrow::{
        array::{ArrayRef, Int32Array, Int64Array, RecordBatch, Scalar, StringArray, UInt32Array},
        compute::{filter_record_batch, kernels::cmp, take_record_batch},
        error::ArrowError,
        util::display::{ArrayFormatter, FormatOptions},
    },
    datasource::MemTable,
    physical_plan::ExecutionPlan,
};
use polybolos_dataflow::{Dataflow, Delta, Emit, EpochInput, Graph, SinkPlan, SourceLeaf};
use polybolos_tables::{KeyPredicate, LookupOptions, ScanRequest, TableBackend, TableName, TableSchema};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    Asking, describe, of_plan,
    plans::{TOPICS, context, planned_with, stream_schema, tables},
    resolve,
    store::{Rows, Store},
};
use crate::steps;

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
    "t UNION ALL SELECT * FROM u) AS a",
    "k + 1 AS k",
    "make_array(b, b + 1)",
    "make_array('eu', s)",
    "FROM u UNION ALL SELECT id, unnest(",
    "SELECT * FROM u) AS x) AS a",
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
    "unnests; looks up ks.names",
    "unnests; looks up ks.places",
];

/// The tables, which stay as they are. Every few questions they are away.
#[derive(Debug)]
struct Fixed {
    tables: Vec<(TableSchema, RecordBatch)>,
    asked: AtomicUsize,
}

impl Fixed {
    fn new() -> Self {
        let [names, places] = tables();
        // Of a key none, one or two rows.
        let rows: Vec<(i32, i64)> = (0..8_i32).flat_map(|k| (0..i64::from(k % 3)).map(move |n| (k, n))).collect();
        let name = |(k, n): &(i32, i64)| (k % 5 != 4).then(|| if *n == 1 { "eu".to_owned() } else { format!("n{k}") });
        let of_names: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(k, _)| Some(*k)).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|(_, n)| Some(*n)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(name).collect::<StringArray>()),
            Arc::new(rows.iter().map(|(k, n)| (k % 4 != 2).then_some(i64::from(*k) + 3 * n)).collect::<Int64Array>()),
        ];
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
    let from = one(&[
        "t AS a",
        "t AS a",
        "(SELECT * FROM t WHERE b > 2) AS a",
        "(SELECT id, k, b + 1 AS b, s FROM t) AS a",
        "(SELECT * FROM t UNION ALL SELECT * FROM u) AS a",
        "(SELECT id, k + 1 AS k, b, s FROM t WHERE b < 7 UNION ALL SELECT id, k, b, 'us' FROM u) AS a",
        "(SELECT id, k, unnest(make_array(b, b + 1)) AS b, s FROM t) AS a",
        "(SELECT id, k, b, unnest(CASE WHEN b > 2 THEN make_array('eu', s) END) AS s FROM t) AS a",
        "(SELECT id, k, b, s FROM u UNION ALL SELECT id, unnest(make_array(k, 3)) AS k, b, s FROM t) AS a",
        "(SELECT id, k, unnest(make_array(b, id)) AS b, s FROM (SELECT * FROM t UNION ALL SELECT * FROM u) AS x) AS a",
    ]);
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

/// What plain DataFusion answers over all rows. `rows`: of each topic.
fn joined(runtime: &Runtime, sql: &str, rows: &[RecordBatch], store: &Fixed) -> Vec<String> {
    let context = context();
    let table = |rows: &RecordBatch| Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap());
    for (topic, rows) in TOPICS.iter().zip(rows) {
        context.register_table(*topic, table(rows)).unwrap();
    }
    for (schema, rows) in &store.tables {
        context.register_table(schema.name.table.as_str(), table(rows)).unwrap();
    }
    texts(&runtime.block_on(async { context.sql(sql).await.unwrap().collect().await }).unwrap())
}

/// What comes out epoch by epoch, and what EXPLAIN says of the plan.
fn looked_up(
    runtime: &Runtime,
    sql: &str,
    rows: &[RecordBatch],
    store: Arc<Store<Fixed>>,
    rng: &mut ChaCha8Rng,
) -> (Vec<String>, String) {
    let cache_ttl_ms = rng.random_bool(0.5).then_some(3_600_000);
    let options = LookupOptions { in_flight: rng.random_range(1..5), cache_ttl_ms, cache_max_rows: Some(rng.random_range(1..9)) };
    let leaves = RefCell::new(vec![]);
    let find = |plan: &Arc<dyn ExecutionPlan>| {
        let (scan, stages) = of_plan(plan).unwrap_or_else(|error| panic!("{sql}: {error}"))?;
        let times = vec![None; plan.schema().fields().len()];
        let leaf = SourceLeaf { source: leaves.borrow().len(), times, label: describe(&stages), whole: false };
        leaves.borrow_mut().push((scan, stages));
        Some(leaf)
    };
    let sink = SinkPlan { plan: planned_with(sql, &options), emit: Emit::OnUpdate };
    let graph = Arc::new(Graph::lower(&[sink], &find, None).unwrap_or_else(|error| panic!("{sql}: {error}")));
    let leaves = leaves.into_inner();
    let lanes = rng.random_range(1..4);
    let dataflow = Dataflow::new(graph.clone(), lanes);
    let mut state = dataflow.new_state();
    let tables: Arc<dyn TableBackend> = store;
    let cancelled = CancellationToken::new();
    let unfit = parking_lot::Mutex::default();
    let asking = Asking { tables: &tables, cancelled: &cancelled, unfit: &unfit };
    let mut came = vec![];
    let mut starts = vec![0_usize; rows.len()];
    while starts.iter().zip(rows).any(|(start, rows)| *start < rows.num_rows()) {
        let ends: Vec<usize> =
            starts.iter().zip(rows).map(|(start, rows)| (*start + rng.random_range(1..30_usize)).min(rows.num_rows())).collect();
        let mut sources = vec![vec![vec![]; lanes]; leaves.len()];
        for (index, (scan, stages)) in leaves.iter().enumerate() {
            let topic = scan.spec().source as usize;
            let rows = &rows[topic];
            let decoded: Vec<usize> =
                scan.decoded().fields().iter().map(|field| rows.schema().index_of(field.name()).unwrap()).collect();
            let mut places = vec![vec![]; lanes];
            for row in starts[topic]..ends[topic] {
                places[rng.random_range(0..lanes)].push(row as u32);
            }
            let batches = |places: &Vec<u32>| {
                let of = |places: &[u32]| {
                    let rows = take_record_batch(rows, &UInt32Array::from(places.to_vec())).unwrap().project(&decoded).unwrap();
                    steps::apply(scan.steps(), rows, &mut vec![]).unwrap()
                };
                places.chunks(7).flat_map(of).collect::<Vec<_>>()
            };
            let read: Vec<Vec<RecordBatch>> = places.iter().map(batches).collect();
            if rng.random_bool(0.2) {
                // An attempt that is dropped.
                runtime.block_on(resolve(stages, read.clone(), &asking)).unwrap();
            }
            let found = runtime.block_on(resolve(stages, read, &asking)).unwrap();
            let place = graph.sources().iter().position(|&source| source == index).unwrap();
            sources[place] = found.into_iter().map(|batches| batches.into_iter().map(Delta::added).collect()).collect();
        }
        starts = ends;
        let output = dataflow.run(&mut state, EpochInput { sources, watermark_us: None, clock_us: None }).unwrap();
        assert!(output.failed.is_empty() && output.sinks[0].iter().all(|delta| delta.weights().is_none()), "{sql}");
        came.extend(output.sinks[0].iter().map(|delta| delta.batch().clone()));
    }
    assert!(unfit.lock().is_empty(), "{:?}", unfit.lock());
    (texts(&came), graph.to_string())
}

#[test]
fn rows_beside_what_was_looked_up_are_what_a_join_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (mut said, mut matched) = (vec![], 0);
    for seed in 0..SEEDS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (sql, store) = (query(&mut rng), Arc::new(Store(Fixed::new())));
        let rows = TOPICS.map(|_| stream_rows(&mut rng));
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
