//! Asks keyed tables for an epoch's keys: each key once, many at a time, and the store again while it is away.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array},
        compute::{cast, concat_batches, filter_record_batch, kernels::cmp, take},
        datatypes::SchemaRef,
        row::{RowConverter, Rows, SortField},
    },
    common::{DataFusionError, JoinSide, Result, internal_datafusion_err},
};
use futures::{StreamExt, TryStreamExt};
use hashbrown::{HashMap, hash_map::Entry};
use parking_lot::Mutex;
use polybolos_dataflow::{delta::batch_of, operators::fulfilling, without_nulls};
use polybolos_tables::{KeyPredicate, PredicateOp, ScanRequest, TableBackend, TableError, plain::plain};
use tokio_util::sync::CancellationToken;

use super::{Key, LookupJoin, Stage};
use crate::{
    external,
    steps::{self, Failure, Step},
};

/// Between two tries while the store is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// A store that has answered nothing for so long ends the attempt, and the next one asks again, for ever. An attempt that runs out
/// of its time instead is taken for one whose records take too long, and stops the job in the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom an epoch asks, and until when.
pub struct Asking<'a> {
    pub tables: &'a Arc<dyn TableBackend>,
    pub cancelled: &'a CancellationToken,
    pub unfit: &'a Mutex<Vec<UnfitRow>>,
}

/// A row that an expression fails on, as a batch of one, of the stream or of the table.
#[derive(Debug)]
pub struct UnfitRow {
    pub row: RecordBatch,
    pub error: String,
}

impl Asking<'_> {
    /// What steps make of rows, without those on which they fail.
    fn apply(&self, steps: &[Step], batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let mut failures = vec![];
        let output = steps::apply(steps, batch.clone(), &mut failures)?;
        let row = |failure: Failure| UnfitRow { row: batch.slice(failure.record as usize, 1), error: failure.error };
        self.unfit.lock().extend(failures.into_iter().map(row));
        Ok(output)
    }
}

/// Takes an epoch's rows of a scan, by lane, through its stages. Rows on which an expression fails are set aside; a pair on which the
/// condition fails is none.
///
/// # Errors
/// When the table cannot be read.
pub async fn resolve(stages: &[Stage], mut lanes: Vec<Vec<RecordBatch>>, asking: &Asking<'_>) -> Result<Vec<Vec<RecordBatch>>> {
    for stage in stages {
        match stage {
            Stage::Step(step) => {
                for batches in &mut lanes {
                    let mut output = vec![];
                    for batch in batches.drain(..) {
                        output.extend(asking.apply(std::slice::from_ref(step), batch)?);
                    }
                    *batches = output;
                }
            }
            Stage::Unnest(unnest) => {
                for batches in &mut lanes {
                    let rows = batches.drain(..).map(|batch| unnest.rows(batch)).collect::<Result<Vec<_>>>()?;
                    *batches = rows.into_iter().flatten().collect();
                }
            }
            Stage::Lookup(join) => lanes = join.lane_by_lane(lanes, asking).await?,
        }
        lanes.iter_mut().for_each(|batches| batches.retain(|batch| batch.num_rows() > 0));
    }
    Ok(lanes)
}

/// A key to ask for: one value per column of the partition key.
type Values = Vec<ArrayRef>;

impl LookupJoin {
    async fn lane_by_lane(&self, lanes: Vec<Vec<RecordBatch>>, asking: &Asking<'_>) -> Result<Vec<Vec<RecordBatch>>> {
        let converter = RowConverter::new(self.key_types().map(|data_type| SortField::new(data_type.clone())).collect())?;
        // Keys in the order in which they are met.
        let mut places: HashMap<Box<[u8]>, usize> = HashMap::new();
        let mut wanted: Vec<(Box<[u8]>, Values)> = vec![];
        let mut keyed = vec![];
        for batch in lanes.iter().flatten() {
            let columns = self.key_columns(batch)?;
            let rows = converter.convert_columns(&columns)?;
            for row in (0..batch.num_rows()).filter(|&row| columns.iter().all(|column| column.is_valid(row))) {
                if let Entry::Vacant(entry) = places.entry(rows.row(row).data().into()) {
                    wanted.push((entry.key().clone(), columns.iter().map(|column| column.slice(row, 1)).collect()));
                    entry.insert(wanted.len() - 1);
                }
            }
            keyed.push((columns, rows));
        }
        let found = self.found(wanted, asking).await?;
        let mut starts = Vec::with_capacity(found.len());
        let mut end = 0_u32;
        for batch in &found {
            starts.push(end..end + batch.num_rows() as u32);
            end += batch.num_rows() as u32;
        }
        let right = concat_batches(&self.right, &found)?;
        let mut keyed = keyed.into_iter();
        let mut joined = Vec::with_capacity(lanes.len());
        for batches in lanes {
            let mut output = vec![];
            for batch in batches {
                let Some((columns, rows)) = keyed.next() else { return Err(internal_datafusion_err!("a batch has no keys")) };
                let place = |row: usize| self.place(&places, &columns, &rows, row).map(|place| starts[place].clone());
                output.extend(self.join(&batch, &right, place, asking)?);
            }
            joined.push(output);
        }
        Ok(joined)
    }

