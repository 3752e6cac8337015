//! `catalog + statement → catalog`, purely: no clock, no randomness, no I/O. Planning a job, and asking Kafka and Cassandra whether its
//! tables are as declared, comes before, and is somebody else's.
use std::collections::BTreeSet;

use datafusion::sql::{parser, resolve::resolve_table_references, sqlparser::ast};

use super::{Catalog, JobDefinition, TableDefinition, ViewDefinition, function};
use crate::{
    error::{ObjectKind, SqlError},
    limits::Limits,
    names::{RESERVED_SCHEMAS, RelationName, SYSTEM_SCHEMA},
    options::job::JobOptions,
    parser::with_options,
    statement::{CreateJob, CreateView, Insert, RestartFrom, Statement, StatementKind},
};

/// What the world adds to a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Microseconds since 1970, for `created_at`.
    pub now_us: i64,
    /// A name never used before, for a job that this statement creates. An INSERT without a name becomes job `insert_<incarnation>`.
    pub incarnation: String,
}

impl Change {
    /// What an INSERT without a name is called as a job.
    pub(super) fn name_of_insert(&self) -> String {
        format!("insert_{}", self.incarnation)
    }
}

/// The catalog after `statement`. Statements that change no definition (queries, SHOW, PAUSE JOB of a job that exists, …) give the same
/// catalog back. A bare INSERT becomes a job: the caller hands it in only when its source is unbounded.
///
/// # Errors
/// When the statement does not fit the catalog: nothing has changed then.
pub fn apply(catalog: &Catalog, statement: &Statement, change: &Change) -> Result<Catalog, SqlError> {
    match &statement.kind {
        StatementKind::CreateTable(create) => {
            if catalog.tables.iter().any(|table| table.name == create.name) {
                return unless(create.if_not_exists, catalog, ObjectKind::Table, create.name.to_string());
            }
            if catalog.find_view(&create.name).is_some() {
                return unless(false, catalog, ObjectKind::View, create.name.to_string());
            }
            let table = TableDefinition::new(create, &catalog.functions)?;
            Ok(with_table(catalog, table))
        }
        StatementKind::CreateView(create) => with_view(catalog, create, &statement.sql),
        StatementKind::CreateFunction(create) => function::create(catalog, create, &statement.sql),
        StatementKind::CreateJob(create) => {
            if catalog.find_job(&create.name).is_some() {
                return unless(create.if_not_exists, catalog, ObjectKind::Job, create.name.clone());
            }
            with_job(catalog, create, &statement.sql, change)
        }
        StatementKind::Insert(insert) => {
            let name = change.name_of_insert();
            let create = CreateJob { name, if_not_exists: false, options: Vec::new(), inserts: vec![insert.clone()] };
            with_job(catalog, &create, &statement.sql, change)
        }
        StatementKind::DropView { name, if_exists } => drop_view(catalog, name, *if_exists),
        StatementKind::DropTable { name, if_exists } => drop_table(catalog, name, *if_exists),
        StatementKind::DropFunction { name, if_exists } => function::drop(catalog, name, *if_exists),
        StatementKind::DropJob { name, if_exists } => {
            if catalog.find_job(name).is_none() {
                return if *if_exists { Ok(catalog.clone()) } else { catalog.job(name).map(|_| catalog.clone()) };
            }
            let mut next = catalog.clone();
            next.jobs.retain(|job| job.name != *name);
            Ok(next)
        }
        StatementKind::RestartJob(restart) => {
            catalog.job(&restart.name)?;
            let mut next = catalog.clone();
            for job in next.jobs.iter_mut().filter(|job| job.name == restart.name) {
                job.incarnation.clone_from(&change.incarnation);
                job.is_upgraded = false;
                if let Some(RestartFrom::Offsets(start)) = &restart.from {
                    job.options.start = Some(start.clone());
                }
            }
            Ok(next)
        }
        StatementKind::UpgradeJob(create) => upgraded(catalog, create, &statement.sql),
        StatementKind::ControlJob { name, .. }
        | StatementKind::VerifyJob { name }
        | StatementKind::CreateSavepoint { job: name, .. } => catalog.job(name).map(|_| catalog.clone()),
        // Savepoints are objects of their own, beside the catalog.
        StatementKind::DropSavepoint { .. }
        | StatementKind::ReplayDeadLetters { .. }
        | StatementKind::Show(_)
        | StatementKind::Describe(_)
        | StatementKind::Explain(_)
        | StatementKind::Query(_)
        | StatementKind::Session(_) => Ok(catalog.clone()),
    }
}

