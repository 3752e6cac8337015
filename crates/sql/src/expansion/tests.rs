use datafusion::{
    arrow::util::pretty::pretty_format_batches, execution::SessionStateBuilder, prelude::SessionContext, sql::sqlparser::ast::Query,
};

use super::*;
use crate::{
    catalog::{Catalog, Change, apply},
    parser::parse,
    planner::Planner,
    statement::StatementKind,
    validate::Declared as Tables,
};

const DECLARED: &str = "
    CREATE FUNCTION full_name(first STRING, last STRING) RETURNS STRING RETURN first || ' ' || last;
    CREATE FUNCTION square(x BIGINT) RETURNS BIGINT RETURN x * x;
    CREATE FUNCTION fourth(x BIGINT) RETURNS BIGINT LANGUAGE SQL AS $$ SELECT square(square(x)) $$;
    CREATE FUNCTION one() RETURNS INT RETURN 1;
    CREATE FUNCTION spread(x DOUBLE) RETURNS DOUBLE RETURN max(x) - min(x);
    CREATE AGGREGATE weighted(x DOUBLE, weight DOUBLE) RETURNS DOUBLE AS sum(x * weight) / sum(weight) FILTER (WHERE x IS NOT NULL);
    CREATE FUNCTION doubled_spread(x BIGINT) RETURNS BIGINT RETURN 2 * spread(x);
    CREATE FUNCTION many() RETURNS BOOLEAN RETURN count(*) > 2;
    CREATE TABLE t (k STRING, v BIGINT, four AS fourth(v)) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
    CREATE TABLE sink (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
    CREATE VIEW doubled AS SELECT k, doubled_spread(v) AS n FROM t GROUP BY k;
    CREATE VIEW squares AS SELECT k, square(v), square(v + 1) AS more FROM t;
";

fn declared(script: &str) -> Catalog {
    let change = Change { now_us: 0, incarnation: "a1".into() };
    let statements = parse(script).unwrap();
    statements.iter().fold(Catalog::default(), |catalog, statement| apply(&catalog, statement, &change).unwrap())
}

fn planner() -> Planner {
    let state = SessionStateBuilder::new().with_default_features().build();
    Planner::new(&state, Arc::new(declared(DECLARED)), Arc::new(Tables))
}

fn query(sql: &str) -> Box<Query> {
    let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
    query.ast
}

async fn refused(sql: &str) -> String {
    let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
    planner().plan_query(&query).await.expect_err(sql).to_string()
}

/// The names of a query's columns, and its rows.
async fn answered(planner: &Planner, sql: &str) -> (Vec<String>, String) {
    let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
    let plan = planner.plan_query(&query).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let names = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
    let batches = SessionContext::new().execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    let shown = pretty_format_batches(&batches).unwrap().to_string();
    let words = |line: &str| line.split('|').map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = shown.lines().filter(|line| line.starts_with('|')).skip(1).map(words).collect();
    (names, rows.join("\n"))
}

#[test]
fn a_call_is_its_expression_with_what_is_given() {
    let mut state = SessionStateBuilder::new().with_default_features().build();
    let query = query("SELECT Full_Name(a, 'x'), square(1 + 2) + 1 AS n, upper(a) FROM t WHERE one() = 1");
    assert!(matches!(written_out(&*query, &state), Ok(Cow::Borrowed(_))), "nothing is declared");
    declare(&mut state, &declared(DECLARED).functions);
    let meant = written_out(&*query, &state).unwrap();
    assert_eq!(
        meant.to_string(),
        "SELECT CAST(CAST(a AS STRING) || ' ' || CAST('x' AS STRING) AS STRING) AS \"Full_Name(a, 'x')\", \
         CAST(CAST(1 + 2 AS BIGINT) * CAST(1 + 2 AS BIGINT) AS BIGINT) + 1 AS n, upper(a) FROM t WHERE CAST(1 AS INT) = 1"
    );
}

#[tokio::test]
async fn queries_answer_and_name_their_columns_as_they_are_written() {
    let planner = planner();
    for (sql, names, rows) in [
        ("SELECT full_name('a', 'b'), square(3), fourth(2)", vec!["full_name('a', 'b')", "square(3)", "fourth(2)"], "a b 9 16"),
        ("SELECT square(1 + 2), square('4') AS n, one() + one()", vec!["square(1 + 2)", "n", "one() + one()"], "9 16 2"),
        (
            "SELECT square(n), count(*) FROM (VALUES (2), (-2), (1)) AS t (n) GROUP BY square(n) HAVING square(n) > 0 ORDER BY 1",
            vec!["square(n)", "count(*)"],
            "1 1\n4 2",
        ),
        ("SELECT square(sum(n)) FROM (VALUES (2), (1)) AS t (n)", vec!["square(sum(n))"], "9"),
        ("SELECT n FROM (VALUES (2), (-3)) AS t (n) WHERE square(n) > 4 ORDER BY square(n)", vec!["n"], "-3"),
        ("SELECT square(n), square(n), n FROM (VALUES (2)) AS t (n)", vec!["square(n)", "square(n) (2)", "n"], "4 4 2"),
    ] {
        let (found, shown) = answered(&planner, sql).await;
        assert_eq!(found, names, "{sql}");
        assert_eq!(shown, rows, "{sql}");
    }
}

#[test]
fn a_call_of_an_aggregate_says_of_its_rows_what_each_aggregate_in_it_then_says() {
    let mut state = SessionStateBuilder::new().with_default_features().build();
    declare(&mut state, &declared(DECLARED).functions);
    for (call, meant) in [
        ("spread(v)", "CAST(max(CAST(v AS DOUBLE)) - min(CAST(v AS DOUBLE)) AS DOUBLE)"),
        (
            "Spread(DISTINCT v) FILTER (WHERE x = 1)",
            "CAST(max(DISTINCT CAST(v AS DOUBLE)) FILTER (WHERE (x = 1)) - min(DISTINCT CAST(v AS DOUBLE)) FILTER (WHERE (x = 1)) AS DOUBLE)",
        ),
        (
            "spread(sum(v)) OVER (PARTITION BY x)",
            "CAST(max(CAST(sum(v) AS DOUBLE)) OVER (PARTITION BY x) - min(CAST(sum(v) AS DOUBLE)) OVER (PARTITION BY x) AS DOUBLE)",
        ),
        (
            "weighted(a, 2) FILTER (WHERE weight > 1)",
            "CAST(sum(CAST(a AS DOUBLE) * CAST(2 AS DOUBLE)) FILTER (WHERE (weight > 1)) / \
             sum(CAST(2 AS DOUBLE)) FILTER (WHERE (CAST(a AS DOUBLE) IS NOT NULL) AND (weight > 1)) AS DOUBLE)",
        ),
        ("many()", "CAST(count(*) > 2 AS BOOLEAN)"),
    ] {
        let query = query(&format!("SELECT {call} AS n FROM t"));
        assert_eq!(written_out(&*query, &state).unwrap().to_string(), format!("SELECT {meant} AS n FROM t"), "{call}");
    }
}

#[tokio::test]
async fn aggregates_of_users_answer_as_those_in_them() {
    let planner = planner();
    let rows = "(VALUES ('a', 2, 1), ('a', -3, 3), ('a', 2, NULL), ('b', 5, 1)) AS t (k, n, w)";
    for (selected, behind, answer) in [
        ("spread(n), max(n), doubled_spread(n), many()", "", "8.0 5 16 true"),
        ("k, spread(n), many() AS m", "GROUP BY k ORDER BY k", "a 5.0 true\nb 0.0 false"),
        ("k, weighted(n, w) AS m", "GROUP BY k HAVING spread(n) > 1 ORDER BY spread(n)", "a -1.75"),
        ("spread(DISTINCT n) FILTER (WHERE n > 0) AS m, spread(square(n)) AS s", "", "3.0 21.0"),
        ("k", "GROUP BY k HAVING many()", "a"),
        ("n, spread(n) OVER (PARTITION BY k) AS m", "WHERE w = 1 ORDER BY n", "2 0.0\n5 0.0"),
        ("spread(sum(n)) OVER () AS m", "GROUP BY k LIMIT 1", "4.0"),
    ] {
        let sql = format!("SELECT {selected} FROM {rows} {behind}");
        let (_, shown) = answered(&planner, &sql).await;
        assert_eq!(shown, answer, "{sql}");
    }
}

#[tokio::test]
async fn jobs_views_and_computed_columns_have_the_expression_in_their_plans() {
    let planner = planner();
    for query in [
        "SELECT full_name(k, 'x'), square(v) FROM t",
        "SELECT k, four FROM t",
        "SELECT k, more FROM squares",
        "SELECT full_name(k, 'x'), max(square(v)) FROM t GROUP BY full_name(k, 'x')",
        "SELECT k, doubled_spread(v) FILTER (WHERE v > 0) FROM t GROUP BY k HAVING spread(v) > 1",
        "SELECT k, n FROM doubled",
    ] {
        let sql = format!("CREATE JOB j AS INSERT INTO sink {query}");
        let StatementKind::CreateJob(create) = parse(&sql).unwrap().remove(0).kind else { panic!("not a job: {sql}") };
        let job = planner.plan_job(&create, 2).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let plan = job.inserts[0].plan.display_indent().to_string();
        assert!(plan.contains(" * "), "{sql}: {plan}");
    }
    let described = planner.plan_described(&"squares".into()).await.unwrap().unwrap();
    let names: Vec<_> = described.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["k", "square(v)", "more"]);
}

