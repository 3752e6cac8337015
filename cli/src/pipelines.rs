//! Pipelines of a platform: their SQL is carried out, their feeds are started.
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use polybolos_ingest::config::{Feed, Pipeline, Variables};
use polybolos_scheduler::Scheduler;

/// The feeds of all folders.
pub fn feeds(folders: &[PathBuf], variables: Variables<'_>) -> anyhow::Result<Vec<Feed>> {
    let mut feeds = vec![];
    for folder in folders {
        if !folder.is_dir() {
            bail!(
                "pipeline folder {} does not exist; choose others with --pipelines, or none with --no-pipelines",
                folder.display()
            );
        }
        feeds.extend(Pipeline::load(folder, variables)?.feeds);
    }
    Ok(feeds)
}

/// Carries out every `*.sql` of a folder, in the order of their names. What exists already stays (IF NOT EXISTS).
pub async fn apply(scheduler: &Scheduler, folder: &Path) -> anyhow::Result<()> {
    for file in polybolos_sql::validate::read_folder(folder)? {
        scheduler.execute_as_admin(&file.text).await.with_context(|| format!("{}/{}", folder.display(), file.name))?;
    }
    Ok(())
}