fn unless(allowed: bool, catalog: &Catalog, kind: ObjectKind, name: String) -> Result<Catalog, SqlError> {
    if allowed { Ok(catalog.clone()) } else { Err(SqlError::Exists { kind, name }) }
}

fn with_table(catalog: &Catalog, table: TableDefinition) -> Catalog {
    let mut next = catalog.clone();
    next.tables.push(table);
    next.tables.sort_by(|a, b| a.name.cmp(&b.name));
    next
}

fn drop_table(catalog: &Catalog, name: &RelationName, if_exists: bool) -> Result<Catalog, SqlError> {
    // Only by its declared name: keyspace.table is how others know it.
    let Some(table) = catalog.tables.iter().find(|table| table.name == *name) else {
        if catalog.find_view(name).is_some() {
            return Err(SqlError::invalid(format!("{name} is a view; write DROP VIEW {name}")));
        }
        return if if_exists { Ok(catalog.clone()) } else { Err(no_such_declared(catalog, name)) };
    };
    check_unused(catalog, ObjectKind::Table, &table.name)?;
    let mut next = catalog.clone();
    next.tables.retain(|table| table.name != *name);
    Ok(next)
}

fn no_such_declared(catalog: &Catalog, name: &RelationName) -> SqlError {
    match catalog.table(name) {
        Err(error) => error,
        Ok(declared) => SqlError::NoSuch {
            kind: ObjectKind::Table,
            name: name.to_string(),
            hint: Some(format!("it is declared as {}", declared.name)),
        },
    }
}

fn check_unused(catalog: &Catalog, kind: ObjectKind, name: &RelationName) -> Result<(), SqlError> {
    let in_use = |user_kind: ObjectKind, user: String| SqlError::InUse { kind, name: name.to_string(), user_kind, user };
    if let Some(job) = catalog.jobs.iter().find(|job| job.uses(name)) {
        return Err(in_use(ObjectKind::Job, job.name.clone()));
    }
    if let Some(view) = catalog.views.iter().find(|view| view.sources.contains(name)) {
        return Err(in_use(ObjectKind::View, view.name.to_string()));
    }
    Ok(())
}

fn with_view(catalog: &Catalog, create: &CreateView, sql: &str) -> Result<Catalog, SqlError> {
    if catalog.find_view(&create.name).is_some() {
        return unless(create.if_not_exists, catalog, ObjectKind::View, create.name.to_string());
    }
    if catalog.tables.iter().any(|table| table.name == create.name) {
        return unless(false, catalog, ObjectKind::Table, create.name.to_string());
    }
    if RESERVED_SCHEMAS.contains(&create.name.schema.as_str()) {
        let message = format!("schema {} is the system's own; create view {} in another", create.name.schema, create.name.name);
        return Err(SqlError::invalid_at(create.at, message));
    }
    catalog.with_options_of([create.query.as_ref()])?;
    let mut named = Vec::new();
    for name in references(&create.query)? {
        let name = name.looked_up().unwrap_or_else(|| name.declared());
        let known = if catalog.find_view(&name).is_some() { name } else { catalog.table(&name)?.name.clone() };
        named.push(known);
    }
    named.sort();
    named.dedup();
    let mut next = catalog.clone();
    next.views.push(ViewDefinition { name: create.name.clone(), sql: sql.to_owned(), sources: named });
    next.views.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(next)
}

fn drop_view(catalog: &Catalog, name: &RelationName, if_exists: bool) -> Result<Catalog, SqlError> {
    if catalog.find_view(name).is_none() {
        return if if_exists { Ok(catalog.clone()) } else { catalog.view(name).map(|_| catalog.clone()) };
    }
    check_unused(catalog, ObjectKind::View, name)?;
    let mut next = catalog.clone();
    next.views.retain(|view| view.name != *name);
    Ok(next)
}

