//! Rows that tables have before a job begins to fill them: of a job that was dropped, of statements, of others. Nobody would notice that they stay.
use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, future};
use polybolos_sql::planner::JobPlan;
use polybolos_tables::{ScanRequest, TableBackend, TableError, TableName};

/// It is only a notice: a store that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A notice for each table of the plan that has rows.
pub async fn notices(tables: &dyn TableBackend, plan: &JobPlan) -> Vec<String> {
    let targets: BTreeMap<TableName, String> = plan
        .inserts
        .iter()
        .filter_map(|insert| Some((insert.target.table_schema()?.name, insert.target.name.to_string())))
        .collect();
    // All at once: what a job of many tables waits is no more than for one.
    let looks = targets.into_iter().map(|(stored, declared)| async move {
        match tokio::time::timeout(PATIENCE, has_rows(tables, &stored)).await {
            Ok(Ok(true)) => return Some(notice(&declared, &plan.name)),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::debug!(table = %stored, %error, "it is not known whether the table has rows"),
            Err(_) => tracing::debug!(table = %stored, "it is not known whether the table has rows"),
        }
        None
    });
    future::join_all(looks).await.into_iter().flatten().collect()
}

fn notice(table: &str, job: &str) -> String {
    format!(
        "table {table} has rows already: those that job {job} does not write stay, and VERIFY JOB {job} lists them as extra; RESTART JOB {job} FROM EARLIEST REPLACE deletes them"
    )
}

async fn has_rows(tables: &dyn TableBackend, table: &TableName) -> Result<bool, TableError> {
    let Some(stored) = tables.describe(table).await? else { return Ok(false) };
    let columns = stored.primary_key().map(str::to_owned).collect();
    let request = ScanRequest { table: stored, columns, predicates: vec![], limit: Some(1) };
    for slice in tables.slices(&request, 1).await? {
        let mut batches = tables.scan(&request, &slice);
        while let Some(batch) = batches.next().await {
            if batch?.num_rows() > 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
