//! Parameters of prepared statements, for every door: their types, and Arrow values as the literals that stand in for them.
use arrow::{
    array::{Array, AsArray},
    datatypes::DataType,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    logical_expr::{Expr, LogicalPlan},
};

use crate::{
    engine::Engine,
    error::{EngineError, ErrorKind},
    scan,
};

/// Types of `$1`, `$2`… as planning finds them; none where it does not.
pub async fn types(engine: &dyn Engine, sql: &str) -> Vec<Option<DataType>> {
    match scan::parameter_count(sql) {
        0 => Vec::new(),
        count => types_in(engine.planned(sql).await, count),
    }
}

fn types_in(planned: Result<LogicalPlan, EngineError>, count: usize) -> Vec<Option<DataType>> {
    let Ok(plan) = planned else { return vec![None; count] };
    let mut found = plan.get_parameter_types().unwrap_or_default();
    for limit in limits(&plan) {
        found.insert(limit, Some(DataType::Int64));
    }
    (1..=count).map(|number| found.get(&format!("${number}")).cloned().flatten()).collect()
}

/// Parameters of LIMIT and OFFSET, of which planning says no type.
fn limits(plan: &LogicalPlan) -> Vec<String> {
    let mut found = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            let numbers = [&limit.skip, &limit.fetch].into_iter().flatten();
            found.extend(numbers.filter_map(|number| match number.as_ref() {
                Expr::Placeholder(parameter) => Some(parameter.id.clone()),
                _ => None,
            }));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_or(Vec::new(), |_| found)
}

/// Puts one row's values in place of the parameters.
pub fn bind_row(sql: &str, batch: &RecordBatch, row: usize) -> Result<String, EngineError> {
    let literals = batch.columns().iter().map(|column| literal(column.as_ref(), row)).collect::<Result<Vec<_>, _>>()?;
    scan::bind(sql, &literals).map_err(|number| EngineError::new(ErrorKind::Invalid, format!("parameter {number} has no value")))
}

fn literal(array: &dyn Array, row: usize) -> Result<String, EngineError> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return Ok("NULL".to_owned());
    }
    if let DataType::Dictionary(_, _) = array.data_type() {
        let values = array.as_any_dictionary();
        return literal(values.values().as_ref(), values.normalized_keys()[row]);
    }
    let text = ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).try_to_string()?;
    Ok(match array.data_type() {
        DataType::Boolean => text,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => format!("CAST('{text}' AS DOUBLE)"),
        data_type if data_type.is_integer() || matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..)) => {
            format!("({text})")
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => scan::quoted(&text),
        DataType::Date32 | DataType::Date64 => format!("CAST({} AS DATE)", scan::quoted(&text)),
        DataType::Time32(_) | DataType::Time64(_) => format!("CAST({} AS TIME)", scan::quoted(&text)),
        DataType::Timestamp(..) => format!("CAST({} AS TIMESTAMP)", scan::quoted(&text)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => format!("X'{text}'"),
        other => {
            return Err(EngineError::new(
                ErrorKind::Unsupported,
                format!("parameters of type {other} cannot be bound; write the value into the statement"),
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn limits_are_numbers() {
        let state = SessionContext::new().state();
        let sql = "SELECT * FROM (SELECT 1 AS a LIMIT $2) WHERE a < $1 LIMIT $3 OFFSET 1";
        let planned = state.create_logical_plan(sql).await.map_err(EngineError::from);
        assert_eq!(types_in(planned, 3), [Some(DataType::Int64), Some(DataType::Int64), Some(DataType::Int64)]);
        let refused = state.create_logical_plan("SELECT $1 + nowhere").await.map_err(EngineError::from);
        assert_eq!(types_in(refused, 1), [None]);
    }

    #[tokio::test]
    async fn arrow_values_become_literals_that_mean_the_same() {
        let session = SessionContext::new();
        let values = "SELECT -5 AS a, 'O''Hara' AS b, 1.5e0 AS c, NULL AS d, true AS e, TIMESTAMP '2026-01-02T03:04:05.006' AS f, X'6162' AS g,
                      TIME '03:04:05.006' AS h";
        let batch = session.sql(values).await.unwrap().collect().await.unwrap().remove(0);
        let bound = bind_row("SELECT -$1, $2, $3, $4, $5, $6, $7, $8", &batch, 0).unwrap();
        let again = session.sql(&bound).await.unwrap().collect().await.unwrap().remove(0);
        let shown = |batch: &RecordBatch, column: usize| {
            ArrayFormatter::try_new(batch.column(column).as_ref(), &FormatOptions::default()).unwrap().value(0).to_string()
        };
        assert_eq!(shown(&again, 0), "5");
        for column in 1..8 {
            assert_eq!(shown(&again, column), shown(&batch, column), "{bound}");
        }
        assert!(bind_row("SELECT $9", &batch, 0).is_err());
    }
}
