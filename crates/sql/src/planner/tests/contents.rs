//! What the tables of the tests hold, and the rows that a query answers over it.
use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{Int64Array, RecordBatch, StringArray, TimestampMillisecondArray},
        json::ReaderBuilder,
        util::pretty::pretty_format_batches,
    },
    catalog::TableProvider,
    datasource::MemTable,
    prelude::SessionContext,
};

use super::*;
use crate::TableDefinition;

/// Of an upsert topic.
const RECORDS: &str = r#"
    {"k": "a", "v": 1, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"k": "b", "v": 2, "record:partition": 1, "record:offset": 0, "record:is_tombstone": false}
    {"k": "a", "v": 3, "record:partition": 0, "record:offset": 5, "record:is_tombstone": false}
    {"k": "b", "record:partition": 1, "record:offset": 1, "record:is_tombstone": true}
    {"k": "c", "record:partition": 1, "record:offset": 2, "record:is_tombstone": true}
    {"k": "c", "v": 4, "record:partition": 1, "record:offset": 3, "record:is_tombstone": false}"#;

/// Of a topic of changes.
const CHANGES: &str = r#"
    {"record:op": "r", "record:after": {"k": "a", "v": 1, "note": "x"}, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"record:op": "c", "record:after": {"k": "b", "v": 2}, "record:partition": 0, "record:offset": 1, "record:is_tombstone": false}
    {"record:op": "u", "record:before": {"k": "a", "v": 1}, "record:after": {"k": "a", "v": 3, "note": "y"}, "record:partition": 0, "record:offset": 2, "record:is_tombstone": false}
    {"record:op": "d", "record:before": {"k": "b"}, "record:partition": 0, "record:offset": 3, "record:is_tombstone": false}
    {"record:partition": 0, "record:offset": 4, "record:is_tombstone": true}"#;

/// Of topics of changes where a delete tells its row by the record's key, by nothing, and where an update gives a row another key.
const KEYED: &str = r#"
    {"record:op": "c", "record:after": {"k": "a", "v": 1}, "record:key:k": "a", "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"record:op": "c", "record:after": {"k": "b", "v": 2}, "record:key:k": "b", "record:partition": 0, "record:offset": 1, "record:is_tombstone": false}
    {"record:op": "c", "record:after": {"k": "c", "v": 3}, "record:key:k": "c", "record:partition": 0, "record:offset": 2, "record:is_tombstone": false}
    {"record:op": "d", "record:key:k": "a", "record:partition": 0, "record:offset": 3, "record:is_tombstone": false}
    {"record:op": "d", "record:before": {"k": "c"}, "record:key:k": "other", "record:partition": 0, "record:offset": 4, "record:is_tombstone": false}
    {"record:op": "d", "record:before": {"v": 2}, "record:partition": 0, "record:offset": 5, "record:is_tombstone": false}"#;
const MOVED: &str = r#"
    {"record:op": "u", "record:before": {"k": "a", "v": 1}, "record:after": {"k": "b", "v": 1}, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}"#;
const UNNAMED: &str = r#"
    {"record:payload": {"op": "d"}, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}"#;

/// Keys in letters of either case.
const CASES: &str = r#"
    {"k": "ab", "v": 1, "record:partition": 0, "record:offset": 0, "record:is_tombstone": false}
    {"k": "AB", "record:partition": 0, "record:offset": 1, "record:is_tombstone": true}
    {"k": "cD", "v": 2, "record:partition": 0, "record:offset": 2, "record:is_tombstone": false}
    {"k": "CD", "v": 3, "record:partition": 0, "record:offset": 3, "record:is_tombstone": false}"#;

/// Three keys' rows, in milliseconds.
#[derive(Debug)]
pub(super) struct Rows;

#[async_trait]
impl Providers for Rows {
    async fn provider(&self, table: &TableDefinition, _: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        if table.keeps_last_record() {
            let records = match table.name.name.as_str() {
                "keyed" => KEYED,
                "moved" => MOVED,
                "unnamed" => UNNAMED,
                "uuids" | "texts" => CASES,
                "changed" => CHANGES,
                _ => RECORDS,
            };
            let mut reader = ReaderBuilder::new(table.read_schema()).build(records.as_bytes())?;
            let batch = reader.next().expect("a batch")?;
            return Ok(Arc::new(MemTable::try_new(table.read_schema(), vec![vec![batch]])?));
        }
        let batch = RecordBatch::try_new(
            table.arrow_schema(),
            vec![
                Arc::new(StringArray::from(vec!["a", "a", "a", "b", "a"])),
                Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])),
                Arc::new(TimestampMillisecondArray::from(vec![0, 5_000, 15_000, 16_000, 26_000])),
            ],
        )?;
        Ok(Arc::new(MemTable::try_new(table.arrow_schema(), vec![vec![batch]])?))
    }

    fn system(&self, _: &str) -> Option<Arc<dyn TableProvider>> {
        None
    }
}

pub(super) async fn rows(query: &str) -> String {
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    let StatementKind::Query(query) = parse(query).unwrap().remove(0).kind else { panic!("not a query") };
    let plan = planner.plan_query(&query).await.unwrap();
    let context = SessionContext::new_with_state(state);
    let frame = context.execute_logical_plan(plan).await.unwrap();
    let batches = frame.collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace("1970-01-01T00:", "")).collect::<Vec<_>>().join(" ")
    };
    text.lines().filter(|line| line.starts_with('|')).skip(1).map(cells).collect::<Vec<_>>().join("\n")
}
