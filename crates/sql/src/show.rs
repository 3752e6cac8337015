//! What SHOW and DESCRIBE answer, secrets hidden.
use std::{fmt::Write, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    },
    common::Result,
    logical_expr::LogicalPlan,
};

use crate::{
    catalog::{
        Catalog, ColumnDefinition, ColumnKind, Connector, FunctionDefinition, JobDefinition, TableDefinition, ViewDefinition,
    },
    error::SqlError,
    limits::Limits,
    names::quoted,
    redact,
    statement::CreateFunction,
    types::SqlType,
};

/// `SHOW CREATE TABLE`: a statement that declares the same table.
pub fn create_table(table: &TableDefinition) -> String {
    let mut lines: Vec<String> = table.columns.iter().map(column_clause).collect();
    if let Some(watermark) = &table.watermark {
        lines.push(format!("WATERMARK FOR {} AS {}", quoted(&watermark.column), watermark.expression));
    }
    if let Some(key) = &table.primary_key {
        lines.push(format!("PRIMARY KEY {key} NOT ENFORCED"));
    }
    let options: Vec<String> =
        table.options.iter().map(|(key, value)| format!("{} = {}", string(key), string(redact::value(key, value)))).collect();
    format!("CREATE TABLE {} (\n  {}\n) WITH (\n  {}\n)", table.name, lines.join(",\n  "), options.join(",\n  "))
}

/// `SHOW CREATE JOB`: the statement as written.
pub fn create_job(job: &JobDefinition) -> String {
    redact::sql(&job.sql)
}

/// `SHOW CREATE VIEW`: the statement as written.
pub fn create_view(view: &ViewDefinition) -> String {
    redact::sql(&view.sql)
}

/// `SHOW CREATE FUNCTION`: the statement as written.
pub fn create_function(function: &FunctionDefinition) -> String {
    redact::sql(&function.sql)
}

fn column_clause(column: &ColumnDefinition) -> String {
    if let ColumnKind::Computed { expression } = &column.kind {
        return format!("{} AS {expression}", quoted(&column.name));
    }
    let mut clause = format!("{} {}", quoted(&column.name), column.sql_type);
    if !column.nullable {
        clause.push_str(" NOT NULL");
    }
    if let ColumnKind::Metadata { from, is_virtual } = &column.kind {
        // Writing to a String cannot fail.
        let _ = write!(clause, " METADATA FROM {}{}", string(from.name()), if *is_virtual { " VIRTUAL" } else { "" });
    }
    clause
}

fn string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `DESCRIBE t`: one row per column.
///
/// # Errors
/// Never in practice: all columns have one length.
pub fn describe(table: &TableDefinition) -> Result<RecordBatch> {
    let columns = &table.columns;
    let is_key = |column: &ColumnDefinition| table.primary_key.iter().flat_map(|key| key.columns()).any(|name| name == column.name);
    let kind = |column: &ColumnDefinition| match &column.kind {
        ColumnKind::Physical if is_key(column) => "primary key".to_owned(),
        ColumnKind::Physical => String::new(),
        ColumnKind::Metadata { from, .. } => format!("metadata from '{}'", from.name()),
        ColumnKind::Computed { expression } => format!("computed as {expression}"),
    };
    batch(vec![
        ("column_name", strings(columns.iter().map(|column| column.name.clone()))),
        ("data_type", strings(columns.iter().map(|column| column.sql_type.to_string()))),
        ("nullable", Arc::new(BooleanArray::from_iter(columns.iter().map(|column| Some(column.nullable))))),
        ("extra", strings(columns.iter().map(kind))),
    ])
}

/// `SHOW TABLES`: one row per declared table.
///
/// # Errors
/// Never in practice: all columns have one length.
pub fn tables(catalog: &Catalog) -> Result<RecordBatch> {
    let tables = &catalog.tables;
    let place = |table: &TableDefinition| match &table.connector {
        Connector::Kafka(options) => options.topic.clone(),
        Connector::UpsertKafka(options) => options.topic.clone(),
        Connector::Cassandra(options) => options.table_name().to_string(),
        Connector::Filesystem(options) => options.path.clone(),
        Connector::Blackhole | Connector::Print { .. } => String::new(),
    };
    let filled_by = |table: &TableDefinition| catalog.job_that_fills(&table.name).map(|job| job.name.clone()).unwrap_or_default();
    batch(vec![
        ("table_schema", strings(tables.iter().map(|table| table.name.schema.clone()))),
        ("table_name", strings(tables.iter().map(|table| table.name.name.clone()))),
        ("connector", strings(tables.iter().map(|table| table.connector.name().to_owned()))),
        ("stored_as", strings(tables.iter().map(place))),
        ("filled_by", strings(tables.iter().map(filled_by))),
    ])
}

/// `SHOW VIEWS`: one row per view.
///
/// # Errors
/// Never in practice: all columns have one length.
pub fn views(catalog: &Catalog) -> Result<RecordBatch> {
    let views = &catalog.views;
    let reads = |view: &ViewDefinition| view.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    batch(vec![
        ("table_schema", strings(views.iter().map(|view| view.name.schema.clone()))),
        ("view_name", strings(views.iter().map(|view| view.name.name.clone()))),
        ("reads", strings(views.iter().map(reads))),
    ])
}

/// `SHOW FUNCTIONS`: one row per function that a user has created.
///
/// # Errors
/// Only when this version no longer reads what an earlier one took.
pub fn functions(catalog: &Catalog) -> Result<RecordBatch, SqlError> {
    let mut functions: Vec<CreateFunction> = Vec::with_capacity(catalog.functions.len());
    for function in &catalog.functions {
        functions.push(function.statement(Limits::default())?);
    }
    let parameters = |function: &CreateFunction| function.parameters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(batch(vec![
        ("function_name", strings(functions.iter().map(|function| function.name.clone()))),
        ("parameters", strings(functions.iter().map(parameters))),
        ("returns", strings(functions.iter().map(|function| function.returns.to_string()))),
        ("expression", strings(functions.iter().map(|function| function.body.to_string()))),
    ])?)
}

/// `DESCRIBE` of what is no declared table, by its plan ([`crate::planner::Planner::plan_described`]).
///
/// # Errors
/// Never in practice: all columns have one length.
pub fn describe_plan(plan: &LogicalPlan) -> Result<RecordBatch> {
    let fields = plan.schema().fields();
    let data_type = |field: &DataType| SqlType::of_arrow(field).map_or_else(|| field.to_string(), |sql_type| sql_type.to_string());
    batch(vec![
        ("column_name", strings(fields.iter().map(|field| field.name().clone()))),
        ("data_type", strings(fields.iter().map(|field| data_type(field.data_type())))),
        ("nullable", Arc::new(BooleanArray::from_iter(fields.iter().map(|field| Some(field.is_nullable()))))),
        ("extra", strings(fields.iter().map(|_| String::new()))),
    ])
}

fn strings(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let field = |(name, values): &(&str, ArrayRef)| Field::new(*name, values.data_type().clone(), false);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<Field>>());
    debug_assert!(schema.fields().iter().all(|field| matches!(field.data_type(), DataType::Utf8 | DataType::Boolean)));
    Ok(RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, values)| values).collect())?)
}
