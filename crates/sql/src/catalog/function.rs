//! Functions that users have created: an expression with a name, checked when it is created and written out wherever it is called ([`crate::expansion`]).
//! Who calls one is found in the texts that the catalog keeps.
use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use datafusion::{
    arrow::{compute::can_cast_types, datatypes::Field},
    common::{
        Column, DFSchema,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::SessionState,
    logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder, utils::find_aggregate_exprs},
    sql::sqlparser::ast::{Query, Visit, Visitor},
};
use serde::{Deserialize, Serialize};

use super::{Catalog, computed};
use crate::{
    error::{ObjectKind, SqlError, did_you_mean},
    expansion,
    limits::Limits,
    names::quoted,
    parser::{self, parse_one},
    planner::refuse_misplaced,
    statement::{CreateFunction, StatementKind},
    types::SqlType,
    walk::visit,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDefinition {
    pub name: String,
    /// The statement as written.
    pub sql: String,
}

impl FunctionDefinition {
    /// Reads the stored text again.
    ///
    /// # Errors
    /// Only when this version no longer reads what an earlier one took.
    pub fn statement(&self, limits: Limits) -> Result<CreateFunction, SqlError> {
        match parse_one(&self.sql, limits)?.kind {
            StatementKind::CreateFunction(create) => Ok(create),
            other => Err(SqlError::invalid(format!(
                "function {} is stored as {} instead of CREATE FUNCTION; drop it and create it again",
                self.name,
                other.tag()
            ))),
        }
    }
}

impl Catalog {
    pub fn find_function(&self, name: &str) -> Option<&FunctionDefinition> {
        self.functions.iter().find(|function| function.name == name)
    }

    /// # Errors
    /// When no user has created one of that name, with the near name.
    pub fn function(&self, name: &str) -> Result<&FunctionDefinition, SqlError> {
        self.find_function(name).ok_or_else(|| {
            let hint = match did_you_mean(name, self.functions.iter().map(|function| function.name.as_str())) {
                Some(near) => format!("did you mean {near}?"),
                None => "SHOW FUNCTIONS lists those that were created".to_owned(),
            };
            SqlError::NoSuch { kind: ObjectKind::Function, name: name.to_owned(), hint: Some(hint) }
        })
    }

    /// Who calls a function, the first that is found.
    fn caller_of(&self, function: &str) -> Result<Option<(ObjectKind, String)>, SqlError> {
        let limits = Limits::default();
        for job in &self.jobs {
            if job.statement(limits)?.inserts.iter().any(|insert| calls(&*insert.query, function)) {
                return Ok(Some((ObjectKind::Job, job.name.clone())));
            }
        }
        for view in &self.views {
            if calls(&*view.statement(limits)?.query, function) {
                return Ok(Some((ObjectKind::View, view.name.to_string())));
            }
        }
        for table in &self.tables {
            if computed::written(table)?.iter().any(|expression| calls(expression, function)) {
                return Ok(Some((ObjectKind::Table, table.name.to_string())));
            }
        }
        for other in self.functions.iter().filter(|other| other.name != function) {
            if calls(&*other.statement(limits)?.body, function) {
                return Ok(Some((ObjectKind::Function, quoted(&other.name))));
            }
        }
        Ok(None)
    }

    fn check_not_called(&self, function: &str) -> Result<(), SqlError> {
        match self.caller_of(function)? {
            Some((user_kind, user)) => {
                Err(SqlError::InUse { kind: ObjectKind::Function, name: function.to_owned(), user_kind, user })
            }
            None => Ok(()),
        }
    }
}

fn calls(node: &impl Visit, function: &str) -> bool {
    expansion::called(node).contains(function)
}

/// The catalog with a function more, or with another in its place that nothing calls.
pub(super) fn create(catalog: &Catalog, create: &CreateFunction, sql: &str) -> Result<Catalog, SqlError> {
    if let Some(known) = catalog.find_function(&create.name) {
        // A pipeline's files are carried out at every start: what is there already is no other.
        let is_same = || known.statement(Limits::default()).is_ok_and(|known| known.to_string() == create.to_string());
        if create.if_not_exists || (create.or_replace && is_same()) {
            return Ok(catalog.clone());
        }
        if !create.or_replace {
            return Err(SqlError::Exists { kind: ObjectKind::Function, name: create.name.clone() });
        }
        catalog.check_not_called(&create.name)?;
    }
    let mut next = catalog.clone();
    next.functions.retain(|function| function.name != create.name);
    next.functions.push(FunctionDefinition { name: create.name.clone(), sql: sql.to_owned() });
    next.functions.sort_by(|a, b| a.name.cmp(&b.name));
    check(create, &computed::state_with(&next.functions)?)?;
    Ok(next)
}

pub(super) fn drop(catalog: &Catalog, name: &str, if_exists: bool) -> Result<Catalog, SqlError> {
    if catalog.find_function(name).is_none() {
        return if if_exists { Ok(catalog.clone()) } else { catalog.function(name).map(|_| catalog.clone()) };
    }
    catalog.check_not_called(name)?;
    let mut next = catalog.clone();
    next.functions.retain(|function| function.name != name);
    Ok(next)
}

/// That a function can be called: of a name that is free, with an expression of its parameters alone, whose value is one of its type.
fn check(create: &CreateFunction, state: &SessionState) -> Result<(), SqlError> {
    let name = &create.name;
    if expansion::is_built_in(name, state) || !parser::is_free(name, create.parameters.len()) {
        let message = format!("{name} is a built-in function, which keeps its name; name yours otherwise");
        return Err(SqlError::invalid_at(create.at, message));
    }
    if calls(&*create.body, name) {
        return Err(expansion::recursive(name));
    }
    if visit(&*create.body, &mut Queries).is_break() {
        return Err(not_of_arguments(create, "a subquery"));
    }
    if let Some(unused) = create.parameters.iter().find(|parameter| expansion::uses(&create.body, &parameter.name) == 0) {
        let message = format!("function {name} does not use its parameter {}; leave it out", quoted(&unused.name));
        return Err(SqlError::invalid_at(create.at, message));
    }
    refuse_misplaced(&*create.body, state)?;
    let field = |name: &str, sql_type: &SqlType| Field::new(name, sql_type.arrow(), true);
    let fields: Vec<Field> = create.parameters.iter().map(|parameter| field(&parameter.name, &parameter.sql_type)).collect();
    let schema = DFSchema::from_unqualified_fields(fields.into(), HashMap::new())?;
    let planned = computed::planned(state, (*create.body).clone(), &schema)?;
    let mut refused = None;
    planned.apply(|part| {
        refused = refusal(part);
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if let Some(what) = refused {
        return Err(not_of_arguments(create, &what));
    }
    // Types are settled as those of queries are.
    let rows = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: Arc::new(schema.clone()) });
    let (rows, value) = aggregated(create, LogicalPlanBuilder::from(rows), planned)?;
    let plan = rows.project([value.alias("value")])?.build()?;
    let settled = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    let found = settled.schema().field(0).data_type();
    if !can_cast_types(found, &create.returns.arrow()) {
        let given = SqlType::of_arrow(found).map_or_else(|| found.to_string(), |sql_type| sql_type.to_string());
        let message = format!(
            "function {name} returns {}, and its expression gives {given}, which is no such value; correct one of them",
            create.returns
        );
        return Err(SqlError::invalid_at(create.at, message));
    }
    // As it will be called.
    let arguments: Vec<String> = create.parameters.iter().map(|parameter| quoted(&parameter.name)).collect();
    let call = parser::expression(&format!("{}({})", quoted(name), arguments.join(", ")))?;
    computed::planned(state, call, &schema)?;
    Ok(())
}

struct Queries;

impl Visitor for Queries {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}

/// Has the aggregates in a function's expression computed of all rows, and gives its value of what they are.
fn aggregated(create: &CreateFunction, rows: LogicalPlanBuilder, value: Expr) -> Result<(LogicalPlanBuilder, Expr), SqlError> {
    let aggregates = find_aggregate_exprs([&value]);
    check_aggregates(create, &value, &aggregates)?;
    if aggregates.is_empty() {
        return Ok((rows, value));
    }
    let column_of = |place: usize| format!("__aggregate_{place}");
    let above = value.transform_down(|part| {
        Ok(match aggregates.iter().position(|aggregate| *aggregate == part) {
            Some(place) => Transformed::new(Expr::Column(Column::new_unqualified(column_of(place))), true, TreeNodeRecursion::Jump),
            None => Transformed::no(part),
        })
    })?;
    let named = aggregates.iter().enumerate().map(|(place, aggregate)| aggregate.clone().alias(column_of(place)));
    Ok((rows.aggregate(Vec::<Expr>::new(), named)?, above.data))
}

/// That an expression is of rows or of groups of them, not of both, and aggregates once.
fn check_aggregates(create: &CreateFunction, value: &Expr, aggregates: &[Expr]) -> Result<(), SqlError> {
    let name = &create.name;
    let refused = |message: String| Err(SqlError::invalid_at(create.at, message));
    let Some(first) = aggregates.iter().flat_map(names_of_aggregates).next() else {
        return match create.is_aggregate {
            true => refused(format!(
                "function {name} is to be an AGGREGATE, and there is none in its expression; write CREATE FUNCTION, or an aggregate of each parameter, as max(x)"
            )),
            false => Ok(()),
        };
    };
    for aggregate in aggregates {
        if let [outer, inner, ..] = names_of_aggregates(aggregate).as_slice() {
            return refused(format!(
                "function {name} has the aggregate {inner} in the aggregate {outer}, which takes two steps; let it be of the first, and a query of the second, whose FROM is a subquery with the first"
            ));
        }
    }
    let mut alone = None;
    value.apply(|part| {
        Ok(match part {
            Expr::AggregateFunction(_) => TreeNodeRecursion::Jump,
            Expr::Column(column) => {
                alone = Some(quoted(&column.name));
                TreeNodeRecursion::Stop
            }
            _ => TreeNodeRecursion::Continue,
        })
    })?;
    match alone {
        Some(parameter) => refused(format!(
            "function {name} has {parameter} by itself beside the aggregate {first}, and an aggregate is of many rows; write an aggregate of it too, as max({parameter})"
        )),
        None => Ok(()),
    }
}

/// Those in an expression, the outer ones first.
fn names_of_aggregates(expression: &Expr) -> Vec<String> {
    let mut names = Vec::new();
    let walked = expression.apply(|part| {
        if let Expr::AggregateFunction(aggregate) = part {
            names.push(aggregate.func.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "the walk never fails");
    names
}

/// What is computed of more than the arguments of one call, or of those of a group's calls.
fn refusal(part: &Expr) -> Option<String> {
    match part {
        Expr::AggregateFunction(aggregate) if aggregate.func.name() == "grouping" => {
            Some("grouping, which is of a GROUP BY,".to_owned())
        }
        Expr::WindowFunction(_) => Some("a function OVER (…)".to_owned()),
        Expr::Unnest(_) => Some("unnest".to_owned()),
        Expr::Placeholder(placeholder) => Some(format!("the parameter {}, which has a name here,", placeholder.id)),
        _ => None,
    }
}

fn not_of_arguments(create: &CreateFunction, what: &str) -> SqlError {
    let message = format!(
        "function {} has {what} in it, and is computed of its arguments alone; let the query that calls it have that",
        create.name
    );
    SqlError::unsupported_at(create.at, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{Change, apply},
        parser::parse,
        show,
    };

    const HALF: &str = "CREATE FUNCTION half(n BIGINT) RETURNS BIGINT RETURN n / 2;";
    const TABLES: &str = "
        CREATE TABLE t (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
        CREATE TABLE s (k STRING, n BIGINT) WITH ('connector' = 'blackhole');
    ";

    fn after(catalog: &Catalog, sql: &str) -> Result<Catalog, SqlError> {
        let change = Change { now_us: 0, incarnation: "a1".into() };
        parse(sql)?.iter().try_fold(catalog.clone(), |catalog, statement| apply(&catalog, statement, &change))
    }

    fn refused(catalog: &Catalog, sql: &str) -> String {
        after(catalog, sql).expect_err(sql).to_string()
    }

    #[test]
    fn a_function_is_kept_and_shown_as_it_is_written() {
        let catalog = after(&Catalog::default(), HALF).unwrap();
        let stored = serde_json::to_string(&catalog).unwrap();
        assert_eq!(serde_json::from_str::<Catalog>(&stored).unwrap(), catalog);
        let earlier = serde_json::to_string(&Catalog::default()).unwrap();
        assert!(!earlier.contains("functions"), "as earlier versions stored it: {earlier}");
        assert_eq!(serde_json::from_str::<Catalog>(&earlier).unwrap(), Catalog::default());
        assert_eq!(show::create_function(catalog.function("half").unwrap()), HALF.trim_end_matches(';'));
        assert_eq!(show::functions(&catalog).unwrap().num_rows(), 1);
        assert!(catalog.function("hal").unwrap_err().to_string().contains("did you mean half?"));
        assert_eq!(after(&catalog, "DROP FUNCTION half").unwrap(), Catalog::default());
        assert_eq!(after(&catalog, "DROP FUNCTION IF EXISTS other").unwrap(), catalog);
        assert!(refused(&catalog, "DROP FUNCTION other").contains("function other does not exist"));
    }

    #[test]
    fn another_takes_the_place_of_a_function_that_nothing_calls() {
        let catalog = after(&Catalog::default(), &format!("{HALF}{TABLES}")).unwrap();
        let third = "CREATE OR REPLACE FUNCTION half(n BIGINT) RETURNS BIGINT RETURN n / 3";
        let replaced = after(&catalog, third).unwrap();
        assert_eq!(replaced.function("half").unwrap().sql, third);
        assert!(refused(&catalog, HALF).contains("function half exists already"));
        let kept = "CREATE FUNCTION IF NOT EXISTS half(n BIGINT) RETURNS BIGINT RETURN n";
        assert_eq!(after(&catalog, kept).unwrap(), catalog);
        for (user, told) in [
            ("CREATE JOB j AS INSERT INTO s SELECT k, half(v) FROM t", "used by job j; drop the job first: DROP JOB j"),
            ("CREATE VIEW w AS SELECT HALF(v) AS n FROM t", "used by view w; drop the view first: DROP VIEW w"),
            (
                "CREATE TABLE c (v BIGINT, h AS half(v)) WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'json')",
                "used by table c; drop the table first: DROP TABLE c",
            ),
            (
                "CREATE FUNCTION quartered(n BIGINT) RETURNS BIGINT RETURN half(half(n))",
                "used by function quartered; drop the function first: DROP FUNCTION quartered",
            ),
        ] {
            let used = after(&catalog, user).unwrap();
            for sql in ["DROP FUNCTION half", third] {
                let message = refused(&used, sql);
                assert!(message.contains(told), "{user}, {sql}: {message}");
            }
            let same = "CREATE OR REPLACE FUNCTION half(n BIGINT) RETURNS BIGINT AS $$ SELECT n / 2 $$";
            assert_eq!(after(&used, same).unwrap(), used, "the same function again");
        }
    }

    #[test]
    fn the_functions_of_a_job_are_those_behind_its_views_tables_and_functions_too() {
        let script = "
            CREATE FUNCTION quartered(n BIGINT) RETURNS BIGINT RETURN half(half(n));
            CREATE FUNCTION alone(n BIGINT) RETURNS BIGINT RETURN n;
            CREATE FUNCTION first_word(a STRING) RETURNS STRING RETURN split_part(a, ' ', 1);
            CREATE TABLE c (k STRING, v BIGINT, word AS first_word(k)) WITH ('connector' = 'kafka', 'topic' = 'c', 'format' = 'json');
            CREATE VIEW w AS SELECT k, quartered(v) AS n FROM c;
            CREATE JOB j AS INSERT INTO s SELECT k, n FROM w;";
        let catalog = after(&Catalog::default(), &format!("{HALF}{TABLES}{script}")).unwrap();
        let functions = catalog.functions_of(catalog.job("j").unwrap()).unwrap();
        let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["first_word", "half", "quartered"]);
        assert_eq!(catalog.table(&"c".into()).unwrap().column("word").unwrap().sql_type, SqlType::String);
    }

    #[test]
    fn what_cannot_be_called_is_refused_when_it_is_created() {
        for (sql, reason) in [
            ("CREATE FUNCTION upper(a STRING) RETURNS STRING RETURN a", "upper is a built-in function"),
            ("CREATE FUNCTION sum(a BIGINT) RETURNS BIGINT RETURN a", "sum is a built-in function"),
            ("CREATE FUNCTION ucase(a STRING) RETURNS STRING RETURN a", "ucase is a built-in function"),
            ("CREATE FUNCTION tumble(a STRING) RETURNS STRING RETURN a", "tumble is a built-in function"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN f(a - 1)", "function f calls itself"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN a - min(a)", "function f has a by itself beside the aggregate min"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN sum(max(a))", "has the aggregate max in the aggregate sum"),
            (
                "CREATE FUNCTION g(a BIGINT) RETURNS BIGINT RETURN max(a) - min(a); CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN sum(g(a))",
                "function f has the aggregate max in the aggregate sum",
            ),
            ("CREATE AGGREGATE f(a BIGINT) RETURNS BIGINT RETURN a + 1", "function f is to be an AGGREGATE, and there is none"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN sum(a) OVER ()", "function f has a function OVER (…) in it"),
            (
                "CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN max(grouping(a))",
                "function f has grouping, which is of a GROUP BY",
            ),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN sum(unnest(make_array(a)))", "function f has unnest in it"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN array_agg(a)", "its expression gives ARRAY<BIGINT>"),
            (
                "CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN rank() OVER (ORDER BY a)",
                "function f has a function OVER (…) in it",
            ),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN (SELECT max(v) FROM t)", "function f has a subquery in it"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN a + b", "there is no column b"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN missing(a)", "there is no function missing"),
            ("CREATE FUNCTION f(a BIGINT, b BIGINT) RETURNS BIGINT RETURN a", "does not use its parameter b"),
            ("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT RETURN make_array(a)", "its expression gives ARRAY<BIGINT>"),
        ] {
            let message = refused(&Catalog::default(), sql);
            assert!(message.contains(reason), "{sql}: {message}");
        }
    }
}