fn with_job(catalog: &Catalog, create: &CreateJob, sql: &str, change: &Change) -> Result<Catalog, SqlError> {
    let options = JobOptions::read(&create.name, &create.options)?;
    let declared = catalog;
    let catalog = declared.with_options_of(create.inserts.iter().map(|insert| insert.query.as_ref()))?;
    let catalog = &*catalog;
    let mut targets: Vec<RelationName> = Vec::with_capacity(create.inserts.len());
    let mut read = Sources::default();
    for insert in &create.inserts {
        let target = target(catalog, insert)?;
        if targets.contains(&target) {
            let message =
                format!("job {} has two INSERTs into table {target}; write one, with UNION ALL between the queries", create.name);
            return Err(SqlError::invalid_at(insert.at, message));
        }
        targets.push(target);
        read.add(sources(catalog, insert)?);
    }
    let sources: BTreeSet<RelationName> = read.all().map(RelationName::declared).collect();
    for target in &targets {
        if let Some(other) = catalog.job_that_fills(target) {
            return Err(SqlError::invalid(format!(
                "table {target} is filled by job {} already, and one job writes a table; drop that job, or declare a table of its own for job {}",
                other.name, create.name
            )));
        }
        if sources.contains(target) {
            return Err(SqlError::invalid(format!("job {} reads and writes table {target}; write to another table", create.name)));
        }
        check_no_loop(catalog, create, target, &read)?;
    }
    check_letters(catalog, create, &options, &read)?;
    let mut next = declared.clone();
    next.jobs.push(JobDefinition {
        name: create.name.clone(),
        sql: sql.to_owned(),
        options,
        targets,
        sources: sources.into_iter().collect(),
        views: read.views.iter().cloned().collect(),
        incarnation: change.incarnation.clone(),
        created_at_us: change.now_us,
        is_upgraded: false,
    });
    next.jobs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(next)
}

/// That a job does not read what it writes through another table over the same topic.
fn check_no_loop(catalog: &Catalog, create: &CreateJob, target: &RelationName, read: &Sources) -> Result<(), SqlError> {
    let written = catalog.table(target)?;
    for source in &read.tables {
        let source = catalog.table(source)?;
        if let (Some(written), Some(read)) = (written.topic(), source.topic())
            && written.is_same_topic(&read)
        {
            return Err(SqlError::invalid(format!(
                "job {} reads topic {} as table {} and writes it as table {target}, so that it would read what it writes; write to another topic",
                create.name, read.topic, source.name
            )));
        }
    }
    Ok(())
}

/// That a job does not read what it writes of records and rows that it could not process.
fn check_letters(catalog: &Catalog, create: &CreateJob, options: &JobOptions, read: &Sources) -> Result<(), SqlError> {
    let letters = [
        ("dead letters", "dead_letters.topic", &options.dead_letters_topic),
        ("late rows", "late_rows.topic", &options.late_rows_topic),
    ];
    for source in &read.tables {
        let source = catalog.table(source)?;
        let Some(read) = source.topic() else { continue };
        let is_read = |topic: &str| read.is_of_platform(topic);
        if let Some((what, option, _)) = letters.iter().find(|(_, _, topic)| topic.as_deref().is_some_and(is_read)) {
            return Err(SqlError::invalid(format!(
                "job {} reads topic {} as table {} and writes its {what} to it, as '{option}' says, so that it would read what it writes; name another topic",
                create.name, read.topic, source.name
            )));
        }
    }
    Ok(())
}

/// The same job with another definition: the incarnation stays, and where it began.
fn upgraded(catalog: &Catalog, create: &CreateJob, sql: &str) -> Result<Catalog, SqlError> {
    let before = catalog.job(&create.name)?;
    let mut others = catalog.clone();
    others.jobs.retain(|job| job.name != create.name);
    let mut create = create.clone();
    // It is kept as what would make it.
    let mut sql = format!("CREATE{}", sql.get("UPGRADE".len()..).unwrap_or_default());
    if create.options.is_empty() {
        create.options = before.statement(Limits::default())?.options;
        sql = with_options(&sql, &create.options)?;
    }
    let same = Change { now_us: before.created_at_us, incarnation: before.incarnation.clone() };
    let mut next = with_job(&others, &create, &sql, &same)?;
    for job in next.jobs.iter_mut().filter(|job| job.name == create.name) {
        job.options.start.clone_from(&before.options.start);
        job.is_upgraded = true;
        let place = |table: &RelationName| before.targets.iter().position(|known| known == table);
        job.targets.sort_by_key(|table| place(table).unwrap_or(usize::MAX));
    }
    Ok(next)
}

