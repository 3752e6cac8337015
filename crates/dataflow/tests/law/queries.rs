//! Random queries as SQL text, from a grammar of what a job may say: every construct has a name ([`Construct`]), so that those the engine still refuses are
//! left out by name. Orders that choose rows are total (up to rows that are the same in every column), so that plain DataFusion has one answer.
mod ordered;
mod sources;
mod timed;

use std::collections::BTreeSet;

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    expressions::{Name, any_column, comparison, decimal, expression, literal, mild_predicate, predicate},
    spelling::{self, either},
    tables::{Kind, Table},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Construct {
    Select,
    UnionAll,
    SharedView,
    Distinct,
    Aggregate,
    /// An aggregate over no keys: one row, even of no input.
    GlobalAggregate,
    DistinctAggregate,
    /// An aggregate of values in an order: percentiles, the most frequent one, the first and the last.
    OrderedAggregate,
    GroupingSets,
    WindowAggregate,
    Hop,
    Cumulate,
    Session,
    WindowTopN,
    /// Aggregates in frames within a window.
    WindowOver,
    IntervalJoin,
    /// EXISTS or NOT EXISTS of what is near in time.
    IntervalExists,
    WindowJoin,
    /// EXISTS or NOT EXISTS of what is in the same window.
    WindowExists,
    /// Groups of windows aggregated, joined or ranked by window.
    OverWindows,
    /// Some of these windows are sessions.
    OverSessions,
    InnerJoin,
    OuterJoin,
    FullJoin,
    SelfJoin,
    CrossJoin,
    /// A join without equalities.
    ThetaJoin,
    /// The first rows for each row of another table.
    Lateral,
    Unnest,
    /// UNNEST that keeps rows without items.
    OuterUnnest,
    /// The last record of each key, which may delete it.
    Upsert,
    Semi,
    Anti,
    /// EXISTS or IN beside OR.
    Mark,
    NotIn,
    TupleIn,
    TupleNotIn,
    ScalarSubquery,
    CorrelatedScalar,
    /// EXISTS within EXISTS, the inner one of which compares with the outermost query.
    Division,
    RowNumber,
    Rank,
    Offsets,
    Running,
    /// A frame of what is so near in the order.
    Range,
    WholePartition,
    TopN,
    OrderLimit,
    SetOperation,
}

use Construct::*;

/// All that stands for a query of its own, with how often it is tried.
const SHAPES: &[(Construct, u32)] = &[
    (Select, 5),
    (UnionAll, 3),
    (Distinct, 3),
    (Aggregate, 9),
    (GlobalAggregate, 2),
    (GroupingSets, 2),
    (WindowAggregate, 5),
    (Hop, 2),
    (Cumulate, 2),
    (Session, 3),
    (WindowTopN, 2),
    (WindowOver, 2),
    (IntervalJoin, 4),
    (IntervalExists, 2),
    (WindowJoin, 2),
    (WindowExists, 2),
    (OverWindows, 4),
    (InnerJoin, 6),
    (OuterJoin, 4),
    (FullJoin, 2),
    (SelfJoin, 2),
    (CrossJoin, 1),
    (ThetaJoin, 2),
    (Lateral, 2),
    (Unnest, 2),
    (OuterUnnest, 2),
    (Upsert, 4),
    (Semi, 4),
    (Anti, 4),
    (NotIn, 2),
    (TupleIn, 2),
    (TupleNotIn, 2),
    (ScalarSubquery, 2),
    (CorrelatedScalar, 2),
    (Division, 2),
    (RowNumber, 2),
    (Rank, 2),
    (Offsets, 2),
    (Running, 3),
    (Range, 2),
    (WholePartition, 1),
    (TopN, 4),
    (OrderLimit, 2),
    (SetOperation, 2),
];

/// All there are.
pub fn constructs() -> impl Iterator<Item = Construct> {
    SHAPES.iter().map(|(construct, _)| *construct).chain([SharedView, DistinctAggregate, OrderedAggregate, Mark, OverSessions])
}

/// A derived table may have so many rows, by estimate; a join that would make more is not written.
const MOST_ROWS: f64 = 4_000.0;

/// Text of a SELECT and what comes out of it; columns have names of their own.
#[derive(Clone, Debug)]
struct Query {
    sql: String,
    columns: Vec<Name>,
    rows: f64,
}

/// What stands in FROM, with its columns as they are named there.
struct From {
    sql: String,
    columns: Vec<Name>,
    rows: f64,
}

/// A finished statement, and what it is made of.
#[derive(Clone, Debug)]
pub struct Generated {
    /// As plain DataFusion takes it.
    pub sql: String,
    /// As a job says it.
    pub ours: String,
    pub columns: Vec<Name>,
    pub constructs: BTreeSet<Construct>,
    /// Windows end every so many microseconds, so many after multiples of that; every one: it uses event time itself.
    pub ends: Vec<(i64, i64)>,
    /// With EMIT ON WINDOW CLOSE: rows come out once the watermark is at or past this, an expression over the columns.
    pub closing: Option<String>,
}

