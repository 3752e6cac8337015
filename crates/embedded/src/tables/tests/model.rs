//! The tables against a model, a map from primary key to cells: random batches, columns, timestamps, deletes, repeats and reopenings; random scans must be
//! the model's filter.
use polybolos_tables::PredicateOp;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Timestamp and value, per column `value` and `note`.
type Cells = (Option<(i64, Option<i64>)>, Option<(i64, Option<String>)>);

#[derive(Clone, Debug)]
struct Write {
    /// Which of the two columns outside the key are written.
    columns: (bool, bool),
    rows: Vec<(Key, Option<i64>, Option<String>)>,
    timestamp: i64,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    Delete(Vec<Key>, i64),
    Repeat,
    Reopen,
}

fn later<T: Ord + Clone>(cell: &mut Option<(i64, Option<T>)>, timestamp: i64, value: Option<T>) {
    let rank = |(timestamp, value): &(i64, Option<T>)| (*timestamp, value.is_none(), value.clone());
    let new = (timestamp, value);
    if cell.as_ref().is_none_or(|old| rank(&new) > rank(old)) {
        *cell = Some(new);
    }
}

fn apply(model: &mut BTreeMap<Key, Cells>, write: &Write) {
    for (key, value, note) in &write.rows {
        let cells = model.entry(key.clone()).or_default();
        if write.columns.0 {
            later(&mut cells.0, write.timestamp, *value);
        }
        if write.columns.1 {
            later(&mut cells.1, write.timestamp, note.clone());
        }
    }
}

/// What is there after writes and deletes in any order: what is younger than its key's last deletion.
fn model_of(steps: &[Step]) -> BTreeMap<Key, Cells> {
    let mut deleted: BTreeMap<&Key, i64> = BTreeMap::new();
    for step in steps {
        let Step::Delete(keys, timestamp) = step else { continue };
        for key in keys {
            deleted.entry(key).and_modify(|last| *last = (*last).max(*timestamp)).or_insert(*timestamp);
        }
    }
    let mut model = BTreeMap::new();
    for step in steps {
        let Step::Write(write) = step else { continue };
        let mut write = write.clone();
        let timestamp = write.timestamp;
        write.rows.retain(|row| deleted.get(&row.0).is_none_or(|deleted| timestamp > *deleted));
        apply(&mut model, &write);
    }
    model
}

fn key() -> impl Strategy<Value = Key> {
    // 0 and 1 bytes exercise the escapes of keys.
    ("[ab\\x00\\x01é]{1,2}", prop_oneof![-3i64..4, Just(i64::MIN), Just(i64::MAX)])
}

