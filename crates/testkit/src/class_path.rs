//! The jars of a server, brought from Maven Central by Maven on the first start and remembered for all later ones.
//!
//! What is wanted is a small pom in `deploy/local/`. The answer is kept in the user's cache folder, in a folder named by the
//! pom's hash, and is used again as long as all jars that it names exist: a second start runs no Maven and needs no network.
use crate::cancel::Cancel;
use crate::error::{Error, Result, at};
use crate::java::JAVA_PACKAGES;
use crate::process::{ProcessSpec, find_program, tail};
use crate::wait::POLL_INTERVAL;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Fixed, so that the same goal runs everywhere; Maven would otherwise pick a version by itself.
const GOAL: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:build-classpath";
/// A hundred jars over a slow line.
const MAVEN_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// From the moment at which it has written its answer to its end.
const MAVEN_FAREWELL: Duration = Duration::from_secs(60);
/// Hex digits of the hash that name a folder.
const HASH_DIGITS: usize = 16;

/// The class path for `pom`, resolved now if need be. One process at a time resolves: Maven's own folder is not made for two.
pub(crate) fn class_path(server: &'static str, pom: &str, cancel: &Cancel) -> Result<String> {
    let root = cache_root().join("servers");
    let folder = root.join(hash(pom));
    if let Some(known) = remembered(&folder) {
        return Ok(known);
    }
    fs::create_dir_all(&folder).map_err(at("create", &folder))?;
    let _lock = lock(&root.join("lock"), cancel)?;
    if let Some(known) = remembered(&folder) {
        return Ok(known);
    }
    resolve(server, pom, &folder, cancel)
}

fn resolve(server: &'static str, pom: &str, folder: &Path, cancel: &Cancel) -> Result<String> {
    let Some(maven) = find_program(OsStr::new("mvn")) else {
        return Err(Error::MissingProgram { program: "mvn".to_owned(), packages: JAVA_PACKAGES });
    };
    tracing::info!(server, "fetching its jars from Maven Central (first start only)");
    let pom_file = folder.join("pom.xml");
    fs::write(&pom_file, pom).map_err(at("write", &pom_file))?;
    let fresh = folder.join("cp.txt.new");
    // Left by a Maven that was killed; missing is the normal case.
    let _ = fs::remove_file(&fresh);
    let mut maven = ProcessSpec::new("maven", maven)
        .args(["-q", "-B", "--strict-checksums", "-f"])
        .arg(&pom_file)
        .arg(GOAL)
        .arg(format!("-Dmdep.outputFile={}", fresh.display()))
        .log_dir(folder)
        .spawn()?;
    let waited = maven.wait_until("the class path", MAVEN_DEADLINE, cancel, |_| match fresh.is_file() {
        true => Ok(()),
        false => Err("still downloading".to_owned()),
    });
    if let Err(error @ Error::Cancelled { .. }) = waited {
        return Err(error);
    }
    let finished = waited.is_ok() && maven.wait_exit(MAVEN_FAREWELL)?.success();
    if !finished {
        let log = maven.stdout_log().to_owned();
        return Err(Error::Maven { server, tail: tail(&log), log });
    }
    let known = folder.join("cp.txt");
    fs::rename(&fresh, &known).map_err(at("rename", &fresh))?;
    remembered(folder).ok_or_else(|| {
        let log = maven.stdout_log().to_owned();
        Error::Maven { server, tail: format!("{} names jars that do not exist", known.display()), log }
    })
}

/// The class path found earlier, if all its jars are still there.
fn remembered(folder: &Path) -> Option<String> {
    let known = fs::read_to_string(folder.join("cp.txt")).ok()?;
    let known = known.trim();
    let complete = !known.is_empty() && known.split(':').all(|jar| Path::new(jar).is_file());
    complete.then(|| known.to_owned())
}

/// `~/.cache/polybolos`, where the XDG base directory specification puts it.
fn cache_root() -> PathBuf {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("polybolos")
}

fn lock(path: &Path, cancel: &Cancel) -> Result<File> {
    let file = File::options().create(true).append(true).open(path).map_err(at("open", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(at("lock", path)(source)),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => {
                return Err(Error::Cancelled { what: "waiting for another launcher's Maven".to_owned() });
            }
            // The holder dies with its Maven at MAVEN_DEADLINE, so this loop is bounded too.
            Err(TryLockError::WouldBlock) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

fn hash(pom: &str) -> String {
    let digest = Sha256::digest(pom.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..HASH_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_path_is_remembered_only_while_its_jars_exist() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(remembered(folder.path()), None);
        let jar = folder.path().join("a.jar");
        fs::write(&jar, "").unwrap();
        fs::write(folder.path().join("cp.txt"), format!("{}\n", jar.display())).unwrap();
        assert_eq!(remembered(folder.path()), Some(jar.display().to_string()));
        fs::remove_file(&jar).unwrap();
        assert_eq!(remembered(folder.path()), None);
    }

    #[test]
    fn another_pom_has_another_folder() {
        assert_eq!(hash("a").len(), HASH_DIGITS);
        assert_ne!(hash("a"), hash("b"));
    }
}
