//! Random tables: a unique `id`, a grouping key, an event time that comes out of order, and columns of every kind of value, with NULLs. Domains are
//! small, so that keys collide, and doubles are quarters, so that every order of summing them gives the same bits and comparisons with sums are fair.
use std::sync::Arc;

use datafusion::arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMillisecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What kind of value an expression has; both integers are one kind, since SQL mixes them freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Double,
    Decimal,
    Text,
    Flag,
    Time,
    Date,
    /// A moment, where a time is what clocks show.
    Instant,
}

impl Kind {
    pub const ALL: [Self; 8] =
        [Self::Integer, Self::Double, Self::Decimal, Self::Text, Self::Flag, Self::Time, Self::Date, Self::Instant];
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i32),
    BigInt(i64),
    Double(f64),
    Cents(i128),
    Text(String),
    Flag(bool),
    TimeMs(i64),
    /// Since 1970.
    Days(i32),
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    data_type: DataType,
    nullable: bool,
}

/// A table that a job reads: columns, and rows in the order in which they come.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

/// Event times start here: a moment that no window starts at.
const BEGIN_MS: i64 = 1_700_000_003_000;
pub const EVENT_TIME: &str = "ts";

/// What the columns of all tables of a case have in common.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Different keys; so many rows of a table share one, on average, as there are rows by keys.
    keys: i32,
    /// Share of NULLs in a nullable column.
    nulls: f64,
    /// Event times lag by up to so much behind the newest before them.
    disorder_ms: i64,
    /// From one row to the next, on average.
    step_ms: i64,
    null_times: bool,
}

impl Shape {
    /// A row every half a second, in order.
    pub fn steady() -> Self {
        Self { keys: 5, nulls: 0.0, disorder_ms: 0, step_ms: 500, null_times: false }
    }

    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        Self {
            keys: [2, 5, 12, 60][rng.random_range(0..4)],
            nulls: [0.0, 0.1, 0.4][rng.random_range(0..3)],
            disorder_ms: [0, 3_000, 30_000][rng.random_range(0..3)],
            step_ms: [50, 400, 2_000][rng.random_range(0..3)],
            null_times: rng.random_bool(0.2),
        }
    }
}

/// The day on which event times begin.
pub const BEGIN_DAY: i32 = 19_675;
const JSON: &str = "j";
const JSONS: [&str; 7] = [
    r#"{"a": 1, "b": "x"}"#,
    r#"{"a": -7, "b": null}"#,
    r#"{"a": {"b": [1, 2]}, "b": true}"#,
    r#"{"b": "a b"}"#,
    r#"[{"a": 2}, 3]"#,
    "no JSON",
    "",
];

const WORDS: [&str; 8] = ["", "a", "b", "ab", "Zoë", "a b", "%", "long enough to not be inlined"];

fn column(name: &'static str, kind: Kind, data_type: DataType, nullable: bool) -> Column {
    Column { name, kind, data_type, nullable }
}

