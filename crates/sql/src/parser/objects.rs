//! Reads CREATE and DROP: which object they are about, and what to write for objects of other systems.
use super::{cursor::Cursor, function, job, table, view};
use crate::{catalog::CONNECTORS, error::SqlError, statement::StatementKind};

pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let at = cursor.at();
    cursor.advance();
    let refuse = |message: &str| Err(SqlError::unsupported_at(at, message));
    if cursor.words(&["OR", "REPLACE"]) {
        if let Some(create) = function::create(cursor, true)? {
            return Ok(StatementKind::CreateFunction(create));
        }
        return refuse("CREATE OR REPLACE is for functions alone; write DROP and CREATE");
    }
    if cursor.word("EXTERNAL") {
        return refuse(&format!(
            "CREATE EXTERNAL TABLE reads files of the server, which SQL cannot do here; write CREATE TABLE … WITH ('connector' = {}, …)",
            CONNECTORS.map(|name| format!("'{name}'")).join(" | ")
        ));
    }
    if cursor.words(&["TEMPORARY", "VIEW"]) || cursor.words(&["TEMP", "VIEW"]) || cursor.word("VIEW") {
        return Ok(StatementKind::CreateView(view::create_view(cursor)?));
    }
    if let Some(create) = function::create(cursor, false)? {
        return Ok(StatementKind::CreateFunction(create));
    }
    if cursor.word("TEMPORARY") || cursor.word("TEMP") {
        return refuse("temporary tables are not supported; write CREATE TABLE, and DROP TABLE when done");
    }
    if cursor.word("TABLE") {
        return Ok(StatementKind::CreateTable(table::create_table(cursor)?));
    }
    if cursor.word("JOB") {
        return Ok(StatementKind::CreateJob(job::create_job(cursor)?));
    }
    if cursor.word("SAVEPOINT") {
        return job::create_savepoint(cursor);
    }
    if cursor.word("MODEL") {
        return refuse("models are not supported yet; this version has tables and jobs");
    }
    if cursor.word("STREAM") {
        return refuse(
            "a stream is a table: CREATE TABLE … WITH ('connector' = 'kafka', …); one AS SELECT is a table that a job fills: CREATE JOB … AS INSERT INTO …",
        );
    }
    if cursor.word("SOURCE") {
        return refuse("a source is a table: CREATE TABLE … WITH ('connector' = 'kafka', 'topic' = …, 'format' = 'json')");
    }
    if cursor.word("SINK") {
        return refuse(
            "a sink is a table that a job fills: CREATE TABLE … WITH ('connector' = …), then CREATE JOB … AS INSERT INTO … SELECT …",
        );
    }
    if cursor.words(&["MATERIALIZED", "VIEW"]) {
        return refuse(
            "a materialized view is a table and a job that fills it: CREATE TABLE … WITH ('connector' = …), then CREATE JOB … AS INSERT INTO … SELECT …",
        );
    }
    if cursor.word("SCHEMA") || cursor.word("DATABASE") || cursor.word("CATALOG") {
        return refuse("schemas need no CREATE: declare a table as schema.table");
    }
    if cursor.word("INDEX") || cursor.words(&["UNIQUE", "INDEX"]) {
        return refuse("indexes do not exist; choose the table's PRIMARY KEY by how it is read");
    }
    if cursor.word("ROLE") || cursor.word("USER") {
        return refuse("CREATE ROLE does not exist; roles are in the server's roles file");
    }
    Err(cursor.expected("TABLE, VIEW, FUNCTION, JOB or SAVEPOINT"))
}

pub(super) fn drop_object(cursor: &mut Cursor<'_>) -> Result<StatementKind, SqlError> {
    let at = cursor.at();
    cursor.advance();
    let temporary = cursor.word("TEMPORARY");
    if cursor.words(&["AGGREGATE", "FUNCTION"]) || cursor.word("AGGREGATE") || cursor.word("FUNCTION") {
        return function::drop_function(cursor);
    }
    let is_view = cursor.word("VIEW");
    let is_table = !is_view && !temporary && cursor.word("TABLE");
    let is_job = !is_view && !is_table && !temporary && cursor.word("JOB");
    let is_savepoint = !is_view && !is_table && !is_job && !temporary && cursor.word("SAVEPOINT");
    if !is_view && !is_table && !is_job && !is_savepoint {
        return Err(cursor.expected("TABLE, VIEW, FUNCTION, JOB or SAVEPOINT"));
    }
    let if_exists = cursor.words(&["IF", "EXISTS"]);
    if is_job {
        return Ok(StatementKind::DropJob { name: cursor.job_name()?, if_exists });
    }
    if is_savepoint {
        return Ok(StatementKind::DropSavepoint { name: cursor.savepoint_name()?, if_exists });
    }
    let name = cursor.relation()?;
    if is_view && !cursor.is_word("CASCADE") {
        cursor.word("RESTRICT");
        return Ok(StatementKind::DropView { name, if_exists });
    }
    if cursor.word("CASCADE") {
        return Err(SqlError::unsupported_at(at, "DROP … CASCADE does not exist; drop the jobs and views that use it first"));
    }
    cursor.word("RESTRICT");
    Ok(StatementKind::DropTable { name, if_exists })
}