    fn key_types(&self) -> impl Iterator<Item = &datafusion::arrow::datatypes::DataType> {
        let table = self.scan.table();
        table.partition_key.iter().filter_map(|name| table.column(name)).map(|column| &column.data_type)
    }

    /// The partition keys of rows, in the table's own types; NULL where none can be.
    fn key_columns(&self, batch: &RecordBatch) -> Result<Values> {
        let column = |(key, data_type): (&Key, &datafusion::arrow::datatypes::DataType)| {
            let values = match key {
                Key::Of(expression) => expression.evaluate(batch)?.into_array(batch.num_rows())?,
                Key::Value(value) => value.to_array_of_size(batch.num_rows())?,
            };
            Ok(cast(&values, data_type)?)
        };
        self.keys.iter().zip(self.key_types()).map(column).collect()
    }

    fn place(&self, places: &HashMap<Box<[u8]>, usize>, columns: &[ArrayRef], rows: &Rows, row: usize) -> Option<usize> {
        if columns.iter().any(|column| column.is_null(row)) {
            return None;
        }
        places.get(rows.row(row).data()).copied()
    }

    /// The table's rows of each key, as the join sees them.
    async fn found(&self, wanted: Vec<(Box<[u8]>, Values)>, asking: &Asking<'_>) -> Result<Vec<RecordBatch>> {
        let now = Instant::now();
        let mut found: Vec<Option<RecordBatch>> = {
            let cache = self.cache.lock();
            wanted.iter().map(|(key, _)| cache.get(key, now).cloned()).collect()
        };
        let missing = wanted.iter().enumerate().filter(|(place, _)| found[*place].is_none());
        let missing: Vec<(usize, Values)> = missing.map(|(place, (_, values))| (place, values.clone())).collect();
        let answered = &Mutex::new(tokio::time::Instant::now());
        let reads =
            missing.into_iter().map(|(place, values)| async move { Ok((place, self.read(values, asking, answered).await?)) });
        let reads: Vec<(usize, RecordBatch)> = futures::stream::iter(reads)
            .buffer_unordered(self.scan.options().in_flight)
            .try_collect::<Vec<_>>()
            .await
            .map_err(|error: DataFusionError| error.context(format!("looking up rows of {}", self.scan.table().name)))?;
        let mut cache = self.cache.lock();
        for (place, batch) in reads {
            cache.put(&wanted[place].0, &batch, now);
            found[place] = Some(batch);
        }
        found.into_iter().map(|batch| batch.ok_or_else(|| internal_datafusion_err!("a key was not read"))).collect()
    }

