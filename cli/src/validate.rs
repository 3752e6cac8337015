//! `polybolos validate`: a pipeline folder, checked without running it.
use std::path::PathBuf;

use polybolos_ingest::config::Pipeline;
use polybolos_scheduler::jobs::rehearsal::rehearse;
use polybolos_service::exit::{Exit, Failure};
use polybolos_sql::{
    catalog::Catalog,
    statement::{Statement, StatementKind},
    validate::{SourceFile, Validation, validate_upon},
};
use polybolos_tables::plain::{counted, plain_chain};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Pipeline folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut problems = 0;
    for folder in &arguments.folders {
        let shown = folder.display();
        let environment = |name: &str| std::env::var(name).ok();
        let feeds = match Pipeline::load(folder, &environment) {
            Ok(pipeline) => pipeline.feeds.len(),
            Err(error) => {
                println!("{error}");
                problems += 1;
                0
            }
        };
        let files = polybolos_sql::validate::read_folder(folder)?;
        let validation = polybolos_sql::validate::validate(&files).await;
        let refused = refused(&validation).await;
        for problem in validation.problems.iter().map(ToString::to_string).chain(refused.iter().cloned()) {
            println!("{shown}/{problem}");
        }
        for warning in &validation.warnings {
            println!("{shown}/{warning}");
        }
        problems += validation.problems.len() + refused.len();
        let (tables, jobs) = (validation.catalog.tables.len(), validation.catalog.jobs.len() - refused.len());
        println!(
            "{shown}: {}, {}, {}",
            counted(feeds as u64, "feed"),
            counted(tables as u64, "table"),
            counted(jobs as u64, "job")
        );
    }
    if problems > 0 {
        return Err(Exit::new(
            Failure::Reported,
            format!("{}; nothing was started or changed", counted(problems as u64, "problem")),
        )
        .into());
    }
    Ok(())
}

/// All that is wrong with the files of a platform's pipelines, which are carried out one after the other upon what is in its catalog.
pub async fn problems(catalog: Catalog, files: &[SourceFile]) -> Vec<String> {
    let validation = validate_upon(catalog, files).await;
    let refused = refused(&validation).await;
    validation.problems.iter().map(ToString::to_string).chain(refused).collect()
}

/// Sound statements whose jobs `CREATE JOB` would refuse all the same.
async fn refused(validation: &Validation) -> Vec<String> {
    let mut refused = Vec::new();
    for job in &validation.catalog.jobs {
        let defines = |(_, statement): &&(String, Statement)| match &statement.kind {
            StatementKind::CreateJob(create) | StatementKind::UpgradeJob(create) => create.name == job.name,
            _ => false,
        };
        let Some((file, statement)) = validation.statements.iter().rfind(defines) else { continue };
        if let Err(error) = rehearse(&validation.catalog, job).await {
            refused.push(format!("{file}:{}:{}: {}", statement.at.line, statement.at.column, plain_chain(&*error)));
        }
    }
    refused
}
