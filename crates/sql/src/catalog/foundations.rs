//! What a job or a view stands upon: tables, views and functions, through views and functions too. A statement is planned before it changes the catalog, and
//! others change it meanwhile: it is applied only where all of that is as it was.
use std::collections::BTreeMap;

use super::{Catalog, Change, FunctionDefinition, JobDefinition, TableDefinition, ViewDefinition, apply, computed};
use crate::{
    error::{ObjectKind, SqlError},
    expansion,
    limits::Limits,
    names::{RelationName, quoted},
    statement::{CreateFunction, Statement, StatementKind},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Definition<'a> {
    Table(&'a TableDefinition),
    View(&'a ViewDefinition),
    Function(&'a FunctionDefinition),
}

/// As [`apply`], for a statement that made `planned` of an earlier catalog: what it makes stands upon the same definitions here.
///
/// # Errors
/// As [`apply`], and when one of these definitions was dropped or is another since: nothing has changed then.
pub fn apply_planned(catalog: &Catalog, statement: &Statement, change: &Change, planned: &Catalog) -> Result<Catalog, SqlError> {
    let next = apply(catalog, statement, change)?;
    if next == *catalog {
        return Ok(next);
    }
    let (made, below) = match &statement.kind {
        StatementKind::CreateView(create) => (format!("view {}", create.name), planned.below_view(planned.view(&create.name)?)?),
        StatementKind::CreateJob(_) | StatementKind::UpgradeJob(_) | StatementKind::Insert(_) => {
            let name = match &statement.kind {
                StatementKind::CreateJob(create) | StatementKind::UpgradeJob(create) => create.name.clone(),
                _ => change.name_of_insert(),
            };
            (format!("job {name}"), planned.below_job(planned.job(&name)?)?)
        }
        _ => return Ok(next),
    };
    match below.into_iter().find(|definition| !next.has(*definition)) {
        Some(definition) => Err(next.not_as_planned(definition, &made)),
        None => Ok(next),
    }
}

impl Catalog {
    /// The functions that a job, its views, the computed columns of its tables, and these functions themselves call, by name.
    ///
    /// # Errors
    /// Only when this version no longer reads a text that an earlier one took.
    pub fn functions_of(&self, job: &JobDefinition) -> Result<Vec<CreateFunction>, SqlError> {
        if self.functions.is_empty() {
            return Ok(Vec::new());
        }
        let mut functions = Vec::new();
        for definition in self.below_job(job)? {
            if let Definition::Function(function) = definition {
                functions.push(function.statement(Limits::default())?);
            }
        }
        Ok(functions)
    }

    fn below_job(&self, job: &JobDefinition) -> Result<Vec<Definition<'_>>, SqlError> {
        let relations = [&job.sources, &job.targets, &job.views].into_iter().flatten().cloned().collect();
        let mut calls = Vec::new();
        for insert in job.statement(Limits::default())?.inserts {
            calls.extend(expansion::called(&*insert.query));
        }
        self.below(relations, calls)
    }

    fn below_view(&self, view: &ViewDefinition) -> Result<Vec<Definition<'_>>, SqlError> {
        let calls = expansion::called(&*view.statement(Limits::default())?.query);
        self.below(view.sources.clone(), calls.into_iter().collect())
    }

    /// What a query that names these relations and calls these functions stands upon; the functions last, by name.
    fn below(&self, mut relations: Vec<RelationName>, mut calls: Vec<String>) -> Result<Vec<Definition<'_>>, SqlError> {
        let limits = Limits::default();
        let mut found = Vec::new();
        while let Some(name) = relations.pop() {
            let definition = match self.find_view(&name) {
                Some(view) => Definition::View(view),
                None => Definition::Table(self.table(&name)?),
            };
            if found.contains(&definition) {
                continue;
            }
            found.push(definition);
            if let Definition::View(view) = definition {
                relations.extend(view.sources.iter().cloned());
                calls.extend(expansion::called(&*view.statement(limits)?.query));
            }
            if let Definition::Table(table) = definition {
                for expression in computed::written(table)? {
                    calls.extend(expansion::called(&expression));
                }
            }
        }
        let mut functions = BTreeMap::new();
        while let Some(name) = calls.pop() {
            let Some(function) = self.find_function(&name).filter(|_| !functions.contains_key(&name)) else { continue };
            calls.extend(expansion::called(&*function.statement(limits)?.body));
            functions.insert(name, function);
        }
        found.extend(functions.into_values().map(Definition::Function));
        Ok(found)
    }

    /// Whether a definition of another catalog is the same here.
    fn has(&self, definition: Definition<'_>) -> bool {
        match definition {
            Definition::Table(table) => self.find_table(&table.name) == Some(table),
            Definition::View(view) => self.find_view(&view.name) == Some(view),
            Definition::Function(function) => self.find_function(&function.name) == Some(function),
        }
    }

    /// What is said of a definition that is not here as it was.
    fn not_as_planned(&self, definition: Definition<'_>, made: &str) -> SqlError {
        let (kind, name, found) = match definition {
            Definition::Table(table) => (ObjectKind::Table, table.name.to_string(), self.table(&table.name).err()),
            Definition::View(view) => (ObjectKind::View, view.name.to_string(), self.view(&view.name).err()),
            Definition::Function(function) => (ObjectKind::Function, quoted(&function.name), self.function(&function.name).err()),
        };
        found.unwrap_or_else(|| {
            SqlError::invalid(format!("{kind} {name} was changed by another statement while {made} was planned; try again"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse;

    const DECLARED: &str = "
        CREATE FUNCTION half(n BIGINT) RETURNS BIGINT RETURN n / 2;
        CREATE FUNCTION quartered(n BIGINT) RETURNS BIGINT RETURN half(half(n));
        CREATE TABLE t (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
        CREATE TABLE s (k STRING, n BIGINT) WITH ('connector' = 'blackhole');
        CREATE VIEW w AS SELECT k, v FROM t;
        CREATE FUNCTION alone(n BIGINT) RETURNS BIGINT RETURN n;
        CREATE TABLE other (k STRING) WITH ('connector' = 'blackhole');";

    fn change() -> Change {
        Change { now_us: 0, incarnation: "a1".into() }
    }

    fn after(catalog: &Catalog, script: &str) -> Catalog {
        let statements = parse(script).expect(script);
        statements.iter().fold(catalog.clone(), |catalog, statement| apply(&catalog, statement, &change()).expect(script))
    }

    /// What becomes of a statement that is planned before others are carried out, and applied after them.
    fn beside(statement: &str, others: &str) -> Result<Catalog, String> {
        let before = after(&Catalog::default(), DECLARED);
        let planned = after(&before, statement);
        let statement = parse(statement).expect(statement).remove(0);
        apply_planned(&after(&before, others), &statement, &change(), &planned).map_err(|error| error.to_string())
    }

    const USERS: [&str; 3] = [
        "CREATE JOB j AS INSERT INTO s SELECT k, quartered(v) FROM w",
        "INSERT INTO s SELECT k, quartered(v) FROM w",
        "CREATE VIEW u AS SELECT k, quartered(v) AS n FROM w",
    ];

    #[test]
    fn what_is_dropped_beside_a_statement_that_needs_it_fails_that() {
        for user in USERS {
            for (others, told) in [
                ("DROP FUNCTION quartered", "function quartered does not exist"),
                ("DROP FUNCTION quartered; DROP FUNCTION half", "function "),
                ("DROP VIEW w", "w does not exist"),
                ("DROP VIEW w; DROP TABLE t", "w does not exist"),
            ] {
                let message = beside(user, others).expect_err(others);
                assert!(message.contains(told) && message.contains("does not exist"), "{user}; {others}: {message}");
            }
        }
    }

    #[test]
    fn what_is_another_than_when_a_statement_was_planned_fails_that() {
        for user in USERS {
            for (others, told) in [
                ("CREATE OR REPLACE FUNCTION quartered(n BIGINT) RETURNS BIGINT RETURN n / 4", "function quartered was changed"),
                ("DROP VIEW w; CREATE VIEW w AS SELECT upper(k) AS k, v FROM t", "view w was changed"),
                (
                    "DROP VIEW w; DROP TABLE t; CREATE TABLE t (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = 'u', 'format' = 'json');
                     CREATE VIEW w AS SELECT k, v FROM t",
                    "table t was changed",
                ),
            ] {
                let message = beside(user, others).expect_err(others);
                assert!(message.contains(told) && message.ends_with("was planned; try again"), "{user}; {others}: {message}");
            }
        }
    }

    #[test]
    fn an_upgrade_stands_upon_what_it_was_planned_with() {
        let before = after(&after(&Catalog::default(), DECLARED), "CREATE JOB j AS INSERT INTO s SELECT k, v FROM t");
        let upgrade = "UPGRADE JOB j AS INSERT INTO s SELECT k, alone(v) FROM t";
        let planned = after(&before, upgrade);
        let statement = parse(upgrade).expect(upgrade).remove(0);
        let applied = |catalog: &Catalog| apply_planned(catalog, &statement, &change(), &planned);
        assert_eq!(applied(&before).expect(upgrade), planned);
        let message = applied(&after(&before, "DROP FUNCTION alone")).expect_err(upgrade).to_string();
        assert!(message.contains("function alone does not exist"), "{message}");
    }

    #[test]
    fn what_others_do_to_the_rest_is_no_matter() {
        for user in USERS {
            let others = "DROP FUNCTION alone; DROP TABLE other; CREATE VIEW x AS SELECT k FROM t";
            let next = beside(user, others).expect(user);
            assert_eq!(next, after(&after(&after(&Catalog::default(), DECLARED), others), user));
        }
        let again = "CREATE VIEW IF NOT EXISTS w AS SELECT k FROM t";
        let others = "DROP VIEW w; CREATE VIEW w AS SELECT upper(k) AS k FROM t";
        assert!(beside(again, others).is_ok(), "there is one, whichever");
    }
}