    /// `answered`: when the store answered last.
    async fn read(&self, values: Values, asking: &Asking<'_>, answered: &Mutex<tokio::time::Instant>) -> Result<RecordBatch> {
        let table = self.scan.table();
        let predicates = table.partition_key.iter().zip(values);
        let predicates = predicates.map(|(column, values)| KeyPredicate { column: column.clone(), op: PredicateOp::Eq, values });
        let columns = self.scan.columns().iter().map(|&column| table.columns[column].name.clone()).collect();
        let request = ScanRequest { table: table.clone(), columns, predicates: predicates.collect(), limit: None };
        let mut pause = RETRY_FIRST;
        let is_away = || answered.lock().elapsed() >= PATIENCE;
        let batches = loop {
            match once(asking.tables, &request).await {
                Ok(batches) => break batches,
                Err(error) if error.is_retryable() && !is_away() => {
                    tracing::debug!(table = %table.name, %error, "a look-up is tried again");
                    tokio::select! {
                        () = asking.cancelled.cancelled() => return Err(external(error)),
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_LAST),
                    }
                }
                Err(error) => return Err(external(error)),
            }
        };
        *answered.lock() = tokio::time::Instant::now();
        let schema = self.scan_schema()?;
        let fitting = asking.apply(&self.steps, concat_batches(&schema, &batches)?)?;
        Ok(concat_batches(&self.right, &fitting)?)
    }

    fn scan_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.scan.table().arrow().project(self.scan.columns())?))
    }

    /// A batch's rows beside those that were found for each and fulfil the condition.
    fn join(
        &self,
        left: &RecordBatch,
        right: &RecordBatch,
        place: impl Fn(usize) -> Option<std::ops::Range<u32>>,
        asking: &Asking<'_>,
    ) -> Result<Vec<RecordBatch>> {
        let (mut of_left, mut of_right) = (vec![], vec![]);
        for row in 0..left.num_rows() {
            for found in place(row).into_iter().flatten() {
                of_left.push(row as u32);
                of_right.push(found);
            }
        }
        let (of_left, of_right) = (UInt32Array::from(of_left), UInt32Array::from(of_right));
        let pairs = of_left.len();
        let taken = |batch: &RecordBatch, rows: &UInt32Array| -> Result<RecordBatch> {
            let columns = batch.columns().iter().map(|column| Ok(take(column, rows, None)?)).collect::<Result<_>>()?;
            batch_of(batch.schema(), columns, rows.len())
        };
        let (left_rows, right_rows) = (taken(left, &of_left)?, taken(right, &of_right)?);
        let mut fits = BooleanArray::from(vec![true; pairs]);
        for (of_left, of_right) in &self.on {
            let (one, other) =
                (of_left.evaluate(&left_rows)?.into_array(pairs)?, of_right.evaluate(&right_rows)?.into_array(pairs)?);
            fits = both(&fits, &cmp::eq(&one, &other)?)?;
        }
        if let Some(filter) = &self.filter {
            let column = |column: &datafusion::physical_plan::joins::utils::ColumnIndex| {
                let side = if column.side == JoinSide::Left { &left_rows } else { &right_rows };
                side.column(column.index).clone()
            };
            let batch = batch_of(filter.schema().clone(), filter.column_indices().iter().map(column).collect(), pairs)?;
            let fulfil = fulfilling(filter, &batch, |pair, error| {
                let row = UnfitRow { row: left_rows.slice(pair, 1), error: plain(&error.to_string()) };
                asking.unfit.lock().push(row);
            })?;
            fits = both(&fits, &fulfil)?;
        }
        let mut output = vec![];
        if fits.true_count() > 0 {
            let columns = left_rows.columns().iter().chain(right_rows.columns()).cloned().collect();
            output.push(filter_record_batch(&self.projected(columns, pairs)?, &fits)?);
        }
        if self.is_left {
            let mut alone = vec![true; left.num_rows()];
            fits.values().set_indices().for_each(|pair| alone[of_left.value(pair) as usize] = false);
            let alone = filter_record_batch(left, &BooleanArray::from(alone))?;
            if alone.num_rows() > 0 {
                let nulls = self.right.fields().iter().map(|field| new_null_array(field.data_type(), alone.num_rows()));
                let columns = alone.columns().iter().cloned().chain(nulls).collect();
                output.push(self.projected(columns, alone.num_rows())?);
            }
        }
        Ok(output)
    }

    fn projected(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let columns = match &self.projection {
            Some(kept) => kept.iter().map(|&column| columns[column].clone()).collect(),
            None => columns,
        };
        batch_of(self.output.clone(), columns, rows)
    }
}

async fn once(tables: &Arc<dyn TableBackend>, request: &ScanRequest) -> Result<Vec<RecordBatch>, TableError> {
    let mut batches = vec![];
    for slice in tables.slices(request, 1).await? {
        batches.extend(tables.scan(request, &slice).try_collect::<Vec<_>>().await?);
    }
    Ok(batches)
}

