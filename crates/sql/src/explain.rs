//! What EXPLAIN says of a job, in words: what it reads, what it keeps, what it writes and how.
use std::fmt::Write;

use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    logical_expr::{
        Expr, LogicalPlan,
        utils::{conjunction, split_conjunction},
    },
};
use regex::Regex;

use crate::{
    catalog::{Connector, TableDefinition, is_of_record},
    names::RelationName,
    options::{job::OnError, kafka::StartupMode},
    planner::{InsertPlan, JobPlan},
    statement::Emit,
};

/// Several lines, without a newline at the end. `verbose` adds the optimised plan.
pub fn job(plan: &JobPlan, verbose: bool) -> String {
    let mut text = format!("job {}", plan.name);
    for insert in &plan.inserts {
        explain_insert(&mut text, plan, insert);
        if verbose {
            let shown = insert.plan.display_indent().to_string();
            line(&mut text, "plan", shown.lines().next().unwrap_or_default());
            for rest in shown.lines().skip(1) {
                line(&mut text, "", rest);
            }
        }
    }
    text
}

/// A plan of a query as DataFusion writes it, without the long name of the number by which a key's last record is found.
pub fn in_words(plan: &str) -> String {
    const NUMBER: &str =
        r"last_record\(.*?\) PARTITION BY \[.*?\] ORDER BY \[.*?\] ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW";
    match Regex::new(NUMBER) {
        Ok(number) => number.replace_all(plan, "number of the key's record").into_owned(),
        Err(_) => plan.to_owned(),
    }
}

fn line(text: &mut String, label: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\n  {label:<12}{value}");
}

fn explain_insert(text: &mut String, plan: &JobPlan, insert: &InsertPlan) {
    let reading = Reading::of(&insert.plan);
    for source in &insert.sources {
        let mut columns = reading.columns_of(&source.name);
        columns.retain(|name| source.column(name).is_some());
        let until = if source.is_unbounded() { "unbounded" } else { "all at once when the job starts" };
        line(text, "source", &format!("{} ({}), {until}", source.name, place(source)));
        if source.keeps_last_record() {
            let key: Vec<&str> = source.primary_key.iter().flat_map(|key| key.columns()).collect();
            let rows = format!("by key ({}), the last record of each that is not deleted (ChangelogNormalize)", key.join(", "));
            line(text, "rows", &rows);
        }
        let topic = source.topic();
        if let Some(start) = plan.options.start.as_ref().or(topic.as_ref().map(|topic| &topic.startup)) {
            line(text, "starts at", &start_words(start));
        }
        line(
            text,
            "reads",
            &match source.debezium() {
                Some(_) => "of each change its op, what the query needs of the row after it, and the key before it".to_owned(),
                None => format!("{} of {} columns: {}", columns.len(), source.columns.len(), columns.join(", ")),
            },
        );
    }
    for table in &insert.lookups {
        line(text, "looks up", &format!("{} ({})", table.name, place(table)));
    }
    for filter in &reading.filters {
        line(text, "keeps rows", &format!("where {}", expression(filter)));
    }
    let computed: Vec<String> = reading.computed.iter().map(expression).collect();
    if !computed.is_empty() {
        line(text, "computes", &computed.join(", "));
    }
    line(text, "sink", &sink(insert));
    let unset: Vec<&str> = insert
        .target
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .filter(|name| !insert.columns.iter().any(|column| column == name))
        .collect();
    line(text, "writes", &insert.columns.join(", "));
    if !unset.is_empty() {
        line(text, "leaves", &unset.join(", "));
    }
    if insert.is_stateful {
        line(text, "stateless", "no: rows depend on those before them");
        if let Some(words) = plan.event_time.lateness(plan.options.allowed_lateness_us) {
            line(text, "late rows", &words);
        }
        let emit = match insert.emit {
            Emit::OnUpdate => "at every change",
            Emit::OnWindowClose if plan.options.allowed_lateness_us > 0 => {
                "when the watermark closes the window, and again when rows change it while 'allowed_lateness' lasts"
            }
            Emit::OnWindowClose => "once, when the watermark closes the window",
        };
        line(text, "emits", emit);
    } else {
        line(text, "append-only", "yes: input is never taken back");
        line(text, "stateless", "yes: every record gives at most one row, whatever came before it");
    }
    let exchange = match plan.options.parallelism {
        most @ 2.. if plan.is_stateful => format!("up to {most} executors share it and exchange rows wherever the key changes"),
        _ => "no exchange between executors".to_owned(),
    };
    line(text, "stages", &format!("1: {exchange}"));
    let on_error = match plan.options.on_error {
        OnError::DeadLetter => "a bad record goes to polybolos.dead_letters, and the job goes on",
        OnError::Fail => "a bad record stops the job",
    };
    line(text, "on error", on_error);
}

