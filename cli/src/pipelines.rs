//! Pipelines of a platform: their SQL is carried out, their feeds are started.
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use polybolos_ingest::config::{Feed, Pipeline, Variables};
use polybolos_scheduler::Scheduler;
use polybolos_sql::{catalog::Catalog, validate::SourceFile};

use crate::validate;

/// How `up` and `cluster` take other folders.
pub const OTHERS: &str = "choose others with --pipelines, or none with --no-pipelines";

/// Where the demo's feed asks.
pub const USERS_API: &str = "USERS_API_URL";

/// The environment, in which the demo's feed asks the server at `own` unless it names another.
pub fn with_demo(own: SocketAddr, environment: impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<String> {
    move |name| environment(name).or_else(|| (name == USERS_API).then(|| format!("http://{own}/api/")))
}

/// The feeds of all folders. `remedy` says how the command at hand names others. A list from the environment that is empty comes as one empty name.
pub fn feeds(folders: &[PathBuf], remedy: &str, variables: Variables<'_>) -> anyhow::Result<Vec<Feed>> {
    let mut feeds = vec![];
    for folder in folders.iter().filter(|folder| !folder.as_os_str().is_empty()) {
        if !folder.is_dir() {
            bail!("pipeline folder {} does not exist; {remedy}", folder.display());
        }
        feeds.extend(Pipeline::load(folder, variables)?.feeds);
    }
    Ok(feeds)
}

/// Refuses pipelines, before anything begins, that could not be carried out upon what a platform has in its catalog. Nothing but their files is
/// read. `remedy` says how the command at hand names others.
pub async fn check(folders: &[PathBuf], catalog: Catalog, remedy: &str) -> anyhow::Result<()> {
    let mut files = vec![];
    for folder in folders {
        let named = |file: SourceFile| SourceFile { name: format!("{}/{}", folder.display(), file.name), ..file };
        files.extend(polybolos_sql::validate::read_folder(folder)?.into_iter().map(named));
    }
    // Statements go deep, and threads of the runtime have the room for it.
    let problems = tokio::spawn(async move { validate::problems(catalog, &files).await }).await?;
    let Some(first) = problems.first() else { return Ok(()) };
    let more = match problems.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more; polybolos validate tells all)"),
    };
    bail!("{first}{more}; nothing was started: mend the file, or {remedy}")
}

/// Carries out every `*.sql` of a folder, in the order of their names. What exists already stays (IF NOT EXISTS).
pub async fn apply(scheduler: &Scheduler, folder: &Path) -> anyhow::Result<()> {
    for file in polybolos_sql::validate::read_folder(folder)? {
        scheduler.execute_as_admin(&file.text).await.with_context(|| format!("{}/{}", folder.display(), file.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_asks_our_own_server_unless_the_environment_names_another() {
        let own: SocketAddr = "127.0.0.1:7490".parse().expect("an address");
        let unset = with_demo(own, |_| None);
        assert_eq!(unset(USERS_API).as_deref(), Some("http://127.0.0.1:7490/api/"));
        assert_eq!(unset("OTHER"), None);
        let set = with_demo(own, |name| Some(format!("{name} of others")));
        assert_eq!(set(USERS_API).as_deref(), Some("USERS_API_URL of others"));
        assert_eq!(set("OTHER").as_deref(), Some("OTHER of others"));
    }

    #[test]
    fn a_missing_folder_is_told_in_the_words_of_the_command_and_an_empty_name_is_none() {
        let of = |folder: &str| feeds(&[PathBuf::from(folder)], "set ingest.pipelines to others", &|_| None);
        let error = of("/nowhere/at/all").expect_err("it is not there").to_string();
        assert_eq!(error, "pipeline folder /nowhere/at/all does not exist; set ingest.pipelines to others");
        assert!(of("").expect("nothing to read").is_empty());
    }

    const TABLES: &str = "CREATE TABLE IF NOT EXISTS t (a INT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
CREATE TABLE IF NOT EXISTS u (a INT) WITH ('connector' = 'blackhole');";

    /// Of folders whose one file each has this text, and what they are called.
    async fn checked(texts: &[&str]) -> (Result<(), String>, Vec<String>) {
        let folders: Vec<_> = texts.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
        for (folder, text) in folders.iter().zip(texts) {
            std::fs::write(folder.path().join("p.sql"), text).expect("written");
        }
        let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
        let outcome = check(&paths, Catalog::default(), OTHERS).await.map_err(|error| error.to_string());
        (outcome, paths.iter().map(|path| path.display().to_string()).collect())
    }

    #[tokio::test]
    async fn folders_build_upon_each_other() {
        let job = "CREATE JOB IF NOT EXISTS j AS INSERT INTO u SELECT a FROM t;";
        assert_eq!(checked(&[TABLES, job]).await.0, Ok(()));
        assert!(checked(&[job, TABLES]).await.0.is_err());
        assert_eq!(checked(&[]).await.0, Ok(()));
    }

    #[tokio::test]
    async fn a_broken_pipeline_is_refused_by_its_file_and_with_a_remedy() {
        let (refused, folders) = checked(&[TABLES, "CREATE JOB j AS INSERT INTO u SELECT b FROM t;"]).await;
        let refused = refused.expect_err("t has no b");
        assert!(refused.starts_with(&format!("{}/p.sql:1:", folders[1])), "{refused}");
        assert!(refused.ends_with(&format!("; nothing was started: mend the file, or {OTHERS}")), "{refused}");
        assert!(!refused.contains("more"), "{refused}");
        let broken = "CREATE VIEW v AS SELECT b FROM t; CREATE VIEW w AS SELECT c FROM t;";
        let refused = checked(&[TABLES, broken]).await.0.expect_err("nor c");
        assert!(refused.contains(" (and 1 more; polybolos validate tells all); "), "{refused}");
    }
}