/// Where both are true.
fn both(one: &BooleanArray, other: &BooleanArray) -> Result<BooleanArray> {
    Ok(datafusion::arrow::compute::and(one, &without_nulls(other))?)
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::{AsArray, Int32Array, Int64Array, StringArray},
            datatypes::{DataType, Field, Int64Type, Schema},
        },
        common::{JoinType, NullEquality},
        logical_expr::Operator,
        physical_expr::expressions::{CastExpr, Column, binary, lit},
        physical_plan::{
            ExecutionPlan, PhysicalExpr,
            empty::EmptyExec,
            filter::FilterExec,
            joins::{
                HashJoinExec, PartitionMode,
                utils::{ColumnIndex, JoinFilter},
            },
        },
    };
    use polybolos_tables::{LookupOptions, TableName, TableSchema};

    use super::{
        super::store::{Rows, Store},
        *,
    };
    use crate::lookup_scan::LookupScanExec;

    /// Rows by `key`: as many as the key says, named by it. Away when it is asked first, or always.
    #[derive(Debug, Default)]
    struct Numbered {
        asked: Mutex<Vec<i32>>,
        came_back: Mutex<bool>,
        stays_away: bool,
    }

    impl Rows for Numbered {
        fn is_away(&self) -> bool {
            self.stays_away || !std::mem::replace(&mut *self.came_back.lock(), true)
        }

        fn rows(&self, request: &ScanRequest) -> RecordBatch {
            assert_eq!(request.columns, ["name", "key"]);
            let key = request.predicates[0].values.as_primitive::<datafusion::arrow::datatypes::Int32Type>().value(0);
            self.asked.lock().push(key);
            let rows = key.max(0) as usize;
            let names: StringArray = (0..rows).map(|row| Some(format!("{key}-{row}"))).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(Int32Array::from(vec![key; rows]))];
            let schema = Schema::new(vec![Field::new("name", DataType::Utf8, true), Field::new("key", DataType::Int32, false)]);
            RecordBatch::try_new(Arc::new(schema), columns).unwrap()
        }
    }

    fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(name, index))
    }

    /// `FROM stream LEFT JOIN names ON stream.k = names.key`, the key narrower than what it is compared with, over names that are not `3-1`.
    fn join(join_type: JoinType, options: LookupOptions) -> LookupJoin {
        join_where(join_type, options, None)
    }

    fn join_where(join_type: JoinType, options: LookupOptions, filter: Option<JoinFilter>) -> LookupJoin {
        let stream = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        let table = TableSchema {
            name: TableName::new("ks", "names"),
            columns: vec![
                polybolos_tables::Column::new("key", DataType::Int32),
                polybolos_tables::Column::new("name", DataType::Utf8),
            ],
            partition_key: vec!["key".into()],
            clustering_key: vec!["name".into()],
        };
        let scan = LookupScanExec::new(table, vec![1, 0], options).unwrap();
        let schema = scan.schema();
        let right: Arc<dyn ExecutionPlan> = Arc::new(scan);
        let predicate = binary(column("name", 0), Operator::NotEq, lit("3-1"), &schema).unwrap();
        let right: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(predicate, right).unwrap());
        let key: Arc<dyn PhysicalExpr> = Arc::new(CastExpr::new(column("key", 1), DataType::Int64, None));
        let left: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(stream));
        let (mode, nulls) = (PartitionMode::CollectLeft, NullEquality::NullEqualsNothing);
        let on = vec![(column("k", 0), key)];
        let join = HashJoinExec::try_new(left, right.clone(), on, filter, &join_type, None, mode, nulls, false).unwrap();
        let (scan, steps) = super::super::looked_up(&right).unwrap().unwrap();
        LookupJoin::of(&join, scan, steps).unwrap()
    }

    fn stream(keys: &[Option<i64>]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("k", DataType::Int64, true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(keys.to_vec()))]).unwrap()
    }

    type Pair = (Option<i64>, Option<String>);

    fn ask(join: &Stage, store: &Arc<Store<Numbered>>, lanes: Vec<Vec<RecordBatch>>) -> Vec<Pair> {
        let (rows, told) = asked(join, store, lanes);
        assert!(told.is_empty(), "{told:?}");
        rows
    }

    /// And why rows are set aside.
    fn asked(join: &Stage, store: &Arc<Store<Numbered>>, lanes: Vec<Vec<RecordBatch>>) -> (Vec<Pair>, Vec<String>) {
        let (lanes, told) = resolved(join, store, lanes);
        let lanes = lanes.unwrap();
        let mut rows = vec![];
        for batch in lanes.iter().flatten() {
            let (keys, names) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
            rows.extend(keys.iter().zip(names.iter().map(|name| name.map(str::to_owned))));
        }
        rows.sort();
        (rows, told)
    }

    fn resolved(
        join: &Stage,
        store: &Arc<Store<Numbered>>,
        lanes: Vec<Vec<RecordBatch>>,
    ) -> (Result<Vec<Vec<RecordBatch>>>, Vec<String>) {
        let tables: Arc<dyn TableBackend> = store.clone();
        let cancelled = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let unfit = Mutex::default();
        let asking = Asking { tables: &tables, cancelled: &cancelled, unfit: &unfit };
        let lanes = runtime.block_on(resolve(std::slice::from_ref(join), lanes, &asking));
        (lanes, unfit.into_inner().into_iter().map(|unfit| unfit.error).collect())
    }

    #[test]
    fn a_store_that_stays_away_ends_the_attempt() {
        let store = Arc::new(Store(Numbered { stays_away: true, ..Numbered::default() }));
        let inner = Stage::Lookup(Box::new(join(JoinType::Inner, LookupOptions::default())));
        let error = resolved(&inner, &store, vec![vec![stream(&[Some(1)])]]).0.expect_err("nobody answers");
        assert!(error.to_string().contains("looking up rows of") && error.to_string().contains("away"), "{error}");
    }

    #[test]
    fn a_pair_on_which_the_condition_fails_is_none_and_told() {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        let divisor = binary(column("k", 0), Operator::Minus, lit(3_i64), &schema).unwrap();
        let share = binary(lit(6_i64), Operator::Divide, divisor, &schema).unwrap();
        let condition = binary(share, Operator::Lt, lit(100_i64), &schema).unwrap();
        let filter = JoinFilter::new(condition, vec![ColumnIndex { side: JoinSide::Left, index: 0 }], schema);
        let left = Stage::Lookup(Box::new(join_where(JoinType::Left, LookupOptions::default(), Some(filter))));
        let store = Arc::new(Store::<Numbered>::default());
        let (rows, told) = asked(&left, &store, vec![vec![stream(&[Some(1), Some(3)])]]);
        assert_eq!(rows, [(Some(1), Some("1-0".to_owned())), (Some(3), None)]);
        assert!(told.len() == 2 && told.iter().all(|error| error.contains("by zero")), "of 3-0 and 3-2: {told:?}");
    }

    #[test]
    fn each_key_is_asked_for_once_and_the_store_until_it_is_back() {
        let keys = [Some(2), None, Some(3), Some(2), Some(0), Some(i64::MAX)];
        let found = |key: i64, name: &str| (Some(key), Some(name.to_owned()));
        let lanes = || vec![vec![stream(&keys[..2]), stream(&keys[2..])], vec![], vec![stream(&[Some(3)])]];
        let pairs = vec![
            found(2, "2-0"),
            found(2, "2-0"),
            found(2, "2-1"),
            found(2, "2-1"),
            found(3, "3-0"),
            found(3, "3-0"),
            found(3, "3-2"),
            found(3, "3-2"),
        ];
        let store = Arc::new(Store::<Numbered>::default());
        let inner = Stage::Lookup(Box::new(join(JoinType::Inner, LookupOptions::default())));
        assert_eq!(ask(&inner, &store, lanes()), pairs);
        let mut asked = store.asked.lock().clone();
        asked.sort_unstable();
        assert_eq!(asked, [0, 2, 3]);
        let left = Stage::Lookup(Box::new(join(JoinType::Left, LookupOptions::default())));
        let alone = [(None, None), (Some(0), None)].into_iter();
        let expected: Vec<_> = alone.chain(pairs).chain([(Some(i64::MAX), None)]).collect();
        assert_eq!(ask(&left, &store, lanes()), expected);
        assert_eq!(store.asked.lock().len(), 6, "without a cache each epoch asks");
    }

    #[test]
    fn what_is_kept_is_not_asked_for() {
        let store = Arc::new(Store::<Numbered>::default());
        let options = LookupOptions { cache_ttl_ms: Some(3_600_000), ..LookupOptions::default() };
        let inner = Stage::Lookup(Box::new(join(JoinType::Inner, options)));
        let first = ask(&inner, &store, vec![vec![stream(&[Some(1), Some(0)])]]);
        assert_eq!(ask(&inner, &store, vec![vec![stream(&[Some(1), Some(0)])]]), first);
        assert_eq!(store.asked.lock().len(), 2);
    }
}
