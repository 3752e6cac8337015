//! `SELECT … EMIT CHANGES`: a query that makes each row of one record, so that its rows can be given as records come: over some records of
//! its tables its plan gives the rows of these, whatever came before. What would have to remember rows is a job's.
use std::sync::Arc;

use datafusion::{
    common::tree_node::TreeNodeRecursion,
    logical_expr::{FetchType, LogicalPlan, SkipType},
};

use super::{Planner, headings, refuse};
use crate::{
    catalog::{Catalog, Connector, TableDefinition},
    error::SqlError,
    names::RelationName,
    statement::Query,
};

/// A query that is followed.
#[derive(Clone, Debug)]
pub struct FollowedQuery {
    /// Without its LIMIT, not yet optimised.
    pub plan: LogicalPlan,
    /// After so many rows it ends.
    pub limit: Option<usize>,
    /// The Kafka tables that it reads.
    pub tables: Vec<RelationName>,
}

impl Planner {
    /// A SELECT with EMIT CHANGES, its columns named as they are written.
    ///
    /// # Errors
    /// When DataFusion refuses it, when it would have to remember rows, and when it reads anything but Kafka tables that do not end.
    pub async fn plan_followed(&self, query: &Query) -> Result<FollowedQuery, SqlError> {
        let (plan, limit) = without_limit(self.plan_rows(&query.ast).await?)?;
        let tables = followed(&plan, &self.over([query.ast.as_ref()])?.catalog)?;
        Ok(FollowedQuery { plan: headings::name(plan, &query.headings)?, limit, tables })
    }
}

/// LIMIT counts all rows that the query gives, and not those of some records.
fn without_limit(plan: LogicalPlan) -> Result<(LogicalPlan, Option<usize>), SqlError> {
    match plan {
        LogicalPlan::Limit(limit) => match (limit.get_skip_type()?, limit.get_fetch_type()?) {
            (SkipType::Literal(0), FetchType::Literal(rows)) => Ok((Arc::unwrap_or_clone(limit.input), rows)),
            _ => Err(SqlError::unsupported(
                "a SELECT with EMIT CHANGES takes LIMIT n with a number and no OFFSET; leave OFFSET out, and write the number",
            )),
        },
        plan => Ok((plan, None)),
    }
}

