//! SHOW, DESCRIBE and EXPLAIN as rows.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    },
    common::{Result, tree_node::TreeNodeRecursion},
    logical_expr::LogicalPlan,
};
use polybolos_gateway::engine::Answer;
use polybolos_sql::{
    catalog::Catalog,
    error::SqlError,
    explain,
    names::{RESERVED_SCHEMAS, RelationName, SYSTEM_SCHEMA},
    show as sql_show,
    statement::Show,
};

use crate::{status::StatusSource, system_tables};

/// Lines of text as rows of one column.
pub fn text<'a>(column: &str, lines: impl Iterator<Item = &'a str>) -> Result<Answer> {
    let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, false)]));
    let lines: StringArray = lines.map(Some).collect();
    Ok(rows(RecordBatch::try_new(schema, vec![Arc::new(lines)])?, "SHOW"))
}

fn rows(batch: RecordBatch, tag: &str) -> Answer {
    Answer {
        schema: batch.schema(),
        batches: Box::pin(futures::stream::once(async { Ok(batch) })),
        tag: tag.to_owned(),
        notices: vec![],
        told_last: None,
        is_endless: false,
    }
}

/// Rows of EXPLAIN of a query, their plans in words.
pub fn plans(batch: &RecordBatch) -> Result<RecordBatch> {
    let told = |column: &ArrayRef| match column.as_string_opt::<i32>() {
        Some(texts) => {
            let told: StringArray = texts.iter().map(|text| text.map(explain::in_words)).collect();
            Arc::new(told) as ArrayRef
        }
        None => column.clone(),
    };
    Ok(RecordBatch::try_new(batch.schema(), batch.columns().iter().map(told).collect())?)
}

/// Said with the answer of a query, of which some may only be known to the leader.
pub fn notices(plan: &LogicalPlan, status: &StatusSource) -> Vec<String> {
    if status.leads() || !asks_the_leader(plan) { vec![] } else { vec![status.stands_by()] }
}

fn asks_the_leader(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let name = &scan.table_name;
            found |= name.schema() == Some(SYSTEM_SCHEMA) && system_tables::OF_THE_LEADER.contains(&name.table());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && found
}

/// What fits a terminal; `polybolos.jobs` has all.
const JOB_COLUMNS: [&str; 6] = ["name", "state", "limiting", "lag_records", "dead_letters", "error"];

fn few(batch: &RecordBatch, columns: &[&str]) -> Result<RecordBatch> {
    let indices: std::result::Result<Vec<usize>, _> = columns.iter().map(|name| batch.schema().index_of(name)).collect();
    Ok(batch.project(&indices?)?)
}

/// What the leader shows, and others have none of.
fn of_the_leader(batch: RecordBatch, status: &StatusSource) -> Answer {
    let notices = if status.leads() { vec![] } else { vec![status.stands_by()] };
    Answer { notices, ..rows(batch, "SHOW") }
}

pub fn show(what: &Show, catalog: &Catalog, status: &Arc<StatusSource>) -> Result<Answer, SqlError> {
    match what {
        Show::Jobs => Ok(of_the_leader(few(&system_tables::jobs(status)?, &JOB_COLUMNS)?, status)),
        Show::Savepoints => Ok(of_the_leader(system_tables::savepoints(status)?, status)),
        Show::Tables => Ok(rows(sql_show::tables(catalog)?, "SHOW")),
        Show::Views => Ok(rows(sql_show::views(catalog)?, "SHOW")),
        Show::Functions => Ok(rows(sql_show::functions(catalog)?, "SHOW")),
        Show::CreateFunction(name) => Ok(text("create_statement", sql_show::create_function(catalog.function(name)?).lines())?),
        Show::CreateView(name) => Ok(text("create_statement", sql_show::create_view(catalog.view(name)?).lines())?),
        Show::CreateTable(name) if RESERVED_SCHEMAS.contains(&name.schema.as_str()) => Err(SqlError::Unsupported {
            at: None,
            message: format!(
                "tables of schema {} are the system's own and no statement made them; DESCRIBE {name} lists the columns",
                name.schema
            ),
        }),
        Show::CreateTable(name) => Ok(text("create_statement", sql_show::create_table(catalog.table(name)?).lines())?),
        Show::CreateJob(name) => Ok(text("create_statement", sql_show::create_job(catalog.job(name)?).lines())?),
    }
}

pub fn describe_plan(plan: &LogicalPlan) -> Result<Answer, SqlError> {
    Ok(rows(sql_show::describe_plan(plan)?, "DESCRIBE"))
}

pub fn describe(catalog: &Catalog, table: &RelationName) -> Result<Answer, SqlError> {
    Ok(rows(sql_show::describe(catalog.table(table)?)?, "DESCRIBE"))
}
