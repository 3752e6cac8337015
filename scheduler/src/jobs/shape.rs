//! What a job has in common with itself under another incarnation, and must have in common with a savepoint to begin with it.
use std::{convert::Infallible, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{Expr, Query, Select, SelectItem, VisitorMut};
use polybolos_operators::template::JobTemplate;
use polybolos_sql::{
    catalog::{Catalog, JobDefinition},
    error::SqlError,
    limits::Limits,
    redact, show,
    statement::CreateJob,
    walk::visit_mut,
};
use polybolos_streaming::savepoint::Shape;

use super::spec::JobSpec;

/// Options of a table that say what its rows are, not where they come from.
const MEANING: [&str; 5] = ["connector", "topic", "format", "keyspace", "table"];
/// Beginnings of such options.
const MEANING_UNDER: [&str; 4] = ["json.", "key.", "value.", "debezium-json."];

/// The words in which a version tells a job. Those of earlier versions stand in their savepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Present,
    /// `TUMBLE` and `SESSION` were written without `WHERE ts IS NOT NULL`; tables without options of keys, values and Debezium's format.
    Earlier,
}

impl Words {
    fn tell(self, option: &str) -> bool {
        let is_under = match self {
            Self::Present => MEANING_UNDER.iter().any(|beginning| option.starts_with(beginning)),
            Self::Earlier => option.starts_with("json."),
        };
        is_under || MEANING.contains(&option)
    }
}

/// The job as its texts say, without options of its own; and its operators as EXPLAIN shows them.
pub fn of(catalog: &Catalog, definition: &JobDefinition, spec: &JobSpec) -> Result<Shape, SqlError> {
    let create = definition.statement_in_order(catalog, Limits::default())?;
    let operators = match &*spec.template {
        JobTemplate::Stateless(_) => vec![],
        JobTemplate::Stateful(template) => {
            let graph = template.flow().dataflow.graph();
            (0..graph.sinks().len()).flat_map(|sink| graph.explain(sink).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
        }
    };
    let definition = told(catalog, definition, &create, Words::Present)?;
    Ok(Shape { definition, operators, layout: spec.template.layout(), kept_columns: spec.template.kept_columns() })
}

/// The first thing of a savepoint that the job has otherwise: what it was, and what it is.
pub fn difference(
    catalog: &Catalog,
    definition: &JobDefinition,
    spec: &JobSpec,
    then: &Shape,
) -> Result<Option<(String, String)>, SqlError> {
    let now = of(catalog, definition, spec)?;
    let now = as_told_then(then, now, earlier(catalog, definition)?);
    Ok(then.first_difference(&now).map(|(then, now)| (then.to_owned(), now.to_owned())))
}

/// The job's texts as earlier versions told them: its INSERTs as they were written, also after an upgrade had written them in another order.
fn earlier(catalog: &Catalog, definition: &JobDefinition) -> Result<Vec<Vec<String>>, SqlError> {
    let limits = Limits::default();
    let creates = [definition.statement_in_order(catalog, limits)?, definition.statement(limits)?];
    creates.iter().map(|create| told(catalog, definition, create, Words::Earlier)).collect()
}

/// The job in the words of the savepoint. Where its texts are the same, its state fits when it lies in the same way; another version may have planned otherwise
/// what stands around it.
fn as_told_then(then: &Shape, mut now: Shape, earlier: Vec<Vec<String>>) -> Shape {
    if let Some(told) = earlier.into_iter().find(|told| *told == then.definition) {
        now.definition = told;
    }
    if now.definition == then.definition && !then.layout.is_empty() {
        now.operators.clone_from(&then.operators);
    }
    now
}

/// The INSERTs of a job, its views, the functions that users have created and it calls, and the tables that it reads and fills.
fn told(catalog: &Catalog, definition: &JobDefinition, create: &CreateJob, words: Words) -> Result<Vec<String>, SqlError> {
    let mut lines = vec![];
    for insert in &create.inserts {
        let mut query = insert.query.clone();
        if words == Words::Earlier {
            with_rows_without_a_time(&mut query);
        }
        lines.push(format!("INSERT INTO {} ({}) {query} {:?}", insert.target, insert.columns.join(", "), insert.emit));
    }
    for view in &definition.views {
        lines.push(redact::sql(&catalog.view(view)?.sql));
    }
    lines.extend(catalog.functions_of(definition)?.iter().map(ToString::to_string));
    for table in definition.sources.iter().chain(&definition.targets) {
        let mut table = catalog.table(table)?.clone();
        table.options.retain(|(key, _)| words.tell(key));
        lines.push(show::create_table(&table));
    }
    Ok(lines)
}

/// Takes away the `WHERE ts IS NOT NULL` of lowered `TUMBLE` and `SESSION`.
fn with_rows_without_a_time(query: &mut Query) {
    let done = visit_mut(query, &mut Windows);
    debug_assert!(done.is_continue(), "the visitor never breaks");
}

struct Windows;

impl VisitorMut for Windows {
    type Break = Infallible;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Infallible> {
        let is_timed = matches!(&select.selection, Some(Expr::IsNotNull(time)) if matches!(time.as_ref(), Expr::Identifier(_)));
        if is_timed && gives_bounds(select) {
            select.selection = None;
        }
        ControlFlow::Continue(())
    }
}

/// Whether it is `SELECT *, … AS window_start, … AS window_end …`.
fn gives_bounds(select: &Select) -> bool {
    let gives = |bound: &str| {
        select.projection.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias.value == bound))
    };
    matches!(select.projection.first(), Some(SelectItem::Wildcard(_))) && gives("window_start") && gives("window_end")
}

