//! SHOW, DESCRIBE and EXPLAIN as rows.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    },
    common::Result,
    logical_expr::LogicalPlan,
};
use polybolos_gateway::engine::Answer;
use polybolos_sql::{catalog::Catalog, error::SqlError, names::RelationName, show as sql_show, statement::Show};

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
    }
}

/// What fits a terminal; `polybolos.jobs` has all.
const JOB_COLUMNS: [&str; 6] = ["name", "state", "limiting", "lag_records", "dead_letters", "error"];

fn few(batch: &RecordBatch, columns: &[&str]) -> Result<RecordBatch> {
    let indices: std::result::Result<Vec<usize>, _> = columns.iter().map(|name| batch.schema().index_of(name)).collect();
    Ok(batch.project(&indices?)?)
}

pub fn show(what: &Show, catalog: &Catalog, status: &Arc<StatusSource>) -> Result<Answer, SqlError> {
    match what {
        Show::Jobs => Ok(rows(few(&system_tables::jobs(status)?, &JOB_COLUMNS)?, "SHOW")),
        Show::Savepoints => Ok(rows(system_tables::savepoints(status)?, "SHOW")),
        Show::Tables => Ok(rows(sql_show::tables(catalog)?, "SHOW")),
        Show::Views => Ok(rows(sql_show::views(catalog)?, "SHOW")),
        Show::CreateView(name) => Ok(text("create_statement", sql_show::create_view(catalog.view(name)?).lines())?),
        Show::CreateTable(name) => Ok(text("create_statement", sql_show::create_table(catalog.table(name)?).lines())?),
        Show::CreateJob(name) => Ok(text("create_statement", sql_show::create_job(catalog.job(name)?).lines())?),
    }
}

pub fn describe_view(plan: &LogicalPlan) -> Result<Answer, SqlError> {
    Ok(rows(sql_show::describe_view(plan)?, "DESCRIBE"))
}

pub fn describe(catalog: &Catalog, table: &RelationName) -> Result<Answer, SqlError> {
    Ok(rows(sql_show::describe(catalog.table(table)?)?, "DESCRIBE"))
}
