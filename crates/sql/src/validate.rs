//! Checks the SQL of a pipeline folder before it runs: everything is parsed, declared and planned as the scheduler would, without asking
//! Kafka or Cassandra anything, and every problem is told at once.
use std::{collections::BTreeSet, fmt, fs, path::Path, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    catalog::TableProvider,
    common::Result as DataFusionResult,
    datasource::empty::EmptyTable,
    execution::{SessionState, SessionStateBuilder},
};

use crate::{
    catalog::{Catalog, Change, TableDefinition, apply},
    error::SqlError,
    limits::Limits,
    location::Location,
    parser::parse_script,
    planner::Planner,
    schema::{Providers, Use},
    statement::{Statement, StatementKind},
};

/// One `*.sql` file: its name, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub name: String,
    pub text: String,
}

/// Displays as `users.sql:3:5: message`.
#[derive(Debug)]
pub struct Problem {
    pub file: String,
    pub at: Location,
    pub error: SqlError,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.at.line, self.at.column, self.error)
    }
}

/// A statement that is sound, and does something else in a pipeline than it may be meant to. Displays as `users.sql:3:5: warning: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub file: String,
    pub at: Location,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: warning: {}", self.file, self.at.line, self.at.column, self.message)
    }
}

/// What a pipeline declares, as far as it is sound, and what is wrong with the rest.
#[derive(Debug, Default)]
pub struct Validation {
    pub catalog: Catalog,
    /// The statements that are sound, in order, with their files.
    pub statements: Vec<(String, Statement)>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

/// The `*.sql` files of `folder`, in the order of their names.
///
/// # Errors
/// When the folder or a file cannot be read (or is not UTF-8).
pub fn read_folder(folder: &Path) -> Result<Vec<SourceFile>, SqlError> {
    let unreadable = |path: &Path, source| SqlError::Read { path: path.display().to_string(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let path = entry.map_err(|source| unreadable(folder, source))?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "sql") {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(SourceFile { name, text })
    };
    paths.iter().map(read).collect()
}

/// Checks files as one script, on top of an empty catalog.
pub async fn validate(files: &[SourceFile]) -> Validation {
    validate_upon(Catalog::default(), files).await
}

/// The same on top of a catalog. A job that is there already is not planned again where it is made `IF NOT EXISTS`.
pub async fn validate_upon(catalog: Catalog, files: &[SourceFile]) -> Validation {
    let state = SessionStateBuilder::new().with_default_features().build();
    let there: BTreeSet<String> = catalog.jobs.iter().map(|job| job.name.clone()).collect();
    let mut validation = Validation { catalog, ..Validation::default() };
    for file in files {
        for statement in parse_script(&file.text, Limits::default()) {
            if let Ok(statement) = &statement
                && stays(&validation.catalog, &there, &statement.kind)
            {
                continue;
            }
            let (at, checked) = match statement {
                Err(error) => (Location::START, Err(error)),
                Ok(statement) => (statement.at, check(&state, &mut validation.catalog, &statement).await.map(|()| statement)),
            };
            match checked {
                Ok(statement) => {
                    if let Some(message) = at_every_start(&statement.kind) {
                        validation.warnings.push(Warning { file: file.name.clone(), at, message });
                    }
                    validation.statements.push((file.name.clone(), statement));
                }
                Err(error) => {
                    validation.problems.push(Problem { file: file.name.clone(), at: error.location().unwrap_or(at), error });
                }
            }
        }
    }
    validation
}

/// Whether a statement leaves a job as it is that was there before the script.
fn stays(catalog: &Catalog, there: &BTreeSet<String>, kind: &StatementKind) -> bool {
    let StatementKind::CreateJob(create) = kind else { return false };
    create.if_not_exists && there.contains(&create.name) && catalog.find_job(&create.name).is_some()
}

/// What becomes of a statement that declares nothing: a pipeline's files are run whenever the platform starts.
fn at_every_start(kind: &StatementKind) -> Option<String> {
    let told = match kind {
        StatementKind::CreateTable(_)
        | StatementKind::CreateView(_)
        | StatementKind::CreateFunction(_)
        | StatementKind::CreateJob(_)
        | StatementKind::Insert(_) => return None,
        StatementKind::Query(_) | StatementKind::Show(_) | StatementKind::Describe(_) | StatementKind::Explain(_) => {
            "is run at every start, and nobody sees its rows; leave it out, and ask by polybolos sql -c"
        }
        StatementKind::Session(_) => "has no effect in a pipeline; leave it out",
        _ => "is carried out at every start; leave it out, and where it is meant once, do it by polybolos sql -c",
    };
    Some(format!("{} {told}", kind.tag()))
}

/// Plans `statement` if it has a plan, and adds what it declares to `catalog`.
async fn check(state: &SessionState, catalog: &mut Catalog, statement: &Statement) -> Result<(), SqlError> {
    let planner = Planner::new(state, Arc::new(catalog.clone()), Arc::new(Declared));
    let mut becomes_job = true;
    match &statement.kind {
        StatementKind::CreateJob(create) | StatementKind::UpgradeJob(create) => {
            planner.plan_job(create, 1).await?;
        }
        StatementKind::Insert(insert) => {
            becomes_job = planner.is_unbounded(insert)?;
            if becomes_job {
                let message =
                    "the INSERT reads a stream, so it would start another job at every start; name it: CREATE JOB name AS INSERT …";
                return Err(SqlError::unsupported_at(insert.at, message));
            }
            planner.plan_bounded_insert(insert).await?;
        }
        StatementKind::Query(query) if query.emit_changes => {
            let message = "a pipeline's files are run to their end, and SELECT … EMIT CHANGES has none; ask by polybolos sql -c";
            return Err(SqlError::unsupported_at(statement.at, message));
        }
        StatementKind::Query(query) => {
            planner.plan_query(query).await?;
        }
        StatementKind::CreateView(view) => {
            planner.plan_view(view).await?;
        }
        StatementKind::Explain(explain) => {
            planner.explain(explain, 1).await?;
        }
        _ => {}
    }
    if becomes_job {
        let change = Change { now_us: 0, incarnation: "validation".to_owned() };
        *catalog = apply(catalog, statement, &change)?;
    }
    Ok(())
}

/// Tables with their declared columns and no rows, for planning alone.
#[derive(Debug)]
pub struct Declared;

#[async_trait]
impl Providers for Declared {
    async fn provider(&self, table: &TableDefinition, _: Use) -> DataFusionResult<Arc<dyn TableProvider>> {
        Ok(Arc::new(EmptyTable::new(table.read_schema())))
    }

    fn system(&self, _: &str) -> Option<Arc<dyn TableProvider>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_pipeline_does_at_every_start_is_said() {
        let text = "CREATE TABLE IF NOT EXISTS t (a INT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
CREATE TABLE IF NOT EXISTS u (a INT) WITH ('connector' = 'blackhole');
CREATE JOB IF NOT EXISTS j AS INSERT INTO u SELECT a FROM t;
SELECT a FROM t;
SHOW JOBS;
  PAUSE JOB j;
SET x = 'y';
PAUSE JOB missing;";
        let validation = validate(&[SourceFile { name: "p.sql".into(), text: text.into() }]).await;
        let warnings: Vec<String> = validation.warnings.iter().map(ToString::to_string).collect();
        let expected = [
            "p.sql:4:1: warning: SELECT is run at every start, and nobody sees its rows",
            "p.sql:5:1: warning: SHOW is run at every start",
            "p.sql:6:3: warning: PAUSE JOB is carried out at every start",
            "p.sql:7:1: warning: SET has no effect",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, beginning) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(beginning), "{warning}");
        }
        // What fails when it is run is a problem, not a warning.
        assert_eq!(validation.problems.len(), 1);
        assert!(validation.problems[0].to_string().contains("missing"), "{}", validation.problems[0]);
    }

    #[tokio::test]
    async fn upon_a_catalog_what_is_there_is_known_and_its_jobs_stay() {
        let file = |text: &str| [SourceFile { name: "p.sql".into(), text: text.into() }];
        let tables = "CREATE TABLE t (a INT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
CREATE TABLE u (a INT) WITH ('connector' = 'blackhole');";
        let there = validate(&file(&format!("{tables} CREATE JOB j AS INSERT INTO u SELECT a FROM t;"))).await;
        assert!(there.problems.is_empty(), "{:?}", there.problems);
        // Of another version of the file, which nobody carries out.
        let job = |name: &str| format!("CREATE JOB IF NOT EXISTS {name} AS INSERT INTO u SELECT b FROM t;");
        let upon = validate_upon(there.catalog.clone(), &file(&job("j"))).await;
        assert!(upon.problems.is_empty() && upon.statements.is_empty(), "{:?}", upon.problems);
        assert_eq!(upon.catalog, there.catalog);
        for text in [job("k"), job("j").replace("IF NOT EXISTS ", ""), format!("DROP JOB j; {}", job("j"))] {
            let upon = validate_upon(there.catalog.clone(), &file(&text)).await;
            assert_eq!(upon.problems.len(), 1, "{text}");
        }
    }
}
