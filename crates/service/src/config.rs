//! Configuration files: one commented default file per service, file < environment < flag. Unknown keys are an error that suggests the near
//! name. Environment variables are `POLYBOLOS_<SECTION>_<KEY>`. A section that is empty in the default file takes any keys, and texts; there dots are
//! underscores in variables: `sasl.password` of `[kafka.properties]` is `POLYBOLOS_KAFKA_PROPERTIES_SASL_PASSWORD`.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use thiserror::Error;
use toml::{Table, Value};

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {message}")]
    Invalid { path: String, message: String },
    #[error("{0}")]
    Reference(String),
}

const PREFIX: &str = "POLYBOLOS";

/// A value that cannot print itself. In files it may be a reference, `${env:NAME}` or `${file:path}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        resolve_reference(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The value itself, or what `${env:NAME}` or `${file:path}` refers to.
pub fn resolve_reference(text: &str) -> Result<String, ConfigError> {
    let Some(reference) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else { return Ok(text.to_owned()) };
    match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name)
            .map_err(|_| ConfigError::Reference(format!("environment variable {name} is not set, and {text} refers to it"))),
        Some(("file", path)) => match std::fs::read_to_string(path) {
            Ok(content) => Ok(content.trim_end_matches('\n').to_owned()),
            Err(error) => Err(ConfigError::Reference(format!("cannot read the secret file {path}: {error}"))),
        },
        _ => Err(ConfigError::Reference(format!("{text} is not a reference; write ${{env:NAME}} or ${{file:path}}"))),
    }
}

/// Loads a service's configuration: `defaults` (the commented default file), over it the file at `path`, over it the environment.
pub fn load<T: DeserializeOwned>(defaults: &str, path: Option<&Path>) -> Result<T, ConfigError> {
    let text =
        |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    load_with(defaults, path, std::env::vars_os().filter_map(text).collect())
}

fn load_with<T: DeserializeOwned>(
    defaults: &str,
    path: Option<&Path>,
    mut environment: BTreeMap<String, String>,
) -> Result<T, ConfigError> {
    let shown = path.map_or_else(|| "default configuration".to_owned(), |path| path.display().to_string());
    let invalid = |message: String| ConfigError::Invalid { path: shown.clone(), message: message.trim_end().replace('\n', " ") };
    let mut table: Table = defaults.parse().map_err(|error: toml::de::Error| invalid(error.to_string()))?;
    let mut free = BTreeSet::new();
    find_free(&table, PREFIX, &mut free);
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
        let given: Table = text.parse().map_err(|error: toml::de::Error| invalid(error.to_string()))?;
        overlay(&mut table, given, "", &free).map_err(invalid)?;
    }
    let mut settings = vec![];
    from_environment(&mut table, PREFIX, &free, &mut environment, &mut settings).map_err(invalid)?;
    refuse_misspelt(&environment, &settings).map_err(invalid)?;
    T::deserialize(Value::Table(table)).map_err(|error| {
        let plain = error.to_string().replace("expected u16", "expected a number from 0 to 65535");
        invalid(plain.replace("a nonzero usize", "a number from 1 on"))
    })
}

/// The name that a key has in the environment.
fn variable(prefix: &str, key: &str) -> String {
    format!("{prefix}_{}", key.to_uppercase().replace('-', "_"))
}

/// Sections that take any keys, by their name in the environment.
fn find_free(table: &Table, prefix: &str, free: &mut BTreeSet<String>) {
    for (key, value) in table {
        let Value::Table(inner) = value else { continue };
        let name = variable(prefix, key);
        find_free(inner, &name, free);
        if inner.is_empty() {
            free.insert(name);
        }
    }
}

/// Every key that may be given stands in the default file, so an unknown one is a mistake; but for sections that are empty there.
fn overlay(into: &mut Table, given: Table, section: &str, free: &BTreeSet<String>) -> Result<(), String> {
    for (key, value) in given {
        let place = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        match (into.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(given)) if free.contains(&variable(PREFIX, &place.replace('.', "_"))) => {
                put_free(inner, given, "");
            }
            (Some(Value::Table(inner)), Value::Table(given)) => overlay(inner, given, &place, free)?,
            (Some(slot), value) => *slot = value,
            (None, _) => {
                let near = into.keys().map(|known| (strsim::jaro_winkler(known, &key), known)).max_by(|a, b| a.0.total_cmp(&b.0));
                let hint = match near {
                    Some((likeness, known)) if likeness > 0.75 => format!("; did you mean {known:?}?"),
                    _ => format!("; known are {}", into.keys().cloned().collect::<Vec<_>>().join(", ")),
                };
                return Err(format!("unknown key {place:?}{hint}"));
            }
        }
    }
    Ok(())
}

/// Dots in a key are part of its name, whether it stands in quotes or not. Values are texts, as those in the environment are.
fn put_free(into: &mut Table, given: Table, before: &str) {
    for (key, value) in given {
        let key = format!("{before}{key}");
        let text = match value {
            Value::Table(inner) => {
                put_free(into, inner, &format!("{key}."));
                continue;
            }
            Value::String(text) => text,
            other => other.to_string(),
        };
        into.insert(key, Value::String(text));
    }
}