#[tokio::test]
async fn calls_that_do_not_fit_are_refused_by_name() {
    for (call, reason) in [
        ("full_name('a')", "takes 2 arguments, and is given 1; write full_name(first STRING, last STRING)"),
        ("one(1)", "takes 0 arguments, and is given 1; write one()"),
        ("square(*)", "takes no *"),
        ("full_name(last => 'b', first => 'a')", "takes no arguments by name"),
        ("square(v) FILTER (WHERE v > 1)", "square is computed row by row and takes no FILTER"),
        ("square(v) OVER ()", "takes no OVER"),
        ("square(random())", "uses its x more than once, and random() gives another value each time"),
        (
            "weighted(DISTINCT v, v)",
            "function weighted takes no DISTINCT, which is for one whose aggregates are all of a single parameter itself",
        ),
        ("doubled_spread(DISTINCT v)", "SELECT doubled_spread(…) FROM (SELECT DISTINCT … FROM …)"),
        ("spread(v ORDER BY v)", "function spread takes no ORDER BY; write it at the aggregates in the function"),
        ("spread(v) FILTER (WHERE random() < 0.5)", "has several aggregates, and random() in its FILTER gives each other rows"),
        ("spread(v) OVER (ORDER BY random())", "random() in its OVER gives each other rows"),
        ("spread(max(v))", "an aggregate of an aggregate takes two steps; compute the inner one in a subquery of FROM"),
        ("max(spread(v))", "an aggregate of an aggregate takes two steps"),
        ("square(nothing)", "there is no column nothing"),
    ] {
        let message = refused(&format!("SELECT {call} FROM t")).await;
        assert!(message.contains(reason), "{call}: {message}");
    }
    let nested = format!("SELECT {}v{} FROM t", "square(".repeat(30), ")".repeat(30));
    let message = refused(&nested).await;
    assert!(message.contains("with function square written out"), "{message}");
}
