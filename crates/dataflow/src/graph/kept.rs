//! What a graph keeps, so that another graph can be told to keep the same: it can then go on with the first one's state.
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Graph, NodeKind};

/// Of the keys and values that operators keep. It has to rise with every change to how they lie in runs of state; `tests/nexmark` notices one.
pub const STATE_FORMAT: u32 = 1;

/// An operator with state. Those of a graph stand in the order of its tables.
#[derive(Clone, Debug)]
pub struct Kept {
    /// In its own words, with what it keeps. Savepoints have them.
    operator: String,
    /// As EXPLAIN shows it, with what it keeps.
    pub shown: String,
    /// Its columns, with their types.
    columns: Vec<String>,
    /// Of all that its state follows from: what it does, and everything below it. Means something within one process only.
    identity: u64,
}

impl Kept {
    fn state(&self) -> (&str, u64) {
        (&self.operator, self.identity)
    }
}

impl Graph {
    /// `source` tells all that there is to tell of the rows of the graph's source of this place.
    pub fn kept(&self, source: &dyn Fn(usize) -> String) -> Vec<Kept> {
        let mut identities: Vec<u64> = Vec::with_capacity(self.nodes.len());
        let mut kept = vec![];
        // Inputs stand before who reads them.
        for node in &self.nodes {
            let mut hasher = DefaultHasher::new();
            format!("{:?} {:?} {}", node.schema, node.times, node.changing).hash(&mut hasher);
            match &node.kind {
                NodeKind::Source(place) => source(*place).hash(&mut hasher),
                NodeKind::Exchange { exchange, input } => (format!("{exchange:?}"), identities[*input]).hash(&mut hasher),
                NodeKind::Operator { operator, inputs, tables } => {
                    format!("{operator:?} {:?}", &self.tables[tables.clone()]).hash(&mut hasher);
                    inputs.iter().for_each(|&input| identities[input].hash(&mut hasher));
                    if !tables.is_empty() {
                        let keeps =
                            self.state_of(operator.as_ref(), tables).map_or(String::new(), |state| format!(" [keeps {state}]"));
                        let described = operator.describe();
                        let name = described.split(':').next().unwrap_or_default();
                        kept.push(Kept {
                            columns: operator.kept().iter().map(|column| format!("{name}: {column}")).collect(),
                            operator: described + &keeps,
                            shown: node.shown(operator.as_ref()) + &keeps,
                            identity: hasher.finish(),
                        });
                    }
                }
            }
            identities.push(hasher.finish());
        }
        kept
    }
}

/// What has to be the same for another process to go on with the state of these operators, a line each.
pub fn layout(kept: &[Kept]) -> Vec<String> {
    let format = format!("state in format {STATE_FORMAT}");
    std::iter::once(format).chain(kept.iter().map(|kept| kept.operator.clone())).collect()
}

/// The columns of what these operators keep, a line each, with their types: another process must have the same.
pub fn columns(kept: &[Kept]) -> Vec<String> {
    kept.iter().flat_map(|kept| kept.columns.clone()).collect()
}