#[cfg(test)]
mod tests {
    use polybolos_sql::{
        catalog::{Change, apply},
        parser::parse,
    };

    use super::*;

    const TABLES: &str = "
        CREATE TABLE t (k STRING, v BIGINT, ts TIMESTAMP(3)) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
        CREATE TABLE s (k STRING, at TIMESTAMP(3)) WITH ('connector' = 'blackhole');
    ";

    fn declared(script: &str) -> Catalog {
        let change = Change { now_us: 0, incarnation: "a1".into() };
        let statements = parse(script).expect("read");
        statements.iter().fold(Catalog::default(), |catalog, statement| apply(&catalog, statement, &change).expect("applied"))
    }

    fn present(catalog: &Catalog) -> Vec<String> {
        let job = catalog.job("j").expect("declared");
        let create = job.statement_in_order(catalog, Limits::default()).expect("read");
        told(catalog, job, &create, Words::Present).expect("told")
    }

    fn shape(definition: &[String], operators: &[&str]) -> Shape {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let layout = owned(&["state in format 1", "Aggregate"]);
        Shape { definition: definition.to_vec(), operators: owned(operators), layout, kept_columns: vec![] }
    }

    /// Lines of savepoints that were made before rows without a time were left out of windows. A lowering that makes others refuses savepoints.
    #[test]
    fn windows_are_told_as_earlier_versions_told_them() {
        for (windows, then) in [
            (
                "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)",
                "(SELECT *, date_bin(INTERVAL '10 seconds', ts) AS window_start, date_bin(INTERVAL '10 seconds', ts) + INTERVAL '10 seconds' AS window_end, date_bin(INTERVAL '10 seconds', ts) + INTERVAL '9999 milliseconds' AS window_time FROM t)",
            ),
            (
                "SESSION(TABLE t PARTITION BY (k), DESCRIPTOR(ts), INTERVAL '10' SECOND)",
                "(SELECT *, window_end - INTERVAL '1 milliseconds' AS window_time FROM (SELECT *, session_start(ts, 10000000) OVER (PARTITION BY k ORDER BY ts) AS window_start, session_end(ts, 10000000) OVER (PARTITION BY k ORDER BY ts) AS window_end FROM t))",
            ),
            (
                "TUMBLE((SELECT k, ts FROM t WHERE v IS NOT NULL), DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
                "(SELECT *, date_bin(INTERVAL '60 seconds', ts) AS window_start, date_bin(INTERVAL '60 seconds', ts) + INTERVAL '60 seconds' AS window_end, date_bin(INTERVAL '60 seconds', ts) + INTERVAL '59999 milliseconds' AS window_time FROM (SELECT k, ts FROM t WHERE v IS NOT NULL))",
            ),
        ] {
            let groups = "GROUP BY k, window_start, window_end";
            let job = format!("CREATE JOB j AS INSERT INTO s SELECT k, window_start FROM TABLE({windows}) {groups};");
            let catalog = declared(&format!("{TABLES}{job}"));
            let told = earlier(&catalog, catalog.job("j").expect("declared")).expect("told");
            let lines: Vec<&str> = told.iter().map(|lines| lines[0].as_str()).collect();
            let expected = format!("INSERT INTO s () SELECT k, window_start FROM {then} {groups} OnUpdate");
            assert!(lines.contains(&expected.as_str()), "{windows}: {lines:#?}");
            assert!(!present(&catalog).contains(&expected), "{windows} leaves rows without a time out");
        }
    }

    #[test]
    fn functions_that_a_job_calls_are_told_however_they_were_written() {
        let told = |functions: &str| {
            let job = "CREATE JOB j AS INSERT INTO s (k) SELECT CAST(later(v) AS STRING) FROM t;";
            let told = present(&declared(&format!("{TABLES}{functions}{job}")));
            told.into_iter().filter(|line| line.starts_with("FUNCTION")).collect::<Vec<_>>()
        };
        let after = "CREATE FUNCTION after(n BIGINT) RETURNS BIGINT RETURN n + 1;";
        let later = "CREATE FUNCTION later(n BIGINT) RETURNS BIGINT RETURN after(n); CREATE FUNCTION alone() RETURNS INT RETURN 1;";
        let expected =
            ["FUNCTION after(n BIGINT) RETURNS BIGINT RETURN n + 1", "FUNCTION later(n BIGINT) RETURNS BIGINT RETURN after(n)"];
        assert_eq!(told(&format!("{after}{later}")), expected);
        let written_otherwise = "CREATE OR REPLACE FUNCTION after(n INT8) RETURNS INT8 AS $$ SELECT n + 1; $$ LANGUAGE SQL;";
        assert_eq!(told(&format!("{written_otherwise}{later}")), expected);
        let another = after.replace("+ 1", "+ 2");
        assert_ne!(told(&format!("{another}{later}")), expected, "a savepoint of it does not fit");
    }

