//! `polybolos validate`: a pipeline folder, checked without running it.
use std::path::PathBuf;

use polybolos_ingest::config::Pipeline;
use polybolos_service::exit::{Exit, Failure};

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
        for problem in &validation.problems {
            println!("{shown}/{problem}");
        }
        for warning in &validation.warnings {
            println!("{shown}/{warning}");
        }
        problems += validation.problems.len();
        let (tables, jobs) = (validation.catalog.tables.len(), validation.catalog.jobs.len());
        println!("{shown}: {feeds} feeds, {tables} tables, {jobs} jobs");
    }
    if problems > 0 {
        return Err(Exit::new(Failure::Reported, format!("{problems} problems; nothing was started or changed")).into());
    }
    Ok(())
}