/// The first operator that differs: how it was and how it is; `None` where there is none.
pub fn first_difference<'a>(before: &'a [Kept], after: &'a [Kept]) -> Option<(Option<&'a Kept>, Option<&'a Kept>)> {
    let places = 0..before.len().max(after.len());
    places
        .map(|place| (before.get(place), after.get(place)))
        .find(|(before, after)| before.map(Kept::state) != after.map(Kept::state))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::{catalog::MemTable, prelude::SessionContext};

    use super::*;
    use crate::{Emit, SinkPlan, SourceLeaf};

    fn kept(sql: &str) -> Vec<Kept> {
        kept_of(DataType::Int64, sql)
    }

    fn kept_of(key: DataType, sql: &str) -> Vec<Kept> {
        kept_with_ttl(key, sql, None)
    }

    fn kept_with_ttl(key: DataType, sql: &str, ttl_us: Option<i64>) -> Vec<Kept> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let context = SessionContext::new();
            let fields = vec![Field::new("k", key, true), Field::new("v", DataType::Int64, true)];
            let table = MemTable::try_new(Arc::new(Schema::new(fields)), vec![vec![]]).unwrap();
            context.register_table("t", Arc::new(table)).unwrap();
            let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
            let find = |plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
                let times = vec![None; plan.schema().fields().len()];
                plan.children().is_empty().then(|| SourceLeaf { source: 0, times, label: String::new(), whole: false })
            };
            let sinks = vec![SinkPlan { plan, emit: Emit::OnUpdate }];
            let graph = Graph::build(&context.state(), sinks, &find, None).await.unwrap().with_ttl(ttl_us);
            graph.kept(&|place| format!("source {place}"))
        })
    }

    /// The words of manifests, which later versions compare with their own.
    #[test]
    fn types_of_what_is_kept_are_told_beside_the_operators() {
        use arrow::datatypes::TimeUnit::{Microsecond, Millisecond};
        let [one, other] = [Millisecond, Microsecond].map(|unit| DataType::Timestamp(unit, None));
        for (sql, told) in [
            (
                "SELECT k, count(v) AS c, count(DISTINCT v) AS n FROM t GROUP BY k",
                vec![
                    "Aggregate (merging): key k Timestamp(ms)",
                    "Aggregate (merging): count(t.v) Int64",
                    "Aggregate (merging): count(DISTINCT t.v) (of distinct values) Int64",
                    "Aggregate (merging): values of count(DISTINCT t.v) Int64",
                ],
            ),
            (
                "SELECT s, max(k) AS m FROM (SELECT k, sum(v) AS s FROM t GROUP BY k) AS x GROUP BY s",
                vec![
                    "Aggregate (merging): key k Timestamp(ms)",
                    "Aggregate (merging): sum(t.v) Int64",
                    "Aggregate (of changing rows): key s Int64",
                    "Aggregate (of changing rows): values of max(x.k) Timestamp(ms)",
                ],
            ),
            (
                "SELECT k, array_agg(k) AS a, max(v) AS m FROM t GROUP BY k",
                vec![
                    "Aggregate (merging, and of remembered values): key k Timestamp(ms)",
                    "Aggregate (merging, and of remembered values): max(t.v) Int64",
                    "Aggregate (merging, and of remembered values): values of array_agg(t.k) Timestamp(ms)",
                    "Aggregate (merging, and of remembered values): last results List(Timestamp(ms)), Int64",
                ],
            ),
            (
                "SELECT a.k, b.v FROM t AS a JOIN t AS b ON a.k = b.k",
                vec![
                    "Join (Inner): left key k Timestamp(ms)",
                    "Join (Inner): left column k Timestamp(ms)",
                    "Join (Inner): right key k Timestamp(ms)",
                    "Join (Inner): right column k Timestamp(ms)",
                    "Join (Inner): right column v Int64",
                ],
            ),
            (
                "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) AS n FROM t) WHERE n <= 2",
                vec![
                    "Top 2: key k Timestamp(ms)",
                    "Top 2: order v Int64",
                    "Top 2: column k Timestamp(ms)",
                    "Top 2: column v Int64",
                ],
            ),
            (
                "SELECT k, sum(v) OVER (PARTITION BY v ORDER BY k) AS s FROM t",
                vec![
                    "Window: key v Int64",
                    "Window: order k Timestamp(ms)",
                    "Window: column k Timestamp(ms)",
                    "Window: column v Int64",
                    "Window: rows before the last peers Binary, UInt64, UInt64",
                    "Window: sum before the last peers Int64",
                ],
            ),
        ] {
            let (before, after) = (kept_of(one.clone(), sql), kept_of(other.clone(), sql));
            assert_eq!(layout(&before), layout(&after), "{sql}");
            assert_eq!(columns(&before), told, "{sql}");
            let expected: Vec<_> = told.iter().map(|line| line.replace("(ms)", "(µs)")).collect();
            assert_eq!(columns(&after), expected, "{sql}");
        }
    }

    /// Of functions that gave other answers once: their state is refused, as rows would be taken back that never came out.
    #[test]
    fn functions_that_answer_otherwise_than_once_are_called_otherwise() {
        let share = "percentile_cont(0.5) WITHIN GROUP (ORDER BY v)";
        let frame = "PARTITION BY k ORDER BY v ROWS 1 PRECEDING";
        let decimal = "CAST(v AS DECIMAL(20, 2))";
        let changing = "(SELECT k, count(*) AS n FROM t GROUP BY k) AS x";
        for (sql, words, expected) in [
            (format!("SELECT k, {share} AS p FROM t GROUP BY k"), " (as exact as floats)]", true),
            (
                format!("SELECT n, {share} AS p FROM (SELECT k AS n, max(v) AS v FROM t GROUP BY k) GROUP BY n"),
                " (as exact as floats)]",
                true,
            ),
            (format!("SELECT n, avg(k) AS a FROM {changing} GROUP BY n"), " (infinities apart)]", true),
            (format!("SELECT n, sum(k) AS s FROM {changing} GROUP BY n"), " (infinities apart)]", false),
            ("SELECT k, avg(v) AS a FROM t GROUP BY k".to_owned(), " (infinities apart)]", false),
            (format!("SELECT n, first_value(k ORDER BY k DESC) AS f FROM {changing} GROUP BY n"), " (in its order)]", true),
            (format!("SELECT n, max(k) AS m FROM {changing} GROUP BY n"), " (in its order)]", false),
            (format!("SELECT sum({decimal}) OVER ({frame}) AS s FROM t"), " (checked)]", true),
            (format!("SELECT sum({decimal}) OVER (PARTITION BY k) AS s FROM t"), " (checked)]", false),
            (format!("SELECT sum(v) OVER ({frame}) AS s FROM t"), " (checked)]", false),
            (format!("SELECT avg({decimal}) OVER ({frame}) AS s FROM t"), " (checked)]", false),
        ] {
            let layout = layout(&kept(&sql));
            assert_eq!(layout.iter().any(|line| line.contains(words)), expected, "{layout:?}");
        }
    }

    /// They are not to be computed of values that have ended.
    #[test]
    fn results_are_kept_where_values_end() {
        const TTL_US: Option<i64> = Some(1_000_000);
        for (call, ttl_us, expected) in [("max(k)", TTL_US, true), ("max(k)", None, false), ("sum(k)", TTL_US, false)] {
            let sql = format!("SELECT n, {call} AS y FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS x GROUP BY n");
            let layout = layout(&kept_with_ttl(DataType::Int64, &sql, ttl_us));
            let keeps_results = layout.iter().any(|line| line.contains("], last results Int64, never dropped]"));
            assert_eq!(keeps_results, expected, "{layout:?}");
        }
    }

    #[test]
    fn what_stands_above_the_state_may_change_and_what_it_follows_from_may_not() {
        let base = kept("SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k");
        assert_eq!(base.len(), 1, "{base:?}");
        let same = |sql: &str| first_difference(&base, &kept(sql)).is_none();
        assert!(same("SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k"), "a plan is itself");
        assert!(same("SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k HAVING count(*) > 3"));
        assert!(same("SELECT k, count(*) * 2 AS twice, count(*) AS n, sum(v) AS s FROM t GROUP BY k"));
        for other in [
            "SELECT k, count(*) AS n, max(v) AS s FROM t GROUP BY k",
            "SELECT k, count(*) AS n, sum(v + 1) AS s FROM t GROUP BY k",
            "SELECT v AS k, count(*) AS n, sum(v) AS s FROM t GROUP BY v",
            "SELECT k, count(*) AS n, sum(v) AS s FROM t WHERE v > 0 GROUP BY k",
            "SELECT k, count(*) AS n, sum(v) AS s FROM t WHERE v > 1 GROUP BY k",
            "SELECT k, v FROM t",
        ] {
            assert!(!same(other), "{other}");
        }
        let (before, after) = (kept("SELECT k, sum(v) AS s FROM t WHERE v > 0 GROUP BY k"), kept("SELECT k, v FROM t"));
        assert!(matches!(first_difference(&before, &after), Some((Some(_), None))));
        let (one, other) = ("SELECT k, sum(v) FROM t WHERE v > 0 GROUP BY k", "SELECT k, sum(v) FROM t WHERE v > 1 GROUP BY k");
        assert!(first_difference(&kept(one), &kept(other)).is_some(), "constants count");
    }
}