impl Table {
    pub fn random(name: &str, rows: usize, shape: Shape, rng: &mut ChaCha8Rng) -> Self {
        let mut columns =
            vec![column("id", Kind::Integer, DataType::Int64, false), column("k", Kind::Integer, DataType::Int32, true)];
        for (name, kind, data_type, share) in [
            ("b", Kind::Integer, DataType::Int64, 0.75),
            ("s", Kind::Text, DataType::Utf8, 0.75),
            ("d", Kind::Double, DataType::Float64, 0.75),
            ("f", Kind::Flag, DataType::Boolean, 0.75),
            ("s2", Kind::Text, DataType::Utf8, 0.6),
            ("p", Kind::Decimal, DataType::Decimal128(12, 2), 0.5),
            ("e", Kind::Date, DataType::Date32, 0.4),
            ("z", Kind::Instant, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), 0.4),
            (JSON, Kind::Text, DataType::Utf8, 0.4),
        ] {
            if rng.random_bool(share) {
                columns.push(column(name, kind, data_type, rng.random_bool(0.8)));
            }
        }
        columns.push(column(EVENT_TIME, Kind::Time, DataType::Timestamp(TimeUnit::Millisecond, None), shape.null_times));
        let mut table = Self { name: name.to_owned(), columns, rows: Vec::new() };
        let mut now_ms = BEGIN_MS;
        for id in 0..rows {
            now_ms += rng.random_range(0..=2 * shape.step_ms);
            let row = table.columns.iter().map(|column| value(column, id as i64, now_ms, shape, rng)).collect();
            table.rows.push(row);
        }
        table
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns
                .iter()
                .map(|column| Field::new(column.name, column.data_type.clone(), column.nullable))
                .collect::<Vec<_>>(),
        ))
    }

    /// The rows of these numbers, in this order.
    pub fn batch(&self, rows: &[usize]) -> RecordBatch {
        let arrays = (0..self.columns.len())
            .map(|place| array(&self.columns[place].data_type, rows.iter().map(|row| &self.rows[*row][place])))
            .collect();
        RecordBatch::try_new(self.schema(), arrays).expect("the arrays are made after the schema")
    }

    pub fn event_time_ms(&self, row: usize) -> Option<i64> {
        match self.rows[row].last() {
            Some(Value::TimeMs(time)) => Some(*time),
            _ => None,
        }
    }

    /// Index and name of the event time's column.
    pub fn event_time(&self) -> (usize, &'static str) {
        (self.columns.len() - 1, EVENT_TIME)
    }
}

fn value(column: &Column, id: i64, now_ms: i64, shape: Shape, rng: &mut ChaCha8Rng) -> Value {
    let is_time = column.kind == Kind::Time;
    if column.nullable && rng.random_bool(if is_time { 0.05 } else { shape.nulls }) {
        return Value::Null;
    }
    match (column.name, column.kind) {
        ("id", _) => Value::BigInt(id),
        ("k", _) => Value::Int(rng.random_range(0..shape.keys)),
        (_, Kind::Integer) => Value::BigInt(rng.random_range(-5..20)),
        (_, Kind::Double) => Value::Double(f64::from(rng.random_range(-20..40)) / 4.0),
        (_, Kind::Decimal) => Value::Cents(rng.random_range(-500..1_000)),
        (JSON, _) => Value::Text(JSONS[rng.random_range(0..JSONS.len())].to_owned()),
        (_, Kind::Text) => Value::Text(WORDS[rng.random_range(0..WORDS.len())].to_owned()),
        (_, Kind::Flag) => Value::Flag(rng.random_bool(0.5)),
        (_, Kind::Date) => Value::Days(BEGIN_DAY + rng.random_range(-3..4)),
        (_, Kind::Time | Kind::Instant) => Value::TimeMs(now_ms - rng.random_range(0..=shape.disorder_ms)),
    }
}

fn array<'a>(data_type: &DataType, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    macro_rules! collect {
        ($array:ty, $variant:ident) => {
            values
                .map(|value| match value {
                    Value::$variant(inner) => Some(inner.clone()),
                    _ => None,
                })
                .collect::<$array>()
        };
    }
    match data_type {
        DataType::Int32 => Arc::new(collect!(Int32Array, Int)),
        DataType::Int64 => Arc::new(collect!(Int64Array, BigInt)),
        DataType::Float64 => Arc::new(collect!(Float64Array, Double)),
        DataType::Decimal128(precision, scale) => {
            let cents = collect!(Decimal128Array, Cents).with_precision_and_scale(*precision, *scale);
            Arc::new(cents.expect("a column has room for its values"))
        }
        DataType::Utf8 => Arc::new(collect!(StringArray, Text)),
        DataType::Boolean => Arc::new(collect!(BooleanArray, Flag)),
        DataType::Date32 => Arc::new(collect!(Date32Array, Days)),
        DataType::Timestamp(_, zone) => Arc::new(collect!(TimestampMillisecondArray, TimeMs).with_timezone_opt(zone.clone())),
        other => panic!("no column is of type {other}"),
    }
}