/// Takes what is set out of the environment, and notes the names of all settings.
fn from_environment(
    table: &mut Table,
    prefix: &str,
    free: &BTreeSet<String>,
    environment: &mut BTreeMap<String, String>,
    settings: &mut Vec<String>,
) -> Result<(), String> {
    for (key, value) in table.iter_mut() {
        let name = variable(prefix, key);
        if let Value::Table(inner) = value {
            if free.contains(&name) {
                let start = format!("{name}_");
                for (variable, text) in environment.extract_if(.., |variable, _| variable.starts_with(&start)) {
                    inner.insert(variable[start.len()..].to_lowercase().replace('_', "."), Value::String(text));
                }
                continue;
            }
            from_environment(inner, &name, free, environment, settings)?;
            continue;
        }
        settings.push(name.clone());
        let Some(text) = environment.remove(&name) else { continue };
        *value = match value {
            Value::String(_) => Value::String(text),
            Value::Array(_) => Value::Array(text.split(',').map(|part| Value::String(part.trim().to_owned())).collect()),
            _ => format!("x = {text}")
                .parse::<Table>()
                .ok()
                .and_then(|mut parsed| parsed.remove("x"))
                .ok_or_else(|| format!("environment variable {name} is {text:?}, which is not of type {}", value.type_str()))?,
        };
    }
    Ok(())
}

/// What no setting has taken and is nearly the name of one is a mistake; other programs of ours, and references to secrets, have names of their own.
fn refuse_misspelt(left: &BTreeMap<String, String>, settings: &[String]) -> Result<(), String> {
    for name in left.keys().filter(|name| name.starts_with(PREFIX)) {
        if let Some(meant) = settings.iter().find(|setting| strsim::damerau_levenshtein(setting, name) <= 2) {
            return Err(format!("environment variable {name} is no setting; did you mean {meant}?"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = "[server]\nhost = \"127.0.0.1\" # loopback\nport = 7400\npeers = []\n";

    #[derive(Debug, Deserialize)]
    struct Config {
        server: Server,
    }

    #[derive(Debug, Deserialize)]
    struct Server {
        host: String,
        port: u16,
        peers: Vec<String>,
    }

    fn with_file(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("writes");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load_with(DEFAULTS, Some(file.path()), environment.collect())
    }

    #[test]
    fn file_over_defaults_and_environment_over_file() {
        let config = with_file("[server]\nport = 1\n", &[]).expect("loads");
        assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 1));
        let environment = [("POLYBOLOS_SERVER_PORT", "2"), ("POLYBOLOS_SERVER_PEERS", "a:1, b:2"), ("POLYBOLOS_SERVER_TOKEN", "t")];
        let config = with_file("[server]\nport = 1\n", &environment).expect("loads");
        assert_eq!((config.server.port, config.server.peers), (2, vec!["a:1".to_owned(), "b:2".to_owned()]));
    }

    #[test]
    fn a_section_that_is_empty_by_default_takes_any_keys() {
        #[derive(Debug, Deserialize)]
        struct Kafka {
            properties: BTreeMap<String, Secret>,
        }
        #[derive(Debug, Deserialize)]
        struct Config {
            kafka: Kafka,
        }
        let file = tempfile::NamedTempFile::new().expect("file");
        let text = "[kafka.properties]\n\"sasl.username\" = \"ann\"\nsasl.password = \"of the file\"\nsocket.timeout.ms = 5000\n";
        std::fs::write(file.path(), text).expect("writes");
        let environment = BTreeMap::from([("POLYBOLOS_KAFKA_PROPERTIES_SASL_PASSWORD".to_owned(), "hunter2".to_owned())]);
        let config: Config = load_with("[kafka]\n\n[kafka.properties]\n", Some(file.path()), environment).expect("loads");
        let given: Vec<_> = config.kafka.properties.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(given, [("sasl.password", "hunter2"), ("sasl.username", "ann"), ("socket.timeout.ms", "5000")]);
    }

    #[test]
    fn mistakes_are_named_with_the_near_word() {
        let error = with_file("[server]\nprot = 1\n", &[]).expect_err("must fail").to_string();
        assert!(error.contains("unknown key \"server.prot\"; did you mean \"port\"?"), "{error}");
        for (name, value, said) in [
            ("POLYBOLOS_SERVER_PORT", "many", "POLYBOLOS_SERVER_PORT is \"many\", which is not of type integer"),
            ("POLYBOLOS_SERVER_PROT", "1", "POLYBOLOS_SERVER_PROT is no setting; did you mean POLYBOLOS_SERVER_PORT?"),
            ("POLYBOLOS_SEVER_PORT", "1", "POLYBOLOS_SEVER_PORT is no setting; did you mean POLYBOLOS_SERVER_PORT?"),
            ("POLYBOLOS_SERVER_PORT", "65536", "expected a number from 0 to 65535"),
        ] {
            let error = with_file("", &[(name, value)]).expect_err("must fail").to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn secrets_do_not_print_themselves() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).expect("serialises")), "*** \"***\"");
        assert_eq!(secret.reveal(), "hunter2");
        assert!(resolve_reference("${env:POLYBOLOS_SURELY_NOT_SET}").is_err());
    }
}
