//! Rows of tables that keep the last record of each key, as a plan over their records.
use datafusion::{
    common::Column,
    functions::{core::expr_fn::get_field, string::expr_fn::lower},
    logical_expr::{Expr, ExprFunctionExt, LogicalPlanBuilder, lit, not, when},
};

use crate::{
    catalog::{
        ColumnDefinition, ColumnKind, RECORD_IS_TOMBSTONE, RECORD_OFFSET, RECORD_PARTITION, TableDefinition, key_column,
        member_column,
    },
    error::SqlError,
    functions,
    options::kafka::DebeziumOptions,
    types::SqlType,
};

/// `leaves_out`: records that say of no row what became of it are left out, as a query does, instead of being errors of their rows.
pub(super) fn rows(records: LogicalPlanBuilder, table: &TableDefinition, leaves_out: bool) -> Result<LogicalPlanBuilder, SqlError> {
    let records = match table.debezium() {
        Some(options) => changes(records, table, options, leaves_out)?,
        None => records,
    };
    last(records, table)
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

fn key(table: &TableDefinition) -> Vec<&str> {
    table.primary_key.iter().flat_map(|key| key.columns()).collect()
}

/// What tells rows apart by a column of the key: a UUID is the same in letters of either case.
fn identity(table: &TableDefinition, name: &str, value: Expr) -> Expr {
    match table.column(name).is_some_and(|column| column.sql_type == SqlType::Uuid) {
        true => lower(value),
        false => value,
    }
}

/// Of each key the record that stands last in the topic, unless it is a tombstone. A key's records are in one partition; where producers moved
/// them to another, the higher offset counts.
fn last(records: LogicalPlanBuilder, table: &TableDefinition) -> Result<LogicalPlanBuilder, SqlError> {
    let key = key(table).into_iter().map(|name| identity(table, name, column(name)));
    let newest = [RECORD_OFFSET, RECORD_PARTITION].map(|name| column(name).sort(false, false));
    let number = functions::last_record()
        .call(vec![column(RECORD_IS_TOMBSTONE), lit(table.name.to_string())])
        .partition_by(key.collect())
        .order_by(newest.to_vec())
        .build()?;
    let numbered = records.window([number])?;
    let Some((_, number)) = numbered.schema().iter().last() else {
        return Err(SqlError::invalid(format!("table {} has no columns", table.name)));
    };
    let is_last = column(number.name()).eq(lit(1_u64));
    Ok(numbered.filter(is_last.and(not(column(RECORD_IS_TOMBSTONE))))?)
}

/// Debezium's envelopes as records of rows: what a row was before it was deleted, what it is after anything else. The null payload that Debezium sends
/// after a delete, for Kafka to forget the key, says nothing more.
fn changes(
    records: LogicalPlanBuilder,
    table: &TableDefinition,
    options: &DebeziumOptions,
    leaves_out: bool,
) -> Result<LogicalPlanBuilder, SqlError> {
    let member = |name: &str| match options.schema_include {
        true => get_field(column(&member_column("payload")), name),
        false => column(&member_column(name)),
    };
    let is_delete = || member("op").eq(lit("d"));
    let is_upsert = || member("op").in_list(["c", "r", "u"].map(lit).to_vec(), false);
    let is_change = || not(column(RECORD_IS_TOMBSTONE));
    let before = |name: &str| get_field(member("before"), name);
    let after = |name: &str| get_field(member("after"), name);
    let deleted = |name: &str| -> Result<Expr, SqlError> {
        let of_record = match (options.has_key, options.schema_include) {
            (false, _) => return Ok(before(name)),
            (true, false) => column(&key_column(name)),
            (true, true) => get_field(column(&key_column("payload")), name),
        };
        Ok(when(before(name).is_not_null(), before(name)).otherwise(of_record)?)
    };
    let keys = key(table);
    // Else the row of the old key would stand for ever.
    let differs = keys.iter().map(|name| identity(table, name, before(name)).not_eq(identity(table, name, after(name))));
    let differs = differs.reduce(Expr::or).unwrap_or_else(|| lit(false));
    let keeps_key = || member("op").eq(lit("u")).and(differs.clone()).is_not_true();
    // Which record is a key's last must not depend on the columns that are read.
    let required = table.columns.iter().filter(|column| column.kind == ColumnKind::Physical && !column.nullable);
    let required: Vec<&str> = required.map(|column| column.name.as_str()).collect();
    let is_row = required.iter().fold(is_upsert(), |all, name| all.and(after(name).is_not_null()));
    let missing = Missing::of(table, options, &keys, &required);
    let needed = |value: Expr, what: &String| functions::required().call(vec![value, lit(what)]);
    let value = |declared: &ColumnDefinition| -> Result<Expr, SqlError> {
        let name = declared.name.as_str();
        if !table.is_key(name) {
            // Of a row that is deleted only the key counts, and nothing else of it can be wrong.
            return Ok(when(is_upsert(), after(name)).end()?);
        }
        if leaves_out {
            return Ok(when(is_delete(), deleted(name)?).when(is_row.clone().and(keeps_key()), after(name)).end()?);
        }
        let given = needed(when(is_row.clone(), after(name)).end()?, &missing.row);
        let kept = needed(when(keeps_key(), given).end()?, &missing.kept_key);
        Ok(when(is_delete(), needed(deleted(name)?, &missing.deleted_key)).when(is_change(), kept).end()?)
    };
    let mut columns = vec![];
    for declared in &table.columns {
        match declared.kind {
            ColumnKind::Physical => columns.push(value(declared)?.alias(&declared.name)),
            ColumnKind::Metadata { .. } => columns.push(column(&declared.name)),
            ColumnKind::Computed { .. } => {}
        }
    }
    columns.extend([column(RECORD_PARTITION), column(RECORD_OFFSET), is_delete().alias(RECORD_IS_TOMBSTONE)]);
    let changes = records.filter(is_change())?.project(columns)?;
    // A query has no dead letters: it leaves out what it cannot read.
    let keys = keys.into_iter().map(|name| column(name).is_not_null());
    match keys.reduce(Expr::and).filter(|_| leaves_out) {
        Some(has_key) => Ok(changes.filter(has_key)?),
        None => Ok(changes),
    }
}

/// What is wrong with a record that says of no row what became of it.
struct Missing {
    row: String,
    kept_key: String,
    deleted_key: String,
}

impl Missing {
    fn of(table: &TableDefinition, options: &DebeziumOptions, key: &[&str], required: &[&str]) -> Self {
        let (name, key) = (&table.name, key.join(", "));
        let or_schema = match options.schema_include {
            true => "",
            false => "; where records are {\"schema\": …, \"payload\": …} declare it with 'debezium-json.schema-include' = 'true'",
        };
        let deleted_key = match options.has_key {
            true => "neither in before nor in the record's key; have it sent in either of them",
            false => {
                "missing in before; have it sent (PostgreSQL: REPLICA IDENTITY FULL), or declare the table with 'key.format' = 'json' where the records' keys say it"
            }
        };
        Self {
            row: format!(
                "the record says of no row of {name} what became of it: its op is none of c, r, u and d, or what is NOT NULL ({}) is missing in its after{or_schema}",
                required.join(", ")
            ),
            kept_key: format!(
                "the record gives a row of {name} another primary key ({key}) in after than in before; send a delete of the row before and a create of the row after, as Debezium does"
            ),
            deleted_key: format!("the record deletes a row of {name} and its primary key ({key}) is {deleted_key}"),
        }
    }
}