/// The table that an INSERT fills.
pub(crate) fn target(catalog: &Catalog, insert: &Insert) -> Result<RelationName, SqlError> {
    if catalog.find_view(&insert.target).is_some() {
        let message = format!("{} is a view, which keeps no rows; INSERT INTO a table", insert.target);
        return Err(SqlError::invalid_at(insert.at, message));
    }
    Ok(catalog.table(&insert.target)?.name.clone())
}

/// What a query reads, through views too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Declared tables that are read.
    pub tables: BTreeSet<RelationName>,
    /// Declared tables that are looked up.
    pub lookups: BTreeSet<RelationName>,
    pub views: BTreeSet<RelationName>,
}

impl Sources {
    pub fn all(&self) -> impl Iterator<Item = &RelationName> {
        self.tables.iter().chain(&self.lookups)
    }

    fn add(&mut self, other: Self) {
        self.tables.extend(other.tables);
        self.lookups.extend(other.lookups);
        self.views.extend(other.views);
    }
}

/// The declared tables and views that an INSERT's query reads.
pub(crate) fn sources(catalog: &Catalog, insert: &Insert) -> Result<Sources, SqlError> {
    let mut found = Sources::default();
    let mut waiting = references(&insert.query)?;
    while let Some(name) = waiting.pop() {
        if name.schema == SYSTEM_SCHEMA {
            let message = format!("{name} is a system table, which a job cannot read; query it with SELECT");
            return Err(SqlError::unsupported_at(insert.at, message));
        }
        if let Some(name) = name.looked_up() {
            if catalog.find_view(&name).is_some() {
                let message = format!("{name} is a view, which FOR SYSTEM_TIME AS OF cannot look up; name its Cassandra table");
                return Err(SqlError::unsupported_at(insert.at, message));
            }
            found.lookups.insert(catalog.table(&name)?.name.clone());
        } else if let Some(view) = catalog.find_view(&name) {
            if found.views.insert(view.name.clone()) {
                waiting.extend(references(&view.statement(Limits::default())?.query)?);
            }
        } else {
            found.tables.insert(catalog.table(&name)?.name.clone());
        }
    }
    Ok(found)
}

