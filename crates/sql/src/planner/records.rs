//! Rows of tables that keep the last record of each key, as a plan over their records.
use datafusion::{
    common::Column,
    functions::core::expr_fn::get_field,
    logical_expr::{Expr, ExprFunctionExt, LogicalPlanBuilder, lit, not, when},
};

use crate::{
    catalog::{ColumnDefinition, ColumnKind, RECORD_IS_TOMBSTONE, RECORD_OFFSET, RECORD_PARTITION, TableDefinition, member_column},
    error::SqlError,
    functions,
    options::kafka::DebeziumOptions,
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

/// Of each key the record that stands last in the topic, unless it is a tombstone. A key's records are in one partition; where producers moved
/// them to another, the higher offset counts.
fn last(records: LogicalPlanBuilder, table: &TableDefinition) -> Result<LogicalPlanBuilder, SqlError> {
    let key = table.primary_key.iter().flat_map(|key| key.columns()).map(column);
    let newest = [RECORD_OFFSET, RECORD_PARTITION].map(|name| column(name).sort(false, false));
    let number = functions::last_record()
        .call(vec![column(RECORD_IS_TOMBSTONE)])
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
    let after = |name: &str| get_field(member("after"), name);
    // Which record is a key's last must not depend on the columns that are read.
    let required = table.columns.iter().filter(|column| column.kind == ColumnKind::Physical && !column.nullable);
    let required: Vec<&str> = required.map(|column| column.name.as_str()).collect();
    let is_row = required.iter().fold(is_upsert(), |all, name| all.and(after(name).is_not_null()));
    let value = |declared: &ColumnDefinition| -> Result<Expr, SqlError> {
        let name = declared.name.as_str();
        if !table.is_key(name) {
            // Of a row that is deleted only the key counts, and nothing else of it can be wrong.
            return Ok(when(is_upsert(), after(name)).end()?);
        }
        let key = when(is_delete(), get_field(member("before"), name)).when(is_row.clone(), after(name)).end()?;
        if leaves_out {
            return Ok(key);
        }
        let what = format!(
            "the record says of no row what became of it: its op is none of c, r, u and d, or what is NOT NULL ({}) is missing in its before or after",
            required.join(", ")
        );
        Ok(when(is_change(), functions::required().call(vec![key, lit(what)])).end()?)
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
    let keys = table.primary_key.iter().flat_map(|key| key.columns()).map(|name| column(name).is_not_null());
    match keys.reduce(Expr::and).filter(|_| leaves_out) {
        Some(has_key) => Ok(changes.filter(has_key)?),
        None => Ok(changes),
    }
}
