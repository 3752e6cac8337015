//! `FROM t CROSS JOIN UNNEST(expression) AS x (item)`, as Flink and the standard write it, as a table that has the items beside its columns:
//! `FROM (SELECT *, unnest(expression) AS item FROM t) AS t`. With more names than one, an item is a ROW and the names are those of its fields.
//! So are an entry's key and value, where the expression is a MAP: `AS x (k, v)`. A last name is that of the places under `WITH ORDINALITY`.
//! `LEFT JOIN UNNEST(expression) … ON TRUE` unnests `items_or_null(expression)`.
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, TableFactor, TableWithJoins, Value, VisitorMut},
    parser::Parser,
};

use super::{
    building::{call, plain, text},
    dialect::Generic,
};
use crate::{
    error::SqlError,
    functions::{ENTRIES_OF, ITEM, PLACE, WITH_PLACES},
    location::Location,
    walk::{visit_expressions_mut, visit_mut},
};

/// Rewrites every SELECT of `query` that joins a table with its own arrays.
pub(super) fn rewrite(query: &mut Query, at: Location) -> Result<(), SqlError> {
    match visit_mut(query, &mut Rewriter { at }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter {
    at: Location,
}

impl VisitorMut for Rewriter {
    type Break = Box<SqlError>;

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        match self.select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// What is unnested.
struct Unnested {
    array: Expr,
    /// The name behind AS.
    name: Option<Ident>,
    columns: Vec<Ident>,
    /// The name of the places, where they are asked for.
    place: Option<Ident>,
}

impl Unnested {
    /// The array whose items are rows.
    fn items(&self, keeps_all: bool) -> Expr {
        let mut items = self.array.clone();
        if self.columns.len() > 1 {
            items = call(ENTRIES_OF, [items].into_iter().chain(self.columns.iter().map(|column| text(&column.value))));
        }
        if self.place.is_some() {
            items = call(WITH_PLACES, [items]);
        }
        if keeps_all { call("items_or_null", [items]) } else { items }
    }

    /// The columns as parts of an item.
    fn parts(&self) -> String {
        let part = |name: &str| format!("['{}']", name.replace('\'', "''"));
        let item = if self.place.is_some() { format!("\"{UNNESTED}\"{}", part(ITEM)) } else { format!("\"{UNNESTED}\"") };
        let columns = self.columns.iter().map(|column| match self.columns.len() {
            1 => format!("{item} AS {column}"),
            _ => format!("{item}{} AS {column}", part(&column.value)),
        });
        let place = self.place.iter().map(|name| format!("\"{UNNESTED}\"{} AS {name}", part(PLACE)));
        columns.chain(place).collect::<Vec<_>>().join(", ")
    }

    /// Whether an item is a column as it is.
    fn is_plain(&self) -> bool {
        self.columns.len() == 1 && self.place.is_none()
    }
}

/// `LATERAL UNNEST(…)` is UNNEST, which sees the table beside it anyway.
fn without_lateral(table: &mut TableFactor) {
    let TableFactor::Function { name, args, with_ordinality, alias, .. } = table else { return };
    if name.to_string().eq_ignore_ascii_case("unnest")
        && let Some(array_exprs) = plain(args)
    {
        let (alias, with_ordinality) = (alias.take(), *with_ordinality);
        *table = TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_offset_alias: None, with_ordinality };
    }
}

impl Rewriter {
    fn select(&self, select: &mut Select) -> Result<(), SqlError> {
        for table in &mut select.from {
            without_lateral(&mut table.relation);
            table.joins.iter_mut().for_each(|join| without_lateral(&mut join.relation));
        }
        // `FROM t, UNNEST(…)` is a cross join too.
        let is_unnest = |table: &TableWithJoins| matches!(table.relation, TableFactor::UNNEST { .. });
        while let Some(place) = select.from.iter().skip(1).position(is_unnest) {
            let TableWithJoins { relation, joins } = select.from.remove(place + 1);
            let Some(unnested) = self.unnested(&relation)? else { break };
            let before = &mut select.from[place];
            if !before.joins.is_empty() || !joins.is_empty() {
                return self.refuse("beside other joins; write it as a subquery: (SELECT *, unnest(…) AS item FROM t) AS t");
            }
            before.relation = self.beside(&before.relation, &unnested, false)?;
            unqualify(select, unnested.name.as_ref());
        }
        for table in 0..select.from.len() {
            if takes_parts(&select.from[table].relation)
                && let Some(unnested) = self.unnested(&select.from[table].relation)?
            {
                let name = unnested.name.clone().unwrap_or_else(|| Ident::new("unnest"));
                select.from[table].relation = self.table(None, &unnested, false, &name)?;
            }
            while let Some(join) = select.from[table].joins.first() {
                let Some(unnested) = self.unnested(&join.relation)? else { break };
                let keeps_all = match &join.join_operator {
                    JoinOperator::CrossJoin(JoinConstraint::None) => false,
                    JoinOperator::Join(on) | JoinOperator::Inner(on) if is_true(on) => false,
                    JoinOperator::Left(on) | JoinOperator::LeftOuter(on) if is_true(on) => true,
                    _ => {
                        return self.refuse(
                            "with a condition or as another outer join; write CROSS JOIN UNNEST(…), and the condition in WHERE, or LEFT JOIN UNNEST(…) AS x (item) ON TRUE",
                        );
                    }
                };
                select.from[table].joins.remove(0);
                select.from[table].relation = self.beside(&select.from[table].relation, &unnested, keeps_all)?;
                unqualify(select, unnested.name.as_ref());
            }
            for join in select.from[table].joins.iter().skip(1) {
                if self.unnested(&join.relation)?.is_some() {
                    return self.refuse("behind another join; write it right behind its table, or as a subquery: (SELECT *, unnest(…) AS item FROM t) AS t");
                }
            }
        }
        Ok(())
    }

    fn refuse<T>(&self, why: &str) -> Result<T, SqlError> {
        Err(SqlError::unsupported_at(self.at, format!("UNNEST(…) in FROM is not supported {why}")))
    }

    fn unnested(&self, table: &TableFactor) -> Result<Option<Unnested>, SqlError> {
        let TableFactor::UNNEST { alias, array_exprs, with_offset, with_ordinality, .. } = table else { return Ok(None) };
        if *with_offset {
            return self.refuse("WITH OFFSET; write WITH ORDINALITY AS x (item, place), which counts from 1 on");
        }
        let [array] = array_exprs.as_slice() else { return self.refuse("of several arrays; write one CROSS JOIN UNNEST for each") };
        let name = alias.as_ref().map(|alias| alias.name.clone());
        let mut columns: Vec<Ident> = alias.iter().flat_map(|alias| &alias.columns).map(|column| column.name.clone()).collect();
        let place = match *with_ordinality {
            false => None,
            true if columns.len() > 1 => columns.pop(),
            true => Some(Ident::new("ordinality")),
        };
        if columns.is_empty() {
            columns.push(name.clone().unwrap_or_else(|| Ident::new("unnest")));
        }
        Ok(Some(Unnested { array: array.clone(), name, columns, place }))
    }

    /// The table with the items of an array beside its columns, under the name that it had. `keeps_all`: also its rows without items.
    fn beside(&self, table: &TableFactor, unnested: &Unnested, keeps_all: bool) -> Result<TableFactor, SqlError> {
        let name = match table {
            TableFactor::Table { name: ObjectName(parts), alias, .. } => {
                alias.as_ref().map(|alias| alias.name.clone()).or_else(|| parts.last().and_then(|part| part.as_ident()).cloned())
            }
            TableFactor::Derived { alias, .. } => alias.as_ref().map(|alias| alias.name.clone()),
            _ => None,
        };
        let Some(name) = name else { return self.refuse("beside what is neither a table nor a subquery with a name") };
        self.table(Some(table), unnested, keeps_all, &name)
    }

    /// What is unnested as a table of this name, beside the columns of another one.
    fn table(
        &self,
        beside: Option<&TableFactor>,
        unnested: &Unnested,
        keeps_all: bool,
        name: &Ident,
    ) -> Result<TableFactor, SqlError> {
        let (all, but_item, from) = match beside {
            Some(table) => ("*, ", format!("* EXCLUDE (\"{UNNESTED}\"), "), format!(" FROM {table}")),
            None => ("", String::new(), String::new()),
        };
        let items = unnested.items(keeps_all);
        let sql = match unnested.columns.first() {
            Some(column) if unnested.is_plain() => format!("SELECT {all}unnest({items}) AS {column}{from}"),
            _ => {
                let rows = format!("SELECT {all}unnest({items}) AS \"{UNNESTED}\"{from}");
                format!("SELECT {but_item}{} FROM ({rows}) AS {name}", unnested.parts())
            }
        };
        let sql = format!("SELECT * FROM ({sql}) AS {name}");
        let parsed = Parser::new(&Generic).try_with_sql(&sql).and_then(|mut parser| parser.parse_query());
        let query = parsed.map_err(|error| SqlError::syntax(self.at, error.to_string()))?;
        let mut select = query.body.as_select().cloned();
        let table = select.as_mut().and_then(|select| select.from.pop());
        table.map(|table| table.relation).ok_or_else(|| SqlError::syntax(self.at, "UNNEST has no table"))
    }
}

/// Whether DataFusion does not plan it where nothing stands before it.
fn takes_parts(table: &TableFactor) -> bool {
    let TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } = table else { return false };
    let names_parts = alias.as_ref().is_some_and(|alias| alias.columns.len() > 1);
    *with_ordinality || (array_exprs.len() == 1 && names_parts)
}

fn is_true(constraint: &JoinConstraint) -> bool {
    matches!(constraint, JoinConstraint::On(Expr::Value(value)) if value.value == Value::Boolean(true))
}

/// An item before its parts are taken.
const UNNESTED: &str = "unnested item";

/// `x.item` is a column of the table that `x` was joined to.
fn unqualify(select: &mut Select, name: Option<&Ident>) {
    let Some(name) = name else { return };
    let done: ControlFlow<()> = visit_expressions_mut(select, |expression| {
        if let Expr::CompoundIdentifier(parts) = expression
            && let [table, column] = parts.as_slice()
            && table.value.eq_ignore_ascii_case(&name.value)
        {
            *expression = Expr::Identifier(column.clone());
        }
        ControlFlow::Continue(())
    });
    debug_assert!(done.is_continue(), "the visitor never breaks");
}