fn a_write() -> impl Strategy<Value = Write> {
    let row = (key(), prop::option::of(0i64..100), prop::option::of("[a-z]{0,3}"));
    (any::<(bool, bool)>(), prop::collection::vec(row, 1..30), 0i64..6).prop_map(|(columns, rows, timestamp)| {
        // One value per cell and timestamp, as the epoch protocol guarantees; equal bytes otherwise compare as ours do not in the model.
        Write { columns, rows, timestamp }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let deletes = (prop::collection::vec(key(), 1..20), 0i64..6).prop_map(|(keys, timestamp)| Step::Delete(keys, timestamp));
    prop_oneof![8 => a_write().prop_map(Step::Write), 4 => deletes, 1 => Just(Step::Repeat), 1 => Just(Step::Reopen)]
}

#[derive(Clone, Debug)]
struct Filter {
    column: &'static str,
    op: PredicateOp,
    texts: Vec<String>,
    numbers: Vec<i64>,
}

fn filter() -> impl Strategy<Value = Filter> {
    let op = prop_oneof![
        Just(PredicateOp::Eq),
        Just(PredicateOp::In),
        Just(PredicateOp::Lt),
        Just(PredicateOp::LtEq),
        Just(PredicateOp::Gt),
        Just(PredicateOp::GtEq)
    ];
    let column = prop_oneof![4 => Just("device"), 4 => Just("at"), 1 => Just("value"), 1 => Just("note")];
    (column, op, prop::collection::vec(key(), 1..4)).prop_map(|(column, op, keys)| {
        let count = if op == PredicateOp::In { keys.len() } else { 1 };
        let (texts, numbers) = keys.into_iter().take(count).unzip();
        Filter { column, op, texts, numbers }
    })
}

impl Filter {
    fn predicate(&self) -> KeyPredicate {
        let values: ArrayRef = match self.column {
            "device" | "note" => Arc::new(StringArray::from(self.texts.clone())),
            _ => Arc::new(Int64Array::from(self.numbers.clone())),
        };
        KeyPredicate { column: self.column.into(), op: self.op, values }
    }

    fn accepts(&self, key: &Key, cells: &Cells) -> bool {
        match self.column {
            "device" => self.compare(Some(&key.0), &self.texts),
            "at" => self.compare(Some(&key.1), &self.numbers),
            "value" => self.compare(cells.0.as_ref().and_then(|cell| cell.1.as_ref()), &self.numbers),
            _ => self.compare(cells.1.as_ref().and_then(|cell| cell.1.as_ref()), &self.texts),
        }
    }

    fn compare<T: Ord>(&self, value: Option<&T>, others: &[T]) -> bool {
        let Some(value) = value else { return false };
        match self.op {
            PredicateOp::Eq | PredicateOp::In => others.contains(value),
            PredicateOp::Lt => *value < others[0],
            PredicateOp::LtEq => *value <= others[0],
            PredicateOp::Gt => *value > others[0],
            PredicateOp::GtEq => *value >= others[0],
        }
    }
}

fn expected(model: &BTreeMap<Key, Cells>, filters: &[Filter]) -> Vec<Row> {
    let accepted = model.iter().filter(|(key, cells)| filters.iter().all(|filter| filter.accepts(key, cells)));
    accepted.map(|(key, (value, note))| (key.clone(), (*value).and_then(|c| c.1), note.clone().and_then(|c| c.1))).collect()
}

async fn apply_to_tables(tables: &EmbeddedTables, write_: &Write) {
    let mut columns = vec!["device", "at"];
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(write_.rows.iter().map(|row| &row.0.0))),
        Arc::new(Int64Array::from_iter_values(write_.rows.iter().map(|row| row.0.1))),
    ];
    if write_.columns.0 {
        columns.push("value");
        arrays.push(Arc::new(Int64Array::from_iter(write_.rows.iter().map(|row| row.1))));
    }
    if write_.columns.1 {
        columns.insert(0, "note");
        arrays.insert(0, Arc::new(StringArray::from_iter(write_.rows.iter().map(|row| row.2.as_ref()))));
    }
    let outcome = write(tables, &columns, arrays, write_.timestamp).await.unwrap();
    assert_eq!((outcome.rows, outcome.refused.len()), (write_.rows.len() as u64, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn tables_do_what_the_model_does(
        steps in prop::collection::vec(step(), 1..12),
        queries in prop::collection::vec((prop::collection::vec(filter(), 0..4), 1usize..5), 1..12),
    ) {
        runtime().block_on(async {
            let folder = TempDir::new().unwrap();
            let mut tables = EmbeddedTables::open(folder.path()).await.unwrap();
            tables.create(&readings(), &CreateOptions::default()).await.unwrap();
            let model = model_of(&steps);
            let mut last: Option<Write> = None;
            for step in steps {
                match step {
                    Step::Write(write) => {
                        apply_to_tables(&tables, &write).await;
                        last = Some(write);
                    }
                    Step::Delete(keys, timestamp) => delete(&tables, &keys, timestamp).await,
                    Step::Repeat => {
                        if let Some(write) = &last {
                            apply_to_tables(&tables, write).await;
                        }
                    }
                    Step::Reopen => {
                        drop(tables);
                        tables = EmbeddedTables::open(folder.path()).await.unwrap();
                    }
                }
            }
            for (filters, slices) in queries {
                let mut request = request(readings());
                request.predicates = filters.iter().map(Filter::predicate).collect();
                assert!(tables.supports(&request.table, &request.predicates).iter().all(|supported| *supported));
                let batches = read(&tables, &request, slices).await.unwrap();
                let mut found = rows(&batches);
                for partition in found.chunk_by(|a, b| a.0.0 == b.0.0) {
                    assert!(partition.is_sorted_by_key(|row| row.0.1), "clustering order is ascending");
                }
                let total = found.len();
                found.sort();
                assert_eq!(found, expected(&model, &filters));
                // Fewer columns, and none, give the same rows.
                request.columns = vec!["note".into()];
                let notes: usize = read(&tables, &request, slices).await.unwrap().iter().map(RecordBatch::num_rows).sum();
                request.columns.clear();
                let counted: usize = read(&tables, &request, slices).await.unwrap().iter().map(RecordBatch::num_rows).sum();
                assert_eq!((notes, counted), (total, total));
                request.limit = Some(3);
                let limited: usize = read(&tables, &request, 1).await.unwrap().iter().map(RecordBatch::num_rows).sum();
                assert_eq!(limited, total.min(3));
            }
        });
    }
}
