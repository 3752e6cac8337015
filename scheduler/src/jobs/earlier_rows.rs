//! Rows that tables have before a job begins to fill them: of a job that was dropped, of statements, of others. Nobody would notice that they stay.
use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, future};
use polybolos_sql::planner::JobPlan;
use polybolos_tables::{ScanRequest, TableBackend, TableError, TableName};

use super::restart;

/// It is only a notice: a store that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A notice for each table of the plan that has rows.
pub async fn notices(tables: &dyn TableBackend, plan: &JobPlan) -> Vec<String> {
    let targets: BTreeMap<TableName, String> = plan
        .inserts
        .iter()
        .filter_map(|insert| Some((insert.target.table_schema()?.name, insert.target.name.to_string())))
        .collect();
    let keeping = restart::keeping_target(plan).map(|target| target.name.to_string());
    let keeping = keeping.as_deref();
    // All at once: what a job of many tables waits is no more than for one.
    let looks = targets.into_iter().map(|(stored, declared)| async move {
        match tokio::time::timeout(PATIENCE, has_rows(tables, &stored)).await {
            Ok(Ok(true)) => return Some(notice(&declared, &plan.name, keeping)),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::debug!(table = %stored, %error, "it is not known whether the table has rows"),
            Err(_) => tracing::debug!(table = %stored, "it is not known whether the table has rows"),
        }
        None
    });
    future::join_all(looks).await.into_iter().flatten().collect()
}

fn notice(table: &str, job: &str, keeping: Option<&str>) -> String {
    let remedy = match keeping {
        None => format!("RESTART JOB {job} FROM EARLIEST REPLACE deletes them"),
        Some(keeping) => format!(
            "RESTART JOB {job} … REPLACE, which deletes them, is refused as the job writes to {keeping} too; give {keeping} a job of its own if they are to go"
        ),
    };
    format!(
        "table {table} has rows already: those that job {job} does not write stay, and VERIFY JOB {job} lists them as extra; {remedy}"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_names_no_restart_that_is_refused() {
        assert!(notice("d.t", "j", None).ends_with("RESTART JOB j FROM EARLIEST REPLACE deletes them"));
        let refused = notice("d.t", "j", Some("d.topic"));
        assert!(refused.contains("refused as the job writes to d.topic too") && !refused.contains("FROM EARLIEST"), "{refused}");
    }
}