/// The tables that the plan reads, if it can be followed.
fn followed(plan: &LogicalPlan, catalog: &Catalog) -> Result<Vec<RelationName>, SqlError> {
    let mut read = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let name = RelationName::from(&scan.table_name);
            read.push(name.looked_up().unwrap_or(name));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let declared = |name: &RelationName| catalog.find_table(name);
    if let Some(table) = read.iter().filter_map(declared).find(|table| table.keeps_last_record()) {
        return Err(needs_job(&format!("reads {}, whose rows change and go", table.name)));
    }
    let mut refused = None;
    plan.apply_with_subqueries(|node| {
        refused = refused_node(node);
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if let Some(error) = refused {
        return Err(error);
    }
    if read.is_empty() {
        return Err(has_own_rows());
    }
    for name in &read {
        if let Some(why) = ends(name, declared(name)) {
            return Err(SqlError::unsupported(format!("EMIT CHANGES follows Kafka tables, and {why}")));
        }
    }
    read.sort();
    read.dedup();
    Ok(read)
}

/// Why no more records come of it.
fn ends(name: &RelationName, table: Option<&TableDefinition>) -> Option<String> {
    let Some(table) = table else { return Some(format!("{name} is none; leave EMIT CHANGES out")) };
    match &table.connector {
        Connector::Kafka(_) if table.is_unbounded() => None,
        Connector::Kafka(_) => {
            Some(format!("{name} ends by its 'scan.bounded.mode'; leave that out of its declaration, or EMIT CHANGES"))
        }
        connector => Some(format!("{name} is none ({}); leave EMIT CHANGES out", connector.name())),
    }
}

fn refused_node(node: &LogicalPlan) -> Option<SqlError> {
    let remembers = match node {
        _ if refuse::has(node, refuse::is_subquery) => "has a subquery in an expression".to_owned(),
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_) => return None,
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => return Some(has_own_rows()),
        LogicalPlan::Aggregate(_) => "groups or aggregates rows".to_owned(),
        LogicalPlan::Join(_) => "joins".to_owned(),
        LogicalPlan::Sort(_) => "sorts (ORDER BY)".to_owned(),
        LogicalPlan::Distinct(_) => "takes each row once (DISTINCT, or UNION without ALL)".to_owned(),
        LogicalPlan::Window(_) => "has a function OVER (…)".to_owned(),
        LogicalPlan::Limit(_) => "limits the rows of a part of it (LIMIT)".to_owned(),
        LogicalPlan::RecursiveQuery(_) => "is recursive (WITH RECURSIVE)".to_owned(),
        other => format!("uses {}", other.display()),
    };
    Some(needs_job(&remembers))
}

fn needs_job(why: &str) -> SqlError {
    SqlError::unsupported(format!(
        "a SELECT with EMIT CHANGES makes each row of one record, and this one {why}; create a job, CREATE JOB … AS INSERT INTO … SELECT …, and query its table"
    ))
}

fn has_own_rows() -> SqlError {
    SqlError::unsupported(
        "EMIT CHANGES follows the records of Kafka tables, and this SELECT has rows of no table (VALUES, or no FROM); leave EMIT CHANGES out",
    )
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;

    use super::*;
    use crate::{Change, StatementKind, apply, parse, validate::Declared};

    const TABLES: &str = "
        CREATE TABLE t (k STRING, v BIGINT, items ARRAY<BIGINT>, ts TIMESTAMP(3), twice AS v * 2)
        WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
        CREATE TABLE u (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = 'u', 'format' = 'json');
        CREATE TABLE ended (k STRING) WITH ('connector' = 'kafka', 'topic' = 'e', 'format' = 'json', 'scan.bounded.mode' = 'latest-offset');
        CREATE TABLE newest (k STRING, v BIGINT, PRIMARY KEY (k) NOT ENFORCED)
        WITH ('connector' = 'upsert-kafka', 'topic' = 'n', 'key.format' = 'json', 'value.format' = 'json');
        CREATE TABLE side (k STRING, name STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
        CREATE VIEW big (id, v) AS SELECT k, v FROM t WHERE v > 1;
        CREATE VIEW counts AS SELECT k, count(*) AS n FROM t GROUP BY k;
    ";

    async fn plan(sql: &str) -> Result<FollowedQuery, SqlError> {
        let change = Change { now_us: 0, incarnation: "a1".into() };
        let statements = parse(TABLES).unwrap();
        let catalog = statements.iter().fold(Catalog::default(), |catalog, statement| apply(&catalog, statement, &change).unwrap());
        let state = SessionStateBuilder::new().with_default_features().build();
        let StatementKind::Query(query) = parse(sql).unwrap().remove(0).kind else { panic!("not a query: {sql}") };
        assert!(query.emit_changes, "{sql}");
        Planner::new(&state, Arc::new(catalog), Arc::new(Declared)).plan_followed(&query).await
    }

    #[tokio::test]
    async fn queries_of_one_record_each_are_followed() {
        for (sql, limit, tables, columns) in [
            ("SELECT k, v + 1 FROM t WHERE v > 3 EMIT CHANGES", None, vec!["t"], vec!["k", "v + 1"]),
            ("SELECT twice FROM t EMIT CHANGES LIMIT 5", Some(5), vec!["t"], vec!["twice"]),
            ("SELECT id FROM big LIMIT 2 EMIT CHANGES", Some(2), vec!["t"], vec!["id"]),
            (
                "SELECT k FROM t UNION ALL SELECT k FROM u UNION ALL SELECT upper(k) FROM u EMIT CHANGES",
                None,
                vec!["t", "u"],
                vec!["k"],
            ),
            ("SELECT k, item FROM t CROSS JOIN UNNEST(items) AS x (item) EMIT CHANGES", None, vec!["t"], vec!["k", "item"]),
            ("WITH c AS (SELECT v FROM u) SELECT v FROM c WHERE v IN (1, 2) EMIT CHANGES", None, vec!["u"], vec!["v"]),
        ] {
            let planned = plan(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let names: Vec<_> = planned.plan.schema().fields().iter().map(|field| field.name().clone()).collect();
            let read: Vec<_> = planned.tables.iter().map(ToString::to_string).collect();
            let tables: Vec<_> = tables.into_iter().map(str::to_owned).collect();
            assert_eq!((planned.limit, read, names), (limit, tables, columns.into_iter().map(str::to_owned).collect()), "{sql}");
        }
        let hinted = plan("SELECT k FROM u /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */ EMIT CHANGES").await.unwrap();
        assert_eq!(hinted.tables[0].to_string(), "u /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */");
    }

    #[tokio::test]
    async fn what_would_remember_rows_is_refused_by_name() {
        const JOB: &str = "; create a job, CREATE JOB … AS INSERT INTO …";
        const LEAVE_OUT: &str = "leave EMIT CHANGES out";
        for (sql, named, remedy) in [
            ("SELECT count(*) FROM t", "groups or aggregates", JOB),
            ("SELECT n FROM counts", "groups or aggregates", JOB),
            ("SELECT t.k FROM t JOIN u ON t.k = u.k", "joins", JOB),
            ("SELECT t.k FROM t JOIN side ON t.k = side.k", "joins", JOB),
            ("SELECT k FROM t ORDER BY v", "ORDER BY", JOB),
            ("SELECT k FROM t ORDER BY v LIMIT 5", "ORDER BY", JOB),
            ("SELECT DISTINCT k FROM t", "DISTINCT", JOB),
            ("SELECT k FROM t UNION SELECT k FROM u", "UNION without ALL", JOB),
            ("SELECT k, row_number() OVER (PARTITION BY k ORDER BY v) FROM t", "OVER (…)", JOB),
            ("SELECT k FROM (SELECT k FROM t LIMIT 3)", "LIMIT", JOB),
            ("SELECT k FROM t WHERE v > (SELECT max(v) FROM u)", "subquery", JOB),
            ("SELECT k FROM newest", "reads newest, whose rows change and go", JOB),
            ("SELECT k FROM side", "side is none (cassandra)", LEAVE_OUT),
            ("SELECT k FROM ended", "ended ends by its 'scan.bounded.mode'", "or EMIT CHANGES"),
            ("SELECT 1", "rows of no table", LEAVE_OUT),
            ("SELECT v FROM u UNION ALL SELECT 1", "rows of no table", LEAVE_OUT),
            ("SELECT k FROM t LIMIT 3 OFFSET 1", "no OFFSET", "write the number"),
        ] {
            let error = plan(&format!("{sql} EMIT CHANGES")).await.expect_err(sql).to_string();
            assert!(error.contains(named) && error.contains(remedy), "{sql}: {error}");
        }
    }
}
