//! A table of statements and what becomes of them: a tag, or the error as a person reads it. Then: mutated statements never panic, and
//! deep or long ones are refused on a thread with a small stack.
use std::{sync::Arc, thread};

use datafusion::execution::SessionStateBuilder;
use polybolos_sql::{Catalog, Change, Planner, SqlError, StatementKind, apply, parse, show, validate::Declared};

const TABLES: &str = "
CREATE TABLE users (id STRING, first_name STRING, nationality STRING, age INT, latitude DOUBLE, longitude DOUBLE)
WITH ('connector' = 'kafka', 'topic' = 'users_created', 'format' = 'json', 'properties.sasl.password' = 'hunter2');
CREATE TABLE created_users (id STRING, first_name STRING, nationality STRING, age INT, PRIMARY KEY (id) NOT ENFORCED)
WITH ('connector' = 'cassandra', 'keyspace' = 'spark_streams', 'table.create' = 'true');
CREATE TABLE nothing (id STRING) WITH ('connector' = 'blackhole')";

fn change() -> Change {
    Change { now_us: 0, incarnation: "a1".into() }
}

fn catalog() -> Catalog {
    parse(TABLES).unwrap().iter().fold(Catalog::default(), |catalog, statement| apply(&catalog, statement, &change()).unwrap())
}

/// The tag, or `line:column message`.
async fn outcome(sql: &str) -> String {
    let run = async {
        let statement = parse(sql)?.remove(0);
        let catalog = catalog();
        let state = SessionStateBuilder::new().with_default_features().build();
        let planner = Planner::new(&state, Arc::new(catalog.clone()), Arc::new(Declared));
        match &statement.kind {
            StatementKind::CreateJob(create) => drop(planner.plan_job(create, 2).await?),
            StatementKind::Query(query) => drop(planner.plan_query(query).await?),
            StatementKind::Insert(insert) => drop(planner.plan_bounded_insert(insert).await?),
            _ => {}
        }
        apply(&catalog, &statement, &change())?;
        Ok::<_, SqlError>(statement.kind.tag())
    };
    match run.await {
        Ok(tag) => tag.to_owned(),
        Err(error) => error.placed(),
    }
}

