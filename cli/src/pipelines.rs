//! Pipelines of a platform: their SQL is carried out, their feeds are started.
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use polybolos_ingest::config::{Feed, Pipeline, Variables};
use polybolos_scheduler::Scheduler;

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
}
