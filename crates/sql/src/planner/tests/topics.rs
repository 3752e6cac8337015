//! Tables over topics: the last record of each key, the changes of a database, and where reading begins and ends.
use datafusion::{arrow::array::AsArray, prelude::SessionContext};

use super::{
    contents::{Rows, rows},
    *,
};

#[tokio::test]
async fn rows_of_an_upsert_topic_are_the_last_records_of_their_keys() {
    assert_eq!(rows("SELECT * FROM newest ORDER BY k").await, "a 3 6\nc 4 8");
    assert_eq!(rows("SELECT count(*) FROM newest AS n JOIN newest AS m ON n.v < m.v").await, "1");
    let job = plan("other SELECT k, twice FROM newest WHERE v > 3").await.unwrap();
    assert!(job.is_stateful && job.watermarks.is_empty());
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(
        shown.contains("last_record(public.newest.record:is_tombstone") && shown.contains("PARTITION BY [public.newest.k]"),
        "{shown}"
    );
    let explained = crate::explain::job(&job, false);
    for line in
        ["reads       2 of 3 columns: k, v", "rows        by key (k), the last record of each", "keeps rows  where v > Int64(3)"]
    {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    assert!(!explained.contains("last_record") && !explained.contains("record:"), "{explained}");
    let StatementKind::Explain(explain) = parse("EXPLAIN SELECT k FROM newest").unwrap().remove(0).kind else {
        panic!("no EXPLAIN")
    };
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    let Explained::Plan(plan) = planner.explain(&explain, 1).await.unwrap() else { panic!("a query has a plan") };
    let plans = SessionContext::new_with_state(state).execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let shown: String = plans[0].column(1).as_string::<i32>().iter().flatten().map(crate::explain::in_words).collect();
    assert!(shown.contains("number of the key's record = UInt64(1)") && !shown.contains("last_record("), "{shown}");
}

#[tokio::test]
async fn a_uuid_is_one_key_in_letters_of_either_case_and_a_text_is_not() {
    assert_eq!(rows("SELECT * FROM uuids ORDER BY k").await, "CD 3");
    assert_eq!(rows("SELECT * FROM texts ORDER BY v").await, "ab 1\ncD 2\nCD 3");
}

#[tokio::test]
async fn rows_of_a_topic_of_changes_are_those_of_the_database() {
    assert_eq!(rows("SELECT * FROM changed WHERE k >= 'a' ORDER BY k").await, "a 3 y");
    assert_eq!(rows("SELECT sum(v) FROM changed").await, "3");
    let job = plan("other SELECT k, v FROM changed").await.unwrap();
    let shown = job.inserts[0].plan.display_indent().to_string();
    assert!(!shown.contains("note"), "only what is read is decoded: {shown}");
    assert!(refused("changed SELECT k, v, 'n' FROM t").await.contains("only read"));
    let explained = crate::explain::job(&job, false);
    assert!(!explained.contains("record:") && !explained.contains("CASE"), "{explained}");
    let without_key = "CREATE TABLE c (k STRING) WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'debezium-json')";
    let change = Change { now_us: 0, incarnation: "a1".into() };
    let error = apply(&Catalog::default(), &parse(without_key).unwrap()[0], &change).unwrap_err().to_string();
    assert!(error.contains("primary key of the database's table"), "{error}");
}

#[tokio::test]
async fn a_delete_tells_its_row_before_or_by_its_key_and_an_update_leaves_the_key_alone() {
    assert_eq!(rows("SELECT * FROM keyed").await, "b 2");
    assert_eq!(rows("SELECT * FROM moved").await, "", "queries leave out what is a dead letter of jobs");
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    for (table, said) in [
        ("keyed", "deletes a row of keyed and its primary key (k) is neither in before nor in the record's key"),
        (
            "unnamed",
            "deletes a row of unnamed and its primary key (k) is missing in before; have it sent (PostgreSQL: REPLICA IDENTITY FULL)",
        ),
        ("moved", "gives a row of moved another primary key (k) in after than in before; send a delete"),
    ] {
        let create = parse(&format!("CREATE JOB j AS INSERT INTO other SELECT k, v FROM {table}")).unwrap().remove(0);
        let StatementKind::CreateJob(create) = create.kind else { panic!("not a job") };
        let job = planner.plan_job(&create, 4).await.unwrap();
        let frame = SessionContext::new_with_state(state.clone()).execute_logical_plan(job.inserts[0].plan.clone()).await.unwrap();
        let error = frame.collect().await.unwrap_err().to_string();
        assert!(error.contains(said), "{table}: {error}");
    }
}

#[tokio::test]
async fn a_query_says_itself_where_a_topic_begins_and_ends() {
    let latest = "/*+ OPTIONS('scan.startup.mode' = 'latest-offset') */";
    let job = format!("other SELECT t.k, v FROM t {latest} WHERE t.v > 1");
    let statement = format!("CREATE JOB j AS INSERT INTO {job}");
    let catalog = declared(&format!("{TABLES}{statement}"));
    let stored = catalog.job("j").unwrap().clone();
    assert_eq!((stored.sql.as_str(), stored.sources[0].to_string().as_str()), (statement.as_str(), "t"));
    let again = planner(catalog).plan_stored_job(&stored, 4).await.unwrap();
    for planned in [plan(&job).await.unwrap(), again] {
        let [source] = planned.inserts[0].sources.as_slice() else { panic!("it reads one table") };
        assert_eq!((source.name.to_string(), &source.topic().unwrap().startup), (format!("t {latest}"), &StartupMode::Latest));
        let explained = crate::explain::job(&planned, false);
        assert!(explained.contains("2 of 3 columns: k, v"), "{explained}");
    }
    let windows = format!(
        "sink SELECT k, count(*), window_end FROM TABLE(TUMBLE(TABLE t {latest}, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_end EMIT ON WINDOW CLOSE"
    );
    assert_eq!(plan(&windows).await.unwrap().watermarks.len(), 1);
    let places: Vec<String> = (0..20).map(|partition| format!("partition:{partition},offset:100")).collect();
    let places = format!("'scan.startup.mode' = 'specific-offsets', 'scan.startup.specific-offsets' = '{}'", places.join(";"));
    let planned = plan(&windows.replace("'scan.startup.mode' = 'latest-offset'", &places)).await.unwrap();
    let startup = planned.inserts[0].sources[0].topic().unwrap().startup.clone();
    assert!(matches!(startup, StartupMode::SpecificOffsets { offsets } if offsets.len() == 20));

    let bounded = "/*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */";
    let sql = format!("INSERT INTO other SELECT k, v FROM t {bounded}");
    let StatementKind::Insert(insert) = parse(&sql).unwrap().remove(0).kind else { panic!("not an INSERT") };
    let planner = planner(declared(TABLES));
    assert!(!planner.is_unbounded(&insert).unwrap());
    planner.plan_bounded_insert(&insert).await.unwrap();
    assert_eq!(rows(&format!("SELECT t.v + 1, t.* FROM t {bounded} WHERE t.v = 4")).await, "5 b 4 00:16");
    assert_eq!(rows(&format!("SELECT * FROM newest {bounded} ORDER BY k")).await, "a 3 6\nc 4 8");
}