#[tokio::test]
async fn statements_end_as_the_table_says() {
    let table = [
        (
            "CREATE JOB j AS INSERT INTO created_users SELECT id, first_name, nationality, age FROM users WHERE age > 17",
            "CREATE JOB",
        ),
        ("CREATE JOB j AS INSERT INTO created_users (id, age) SELECT id, CAST(nationality AS INT) FROM users", "CREATE JOB"),
        ("SELECT count(*) FROM spark_streams.created_users", "SELECT"),
        ("SHOW JOBS", "SHOW"),
        ("SET TIME ZONE 'UTC'", "SET"),
        ("BEGIN", "BEGIN"),
        ("DROP TABLE IF EXISTS gone", "DROP TABLE"),
        ("DROP TABLE user", "table user does not exist; did you mean users?"),
        ("CREATE TABLE t (a STRNG) WITH ('connector'='kafka')", "line 1, column 19: unknown type \"STRNG\"; did you mean STRING?"),
        (
            "CREATE TABLE t (a INT) WITH ('connector'='kafka','topik'='x','format'='json')",
            "line 1, column 50: unknown option 'topik' of table t; did you mean 'topic'?",
        ),
        (
            "CREATE TABLE t (a INT) WITH ('connector'='blackhol')",
            "line 1, column 30: unknown connector 'blackhol' of table t; did you mean 'blackhole'?",
        ),
        (
            "CREATE JOB j AS INSERT INTO nothing SELECT nationality FROM users GROUP BY nationality",
            "job j groups by nationality: aggregation over a stream is not supported yet; write the rows and aggregate in a query over the table",
        ),
        (
            "CREATE JOB j AS INSERT INTO created_users (age) SELECT age FROM users",
            "line 1, column 17: INSERT INTO created_users leaves out id of its primary key; add it to the column list",
        ),
        ("SELCT 1", "line 1, column 1: expected a statement, found \"SELCT\"; did you mean SELECT?"),
        ("SELECT 1 +", "line 1, column 11: expected an expression, found the end of the statement"),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in table {
        let found = outcome(sql).await;
        if found != expected {
            wrong.push(format!("{sql}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_is_not_to_be_had_is_refused_by_name() {
    for (sql, word) in [
        ("COPY users TO '/tmp/x'", "COPY"),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "EXTERNAL"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT DISTINCT id FROM users", "DISTINCT"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT id FROM users ORDER BY id", "ORDER BY"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT id FROM users LIMIT 1", "LIMIT"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT id FROM users UNION ALL SELECT id FROM users", "UNION"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT a.id FROM users a JOIN users b ON a.id = b.id", "join"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT CAST(row_number() OVER () AS STRING) FROM users", "window"),
        ("CREATE JOB j AS INSERT INTO nothing SELECT id FROM created_users", "ends"),
        ("CREATE JOB j AS INSERT INTO users (id) SELECT id FROM users", "Kafka"),
    ] {
        let found = outcome(sql).await;
        assert!(found.contains(word), "{sql}: {found}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let catalog = catalog();
    let shown = show::create_table(catalog.tables.iter().find(|table| table.name.name == "users").unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(matches!(parse(&shown).unwrap()[0].kind, StatementKind::CreateTable(_)));
    let durable = serde_json::to_string(&catalog).unwrap();
    assert_eq!(serde_json::from_str::<Catalog>(&durable).unwrap(), catalog);
}

#[test]
fn a_table_in_use_is_not_dropped() {
    let script = parse("CREATE JOB j AS INSERT INTO nothing SELECT id FROM users; DROP TABLE users").unwrap();
    let with_job = apply(&catalog(), &script[0], &change()).unwrap();
    let error = apply(&with_job, &script[1], &change()).unwrap_err();
    assert_eq!(error.to_string(), "table users is used by job j; drop the job first: DROP JOB j");
}

/// Deterministic: every cut and every doubled or dropped byte of real statements.
#[test]
fn mutated_statements_never_panic() {
    let script = format!(
        "{TABLES}; CREATE JOB j WITH ('start' = 'latest-offset') AS INSERT INTO nothing SELECT id FROM users WHERE a >= (1 + 2)"
    );
    let boundaries: Vec<usize> = script.char_indices().map(|(at, _)| at).collect();
    for &at in &boundaries {
        for mutant in [
            script[..at].to_owned(),
            script[at..].to_owned(),
            format!("{}{}", &script[..at], &script[at + 1..]),
            format!("{}({}", &script[..at], &script[at..]),
            format!("{}'{}", &script[..at], &script[at..]),
            format!("{};é>>{}", &script[..at], &script[at..]),
        ] {
            if let Ok(statements) = parse(&mutant) {
                statements.iter().for_each(|statement| drop(apply(&catalog(), statement, &change())));
            }
        }
    }
}

#[test]
fn deep_and_long_statements_are_refused_on_a_small_stack() {
    let small = thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(|| {
        for deep in [
            format!("SELECT {}1", "1 + ".repeat(20_000)),
            format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000)),
            format!("SELECT {}true", "NOT ".repeat(20_000)),
            format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(9_000)),
            format!("SELECT '{}'", "x".repeat(1_000_000)),
        ] {
            assert!(matches!(parse(&deep), Err(SqlError::TooLarge { .. })), "{}", &deep[..40]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for allowed in [
            format!("SELECT {}1", "1 + ".repeat(200)),
            format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100)),
            format!("SELECT 1 WHERE {} true", "1 = 2 OR ".repeat(200)),
        ] {
            assert_eq!(runtime.block_on(outcome(&allowed)), "SELECT");
        }
    });
    small.unwrap().join().unwrap();
}
