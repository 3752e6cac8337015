//! What rows are made of others in FROM and WHERE: items of arrays, the last records of keys, rows that compare without equalities, rows of several columns in
//! a subquery.
use rand::Rng;

use super::{From, Grammar, Query, widened};
use crate::{
    expressions::{Name, any_column, expression, predicate},
    spelling::either,
    tables::Kind,
};

/// Every row meets every other one, so many times at the most.
const MOST_PAIRS: f64 = 20_000.0;

/// The name by which columns of a table in FROM are told from others.
pub(super) fn alias_of(from: &From) -> String {
    from.columns[0].sql.split_once('.').expect("columns have an alias").0.to_owned()
}

/// The columns as those of a table of another name.
pub(super) fn renamed(columns: &[Name], alias: &str) -> Vec<Name> {
    let name = |name: &Name| {
        let (_, column) = name.sql.split_once('.').expect("columns have an alias");
        Name { sql: format!("{alias}.{column}"), ..*name }
    };
    columns.iter().map(name).collect()
}

impl Grammar<'_> {
    /// An array, which is empty or NULL for some rows, and of what.
    fn array(&mut self, scope: &[Name]) -> (String, Kind) {
        let mut integer = || widened(&expression(scope, Kind::Integer, 1, self.rng), Kind::Integer);
        let (one, other) = (integer(), integer());
        match self.rng.random_range(0..4) {
            0 => (format!("make_array({one}, {other})"), Kind::Integer),
            1 => {
                let condition = predicate(scope, 1, self.rng);
                (format!("CASE WHEN {condition} THEN make_array({one}, {other}) END"), Kind::Integer)
            }
            2 => (format!("generate_series(CAST(1 AS BIGINT), abs({one} % 4))"), Kind::Integer),
            _ => (format!("split({}, 'b')", expression(scope, Kind::Text, 1, self.rng)), Kind::Text),
        }
    }

    pub(super) fn unnest(&mut self, depth: usize, is_outer: bool) -> Query {
        let table = self.from(depth);
        let (array, kind) = self.array(&table.columns);
        let (old, alias, item, items) = (alias_of(&table), self.fresh("a"), self.fresh("u"), self.fresh("a"));
        let (join, on) = if is_outer { ("LEFT", " ON TRUE") } else { ("CROSS", "") };
        let ours = format!("(SELECT * FROM {} {join} JOIN UNNEST({array}) AS {items} ({item}){on})", table.sql);
        let unnested = if is_outer { format!("items_or_null({array})") } else { array };
        let plain = format!("(SELECT {old}.*, unnest({unnested}) AS {item} FROM {})", table.sql);
        let mut columns = renamed(&table.columns, &alias);
        columns.push(Name { sql: format!("{alias}.{item}"), kind, exact: true });
        let mut shown = self.projection(&columns);
        shown.push((format!("{alias}.{item}"), kind, true));
        let filter = self.filter(&columns, 0.4);
        let (items, columns) = self.named(shown);
        let sql = format!("SELECT {items} FROM {} AS {alias}{filter}", either(&ours, &plain));
        Query { sql, columns, rows: table.rows * 2.0 }
    }

    /// Records come in the order of their `id`; what the platform reads of several partitions does not, so that there a key is not forgotten.
    pub(super) fn upsert(&mut self) -> Query {
        let table = self.table();
        let (old, marked, numbered) = (alias_of(&table), self.fresh("a"), self.fresh("a"));
        let (gone, rank) = (self.fresh("g"), self.fresh("r"));
        let is_gone = format!("coalesce({}, FALSE)", predicate(&table.columns, 1, self.rng));
        let key = if self.chance(0.7) { format!("{marked}.k") } else { format!("{marked}.id % 20") };
        let number = either("row_number()", &format!("last_record({marked}.{gone}, 'rows')"));
        let columns = renamed(&table.columns, &numbered);
        let (items, columns) = self.named(columns.into_iter().map(|name| (name.sql, name.kind, name.exact)).collect());
        let sql = format!(
            "SELECT {items} FROM (SELECT {marked}.*, {number} OVER (PARTITION BY {key} ORDER BY {marked}.id DESC) AS {rank} FROM (SELECT {old}.*, {is_gone} AS {gone} FROM {}) AS {marked}) AS {numbered} WHERE {numbered}.{rank} = 1 AND NOT {numbered}.{gone}",
            table.sql
        );
        Query { sql, columns, rows: (table.rows / 2.0).min(60.0) }
    }

    pub(super) fn theta_join(&mut self) -> Option<Query> {
        let (left, right) = (self.table(), self.table());
        let order = self.order(&left, &right)?;
        let on = order.trim_start_matches(" AND ");
        let words = ["JOIN", "JOIN", "LEFT JOIN", "FULL JOIN"][self.rng.random_range(0..4)];
        let both: Vec<Name> = left.columns.iter().chain(&right.columns).cloned().collect();
        let items: Vec<_> = self.projection(&both).into_iter().take(6).collect();
        let (items, columns) = self.named(items);
        let filter = self.filter(&both, 0.3);
        let sql = format!("SELECT {items} FROM {} {words} {} ON {on}{filter}", left.sql, right.sql);
        Some(Query { sql, columns, rows: left.rows * right.rows / 2.0 })
    }

    /// `(a, b) IN (SELECT …)`, as plain DataFusion has it: some row is equal, or, of NOT IN, none might be.
    pub(super) fn tuple_in(&mut self, depth: usize, is_negated: bool) -> Option<Query> {
        let (left, right) = (self.from(depth), self.other(depth));
        if left.rows * right.rows > MOST_PAIRS {
            return None;
        }
        let second = if self.chance(0.5) { Kind::Text } else { Kind::Integer };
        let mut own = Vec::new();
        let mut values = Vec::new();
        for kind in [Kind::Integer, second] {
            own.push(any_column(&left.columns, kind, self.rng)?.sql.clone());
            values.push((any_column(&right.columns, kind, self.rng)?.sql.clone(), kind, true));
        }
        let items = self.projection(&left.columns);
        let (items, columns) = self.named(items);
        let (values, names) = self.named(values);
        let subquery = format!("SELECT {values} FROM {}{}", right.sql, self.filter(&right.columns, 0.5));
        let alias = self.fresh("a");
        let equal: Vec<String> = names.iter().zip(&own).map(|(name, own)| format!("{alias}.{} = {own}", name.sql)).collect();
        let (not, of_null) = if is_negated { ("NOT ", " IS NOT FALSE") } else { ("", "") };
        let condition = either(
            &format!("({}) {not}IN ({subquery})", own.join(", ")),
            &format!("{not}EXISTS (SELECT 1 FROM ({subquery}) AS {alias} WHERE ({}){of_null})", equal.join(" AND ")),
        );
        let more = if self.chance(0.3) { format!(" AND {}", predicate(&left.columns, 1, self.rng)) } else { String::new() };
        Some(Query { sql: format!("SELECT {items} FROM {} WHERE {condition}{more}", left.sql), columns, rows: left.rows })
    }

    /// `NOT EXISTS (… WHERE NOT EXISTS (…))`, of which the inner one compares with a column of the outermost query: plain DataFusion is given its values in the
    /// query between.
    pub(super) fn division(&mut self) -> Option<Query> {
        let (left, between, inner) = (self.table(), self.table(), self.table());
        if left.rows * between.rows > MOST_PAIRS {
            return None;
        }
        let own = any_column(&left.columns, Kind::Integer, self.rng)?.sql.clone();
        let of_between = any_column(&between.columns, Kind::Integer, self.rng)?.sql.clone();
        let first = any_column(&inner.columns, Kind::Integer, self.rng)?.sql.clone();
        let second = any_column(&inner.columns, Kind::Integer, self.rng)?.sql.clone();
        let (table, column) = (left.sql.split(' ').next()?, own.split('.').nth(1)?);
        let (again, values, value) = (self.fresh("a"), self.fresh("a"), self.fresh("c"));
        let not = if self.chance(0.7) { ["NOT ", "NOT "] } else { ["", "NOT "] };
        let more = if self.chance(0.3) { format!(" AND {}", predicate(&between.columns, 1, self.rng)) } else { String::new() };
        let within = |own: &str| {
            format!("{}EXISTS (SELECT 1 FROM {} WHERE {first} = {own} AND {second} = {of_between}){more}", not[1], inner.sql)
        };
        let values_of = format!("(SELECT DISTINCT {again}.{column} AS {value} FROM {table} AS {again}) AS {values}");
        let between = either(
            &format!("{} WHERE {}", between.sql, within(&own)),
            &format!(
                "{} CROSS JOIN {values_of} WHERE {} AND {values}.{value} IS NOT DISTINCT FROM {own}",
                between.sql,
                within(&format!("{values}.{value}"))
            ),
        );
        let items = self.projection(&left.columns);
        let (items, columns) = self.named(items);
        let sql = format!("SELECT {items} FROM {} WHERE {}EXISTS (SELECT 1 FROM {between})", left.sql, not[0]);
        Some(Query { sql, columns, rows: left.rows })
    }
}
