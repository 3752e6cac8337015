//! `polybolos test`: golden tests of pipelines, on the real platform: each case runs on data folders of its own, in three ways that must all come
//! to the expected rows.
mod platform;
mod run;

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;
use polybolos_golden::{
    case::{self, Case, Expected},
    diff::Diff,
    rows::{Format as FileFormat, Rows},
    script::{self, Script},
};
use polybolos_service::exit::{Exit, Failure};
use polybolos_sql::{
    catalog::Catalog,
    names::{RelationName, SYSTEM_SCHEMA},
    types::SqlType,
};
use polybolos_tables::plain::counted;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use self::run::{Asked, Way};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline folders, each with its cases in tests/.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Only cases whose name has this in it.
    #[arg(long)]
    case: Option<String>,
    /// Write what comes out as what is expected, instead of comparing.
    #[arg(long)]
    update: bool,
    /// Platforms at once.
    #[arg(
        long,
        default_value_t = std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        value_parser = RangedU64ValueParser::<usize>::new().range(1..)
    )]
    parallel: usize,
    /// Text for people, or a JSON object per case and way.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// A case, and what of its pipeline it needs.
#[derive(Debug)]
struct Prepared {
    pipeline: String,
    case: Case,
    script: Script,
    asked: Vec<Asked>,
}

/// What became of a case in one way.
struct Outcome {
    prepared: Arc<Prepared>,
    way: Way,
    seconds: f64,
    /// Per table asked for, its rows; or why it did not come so far.
    found: anyhow::Result<Vec<Rows>>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut prepared = vec![];
    for folder in &arguments.folders {
        prepared.extend(prepare(folder, &arguments).await?);
    }
    if prepared.is_empty() {
        let which = arguments.case.as_ref().map_or(String::new(), |name| format!(" named like {name:?}"));
        let message = format!(
            "there are no cases{which}; a case is a folder tests/<case>/ with input/<table>.ndjson and expected/<table>.ndjson"
        );
        return Err(Exit::new(Failure::Usage, message).into());
    }
    let ways: &[Way] = if arguments.update { &[Way::OneGo] } else { &Way::ALL };
    let slots = Arc::new(Semaphore::new(arguments.parallel));
    let mut running = JoinSet::new();
    for case in prepared {
        let case = Arc::new(case);
        for &way in ways {
            let (case, slots) = (case.clone(), slots.clone());
            running.spawn(async move {
                // Nobody closes it.
                let _slot = slots.acquire_owned().await;
                let began = std::time::Instant::now();
                let found = run::run(&case.script, &case.asked, way).await;
                Outcome { prepared: case, way, seconds: began.elapsed().as_secs_f64(), found }
            });
        }
    }
    let (mut done, mut failed) = (0, 0);
    while let Some(outcome) = running.join_next().await {
        let outcome = outcome.context("a test panicked")?;
        done += 1;
        let good = if arguments.update { update(&outcome)? } else { tell(&outcome, arguments.output) };
        failed += u64::from(!good);
    }
    if arguments.output == Format::Text && !arguments.update {
        println!("{} passed, {failed} failed", done - failed);
    }
    if failed > 0 {
        return Err(Exit::new(
            Failure::Reported,
            format!("{failed} of {} failed; --update takes what came out as right", counted(done, "run")),
        )
        .into());
    }
    Ok(())
}

async fn prepare(folder: &std::path::Path, arguments: &Arguments) -> anyhow::Result<Vec<Prepared>> {
    let wanted = |case: &Case| arguments.case.as_ref().is_none_or(|name| case.name.contains(name));
    let cases: Vec<Case> = case::read_all(folder)?.into_iter().filter(wanted).collect();
    let validation = polybolos_sql::validate::validate(&polybolos_sql::validate::read_folder(folder)?).await;
    if let Some(problem) = validation.problems.first() {
        bail!("{}/{problem}; `polybolos validate` shows all problems", folder.display());
    }
    let mut prepared = vec![];
    for mut case in cases {
        let mut targets: Vec<RelationName> = case.expected.iter().map(|expected| expected.table.clone()).collect();
        if targets.is_empty() && arguments.update {
            targets = script::filled_by_input(&validation.catalog, &case);
        }
        if targets.is_empty() {
            bail!("{}: the case expects nothing; write expected/<table>.ndjson, or let --update write it", case.folder.display());
        }
        case.expected.iter().try_for_each(|expected| check(&validation.catalog, expected))?;
        case.expected.iter_mut().for_each(|expected| write_decimals(&validation.catalog, expected));
        let script = script::script(&validation, &case, &targets)?;
        let asked = targets.into_iter().enumerate().map(|(index, table)| {
            let declared = validation.catalog.find_table(&table);
            let key = declared.and_then(|table| table.primary_key.as_ref());
            let expected = case.expected.get(index);
            Asked {
                columns: expected.map(|expected| expected.rows.columns.clone()).unwrap_or_default(),
                key: key.map(|key| key.columns().map(str::to_owned).collect()).unwrap_or_default(),
                table,
            }
        });
        prepared.push(Prepared { pipeline: folder.display().to_string(), asked: asked.collect(), script, case });
    }
    Ok(prepared)
}