pub struct Grammar<'a> {
    tables: &'a [Table],
    left_out: &'a [Construct],
    rng: &'a mut ChaCha8Rng,
    names: usize,
    /// `WITH` parts: name, text, columns.
    views: Vec<(String, Query)>,
    constructs: BTreeSet<Construct>,
    ends: Vec<(i64, i64)>,
    closing: Option<String>,
}

impl<'a> Grammar<'a> {
    pub fn generate(tables: &'a [Table], left_out: &'a [Construct], rng: &'a mut ChaCha8Rng) -> Generated {
        let mut grammar = Self {
            tables,
            left_out,
            rng,
            names: 0,
            views: Vec::new(),
            constructs: BTreeSet::new(),
            ends: Vec::new(),
            closing: None,
        };
        let depth = [0, 1, 1, 2, 2, 3].choose(grammar.rng).copied().expect("depths");
        let query = grammar.query(depth, true);
        let views: Vec<String> = grammar.views.iter().map(|(name, view)| format!("{name} AS ({})", view.sql)).collect();
        let with = if views.is_empty() { String::new() } else { format!("WITH {} ", views.join(", ")) };
        let closing = grammar.closing.take().filter(|_| grammar.chance(0.5));
        let Self { constructs, ends, .. } = grammar;
        let text = format!("{with}{}", query.sql);
        Generated { sql: spelling::plain(&text), ours: spelling::ours(&text), columns: query.columns, constructs, ends, closing }
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn may(&self, construct: Construct) -> bool {
        !self.left_out.contains(&construct)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }

    fn table(&mut self) -> From {
        let table = self.tables.choose(self.rng).expect("a case has tables");
        self.names += 1;
        let alias = format!("a{}", self.names);
        let columns = table
            .columns
            .iter()
            .map(|column| Name { sql: format!("{alias}.{}", column.name), kind: column.kind, exact: true })
            .collect();
        From { sql: format!("{} AS {alias}", table.name), columns, rows: table.rows.len() as f64 }
    }

    fn from(&mut self, depth: usize) -> From {
        if depth == 0 {
            return self.table();
        }
        if self.may(SharedView) && !self.views.is_empty() && self.chance(0.3) {
            let (name, view) = self.views.choose(self.rng).cloned().expect("not empty");
            self.constructs.insert(SharedView);
            return self.derived(&name, view);
        }
        let query = self.query(depth - 1, false);
        if self.may(SharedView) && self.chance(0.2) {
            let name = self.fresh("w");
            self.views.push((name.clone(), query.clone()));
            return self.derived(&name, query);
        }
        self.subquery(query)
    }

    fn subquery(&mut self, query: Query) -> From {
        let text = format!("({})", query.sql);
        self.derived(&text, query)
    }

    fn derived(&mut self, text: &str, query: Query) -> From {
        let alias = self.fresh("a");
        let columns = query.columns.iter().map(|name| Name { sql: format!("{alias}.{}", name.sql), ..*name }).collect();
        From { sql: format!("{text} AS {alias}"), columns, rows: query.rows }
    }

    fn query(&mut self, depth: usize, is_top: bool) -> Query {
        loop {
            let (construct, _) = *SHAPES.choose_weighted(self.rng, |(_, weight)| *weight).expect("weights");
            if !self.may(construct) {
                continue;
            }
            let (names, views, constructs) = (self.names, self.views.len(), self.constructs.clone());
            let ends = self.ends.len();
            self.constructs.insert(construct);
            if let Some(query) = self.shape(construct, depth, is_top)
                && query.rows <= MOST_ROWS
            {
                return query;
            }
            self.names = names;
            self.views.truncate(views);
            self.constructs = constructs;
            self.ends.truncate(ends);
            self.closing = None;
        }
    }

    fn shape(&mut self, construct: Construct, depth: usize, is_top: bool) -> Option<Query> {
        match construct {
            Select => Some(self.select(depth)),
            UnionAll => self.union_all(depth),
            Distinct => self.distinct(depth),
            Aggregate => Some(self.aggregate(depth, is_top)),
            GlobalAggregate => Some(self.global_aggregate(depth, is_top)),
            GroupingSets => self.grouping_sets(depth),
            WindowAggregate | Hop | Cumulate | Session | WindowTopN | WindowOver | IntervalJoin | IntervalExists | WindowJoin
            | WindowExists | OverWindows => self.timed(construct, is_top),
            InnerJoin => self.join(depth, "JOIN"),
            OuterJoin => {
                let words = ["LEFT JOIN", "RIGHT JOIN"][self.rng.random_range(0..2)];
                self.join(depth, words)
            }
            FullJoin => self.join(depth, "FULL JOIN"),
            SelfJoin => self.self_join(),
            CrossJoin => self.cross_join(depth),
            ThetaJoin => self.theta_join(),
            Lateral => Some(self.lateral()),
            Unnest | OuterUnnest => Some(self.unnest(depth, construct == OuterUnnest)),
            Upsert => Some(self.upsert()),
            Semi | Anti => self.exists(depth, construct == Anti),
            NotIn => self.not_in(depth),
            TupleIn | TupleNotIn => self.tuple_in(depth, construct == TupleNotIn),
            ScalarSubquery => self.scalar_subquery(depth),
            CorrelatedScalar => self.correlated_scalar(depth),
            Division => self.division(),
            RowNumber | Rank | Offsets | Running | WholePartition => Some(self.over(construct, depth)),
            Range => self.range(depth),
            TopN => Some(self.top_n(depth)),
            OrderLimit => Some(self.order_limit(depth)),
            SetOperation => self.set_operation(depth),
            DistinctAggregate | OrderedAggregate | Mark | SharedView | OverSessions => None,
        }
    }

    /// Puts a name of its own on each expression.
    fn named(&mut self, expressions: Vec<(String, Kind, bool)>) -> (String, Vec<Name>) {
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for (sql, kind, exact) in expressions {
            let name = self.fresh("c");
            items.push(format!("{sql} AS {name}"));
            columns.push(Name { sql: name, kind, exact });
        }
        (items.join(", "), columns)
    }

    /// A few columns of the scope as they are, and some expressions over it.
    fn projection(&mut self, scope: &[Name]) -> Vec<(String, Kind, bool)> {
        let mut items = Vec::new();
        for name in scope {
            if self.rng.random_bool(0.6) {
                items.push((name.sql.clone(), name.kind, name.exact));
            }
        }
        for _ in 0..self.rng.random_range(0..3) {
            let kind = Kind::ALL.choose(self.rng).copied().expect("kinds");
            items.push((expression(scope, kind, 3, self.rng), kind, true));
        }
        if items.is_empty() {
            let first = &scope[0];
            items.push((first.sql.clone(), first.kind, first.exact));
        }
        items
    }

    fn filter(&mut self, scope: &[Name], share: f64) -> String {
        if self.chance(share) { format!(" WHERE {}", mild_predicate(scope, self.rng)) } else { String::new() }
    }

    fn select(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let items = self.projection(&from.columns);
        let (items, columns) = self.named(items);
        let filter = self.filter(&from.columns, 0.7);
        Query { sql: format!("SELECT {items} FROM {}{filter}", from.sql), columns, rows: from.rows }
    }

    fn union_all(&mut self, depth: usize) -> Option<Query> {
        let sides: Vec<From> = (0..self.rng.random_range(2..4)).map(|_| self.from(depth)).collect();
        let kinds: Vec<Kind> = sides[0].columns.iter().map(|name| name.kind).take(4).collect();
        let mut names: Vec<Name> = Vec::new();
        let mut texts = Vec::new();
        for (number, side) in sides.iter().enumerate() {
            let items =
                kinds.iter().map(|kind| (widened(&expression(&side.columns, *kind, 1, self.rng), *kind), *kind, true)).collect();
            let (items, columns) = self.named(items);
            let filter = self.filter(&side.columns, 0.5);
            texts.push(format!("SELECT {items} FROM {}{filter}", side.sql));
            if number == 0 {
                names = columns;
            }
        }
        // A row that is written out.
        if self.chance(0.15) {
            let items = kinds.iter().map(|kind| (widened(&literal(*kind, self.rng), *kind), *kind, true)).collect();
            texts.push(format!("SELECT {}", self.named(items).0));
        }
        let rows = sides.iter().map(|side| side.rows).sum();
        Some(Query { sql: texts.join(" UNION ALL "), columns: names, rows })
    }

    fn set_operation(&mut self, depth: usize) -> Option<Query> {
        let (left, right) = (self.from(depth), self.from(0));
        let kinds = [Kind::Integer, Kind::Text];
        let mut side = |from: &From| {
            let items =
                kinds.iter().map(|kind| (widened(&expression(&from.columns, *kind, 0, self.rng), *kind), *kind, true)).collect();
            let (items, columns) = self.named(items);
            (format!("SELECT {items} FROM {}", from.sql), columns)
        };
        let ((left_sql, columns), (right_sql, _)) = (side(&left), side(&right));
        let word = ["INTERSECT", "EXCEPT", "UNION"].choose(self.rng).expect("words");
        Some(Query { sql: format!("{left_sql} {word} {right_sql}"), columns, rows: left.rows })
    }

    fn distinct(&mut self, depth: usize) -> Option<Query> {
        let from = self.from(depth);
        let items: Vec<_> = self.projection(&from.columns).into_iter().filter(|(.., exact)| *exact).take(3).collect();
        if items.is_empty() {
            return None;
        }
        let (items, columns) = self.named(items);
        let filter = self.filter(&from.columns, 0.5);
        Some(Query { sql: format!("SELECT DISTINCT {items} FROM {}{filter}", from.sql), columns, rows: from.rows / 2.0 })
    }

    /// Expressions to group by: columns, rarely more.
    fn keys(&mut self, scope: &[Name], most: usize) -> Vec<(String, Kind, bool)> {
        let mut keys: Vec<(String, Kind, bool)> = Vec::new();
        for _ in 0..self.rng.random_range(1..=most) {
            let exact: Vec<&Name> = scope.iter().filter(|name| name.exact).collect();
            let key = match exact.choose(self.rng) {
                Some(name) if self.rng.random_bool(0.8) => (name.sql.clone(), name.kind, true),
                _ => {
                    let kinds = [Kind::Integer, Kind::Text, Kind::Flag, Kind::Decimal, Kind::Date];
                    let kind = kinds.choose(self.rng).copied().expect("kinds");
                    (expression(scope, kind, 2, self.rng), kind, true)
                }
            };
            // A literal would be an ordinal.
            if scope.iter().any(|name| key.0.contains(&name.sql)) && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn aggregates(&mut self, scope: &[Name], is_top: bool) -> Vec<(String, Kind, bool)> {
        (0..self.rng.random_range(1..5)).map(|_| self.one_aggregate(scope, is_top)).collect()
    }

    fn one_aggregate(&mut self, scope: &[Name], is_top: bool) -> (String, Kind, bool) {
        if self.may(OrderedAggregate) && self.chance(0.12) {
            self.constructs.insert(OrderedAggregate);
            return self.ordered_aggregate(scope);
        }
        let condition = self.chance(0.2).then(|| predicate(scope, 1, self.rng));
        let filter = condition.as_ref().map_or_else(String::new, |condition| format!(" FILTER (WHERE {condition})"));
        let number = [Kind::Integer, Kind::Double, Kind::Decimal].choose(self.rng).copied().expect("kinds");
        let values = [Kind::Integer, Kind::Double, Kind::Decimal, Kind::Text, Kind::Time, Kind::Date, Kind::Instant];
        let any = values.choose(self.rng).copied().expect("kinds");
        let value = |kind: Kind, grammar: &mut Self| widened(&expression(scope, kind, 1, grammar.rng), kind);
        let is_distinct = self.may(DistinctAggregate) && self.chance(0.15);
        let (call, kind, exact) = match self.rng.random_range(0..if is_top { 11 } else { 8 }) {
            choice if is_distinct => {
                self.constructs.insert(DistinctAggregate);
                match choice {
                    0..=3 => (format!("count(DISTINCT {})", value(any, self)), Kind::Integer, true),
                    4 | 5 => (format!("sum(DISTINCT {})", value(number, self)), number, true),
                    _ => {
                        let (a, b) = (value(any, self), value(Kind::Integer, self));
                        return (distinct_pairs(&a, &b, condition.as_deref()), Kind::Integer, true);
                    }
                }
            }
            0 | 1 => ("count(*)".to_owned(), Kind::Integer, true),
            2 => (format!("count({})", value(any, self)), Kind::Integer, true),
            3 | 4 => (format!("sum({})", value(number, self)), number, true),
            5 => (format!("min({})", value(any, self)), any, true),
            6 => (format!("max({})", value(any, self)), any, true),
            7 if number == Kind::Decimal => (format!("avg({})", value(number, self)), number, true),
            7 => (format!("avg({})", value(number, self)), Kind::Double, false),
            8 => {
                let function = ["stddev", "stddev_pop", "var_samp", "var_pop"].choose(self.rng).copied().expect("functions");
                (format!("{function}({})", value(Kind::Double, self)), Kind::Double, false)
            }
            9 => match self.ordered_value(scope, Kind::Double) {
                Some(value) => {
                    let share = ["0.0", "0.25", "0.5", "1.0"].choose(self.rng).expect("shares");
                    (format!("percentile_cont({share}) WITHIN GROUP (ORDER BY {value})"), Kind::Double, false)
                }
                None => ("count(*)".to_owned(), Kind::Integer, true),
            },
            _ => {
                let function = ["bool_and", "bool_or"].choose(self.rng).copied().expect("functions");
                (format!("{function}({})", value(Kind::Flag, self)), Kind::Flag, true)
            }
        };
        (format!("{call}{filter}"), kind, exact)
    }

    fn having(&mut self, share: f64) -> String {
        if !self.chance(share) {
            return String::new();
        }
        match self.rng.random_range(0..2) {
            0 => format!(
                " HAVING count(*) {} {}",
                [">", "<", ">="].choose(self.rng).expect("operators"),
                self.rng.random_range(1..6)
            ),
            _ => format!(" HAVING count(*) % {} <> 0", self.rng.random_range(2..4)),
        }
    }

    fn aggregate(&mut self, depth: usize, is_top: bool) -> Query {
        let from = self.from(depth);
        let keys = self.keys(&from.columns, 3);
        let mut items = keys.clone();
        items.extend(self.aggregates(&from.columns, is_top));
        let (items, columns) = self.named(items);
        let filter = self.filter(&from.columns, 0.4);
        let having = if keys.is_empty() { String::new() } else { self.having(0.25) };
        let group = group_by(&keys);
        Query { sql: format!("SELECT {items} FROM {}{filter}{group}{having}", from.sql), columns, rows: (from.rows / 3.0).max(1.0) }
    }

    fn global_aggregate(&mut self, depth: usize, is_top: bool) -> Query {
        let from = self.from(depth);
        let items = self.aggregates(&from.columns, is_top);
        let (items, columns) = self.named(items);
        let filter = self.filter(&from.columns, 0.5);
        Query { sql: format!("SELECT {items} FROM {}{filter}", from.sql), columns, rows: 1.0 }
    }

    fn grouping_sets(&mut self, depth: usize) -> Option<Query> {
        let from = self.from(depth);
        let keys: Vec<_> = from.columns.iter().filter(|name| name.exact).take(4).cloned().collect();
        if keys.len() < 2 {
            return None;
        }
        let (first, second) = (&keys[0], &keys[1]);
        let mut items = vec![(first.sql.clone(), first.kind, true), (second.sql.clone(), second.kind, true)];
        items.extend(self.aggregates(&from.columns, false));
        let (a, b) = (&first.sql, &second.sql);
        if self.chance(0.3) {
            items.push((format!("CAST(grouping({b}) AS BIGINT)"), Kind::Integer, true));
        }
        let (items, columns) = self.named(items);
        let sets = [
            format!("ROLLUP ({a}, {b})"),
            format!("CUBE ({a}, {b})"),
            format!("GROUPING SETS (({a}, {b}), ({b}), ())"),
            format!("GROUPING SETS (({a}), ({b}))"),
        ];
        let sets = sets.choose(self.rng).expect("sets");
        Some(Query { sql: format!("SELECT {items} FROM {} GROUP BY {sets}", from.sql), columns, rows: from.rows })
    }

    /// One or two equal keys of the same kind on both sides, and how the sizes multiply.
    fn equal_keys(&mut self, left: &From, right: &From) -> Option<String> {
        let mut pairs = Vec::new();
        for one in &left.columns {
            for other in &right.columns {
                if one.exact
                    && other.exact
                    && one.kind == other.kind
                    && !matches!(one.kind, Kind::Flag | Kind::Time | Kind::Instant)
                {
                    pairs.push(format!("{} = {}", one.sql, other.sql));
                }
            }
        }
        let count = self.rng.random_range(1..3);
        let chosen: Vec<&String> = pairs.choose_multiple(self.rng, count).collect();
        if chosen.is_empty() { None } else { Some(chosen.into_iter().cloned().collect::<Vec<_>>().join(" AND ")) }
    }

    /// A column of one side is before one of the other, or at most so far behind it.
    fn order(&mut self, left: &From, right: &From) -> Option<String> {
        let pairs = left.columns.iter().flat_map(|one| right.columns.iter().map(move |other| (one, other)));
        let pairs: Vec<_> =
            pairs.filter(|(one, other)| one.exact && other.exact && one.kind == other.kind && one.kind != Kind::Flag).collect();
        let (one, other) = pairs.choose(self.rng)?;
        let operators = ["<", "<=", ">", ">="];
        let operator = operators.choose(self.rng).expect("operators");
        Some(match one.kind {
            Kind::Time if self.rng.random_bool(0.5) => {
                let (back, ahead) = (self.rng.random_range(0..20), self.rng.random_range(-3..20));
                let bound = |sign: char, seconds: i32| format!("{} {sign} INTERVAL '{seconds}' SECOND", other.sql);
                format!(" AND {} BETWEEN {} AND {}", one.sql, bound('-', back), bound('+', ahead))
            }
            _ => format!(" AND {} {operator} {}", one.sql, other.sql),
        })
    }

    fn join(&mut self, depth: usize, words: &str) -> Option<Query> {
        let right_depth = if depth > 0 && self.chance(0.5) { depth - 1 } else { 0 };
        let (left, right) = (self.from(depth), self.from(right_depth));
        // DataFusion takes columns of a total's one row for constants, even where an outer join puts NULLs beside them.
        let is_single = left.rows <= 1.0 || right.rows <= 1.0;
        if is_single && words != "JOIN" { None } else { self.joined(&left, words, &right) }
    }

    fn self_join(&mut self) -> Option<Query> {
        let left = self.table();
        let alias = self.fresh("a");
        let (table, old) = left.sql.split_once(" AS ").expect("a table has an alias");
        let columns = left.columns.iter().map(|name| Name { sql: name.sql.replacen(old, &alias, 1), ..*name }).collect();
        let right = From { sql: format!("{table} AS {alias}"), columns, rows: left.rows };
        self.joined(&left, "JOIN", &right)
    }

    fn joined(&mut self, left: &From, words: &str, right: &From) -> Option<Query> {
        let mut on = self.equal_keys(left, right)?;
        if self.chance(0.1) {
            // In brackets, as DataFusion's parser compares with all that follows, AND included.
            on = format!("({})", on.replace(" = ", " IS NOT DISTINCT FROM ").replace(" AND ", ") AND ("));
        }
        let both: Vec<Name> = left.columns.iter().chain(&right.columns).cloned().collect();
        let mut residual = if self.chance(0.3) { format!(" AND {}", predicate(&both, 1, self.rng)) } else { String::new() };
        if self.chance(0.3) {
            residual += &self.order(left, right).unwrap_or_default();
        }
        let items: Vec<_> = self.projection(&both).into_iter().take(8).collect();
        let (items, columns) = self.named(items);
        let filter = self.filter(&both, 0.3);
        let rows = (left.rows * right.rows / 8.0).max(left.rows.max(right.rows));
        Some(Query {
            sql: format!("SELECT {items} FROM {} {words} {} ON {on}{residual}{filter}", left.sql, right.sql),
            columns,
            rows,
        })
    }

    /// With a single row, as one compares with a total.
    fn cross_join(&mut self, depth: usize) -> Option<Query> {
        let left = self.from(depth);
        let total = self.global_aggregate(0, false);
        let text = format!("({})", total.sql);
        let right = self.derived(&text, total);
        let both: Vec<Name> = left.columns.iter().chain(&right.columns).cloned().collect();
        let items: Vec<_> = self.projection(&both).into_iter().take(8).collect();
        let (items, columns) = self.named(items);
        let filter = self.filter(&both, 0.4);
        Some(Query { sql: format!("SELECT {items} FROM {} CROSS JOIN {}{filter}", left.sql, right.sql), columns, rows: left.rows })
    }

    fn exists(&mut self, depth: usize, is_anti: bool) -> Option<Query> {
        let (left, right) = (self.from(depth), self.from(depth.saturating_sub(1)));
        let items = self.projection(&left.columns);
        let (items, columns) = self.named(items);
        let condition = if !is_anti && self.chance(0.4) {
            let kind = [Kind::Integer, Kind::Text].choose(self.rng).copied().expect("kinds");
            let filter = self.filter(&right.columns, 0.5);
            let value = any_column(&right.columns, kind, self.rng)?.sql.clone();
            let own = any_column(&left.columns, kind, self.rng)?.sql.clone();
            format!("{own} IN (SELECT {value} FROM {}{filter})", right.sql)
        } else {
            let on = self.equal_keys(&left, &right)?;
            let both: Vec<Name> = left.columns.iter().chain(&right.columns).cloned().collect();
            let integers: Vec<&Name> = both.iter().filter(|name| name.kind == Kind::Integer && name.exact).collect();
            let residual = match (self.chance(0.4), integers.first(), integers.last()) {
                (true, Some(first), Some(last)) => format!(" AND {}", comparison(&first.sql, &last.sql, self.rng)),
                _ => String::new(),
            };
            let not = if is_anti { "NOT " } else { "" };
            format!("{not}EXISTS (SELECT 1 FROM {} WHERE {on}{residual})", right.sql)
        };
        let condition = if self.may(Mark) && self.chance(0.2) {
            self.constructs.insert(Mark);
            format!("({condition} OR {})", predicate(&left.columns, 1, self.rng))
        } else {
            condition
        };
        Some(Query { sql: format!("SELECT {items} FROM {} WHERE {condition}", left.sql), columns, rows: left.rows })
    }

    fn not_in(&mut self, depth: usize) -> Option<Query> {
        let (left, right) = (self.from(depth), self.other(depth));
        let items = self.projection(&left.columns);
        let (items, columns) = self.named(items);
        let own = any_column(&left.columns, Kind::Integer, self.rng)?.sql.clone();
        let value = any_column(&right.columns, Kind::Integer, self.rng)?.sql.clone();
        let condition =
            format!("{own} NOT IN (SELECT {value} FROM {} WHERE {})", right.sql, predicate(&right.columns, 1, self.rng));
        Some(Query { sql: format!("SELECT {items} FROM {} WHERE {condition}", left.sql), columns, rows: left.rows })
    }

    /// A table, or sometimes what is made of some.
    fn other(&mut self, depth: usize) -> From {
        if depth > 0 && self.chance(0.3) { self.from(depth - 1) } else { self.table() }
    }

    fn scalar_subquery(&mut self, depth: usize) -> Option<Query> {
        let (left, right) = (self.from(depth), self.other(depth));
        let own = any_column(&left.columns, Kind::Integer, self.rng)?.sql.clone();
        let value = any_column(&right.columns, Kind::Integer, self.rng)?.sql.clone();
        let function = ["max", "min", "count", "sum"].choose(self.rng).expect("functions");
        let subquery = format!("(SELECT {function}({value}) FROM {})", right.sql);
        let mut items: Vec<_> = self.projection(&left.columns);
        let mut filter = format!(" WHERE {}", comparison(&own, &subquery, self.rng));
        if self.chance(0.4) {
            items.push((subquery, Kind::Integer, true));
            filter = self.filter(&left.columns, 0.3);
        }
        let (items, columns) = self.named(items);
        Some(Query { sql: format!("SELECT {items} FROM {}{filter}", left.sql), columns, rows: left.rows })
    }

    fn correlated_scalar(&mut self, depth: usize) -> Option<Query> {
        let (left, right) = (self.from(depth), self.table());
        let own = any_column(&left.columns, Kind::Integer, self.rng)?.sql.clone();
        let key = any_column(&right.columns, Kind::Integer, self.rng)?.sql.clone();
        let value = any_column(&right.columns, Kind::Integer, self.rng)?.sql.clone();
        let function = ["max", "sum", "count"].choose(self.rng).expect("functions");
        let mut items: Vec<_> = self.projection(&left.columns);
        items.push((format!("(SELECT {function}({value}) FROM {} WHERE {key} = {own})", right.sql), Kind::Integer, true));
        let (items, columns) = self.named(items);
        Some(Query { sql: format!("SELECT {items} FROM {}", left.sql), columns, rows: left.rows })
    }

    /// `PARTITION BY` of a column or two.
    fn partition(&mut self, scope: &[Name]) -> String {
        let count = self.rng.random_range(1..3);
        let exact: Vec<&Name> = scope.iter().filter(|name| name.exact).collect();
        let keys: Vec<String> = exact.choose_multiple(self.rng, count).map(|name| name.sql.clone()).collect();
        if keys.is_empty() { String::new() } else { format!("PARTITION BY {} ", keys.join(", ")) }
    }

    /// One column or two first, then all others: rows that are still equal are the same row.
    fn total_order(&mut self, scope: &[Name]) -> String {
        let mut names: Vec<&Name> = scope.iter().filter(|name| name.exact).collect();
        if let Some(first) = (0..names.len()).collect::<Vec<_>>().choose(self.rng) {
            names.swap(0, *first);
        }
        let mut keys = Vec::new();
        for name in names {
            keys.push(format!("{}{}", name.sql, DIRECTIONS.choose(self.rng).expect("directions")));
        }
        keys.join(", ")
    }

    /// A query whose columns are all exact, to number its rows.
    fn ordered_input(&mut self, depth: usize) -> From {
        for _ in 0..8 {
            let from = self.from(depth);
            if from.columns.iter().all(|name| name.exact) {
                return from;
            }
        }
        self.table()
    }

    fn over(&mut self, construct: Construct, depth: usize) -> Query {
        let from = self.ordered_input(depth);
        let scope = &from.columns;
        let (partition, order) = (self.partition(scope), self.total_order(scope));
        let integer = widened(&expression(scope, Kind::Integer, 1, self.rng), Kind::Integer);
        let one = scope.choose(self.rng).cloned().expect("columns");
        let mut given = (Kind::Integer, true);
        let text = match construct {
            RowNumber => {
                let function = ["row_number()", "row_number()", "ntile(3)"].choose(self.rng).expect("functions");
                format!("CAST({function} OVER ({partition}ORDER BY {order}) AS BIGINT)")
            }
            Rank => {
                let function = ["rank", "dense_rank"].choose(self.rng).expect("functions");
                let direction = DIRECTIONS.choose(self.rng).expect("directions");
                format!("CAST({function}() OVER ({partition}ORDER BY {}{direction}) AS BIGINT)", one.sql)
            }
            Offsets => {
                let function = ["lag", "lead"].choose(self.rng).expect("functions");
                let otherwise = ["", "", ", 7"].choose(self.rng).expect("values");
                let nulls = ["", "", " IGNORE NULLS"].choose(self.rng).expect("words");
                let places = self.rng.random_range(1..3);
                format!("{function}({integer}, {places}{otherwise}){nulls} OVER ({partition}ORDER BY {order})")
            }
            Running => {
                let frame = [
                    "",
                    " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
                    " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
                    " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                    " ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING",
                    " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                ];
                let frame = frame.choose(self.rng).expect("frames");
                let over = format!("OVER ({partition}ORDER BY {order}{frame})");
                if self.chance(0.25) {
                    let function = ["first_value", "last_value"].choose(self.rng).expect("functions");
                    format!("{function}({integer}) {over}")
                } else {
                    // Peers share their frame.
                    let shares = frame.is_empty() && self.chance(0.7);
                    let over = if shares { format!("OVER ({partition}ORDER BY {})", one.sql) } else { over };
                    let (call, kind, exact) = self.framed(scope);
                    given = (kind, exact);
                    format!("{call} {over}")
                }
            }
            _ => {
                let (call, kind, exact) = self.framed(scope);
                given = (kind, exact);
                format!("{call} OVER ({partition})")
            }
        };
        let mut items: Vec<_> = scope.iter().map(|name| (name.sql.clone(), name.kind, name.exact)).collect();
        items.push((text, given.0, given.1));
        let (items, columns) = self.named(items);
        Query { sql: format!("SELECT {items} FROM {}", from.sql), columns, rows: from.rows }
    }

    fn top_n(&mut self, depth: usize) -> Query {
        let from = self.ordered_input(depth);
        let (partition, order) = (self.partition(&from.columns), self.total_order(&from.columns));
        let items: Vec<_> = from.columns.iter().map(|name| (name.sql.clone(), name.kind, name.exact)).collect();
        let (items, columns) = self.named(items);
        let (rank, alias) = (self.fresh("r"), self.fresh("a"));
        let limit = ["= 1", "<= 1", "<= 2", "<= 3", "< 4"].choose(self.rng).expect("limits");
        let kept: Vec<String> = columns.iter().map(|name| format!("{alias}.{0} AS {0}", name.sql)).collect();
        let sql = format!(
            "SELECT {} FROM (SELECT {items}, row_number() OVER ({partition}ORDER BY {order}) AS {rank} FROM {}) AS {alias} WHERE {alias}.{rank} {limit}",
            kept.join(", "),
            from.sql
        );
        Query { sql, columns, rows: from.rows / 2.0 }
    }

    fn order_limit(&mut self, depth: usize) -> Query {
        let from = self.ordered_input(depth);
        let items: Vec<_> = from.columns.iter().map(|name| (name.sql.clone(), name.kind, name.exact)).collect();
        let order = self.total_order(&from.columns);
        let filter = self.filter(&from.columns, 0.5);
        let (items, columns) = self.named(items);
        let limit = self.rng.random_range(1..12);
        let offset = if self.chance(0.2) { " OFFSET 2" } else { "" };
        let sql = format!("SELECT * FROM (SELECT {items} FROM {}{filter} ORDER BY {order} LIMIT {limit}{offset})", from.sql);
        let alias = self.fresh("a");
        Query { sql: format!("{sql} AS {alias}"), columns, rows: f64::from(limit) }
    }
}

const DIRECTIONS: [&str; 4] = ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"];

fn group_by(keys: &[(String, Kind, bool)]) -> String {
    let keys: Vec<&str> = keys.iter().map(|(sql, ..)| sql.as_str()).collect();
    if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) }
}

/// How many different pairs there are, without those that have a NULL.
fn distinct_pairs(a: &str, b: &str, condition: Option<&str>) -> String {
    let are_there = format!("({a}) IS NOT NULL AND ({b}) IS NOT NULL");
    let (filter, all) = match condition {
        Some(condition) => (format!(" FILTER (WHERE {condition})"), format!("({condition}) AND {are_there}")),
        None => (String::new(), are_there),
    };
    let plain = format!("count(DISTINCT named_struct('c0', {a}, 'c1', {b})) FILTER (WHERE {all})");
    either(&format!("count(DISTINCT {a}, {b}){filter}"), &plain)
}

/// Integers as BIGINT, so that both sides of a union agree and sums have room.
fn widened(sql: &str, kind: Kind) -> String {
    match kind {
        Kind::Integer => format!("CAST({sql} AS BIGINT)"),
        Kind::Double => format!("CAST({sql} AS DOUBLE)"),
        Kind::Decimal => decimal(sql),
        _ => sql.to_owned(),
    }
}

/// Some query of the grammar needs this kind of literal in tests of the grammar itself.
#[test]
fn literals_are_of_their_kind() {
    use rand::SeedableRng;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    assert!(literal(Kind::Double, &mut rng).contains('.'));
    assert!(literal(Kind::Text, &mut rng).starts_with('\''));
}
