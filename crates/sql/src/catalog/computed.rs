//! Types of computed columns: what DataFusion says of their expressions over the table's other columns.
use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::datatypes::{Field, Schema},
    common::{DFSchema, tree_node::TreeNode},
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{Expr, ExprSchemable},
    sql::sqlparser::ast,
};

use super::{ColumnDefinition, ColumnKind, FunctionDefinition, TableDefinition};
use crate::{
    cast_types::CastTypes, error::SqlError, expansion, functions, names::RelationName, parser, planner::refuse_misplaced,
    types::SqlType,
};

/// Fills in the types that follow from expressions.
pub(super) fn set_types(
    table: &RelationName,
    columns: &mut [ColumnDefinition],
    declared: &[FunctionDefinition],
) -> Result<(), SqlError> {
    let is_stored = |column: &&ColumnDefinition| !matches!(column.kind, ColumnKind::Computed { .. });
    let fields = |columns: &[ColumnDefinition]| -> Vec<Field> {
        columns.iter().filter(is_stored).map(|column| Field::new(&column.name, column.sql_type.arrow(), column.nullable)).collect()
    };
    if columns.iter().filter(is_stored).count() == columns.len() {
        return Ok(());
    }
    let schema = DFSchema::from_unqualified_fields(fields(columns).into(), HashMap::new())?;
    let state = state_with(declared)?;
    for column in columns {
        let ColumnKind::Computed { expression } = &column.kind else { continue };
        let expression = parser::expression(expression)?;
        refuse_misplaced(&expression, &state)?;
        let planned = planned(&state, expression, &schema)?;
        if planned.exists(|part| Ok(is_of_several_rows(part)))? {
            return Err(SqlError::unsupported(format!(
                "column {} of table {table} is computed of more than its record; have no aggregate, OVER, unnest or subquery in it, and compute it in the SELECT of the job",
                column.name
            )));
        }
        let found = planned.get_type(&schema)?;
        let Some(sql_type) = SqlType::of_arrow(&found) else {
            let message =
                format!("column {} of table {table} is computed as {found}, which no column can have; add a CAST", column.name);
            return Err(SqlError::invalid(message));
        };
        column.nullable = planned.nullable(&schema)?;
        column.sql_type = sql_type;
    }
    Ok(())
}

/// A state in which expressions are planned that call `declared` functions.
pub(super) fn state_with(declared: &[FunctionDefinition]) -> Result<SessionState, SqlError> {
    let mut state = SessionStateBuilder::new().with_default_features().with_type_planner(Arc::new(CastTypes)).build();
    functions::register(&mut state)?;
    // Literals are Utf8, as everywhere in jobs.
    state.config_mut().options_mut().sql_parser.map_string_types_to_utf8view = false;
    expansion::declare(&mut state, declared);
    Ok(state)
}

/// The expressions of a table's computed columns.
pub(super) fn written(table: &TableDefinition) -> Result<Vec<ast::Expr>, SqlError> {
    let mut expressions = Vec::new();
    for column in &table.columns {
        if let ColumnKind::Computed { expression } = &column.kind {
            expressions.push(parser::expression(expression)?);
        }
    }
    Ok(expressions)
}

fn is_of_several_rows(part: &Expr) -> bool {
    matches!(
        part,
        Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::Unnest(_)
            | Expr::ScalarSubquery(_)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
    )
}

pub(super) fn planned(state: &SessionState, expr: ast::Expr, schema: &DFSchema) -> Result<Expr, SqlError> {
    let expr = expansion::written_out(&expr, state)?.into_owned();
    Ok(state.create_logical_expr_from_sql_expr(ast::ExprWithAlias { expr, alias: None }, schema)?)
}

/// All columns of `table` as expressions over its stored ones, which `state` can plan.
pub(crate) fn expressions(state: &SessionState, table: &TableDefinition) -> Result<Vec<Expr>, SqlError> {
    let schema: &Schema = &table.stored().arrow_schema();
    let schema = DFSchema::from_unqualified_fields(schema.fields().clone(), HashMap::new())?;
    let mut expressions = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let expression = match &column.kind {
            ColumnKind::Computed { expression } => {
                // Read by our own grammar, as the expressions of queries are.
                let computed = planned(state, parser::expression(expression)?, &schema)?;
                // In its declared type, whatever literals have become since.
                let computed = computed.cast_to(&table.data_type(column), &schema)?;
                let is_event_time = table.watermark.as_ref().is_some_and(|watermark| watermark.column == column.name);
                if is_event_time { functions::event_time().call(vec![computed]) } else { computed }
            }
            _ => Expr::Column(datafusion::common::Column::new_unqualified(&column.name)),
        };
        expressions.push(expression.alias_if_changed(column.name.clone())?);
    }
    Ok(expressions)
}
