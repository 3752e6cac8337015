//! Java for the servers: finding a 17 (Cassandra 5.0 runs on 11 and 17 only, Kafka 4 from 17 on), and what each of them is given.
use crate::error::{Error, Result, at};
use crate::process::find_program;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const WANTED_MAJOR: u32 = 17;
/// What brings both Java and Maven on Debian.
pub(crate) const JAVA_PACKAGES: &str = "openjdk-17-jre-headless maven";
/// Where Debian and its relatives put their Javas.
const JVM_FOLDER: &str = "/usr/lib/jvm";

/// The `java` program to run servers with: that of JAVA_HOME, on PATH or installed by the distribution, whichever first is a 17.
pub(crate) fn find_java() -> Result<PathBuf> {
    let mut wrong = None;
    for java in candidates() {
        match major_version(&java) {
            Some(WANTED_MAJOR) => return Ok(java),
            Some(other) => wrong = wrong.or(Some(format!("{} is {other}", java.display()))),
            None => {}
        }
    }
    match wrong {
        Some(found) => Err(Error::WrongJava { found }),
        None => Err(Error::MissingProgram { program: "java".to_owned(), packages: JAVA_PACKAGES }),
    }
}

/// What every server's JVM gets: `memory` arguments, nothing of it outside `home` (the native parts of jars are unpacked to its
/// `tmp`), and an end rather than a limping life when memory runs out.
pub(crate) fn java_arguments(memory: &[String], home: &Path) -> Vec<String> {
    let scratch = home.join("tmp");
    let mut arguments = memory.to_vec();
    arguments.extend(["-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"].map(str::to_owned));
    arguments.push(format!("-Djava.io.tmpdir={}", scratch.display()));
    arguments.push(format!("-Djna.tmpdir={}", scratch.display()));
    arguments.push(format!("-XX:ErrorFile={}", home.join("logs/hs_err_%p.log").display()));
    arguments
}

/// Makes `home/tmp` and `home/logs` and writes the configuration files of a server.
pub(crate) fn prepare(home: &Path, files: &[(&str, &str)]) -> Result<()> {
    for folder in ["tmp", "logs", "conf"].map(|name| home.join(name)) {
        fs::create_dir_all(&folder).map_err(at("create", &folder))?;
    }
    for (name, content) in files {
        let file = home.join("conf").join(name);
        fs::write(&file, content).map_err(at("write", &file))?;
    }
    Ok(())
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Some(home) = std::env::var_os("JAVA_HOME") {
        candidates.push(Path::new(&home).join("bin/java"));
    }
    candidates.extend(find_program(OsStr::new("java")));
    let installed = fs::read_dir(JVM_FOLDER).into_iter().flatten().flatten();
    candidates.extend(installed.map(|folder| folder.path().join("bin/java")));
    candidates.retain(|java| java.is_file());
    candidates
}

fn major_version(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").stdin(Stdio::null()).output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stderr))
}

/// `openjdk version "17.0.15" 2025-04-15` → 17; the `1.8` of old counts as 1, which is as wrong as 8.
fn parse_major(answer: &str) -> Option<u32> {
    let version = answer.split('"').nth(1)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_java_says() {
        assert_eq!(parse_major("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(parse_major("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(parse_major("java version \"1.8.0_401\""), Some(1));
        assert_eq!(parse_major("Picked up JAVA_TOOL_OPTIONS"), None);
    }
}