/// The tables and views that a query names.
pub(crate) fn references(query: &ast::Query) -> Result<Vec<RelationName>, SqlError> {
    let query = parser::Statement::Statement(Box::new(ast::Statement::Query(Box::new(query.clone()))));
    let (references, _) = resolve_table_references(&query, true)?;
    Ok(references.iter().map(RelationName::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse;

    fn after(catalog: &Catalog, sql: &str, incarnation: &str) -> Result<Catalog, SqlError> {
        let change = Change { now_us: 1, incarnation: incarnation.to_owned() };
        parse(sql)?.iter().try_fold(catalog.clone(), |catalog, statement| apply(&catalog, statement, &change))
    }

    #[test]
    fn a_job_does_not_read_the_topic_that_it_writes_by_another_name() {
        let table = |name: &str, topic: &str, servers: &str| {
            format!(
                "CREATE TABLE {name} (k STRING, PRIMARY KEY (k) NOT ENFORCED)
                 WITH ('connector' = 'upsert-kafka', 'topic' = '{topic}', 'key.format' = 'json', 'value.format' = 'json'{servers});"
            )
        };
        let there = |servers: &str| format!(", 'properties.bootstrap.servers' = '{servers}'");
        let declared = [
            table("a", "t", ""),
            table("b", "t", ""),
            table("c", "u", ""),
            table("d", "t", &there("one:9092, two:9092")),
            table("e", "t", &there("two:9092,one:9092")),
        ];
        let catalog = after(&Catalog::default(), &declared.concat(), "first").unwrap();
        let made = |from: &str, to: &str| after(&catalog, &format!("CREATE JOB j AS INSERT INTO {to} SELECT k FROM {from}"), "j");
        for (from, to) in [("a", "b"), ("d", "e")] {
            let message = made(from, to).unwrap_err().to_string();
            let said = format!("reads topic t as table {from} and writes it as table {to}");
            assert!(message.contains(&said) && message.contains("write to another topic"), "{message}");
        }
        for (from, to) in [("a", "c"), ("a", "d")] {
            assert!(made(from, to).is_ok(), "{from} to {to}");
        }
    }

    #[test]
    fn a_job_does_not_read_the_topics_of_its_letters() {
        let table = |name: &str, servers: &str| {
            format!("CREATE TABLE {name} (k STRING) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json'{servers});")
        };
        let tables = [
            table("here", ""),
            table("there", ", 'properties.bootstrap.servers' = 'one:9092'"),
            "CREATE TABLE s (k STRING) WITH ('connector' = 'blackhole'); CREATE VIEW v AS SELECT k FROM here;".to_owned(),
        ];
        let catalog = after(&Catalog::default(), &tables.concat(), "first").unwrap();
        let made = |option: &str, from: &str| {
            after(&catalog, &format!("CREATE JOB j WITH ({option}) AS INSERT INTO s SELECT k FROM {from}"), "j")
        };
        for (option, what) in [("dead_letters.topic", "dead letters"), ("late_rows.topic", "late rows")] {
            for from in ["here", "v"] {
                let message = made(&format!("'{option}' = 't'"), from).unwrap_err().to_string();
                let said = format!("job j reads topic t as table here and writes its {what} to it, as '{option}' says");
                assert!(message.contains(&said) && message.contains("name another topic"), "{message}");
            }
            assert!(made(&format!("'{option}' = 'other'"), "here").is_ok());
            assert!(made(&format!("'{option}' = 't'"), "there").is_ok(), "letters go to the platform's Kafka");
        }
        let next = made("'on_error' = 'fail'", "here").unwrap();
        let upgraded = "UPGRADE JOB j WITH ('dead_letters.topic' = 't') AS INSERT INTO s SELECT k FROM here";
        assert!(after(&next, upgraded, "j").unwrap_err().to_string().contains("name another topic"));
    }

    #[test]
    fn an_upgraded_job_has_another_text_and_the_same_life() {
        let catalog = after(
            &Catalog::default(),
            "CREATE TABLE t (k STRING) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
             CREATE TABLE s (k STRING) WITH ('connector' = 'blackhole'); CREATE TABLE s2 (k STRING) WITH ('connector' = 'blackhole');
             CREATE JOB j AS INSERT INTO s SELECT k FROM t; RESTART JOB j FROM LATEST KEEP",
            "first",
        )
        .unwrap();
        let next = after(
            &catalog,
            "UPGRADE JOB j AS BEGIN INSERT INTO s SELECT upper(k) FROM t; INSERT INTO s2 SELECT k FROM t; END",
            "other",
        )
        .unwrap();
        let (before, job) = (catalog.job("j").unwrap(), next.job("j").unwrap());
        assert_eq!((&job.incarnation, &job.options.start), (&before.incarnation, &before.options.start));
        assert_eq!(job.sql, "CREATE JOB j AS BEGIN INSERT INTO s SELECT upper(k) FROM t; INSERT INTO s2 SELECT k FROM t; END");
        assert_eq!(job.targets.len(), 2);
        assert!(job.is_upgraded && !before.is_upgraded);
        let again = after(&next, "RESTART JOB j FROM EARLIEST REPLACE", "third").unwrap();
        assert!(!again.job("j").unwrap().is_upgraded, "another life has one definition");
        assert!(matches!(job.statement(Limits::default()), Ok(create) if create.inserts.len() == 2));
        let optioned = after(
            &next,
            "UPGRADE JOB j WITH ('on_error' = 'fail', 'dead_letters.topic' = 'it''s') AS INSERT INTO s SELECT k FROM t",
            "o",
        )
        .unwrap();
        let kept = after(&optioned, "UPGRADE JOB j AS INSERT INTO s SELECT k FROM t WHERE k > 'a'", "o").unwrap();
        let (optioned, kept) = (optioned.job("j").unwrap(), kept.job("j").unwrap());
        assert_eq!(kept.options, optioned.options);
        assert_eq!(
            kept.sql,
            "CREATE JOB j WITH ('on_error' = 'fail', 'dead_letters.topic' = 'it''s') AS INSERT INTO s SELECT k FROM t WHERE k > 'a'"
        );
        let turned = after(
            &next,
            "UPGRADE JOB j AS BEGIN INSERT INTO s2 SELECT k FROM t; INSERT INTO s SELECT k FROM t WHERE k > 'b'; END",
            "o",
        );
        let turned = turned.unwrap();
        let turned = turned.job("j").unwrap();
        assert_eq!(turned.targets, job.targets, "a table keeps its place");
        assert!(after(&catalog, "UPGRADE JOB nobody AS INSERT INTO s SELECT k FROM t", "other").is_err());
    }
}
