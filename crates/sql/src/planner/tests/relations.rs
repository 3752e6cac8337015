//! Names of tables and views: what is described by a plan, what is near to what does not exist.
use datafusion::{
    arrow::{datatypes::DataType, util::pretty::pretty_format_batches},
    prelude::SessionContext,
};

use super::{contents::Rows, *};

#[tokio::test]
async fn a_table_that_is_not_there_is_told_from_one_that_is_near() {
    let state = SessionStateBuilder::new().with_default_features().build();
    let planner = Planner::new(&state, Arc::new(declared(TABLES)), Arc::new(Rows));
    for (query, said) in [
        ("SELECT * FROM sidee", "table sidee does not exist; did you mean side?"),
        ("SELECT * FROM polybolos.jbs", "table polybolos.jbs does not exist; did you mean polybolos.jobs?"),
        (
            "SELECT * FROM polybolos.nothing_like_it",
            "table polybolos.nothing_like_it does not exist; SELECT table_name FROM information_schema",
        ),
        ("SELECT * FROM far.off", "table far.off does not exist; SHOW TABLES"),
        ("SELECT * FROM flatten(1)", "there is no table function flatten; write FROM t CROSS JOIN UNNEST"),
        ("SELECT v FROM t CROSS JOIN UNNEST(make_array(1)) AS x (v)", "there are two columns v; give"),
    ] {
        let StatementKind::Query(query) = parse(query).unwrap().remove(0).kind else { panic!("not a query") };
        let message = planner.plan_query(&query).await.unwrap_err().to_string();
        assert!(message.starts_with(said), "{message}");
    }
    let message = planner.catalog().table(&"big".into()).unwrap_err().to_string();
    assert_eq!(message, "table big does not exist; it is a view; SHOW CREATE VIEW shows it");
}

#[tokio::test]
async fn views_and_tables_of_the_system_are_described_by_their_plans() {
    let planner = planner(declared(TABLES));
    let columns = async |schema: &str, name: &str| {
        let plan = planner.plan_described(&RelationName::new(schema, name)).await?;
        let names =
            |plan: LogicalPlan| plan.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(" ");
        Ok::<_, SqlError>(plan.map(names))
    };
    assert_eq!(columns("public", "big").await.unwrap().as_deref(), Some("k v ts"));
    assert!(columns("information_schema", "columns").await.unwrap().is_some_and(|names| names.contains("column_name")));
    assert_eq!(columns("public", "t").await.unwrap(), None);
    let missing = columns("polybolos", "job").await.unwrap_err().to_string();
    assert!(missing.contains("table polybolos.job does not exist"), "{missing}");
}

#[tokio::test]
async fn columns_of_a_view_have_names_and_values() {
    let planner = planner(declared(TABLES));
    for (sql, said) in [
        ("CREATE VIEW w (a, b) AS SELECT k, k FROM t", None),
        ("CREATE VIEW w AS SELECT k, k FROM t", Some("two columns of one name; name them apart with AS")),
        ("CREATE VIEW w AS SELECT k, t.k FROM t", Some("name them apart with AS")),
        ("CREATE VIEW w AS SELECT $1 AS x FROM t", Some("has the parameter $1 in it")),
    ] {
        let StatementKind::CreateView(view) = parse(sql).unwrap().remove(0).kind else { panic!("no view: {sql}") };
        match (planner.plan_view(&view).await, said) {
            (Ok(plan), None) => assert_eq!(plan.schema().field_names().len(), 2, "{sql}"),
            (Err(error), Some(said)) => assert!(error.to_string().contains(said), "{sql}: {error}"),
            (planned, _) => panic!("{sql}: {planned:?}"),
        }
    }
}

#[tokio::test]
async fn views_are_described_by_the_types_of_their_rows() {
    let views = "
        CREATE VIEW mixed AS SELECT v AS n, CASE WHEN v > 1 THEN 1 ELSE 1.5e0 END AS m FROM t UNION ALL SELECT CAST(v AS DOUBLE), 2 FROM t;";
    let planner = planner(declared(&format!("{TABLES}{views}")));
    let plan = planner.plan_described(&RelationName::new("public", "mixed")).await.unwrap().unwrap();
    let types: Vec<_> = plan.schema().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Float64, DataType::Float64]);
}

#[test]
fn a_column_may_be_computed_of_what_counts() {
    let catalog = declared(
        "CREATE TABLE tagged (tags ARRAY<STRING>, n AS cardinality(tags))
        WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');",
    );
    let table = catalog.table(&"tagged".into()).unwrap();
    assert_eq!(table.data_type(&table.columns[1]), DataType::Int64);
}

#[tokio::test]
async fn what_has_a_plan_of_its_own_is_a_table_unless_it_is_a_view() {
    let sql = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public'";
    let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query") };
    let plan = planner(declared(TABLES)).plan_query(&query).await.unwrap();
    let rows = SessionContext::new().execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let shown = pretty_format_batches(&rows).unwrap().to_string();
    for (name, kind) in [("t", "BASE TABLE"), ("newest", "BASE TABLE"), ("changed", "BASE TABLE"), ("big", "VIEW")] {
        let is_it = |line: &str| line.split('|').map(str::trim).filter(|word| !word.is_empty()).eq([name, kind]);
        assert!(shown.lines().any(is_it), "{name}: {shown}");
    }
}