/// That what a file expects can be asked of its table.
fn check(catalog: &Catalog, expected: &Expected) -> anyhow::Result<()> {
    let file = expected.file.display();
    if expected.table.schema == SYSTEM_SCHEMA {
        return Ok(());
    }
    let table = catalog.table(&expected.table).with_context(|| file.to_string())?;
    for (place, column) in expected.rows.columns.iter().enumerate() {
        if expected.rows.columns[..place].contains(column) {
            bail!("{file} has column {column} twice; leave one out");
        }
        if !table.columns.iter().any(|known| known.name == *column) {
            let known: Vec<&str> = table.columns.iter().map(|known| known.name.as_str()).collect();
            bail!("{file} has column {column}, and table {} has {}", table.name, known.join(", "));
        }
    }
    Ok(())
}

/// A table's decimals have all their places.
fn write_decimals(catalog: &Catalog, expected: &mut Expected) {
    let Some(table) = catalog.find_table(&expected.table) else { return };
    for column in &table.columns {
        if let SqlType::Decimal { scale, .. } = column.sql_type {
            expected.rows.with_places(&column.name, usize::try_from(scale).unwrap_or(0));
        }
    }
}

/// The differences of every table.
fn differences(outcome: &Outcome) -> anyhow::Result<Vec<Diff>> {
    let found = outcome.found.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let expected = outcome.prepared.case.expected.iter().zip(found).zip(&outcome.prepared.asked);
    Ok(expected
        .map(|((expected, found), asked)| {
            // An empty file expects no rows, of whatever columns.
            let none = Rows { columns: found.columns.clone(), rows: vec![] };
            let expected = if expected.rows.columns.is_empty() { &none } else { &expected.rows };
            polybolos_golden::diff::compare(expected, found, &asked.key)
        })
        .collect())
}

/// Tells what became of a run; whether it was as expected.
fn tell(outcome: &Outcome, format: Format) -> bool {
    let Outcome { prepared, way, seconds, .. } = outcome;
    let differences = differences(outcome);
    let good = differences.as_ref().is_ok_and(|differences| differences.iter().all(Diff::is_empty));
    let tables = || prepared.case.expected.iter().zip(differences.as_ref().map(Vec::as_slice).unwrap_or_default());
    if format == Format::Json {
        let tables: Vec<Value> = tables()
            .filter(|(_, diff)| !diff.is_empty())
            .map(|(expected, diff)| {
                let mut table = diff.to_json();
                table["table"] = json!(expected.table.to_string());
                table
            })
            .collect();
        let error = differences.as_ref().err().map(|error| format!("{error:#}"));
        let line = json!({
            "pipeline": prepared.pipeline, "case": prepared.case.name, "run": way.name(), "passed": good,
            "seconds": seconds, "differences": tables, "error": error,
        });
        println!("{line}");
        return good;
    }
    let verdict = if good { "ok  " } else { "FAIL" };
    println!("{verdict} {}/{}, {} ({seconds:.1} s)", prepared.pipeline, prepared.case.name, way.name());
    if let Err(error) = &differences {
        println!("     {}", format!("{error:#}").replace('\n', " "));
    }
    for (expected, diff) in tables().filter(|(_, diff)| !diff.is_empty()) {
        let file = format!("{}/{}", prepared.case.name, expected.label());
        print!("{}", diff.render(&file, &format!("{}, {}", expected.table, way.name())));
    }
    good
}

fn update(outcome: &Outcome) -> anyhow::Result<bool> {
    let Prepared { case, asked, .. } = &*outcome.prepared;
    let found = match &outcome.found {
        Ok(found) => found,
        Err(error) => {
            println!("FAIL {}: {}", case.folder.display(), format!("{error:#}").replace('\n', " "));
            return Ok(false);
        }
    };
    for (index, (asked, found)) in asked.iter().zip(found).enumerate() {
        let (file, format) = match case.expected.get(index) {
            Some(expected) => (expected.file.clone(), expected.format),
            None => (case.folder.join("expected").join(format!("{}.ndjson", asked.table)), FileFormat::Ndjson),
        };
        case::write(&file, format, found)?;
        println!("wrote {} ({})", file.display(), counted(found.rows.len() as u64, "row"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::Cli;

    #[test]
    fn at_least_one_platform_runs() {
        let parallel = |count: &str| Cli::try_parse_from(["polybolos", "test", "jobs/users", "--parallel", count]);
        assert!(parallel("1").is_ok());
        let refused = parallel("0").expect_err("nothing would run").to_string();
        assert!(refused.contains("--parallel") && refused.contains("0 is not in 1.."), "{refused}");
    }
}
