//! Constructs that live by event time: windows of every kind, joins within an interval and of equal windows, semi and anti ones too,
//! the first rows of a window and what is added up among them. Each tells what it uses time for, and when its rows are final.
use rand::{Rng, seq::IndexedRandom};

use super::{
    Construct, From, Grammar, Query, group_by,
    sources::{alias_of, renamed},
};
use crate::{
    expressions::Name,
    spelling::either,
    tables::{EVENT_TIME, Kind},
};

const SECOND_US: i64 = 1_000_000;

/// A window table function, as jobs call it.
fn called(name: &str, rows: &str, seconds: &[i64]) -> String {
    let lengths: Vec<String> = seconds.iter().map(|seconds| format!("INTERVAL '{seconds}' SECOND")).collect();
    format!("TABLE({name}({rows}, DESCRIPTOR({EVENT_TIME}), {}))", lengths.join(", "))
}

/// A column's time in microseconds, moved.
fn moved(column: &str, by_us: i64) -> String {
    format!("CAST(arrow_cast({column}, 'Timestamp(Microsecond, None)') AS BIGINT) + {by_us}")
}

impl Grammar<'_> {
    fn time_of(from: &From) -> String {
        let ends = format!(".{EVENT_TIME}");
        from.columns.iter().find(|name| name.sql.ends_with(&ends)).expect("tables have an event time").sql.clone()
    }

    /// Rows are final once the watermark has passed this.
    fn closes(&mut self, is_top: bool, at: String) {
        if is_top {
            self.closing = Some(at);
        }
    }

    pub(super) fn timed(&mut self, construct: Construct, is_top: bool) -> Option<Query> {
        Some(match construct {
            Construct::WindowAggregate => {
                let seconds = self.seconds();
                self.closing_windows(|grammar| grammar.tumble(seconds, is_top), is_top)
            }
            Construct::Hop => self.closing_windows(|grammar| grammar.hop(is_top), is_top),
            Construct::Cumulate => self.closing_windows(|grammar| grammar.cumulate(is_top), is_top),
            Construct::Session => self.session(is_top),
            Construct::WindowTopN => self.window_top_n(is_top),
            Construct::WindowOver => self.window_over(is_top),
            Construct::IntervalJoin => self.interval_join(is_top)?,
            Construct::IntervalExists => self.interval_exists(is_top)?,
            Construct::WindowExists => self.window_exists(is_top)?,
            Construct::OverWindows => self.over_windows(is_top)?,
            _ => self.window_join(is_top)?,
        })
    }

    /// A key, rarely two, and aggregates, by a window that is the first column.
    fn by_window(&mut self, window: &str, from: &From, source: &str, is_top: bool, rows: f64) -> Query {
        let mut keys = vec![(window.to_owned(), Kind::Time, true)];
        let second = &from.columns[1];
        if second.exact && self.chance(0.7) {
            keys.push((second.sql.clone(), second.kind, true));
        }
        let mut items = keys.clone();
        items.extend(self.aggregates(&from.columns, is_top));
        let (items, columns) = self.named(items);
        let filter = self.filter(&from.columns, 0.3);
        Query { sql: format!("SELECT {items} FROM {source}{filter}{}", group_by(&keys)), columns, rows }
    }

    fn seconds(&mut self) -> i64 {
        *[5, 10, 60].choose(self.rng).expect("sizes")
    }

    /// Groups by windows, which come out as each closes.
    fn closing_windows(&mut self, windows: impl FnOnce(&mut Self) -> (Query, i64), is_top: bool) -> Query {
        let (query, closes_after_us) = windows(self);
        self.closes(is_top, moved(&query.columns[0].sql, closes_after_us));
        query
    }

    /// Groups by windows, and how long after its first column a group's window closes.
    fn tumble(&mut self, seconds: i64, is_top: bool) -> (Query, i64) {
        let table = self.table();
        let time = Self::time_of(&table);
        self.ends.push((seconds * SECOND_US, 0));
        let bin = format!("date_bin(INTERVAL '{seconds}' SECOND, {time})");
        let (window, from) = if self.chance(0.5) {
            (bin, table)
        } else {
            // A row without a time is in no window.
            let (rows, filter) = (format!("(SELECT * FROM {})", table.sql), format!(" WHERE {time} IS NOT NULL"));
            self.in_windows(
                &table,
                &format!("{bin} AS w FROM {}{filter}", table.sql),
                "start",
                &called("TUMBLE", &rows, &[seconds]),
            )
        };
        let source = from.sql.clone();
        (self.by_window(&window, &from, &source, is_top, from.rows / 3.0), seconds * SECOND_US)
    }

    /// The table's rows, each once per window that it is in: `plain` has the windows and where they come from, of `call` they are told by this bound.
    fn in_windows(&mut self, from: &From, plain: &str, bound: &str, call: &str) -> (String, From) {
        let alias = self.fresh("a");
        let old = alias_of(from);
        let plain = format!("(SELECT {old}.*, {plain})");
        let sql = either(&format!("(SELECT *, window_{bound} AS w FROM {call})"), &plain);
        (format!("{alias}.w"), From { sql: format!("{sql} AS {alias}"), columns: renamed(&from.columns, &alias), rows: from.rows })
    }

    fn hop(&mut self, is_top: bool) -> (Query, i64) {
        let table = self.table();
        let (slide, size, offset) =
            *[(5, 10, 0), (2, 10, 0), (10, 30, 0), (10, 15, 5), (4, 10, -3), (15, 15, 0), (10, 10, 3), (60, 60, -1)]
                .choose(self.rng)
                .expect("hops");
        let [slide_us, size_us, offset_us] = [slide, size, offset].map(|seconds: i64| seconds * SECOND_US);
        self.ends.push((slide_us, offset_us + size_us));
        let windows = format!("hop_starts({}, {slide_us}, {size_us}, {offset_us})", Self::time_of(&table));
        let call = called("HOP", &format!("(SELECT * FROM {})", table.sql), &[slide, size, offset]);
        let (window, from) = self.in_windows(&table, &format!("unnest({windows}) AS w FROM {}", table.sql), "start", &call);
        let source = from.sql.clone();
        (self.by_window(&window, &from, &source, is_top, from.rows), size_us)
    }

    fn cumulate(&mut self, is_top: bool) -> (Query, i64) {
        let table = self.table();
        let (step, size, offset) =
            *[(5, 10, 0), (2, 10, 0), (10, 60, 0), (5, 15, -2), (10, 30, 1)].choose(self.rng).expect("steps");
        let [step_us, size_us, offset_us] = [step, size, offset].map(|seconds: i64| seconds * SECOND_US);
        self.ends.push((step_us, offset_us));
        let windows = format!("cumulate_ends({}, {step_us}, {size_us}, {offset_us})", Self::time_of(&table));
        let call = called("CUMULATE", &format!("(SELECT * FROM {})", table.sql), &[step, size, offset]);
        let (window, from) = self.in_windows(&table, &format!("unnest({windows}) AS w FROM {}", table.sql), "end", &call);
        let source = from.sql.clone();
        (self.by_window(&window, &from, &source, is_top, from.rows), 0)
    }

    fn windows(&mut self) -> (From, i64) {
        let most = if self.may(Construct::OverSessions) { 5 } else { 3 };
        let (query, closes_after_us) = match self.rng.random_range(0..most) {
            0 => {
                let seconds = self.seconds();
                self.tumble(seconds, false)
            }
            1 => self.hop(false),
            2 => self.cumulate(false),
            _ => {
                self.constructs.insert(Construct::OverSessions);
                (self.session(false), 1)
            }
        };
        (self.subquery(query), closes_after_us)
    }

    /// All columns, with names of their own, behind the window.
    fn with_all(&mut self, window: &str, sides: &[&From]) -> (String, Vec<Name>) {
        let all = sides.iter().flat_map(|side| &side.columns).map(|name| (name.sql.clone(), name.kind, name.exact));
        self.named([(window.to_owned(), Kind::Time, true)].into_iter().chain(all).collect())
    }

    /// What is made of groups by windows, window by window.
    fn over_windows(&mut self, is_top: bool) -> Option<Query> {
        let (query, closes_after_us) = match self.rng.random_range(0..5) {
            // Aggregated by the same window, or a longer one.
            0 => {
                let (from, closes_after_us) = self.windows();
                (self.by_window(&from.columns[0].sql.clone(), &from, &from.sql, is_top, from.rows / 2.0), closes_after_us)
            }
            1 => {
                let (query, _) = self.tumble(5, false);
                let from = self.subquery(query);
                let seconds = *[10, 60].choose(self.rng).expect("sizes");
                let window = format!("date_bin(INTERVAL '{seconds}' SECOND, {})", from.columns[0].sql);
                (self.by_window(&window, &from, &from.sql, is_top, from.rows / 2.0), seconds * SECOND_US)
            }
            // Joined with others.
            2 => {
                let ((left, of_left), (right, of_right)) = (self.windows(), self.windows());
                let words = *["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(self.rng).expect("joins");
                let (l, r) = (left.columns[0].sql.clone(), right.columns[0].sql.clone());
                let more = if self.chance(0.5) { format!(" AND {}", self.equal_keys(&left, &right)?) } else { String::new() };
                let (items, columns) = self.with_all(&format!("coalesce({l}, {r})"), &[&left, &right]);
                let sql = format!("SELECT {items} FROM {} {words} {} ON {l} = {r}{more}", left.sql, right.sql);
                (Query { sql, columns, rows: left.rows * right.rows / 8.0 }, of_left.max(of_right))
            }
            // Joined with the rows of a table, some of which came long before.
            3 => {
                let seconds = self.seconds();
                let (query, closes_after_us) = self.tumble(seconds, false);
                let (left, right) = (self.subquery(query), self.table());
                let words = *["JOIN", "LEFT JOIN"].choose(self.rng).expect("joins");
                let (l, r) = (left.columns[0].sql.clone(), Self::time_of(&right));
                let (items, columns) = self.with_all(&l, &[&left, &right]);
                let on = format!("{l} = date_bin(INTERVAL '{seconds}' SECOND, {r})");
                let sql = format!("SELECT {items} FROM {} {words} {} ON {on}", left.sql, right.sql);
                (Query { sql, columns, rows: left.rows * right.rows / 8.0 }, closes_after_us)
            }
            // The first of each.
            _ => {
                let (from, closes_after_us) = self.windows();
                let window = from.columns[0].sql.clone();
                let order = self.total_order(&from.columns);
                let (items, columns) = self.with_all(&window, &[&from]);
                let (rank, alias) = (self.fresh("r"), self.fresh("a"));
                let kept: Vec<&str> = columns.iter().map(|name| name.sql.as_str()).collect();
                let sql = format!(
                    "SELECT {} FROM (SELECT {items}, row_number() OVER (PARTITION BY {window} ORDER BY {order}) AS {rank} FROM {}) AS {alias} WHERE {rank} <= 2",
                    kept.join(", "),
                    from.sql
                );
                (Query { sql, columns, rows: from.rows }, closes_after_us)
            }
        };
        self.closes(is_top, moved(&query.columns[0].sql, closes_after_us));
        Some(query)
    }

    fn session(&mut self, is_top: bool) -> Query {
        let table = self.table();
        let time = Self::time_of(&table);
        let gap = *[1, 3, 15].choose(self.rng).expect("gaps");
        let gap_us = gap * SECOND_US;
        self.ends.push((1, 0));
        let key = table.columns[1].sql.clone();
        let (partition, of_call) = match self.chance(0.7) {
            true => (format!("PARTITION BY {key} "), " PARTITION BY k"),
            false => (String::new(), ""),
        };
        let (alias, old) = (self.fresh("a"), alias_of(&table));
        let columns = renamed(&table.columns, &alias);
        let bound = |name: &str| format!("{name}({time}, {gap_us}) OVER ({partition}ORDER BY {time})");
        let (start, end) = (bound("session_start"), bound("session_end"));
        let filter = self.filter(&table.columns, 0.3);
        let with_bounds = |filter: &str| format!("(SELECT {old}.*, {start} AS ss, {end} AS se FROM {}{filter})", table.sql);
        let sql = if self.chance(0.5) {
            with_bounds(&filter)
        } else {
            // A row without a time is in no window.
            let word = if filter.is_empty() { "WHERE" } else { "AND" };
            let call = called("SESSION", &format!("(SELECT * FROM {}{filter}){of_call}", table.sql), &[gap]);
            let ours = format!("(SELECT *, window_start AS ss, window_end AS se FROM {call})");
            either(&ours, &with_bounds(&format!("{filter} {word} {time} IS NOT NULL")))
        };
        let sql = format!("{sql} AS {alias}");
        let mut keys = vec![(format!("{alias}.se"), Kind::Time, true), (format!("{alias}.ss"), Kind::Time, true)];
        if !partition.is_empty() {
            keys.push((columns[1].sql.clone(), Kind::Integer, true));
        }
        let mut items = keys.clone();
        items.extend(self.aggregates(&columns, is_top));
        let (items, columns) = self.named(items);
        self.closes(is_top, moved(&columns[0].sql, 1));
        Query { sql: format!("SELECT {items} FROM {sql}{}", group_by(&keys)), columns, rows: table.rows / 2.0 }
    }

    fn window_top_n(&mut self, is_top: bool) -> Query {
        let from = self.table();
        let seconds = *[5, 10, 60].choose(self.rng).expect("sizes");
        self.ends.push((seconds * SECOND_US, 0));
        let window = format!("date_bin(INTERVAL '{seconds}' SECOND, {})", Self::time_of(&from));
        let key = if self.chance(0.5) { format!(", {}", from.columns[1].sql) } else { String::new() };
        let order = self.total_order(&from.columns);
        let mut items = vec![(window.clone(), Kind::Time, true)];
        items.extend(from.columns.iter().map(|name| (name.sql.clone(), name.kind, name.exact)));
        let (items, columns) = self.named(items);
        let (rank, alias) = (self.fresh("r"), self.fresh("a"));
        let limit = ["= 1", "<= 2", "< 4"].choose(self.rng).expect("limits");
        let kept: Vec<String> = columns.iter().map(|name| format!("{alias}.{0} AS {0}", name.sql)).collect();
        self.closes(is_top, moved(&columns[0].sql, seconds * SECOND_US));
        let sql = format!(
            "SELECT {} FROM (SELECT {items}, row_number() OVER (PARTITION BY {window}{key} ORDER BY {order}) AS {rank} FROM {}) AS {alias} WHERE {alias}.{rank} {limit}",
            kept.join(", "),
            from.sql
        );
        Query { sql, columns, rows: from.rows / 2.0 }
    }

    /// What is added up among the rows of a window.
    fn window_over(&mut self, is_top: bool) -> Query {
        let from = self.table();
        let seconds = self.seconds();
        self.ends.push((seconds * SECOND_US, 0));
        let window = format!("date_bin(INTERVAL '{seconds}' SECOND, {})", Self::time_of(&from));
        let key = if self.chance(0.5) { format!(", {}", from.columns[1].sql) } else { String::new() };
        let order = self.total_order(&from.columns);
        let frame = *["", " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING"]
            .choose(self.rng)
            .expect("frames");
        let (call, kind, exact) = self.framed(&from.columns);
        let mut items = vec![(window.clone(), Kind::Time, true)];
        items.extend(from.columns.iter().map(|name| (name.sql.clone(), name.kind, name.exact)));
        items.push((format!("{call} OVER (PARTITION BY {window}{key} ORDER BY {order}{frame})"), kind, exact));
        let (items, columns) = self.named(items);
        self.closes(is_top, moved(&columns[0].sql, seconds * SECOND_US));
        Query { sql: format!("SELECT {items} FROM {}", from.sql), columns, rows: from.rows }
    }

    /// That the time `l` is in `[r - before, r + after]`, in one of its spellings, and both lengths in seconds.
    fn near(&mut self, l: &str, r: &str) -> (String, i64, i64) {
        let (before, after) = *[(10, 0), (0, 5), (3, 3), (20, 7)].choose(self.rng).expect("intervals");
        let interval = |seconds: i64| format!("INTERVAL '{seconds}' SECOND");
        let (before_sql, after_sql) = (interval(before), interval(after));
        let condition = match self.rng.random_range(0..4) {
            0 => format!("{l} BETWEEN {r} - {before_sql} AND {r} + {after_sql}"),
            1 => format!("{r} <= {l} + {before_sql} AND {r} >= {l} - {after_sql}"),
            2 => format!("{l} + {before_sql} >= {r} AND {after_sql} + {r} >= {l}"),
            _ => format!("NOT ({r} > {l} + {before_sql}) AND {l} - {after_sql} <= {r}"),
        };
        self.ends.push((1, 0));
        (condition, before, after)
    }

    /// Rows of the left for which the right has one of equal keys under the condition, or none; behind a time of theirs.
    fn with_or_without(&mut self, left: &From, time: &str, right: &From, condition: &str) -> Option<Query> {
        let on = self.equal_keys(left, right)?;
        let not = *["", "NOT "].choose(self.rng).expect("words");
        let mut items = vec![(time.to_owned(), Kind::Time, true), (left.columns[0].sql.clone(), Kind::Integer, true)];
        items.extend(self.projection(&left.columns).into_iter().take(6));
        let (items, columns) = self.named(items);
        let exists = format!("EXISTS (SELECT 1 FROM {} WHERE {on} AND {condition})", right.sql);
        Some(Query { sql: format!("SELECT {items} FROM {} WHERE {not}{exists}", left.sql), columns, rows: left.rows })
    }

    fn interval_exists(&mut self, is_top: bool) -> Option<Query> {
        let (left, right) = (self.table(), self.table());
        let (l, r) = (Self::time_of(&left), Self::time_of(&right));
        let (condition, before, _) = self.near(&l, &r);
        let query = self.with_or_without(&left, &l, &right, &condition)?;
        self.closes(is_top, moved(&query.columns[0].sql, before * SECOND_US + 1));
        Some(query)
    }

    fn window_exists(&mut self, is_top: bool) -> Option<Query> {
        let (left, right) = (self.table(), self.table());
        let seconds = self.seconds();
        self.ends.push((seconds * SECOND_US, 0));
        let window = |from: &From| format!("date_bin(INTERVAL '{seconds}' SECOND, {})", Self::time_of(from));
        let (l, r) = (window(&left), window(&right));
        let query = self.with_or_without(&left, &l, &right, &format!("{l} = {r}"))?;
        self.closes(is_top, moved(&query.columns[0].sql, seconds * SECOND_US));
        Some(query)
    }

    fn interval_join(&mut self, is_top: bool) -> Option<Query> {
        let (left, right) = (self.table(), self.table());
        let words = *["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(self.rng).expect("joins");
        let (l, r) = (Self::time_of(&left), Self::time_of(&right));
        let (condition, before, after) = self.near(&l, &r);
        let on = self.equal_keys(&left, &right)?;
        let both: Vec<Name> = left.columns.iter().chain(&right.columns).cloned().collect();
        let mut items = vec![(l, Kind::Time, true), (r, Kind::Time, true)];
        items.extend(self.projection(&both).into_iter().take(6));
        let (items, columns) = self.named(items);
        let (of_left, of_right) = (moved(&columns[0].sql, before * SECOND_US + 1), moved(&columns[1].sql, after * SECOND_US + 1));
        // What an inner join pairs never changes, and comes out at once.
        self.closes(is_top && words != "JOIN", format!("least({of_left}, {of_right})"));
        let rows = (left.rows * right.rows / 16.0).max(left.rows.max(right.rows));
        let sql = format!("SELECT {items} FROM {} {words} {} ON {on} AND {condition}", left.sql, right.sql);
        Some(Query { sql, columns, rows })
    }

    fn window_join(&mut self, is_top: bool) -> Option<Query> {
        let (left, right) = (self.table(), self.table());
        let words = *["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(self.rng).expect("joins");
        let seconds = *[5, 10, 60].choose(self.rng).expect("sizes");
        self.ends.push((seconds * SECOND_US, 0));
        let window = |from: &From| format!("date_bin(INTERVAL '{seconds}' SECOND, {})", Self::time_of(from));
        let (l, r) = (window(&left), window(&right));
        let on = self.equal_keys(&left, &right)?;
        let both: Vec<Name> = left.columns.iter().chain(&right.columns).cloned().collect();
        let mut items = vec![(l.clone(), Kind::Time, true), (r.clone(), Kind::Time, true)];
        // No two pairs are of the same two rows.
        items.extend([&left, &right].map(|side| (side.columns[0].sql.clone(), Kind::Integer, true)));
        items.extend(self.projection(&both).into_iter().take(6));
        let (items, columns) = self.named(items);
        // What an inner join pairs never changes, and comes out at once.
        let window = format!("coalesce({}, {})", columns[0].sql, columns[1].sql);
        self.closes(is_top && words != "JOIN", moved(&window, seconds * SECOND_US));
        let rows = (left.rows * right.rows / 16.0).max(left.rows.max(right.rows));
        let sql = format!("SELECT {items} FROM {} {words} {} ON {on} AND {l} = {r}", left.sql, right.sql);
        Some(Query { sql, columns, rows })
    }
}
