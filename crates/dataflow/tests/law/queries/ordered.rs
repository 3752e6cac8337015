//! What goes by an order: aggregates of values in one, frames of what is so near, the first rows for each row of another table. Values that are equal in the
//! order are the same ones, or counted together, so that there is one answer.
use rand::{Rng, seq::IndexedRandom};

use super::{DIRECTIONS, Grammar, Query, widened};
use crate::{
    expressions::{Name, any_column, expression, predicate},
    spelling::either,
    tables::Kind,
};

impl Grammar<'_> {
    /// A column of this kind or what is made of some; no literal, which has no order.
    pub(super) fn ordered_value(&mut self, scope: &[Name], kind: Kind) -> Option<String> {
        let made = expression(scope, kind, 1, self.rng);
        if scope.iter().any(|name| made.contains(&name.sql)) {
            return Some(widened(&made, kind));
        }
        any_column(scope, kind, self.rng).map(|column| widened(&column.sql, kind))
    }

    pub(super) fn ordered_aggregate(&mut self, scope: &[Name]) -> (String, Kind, bool) {
        let kinds = [Kind::Integer, Kind::Integer, Kind::Text, Kind::Double, Kind::Decimal, Kind::Time, Kind::Date];
        let kind = kinds.choose(self.rng).copied().expect("kinds");
        let Some(value) = self.ordered_value(scope, kind) else { return ("count(*)".to_owned(), Kind::Integer, true) };
        let direction = DIRECTIONS.choose(self.rng).expect("directions");
        let condition = self.chance(0.2).then(|| predicate(scope, 1, self.rng));
        let filter = condition.as_ref().map_or_else(String::new, |condition| format!(" FILTER (WHERE {condition})"));
        let in_order = format!("WITHIN GROUP (ORDER BY {value}{direction}){filter}");
        // The values that are there, in their order.
        let also = condition.as_ref().map_or_else(String::new, |condition| format!("({condition}) AND "));
        let values = |of: &str| format!("array_agg({of} ORDER BY {of}{direction}) FILTER (WHERE {also}({of}) IS NOT NULL)");
        let choice = self.rng.random_range(0..7);
        let sql = match choice {
            0 => {
                let share = ["0.25", "0.5", "0.9"].choose(self.rng).expect("shares");
                let place = format!("arrow_cast(greatest(ceil({share} * count({value}){filter}), 1), 'Int64')");
                either(&format!("percentile_disc({share}) {in_order}"), &format!("array_element({}, {place})", values(&value)))
            }
            1 => either(&format!("mode() {in_order}"), &format!("longest_run({})", values(&value))),
            2 | 3 => {
                let function = ["first_value", "last_value"].choose(self.rng).expect("functions");
                // Of those at the same place one value is as good as another only if it is the same.
                let place = any_column(scope, Kind::Integer, self.rng).map(|column| format!("{}{direction}, ", column.sql));
                format!("{function}({value} ORDER BY {}{value}){filter}", place.unwrap_or_default())
            }
            4 if matches!(kind, Kind::Integer | Kind::Double) => format!("median({value}){filter}"),
            5 if matches!(kind, Kind::Integer | Kind::Text) => {
                let counted = format!("approx_distinct({value}){filter}");
                let sql = either(
                    &format!("CAST(approx_count_distinct({value}){filter} AS BIGINT)"),
                    &format!("CAST({counted} AS BIGINT)"),
                );
                return (sql, Kind::Integer, true);
            }
            _ => {
                let text = format!("CAST({value} AS VARCHAR)");
                let sql = match choice {
                    4 => format!("string_agg({text}, ',' ORDER BY {text}{direction}){filter}"),
                    _ => format!("array_to_string({}, ',')", values(&text)),
                };
                return (sql, Kind::Text, true);
            }
        };
        (sql, kind, true)
    }

    /// An aggregate for a frame, without its OVER: of whole numbers, of doubles, whose sums do not round, or of decimals.
    pub(super) fn framed(&mut self, scope: &[Name]) -> (String, Kind, bool) {
        let number = [Kind::Integer, Kind::Integer, Kind::Double, Kind::Decimal].choose(self.rng).copied().expect("kinds");
        let value = widened(&expression(scope, number, 1, self.rng), number);
        let function = ["sum", "sum", "count", "min", "max", "avg"].choose(self.rng).copied().expect("functions");
        let (kind, exact) = match (function, number) {
            ("count", _) => (Kind::Integer, true),
            ("avg", Kind::Integer | Kind::Double) => (Kind::Double, false),
            _ => (number, true),
        };
        let condition = self.chance(0.2).then(|| predicate(scope, 1, self.rng));
        let of_some = |condition: String| {
            let plain = format!("{function}(CASE WHEN {condition} THEN {value} END)");
            either(&format!("{function}({value}) FILTER (WHERE {condition})"), &plain)
        };
        (condition.map_or_else(|| format!("{function}({value})"), of_some), kind, exact)
    }

    /// Rows at the same place are in the same frames.
    pub(super) fn range(&mut self, depth: usize) -> Option<Query> {
        let from = self.ordered_input(depth);
        let scope = &from.columns;
        let kind = if self.chance(0.5) { Kind::Integer } else { Kind::Time };
        let order = any_column(scope, kind, self.rng)?.sql.clone();
        let partition = self.partition(scope);
        let direction = DIRECTIONS.choose(self.rng).expect("directions");
        let (before, after) = (self.rng.random_range(0..6), self.rng.random_range(1..6));
        let bound = |length: i32| if kind == Kind::Time { format!("INTERVAL '{length}' SECOND") } else { length.to_string() };
        let (before, after) = (bound(before), bound(after));
        let frame = match self.rng.random_range(0..4) {
            0 => format!("{before} PRECEDING AND CURRENT ROW"),
            1 => format!("{before} PRECEDING AND {after} FOLLOWING"),
            2 => format!("UNBOUNDED PRECEDING AND {after} FOLLOWING"),
            _ => "CURRENT ROW AND UNBOUNDED FOLLOWING".to_owned(),
        };
        let (call, kind, exact) = self.framed(scope);
        let text = format!("{call} OVER ({partition}ORDER BY {order}{direction} RANGE BETWEEN {frame})");
        let mut items: Vec<_> = scope.iter().map(|name| (name.sql.clone(), name.kind, name.exact)).collect();
        items.push((text, kind, exact));
        let (items, columns) = self.named(items);
        Some(Query { sql: format!("SELECT {items} FROM {}", from.sql), columns, rows: from.rows })
    }

    /// LATERAL, which plain DataFusion takes for a join before it counts: there the rows of each key are numbered.
    pub(super) fn lateral(&mut self) -> Query {
        let (left, right) = (self.table(), self.table());
        // `id` or `k`, of the same type on both sides.
        let key = usize::from(self.chance(0.7));
        let (own, other) = (left.columns[key].sql.clone(), right.columns[key].sql.clone());
        let (items, names) = self.named(right.columns.iter().map(|name| (name.sql.clone(), name.kind, name.exact)).collect());
        let order = self.total_order(&names);
        let condition = self.chance(0.4).then(|| predicate(&right.columns, 1, self.rng));
        let limit = self.rng.random_range(1..4);
        let (alias, numbered, group, rank) = (self.fresh("a"), self.fresh("a"), self.fresh("g"), self.fresh("r"));
        let ours = {
            let and = condition.as_ref().map_or_else(String::new, |condition| format!(" AND {condition}"));
            let rows = format!("SELECT {items} FROM {} WHERE {other} = {own}{and} ORDER BY {order} LIMIT {limit}", right.sql);
            format!(", LATERAL ({rows}) AS {alias}")
        };
        let plain = {
            let filter = condition.as_ref().map_or_else(String::new, |condition| format!(" WHERE {condition}"));
            let rows = format!("SELECT {items}, {other} AS {group} FROM {}{filter}", right.sql);
            let rank_of = format!("row_number() OVER (PARTITION BY {group} ORDER BY {order}) AS {rank}");
            let on = format!("{alias}.{group} = {own} AND {alias}.{rank} <= {limit}");
            format!(" JOIN (SELECT *, {rank_of} FROM ({rows}) AS {numbered}) AS {alias} ON {on}")
        };
        let of_right = names.into_iter().map(|name| Name { sql: format!("{alias}.{}", name.sql), ..name });
        let both: Vec<Name> = left.columns.iter().cloned().chain(of_right).collect();
        let items: Vec<_> = self.projection(&both).into_iter().take(8).collect();
        let (items, columns) = self.named(items);
        let filter = self.filter(&both, 0.3);
        let sql = format!("SELECT {items} FROM {}{}{filter}", left.sql, either(&ours, &plain));
        Query { sql, columns, rows: left.rows * f64::from(limit) }
    }
}