    #[test]
    fn an_upgrade_that_writes_the_inserts_in_another_order_changes_nothing() {
        let tables = format!("{TABLES} CREATE TABLE r (k STRING) WITH ('connector' = 'blackhole');");
        let (first, second) = ("INSERT INTO s (k) SELECT k FROM t", "INSERT INTO public.r SELECT k FROM t");
        let before = declared(&format!("{tables} CREATE JOB j AS BEGIN {first}; {second}; END;"));
        let after = declared(&format!(
            "{tables} CREATE JOB j AS BEGIN {first}; {second}; END; UPGRADE JOB j AS BEGIN {second}; {first}; END;"
        ));
        assert_eq!(present(&before), present(&after));
        let told = earlier(&after, after.job("j").expect("declared")).expect("told");
        assert!(told[0][0].starts_with("INSERT INTO s") && told[1][0].starts_with("INSERT INTO r"), "{told:#?}");
    }

    #[test]
    fn options_that_say_what_rows_are_are_told_and_others_are_not() {
        let upserts = "'connector' = 'upsert-kafka', 'topic' = 't', 'value.format' = 'json'";
        let json = "'connector' = 'upsert-kafka', 'topic' = 't', 'key.format' = 'json', 'value.format' = 'json'";
        let records = "'connector' = 'kafka', 'topic' = 't', 'format' = 'json'";
        let changes = "'connector' = 'kafka', 'topic' = 't', 'format' = 'debezium-json'";
        for (table, option, values, is_told) in [
            (upserts, "key.format", ["json", "raw"], true),
            (json, "value.fields-include", ["ALL", "EXCEPT_KEY"], true),
            (json, "value.json.fail-on-missing-field", ["true", "false"], true),
            (json, "value.json.timestamp-format.standard", ["SQL", "ISO-8601"], true),
            (json, "value.json.encode.ignore-null-fields", ["true", "false"], true),
            (json, "on_data_loss", ["fail", "continue"], false),
            (changes, "debezium-json.schema-include", ["true", "false"], true),
            (changes, "debezium-json.timestamp-format.standard", ["SQL", "ISO-8601"], true),
            (records, "json.fail-on-missing-field", ["true", "false"], true),
            (records, "scan.startup.mode", ["earliest-offset", "latest-offset"], false),
        ] {
            let key = if table == records { "" } else { ", PRIMARY KEY (k) NOT ENFORCED" };
            let lines = values.map(|value| {
                present(&declared(&format!(
                    "CREATE TABLE t (k STRING, v STRING{key}) WITH ({table}, '{option}' = '{value}');
                     CREATE TABLE s (k STRING) WITH ('connector' = 'blackhole'); CREATE JOB j AS INSERT INTO s SELECT k FROM t;"
                )))
            });
            assert_eq!(lines[0] != lines[1], is_told, "{option}: {lines:#?}");
        }
        assert!(!Words::Earlier.tell("key.format"), "savepoints of earlier versions do not say it");
    }

    #[test]
    fn a_savepoint_is_compared_in_the_words_of_its_version() {
        let lines = |line: &str| vec![line.to_owned(), "CREATE TABLE t".to_owned()];
        let then = shape(&lines("SELECT a"), &["Aggregate", "  Source 0"]);
        let now = shape(&lines("SELECT a WHERE a IS NOT NULL"), &["Aggregate", "  Filter", "    Source 0"]);
        assert!(then.first_difference(&now).is_some(), "they are told otherwise");
        let differs = |now: &Shape, earlier: &str| {
            let now = as_told_then(&then, now.clone(), vec![lines(earlier)]);
            then.first_difference(&now).map(|(then, now)| (then.to_owned(), now.to_owned()))
        };
        assert_eq!(differs(&now, "SELECT a"), None);
        assert_eq!(differs(&now, "SELECT b"), Some(("Source 0".to_owned(), "Filter".to_owned())));
        let other = Shape { layout: vec!["state in format 1".into(), "Top".into()], ..now.clone() };
        assert_eq!(differs(&other, "SELECT a"), Some(("Aggregate".to_owned(), "Top".to_owned())));
    }

    #[test]
    fn operators_decide_where_a_savepoint_does_not_say_how_its_state_lies() {
        let then = Shape { layout: vec![], ..shape(&["SELECT a".to_owned()], &["Aggregate", "  Source 0"]) };
        let now = Shape { layout: vec![], ..shape(&["SELECT a".to_owned()], &["Aggregate", "  Filter"]) };
        assert_eq!(then.first_difference(&as_told_then(&then, now, vec![])), Some(("Source 0", "Filter")));
    }
}