fn place(table: &TableDefinition) -> String {
    match &table.connector {
        Connector::Kafka(options) if table.debezium().is_some() => {
            format!("kafka topic {}, changes of a database's table", options.topic)
        }
        Connector::Kafka(options) => format!("kafka topic {}", options.topic),
        Connector::UpsertKafka(options) => format!("kafka topic {}, one record per key", options.topic),
        Connector::Cassandra(options) => format!("cassandra {}.{}", options.keyspace, options.table),
        Connector::Filesystem(options) => format!("files in {}", options.path),
        other => other.name().to_owned(),
    }
}

fn start_words(start: &StartupMode) -> String {
    match start {
        StartupMode::Earliest => "the earliest offset".to_owned(),
        StartupMode::Latest => "the latest offset".to_owned(),
        StartupMode::Timestamp { millis } => format!("the first record with timestamp {millis} ms or later"),
        StartupMode::SpecificOffsets { offsets } => {
            let pairs: Vec<String> =
                offsets.iter().map(|(partition, offset)| format!("partition {partition} at {offset}")).collect();
            pairs.join(", ")
        }
    }
}

fn sink(insert: &InsertPlan) -> String {
    let target = &insert.target;
    match &target.primary_key {
        Some(key) if matches!(target.connector, Connector::Cassandra(_) | Connector::UpsertKafka(_)) => {
            format!("{} ({}), upsert by {key}, the last row of a key wins", target.name, place(target))
        }
        _ => format!("{} ({}), every row", target.name, place(target)),
    }
}

fn expression(expression: &Expr) -> String {
    // `CAST(users.age AS Int32)`: as DataFusion writes it, and without the only table's name.
    match expression {
        Expr::Alias(alias) => format!("{} = {}", alias.name, unqualified(&alias.expr)),
        other => unqualified(other),
    }
}

fn unqualified(expression: &Expr) -> String {
    let strip = expression.clone().transform(|part| {
        Ok(match part {
            Expr::Column(mut column) if column.relation.is_some() => {
                column.relation = None;
                datafusion::common::tree_node::Transformed::yes(Expr::Column(column))
            }
            other => datafusion::common::tree_node::Transformed::no(other),
        })
    });
    strip.map_or_else(|_| expression.to_string(), |stripped| stripped.data.to_string())
}

/// What an optimised plan of a job reads and does.
#[derive(Default)]
struct Reading {
    /// Per scan, the columns that are read.
    scans: Vec<(RelationName, Vec<String>)>,
    filters: Vec<Expr>,
    computed: Vec<Expr>,
}

impl Reading {
    fn of(plan: &LogicalPlan) -> Self {
        let mut reading = Self::default();
        reading.walk(plan, false);
        reading
    }

    /// `of_records`: what makes records of a table's rows; of it only what the job itself says is told.
    fn walk(&mut self, plan: &LogicalPlan, of_records: bool) {
        let walked = plan.apply(|node| {
            match node {
                LogicalPlan::TableScan(scan) => {
                    let columns = scan.projected_schema.fields().iter().map(|field| field.name().clone()).collect();
                    self.scans.push((RelationName::from(&scan.table_name), columns));
                    self.filters.extend(scan.filters.iter().filter_map(|filter| without_records(filter, of_records)));
                }
                LogicalPlan::Filter(filter) => self.filters.extend(without_records(&filter.predicate, of_records)),
                LogicalPlan::Projection(projection) if !of_records => {
                    self.computed.extend(projection.expr.iter().filter(|expression| !is_plain(expression)).cloned());
                }
                LogicalPlan::Window(window)
                    if window.window_expr.iter().any(|number| is_number_of_record(&number.schema_name().to_string())) =>
                {
                    self.walk(&window.input, true);
                    return Ok(TreeNodeRecursion::Jump);
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok(), "the visitor returns no error");
    }

    /// The columns of a table that some scan reads.
    fn columns_of(&self, table: &RelationName) -> Vec<String> {
        let mut columns: Vec<String> = Vec::new();
        for column in self.scans.iter().filter(|(name, _)| name == table).flat_map(|(_, columns)| columns) {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        columns
    }
}

fn is_number_of_record(name: &str) -> bool {
    name.starts_with("last_record(")
}

/// The terms of a condition that are not about records of which rows are made. Among records, what the optimiser takes out of one has a name of its own.
fn without_records(condition: &Expr, of_records: bool) -> Option<Expr> {
    let is_told = |name: &str| {
        let is_taken_out = of_records && name.starts_with("__datafusion_extracted_");
        !(is_of_record(name) || is_number_of_record(name) || is_taken_out)
    };
    let terms = split_conjunction(condition).into_iter();
    conjunction(terms.filter(|term| term.column_refs().iter().all(|column| is_told(&column.name))).cloned())
}

/// A column as it is, renamed or not.
fn is_plain(expression: &Expr) -> bool {
    match expression {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_plain(&alias.expr),
        _ => false,
    }
}
