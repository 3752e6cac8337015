//! `ingest.toml`: the feeds of one pipeline folder. Field names follow the conventions of Redpanda Connect's `http_client`.
use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Deserialize;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {message}")]
    Invalid { path: String, message: String },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    #[serde(default, rename = "feed")]
    pub feeds: Vec<Feed>,
}

/// One feed: where it comes from, how it becomes records, and the topic it goes to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    pub name: String,
    pub topic: String,
    /// Partitions of the topic, where the feed has to create it.
    #[serde(default = "default_partitions")]
    pub partitions: i32,
    #[serde(default = "default_replication")]
    pub replication: i32,
    pub http: HttpPoll,
    #[serde(default)]
    pub record: Mapping,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPoll {
    /// May hold `${NAME}` or `${NAME:default}`, taken from the environment.
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Between two requests, as `500ms`, `2s`, `1m`.
    #[serde(default = "default_interval", deserialize_with = "duration")]
    pub interval: Duration,
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// First and longest pause after a failure; doubled each time. A `Retry-After` of the server is kept to.
    #[serde(default = "default_backoff", deserialize_with = "duration")]
    pub retry_period: Duration,
    #[serde(default = "default_max_backoff", deserialize_with = "duration")]
    pub max_retry_backoff: Duration,
    /// Largest answer that is read.
    #[serde(default = "default_max_bytes")]
    pub max_response_bytes: usize,
    /// Lets the feed call loopback, private and link-local addresses.
    #[serde(default)]
    pub allow_private: bool,
}

/// How an answer becomes records. Paths are JSON pointers (RFC 6901). Left out: the answer is the record.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The array of items in the answer; empty: the answer is one item.
    #[serde(default)]
    pub items: String,
    /// The record's key, as a field's name. An item without it makes no record.
    pub key: Option<String>,
    /// Field by field: a pointer (`/name/first`) keeps the value's type, a template (`{/street/number} {/street/name}`) makes text. Left out:
    /// the item is the record.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

fn default_partitions() -> i32 {
    4
}

fn default_replication() -> i32 {
    1
}

fn default_interval() -> Duration {
    Duration::from_secs(1)
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_backoff() -> Duration {
    Duration::from_millis(500)
}

fn default_max_backoff() -> Duration {
    Duration::from_secs(30)
}

fn default_max_bytes() -> usize {
    8 << 20
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration; write 500ms, 2s or 1m")))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

/// Looks a variable up: the environment, or what the platform sets for its own demo feeds.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Pipeline {
    /// Reads `ingest.toml` of a folder; a folder without one has no feeds.
    pub fn load(folder: &Path, variables: Variables<'_>) -> Result<Self, ConfigError> {
        let path = folder.join("ingest.toml");
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self { feeds: vec![] }),
            Err(source) => return Err(ConfigError::Read { path: shown, source }),
        };
        Self::parse(&text, variables).map_err(|message| ConfigError::Invalid { path: shown, message })
    }

    fn parse(text: &str, variables: Variables<'_>) -> Result<Self, String> {
        let mut pipeline: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().replace('\n', " "))?;
        for feed in &mut pipeline.feeds {
            let complain = |message: String| format!("feed {:?}: {message}", feed.name);
            feed.http.url = substitute(&feed.http.url, variables).map_err(complain)?;
            for value in feed.http.headers.values_mut() {
                *value = substitute(value, variables).map_err(|message| format!("feed {:?}: {message}", feed.name))?;
            }
            if let Some(key) = &feed.record.key
                && !feed.record.fields.is_empty()
                && !feed.record.fields.contains_key(key)
            {
                return Err(format!("feed {:?}: key {key:?} is not one of its fields", feed.name));
            }
            if feed.partitions < 1 || feed.replication < 1 {
                return Err(format!("feed {:?}: partitions and replication must be at least 1", feed.name));
            }
        }
        Ok(pipeline)
    }
}

/// Replaces `${NAME}` and `${NAME:default}`.
fn substitute(text: &str, variables: Variables<'_>) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let after = &rest[start + 2..];
        let end = after.find('}').ok_or_else(|| format!("{text:?} has a \"${{\" without its \"}}\""))?;
        let (name, default) = match after[..end].split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (&after[..end], None),
        };
        let value = variables(name).or_else(|| default.map(str::to_owned));
        let value = value.ok_or_else(|| format!("environment variable {name} is not set; set it or write ${{{name}:default}}"))?;
        result.push_str(&rest[..start]);
        result.push_str(&value);
        rest = &after[end + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = r#"
        [[feed]]
        name = "users"
        topic = "users_created"
        [feed.http]
        url = "${USERS_API_URL:https://randomuser.me/api/}?results=10"
        interval = "250ms"
        [feed.record]
        items = "/results"
        key = "id"
        fields = { id = "/login/uuid" }
    "#;

    #[test]
    fn variables_are_filled_in_and_durations_read() {
        let pipeline = Pipeline::parse(USERS, &|_| None).expect("parses");
        assert_eq!(pipeline.feeds[0].http.url, "https://randomuser.me/api/?results=10");
        assert_eq!(pipeline.feeds[0].http.interval, Duration::from_millis(250));
        let pipeline =
            Pipeline::parse(USERS, &|name| (name == "USERS_API_URL").then(|| "http://127.0.0.1:1/".into())).expect("parses");
        assert_eq!(pipeline.feeds[0].http.url, "http://127.0.0.1:1/?results=10");
    }

    #[test]
    fn a_feed_needs_no_record_section() {
        let (feed, _) = USERS.split_once("[feed.record]").expect("it has one");
        let pipeline = Pipeline::parse(feed, &|_| None).expect("parses");
        let record = &pipeline.feeds[0].record;
        assert!(record.items.is_empty() && record.key.is_none() && record.fields.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let complaint = |text: &str| Pipeline::parse(text, &|_| None).expect_err("must be refused");
        assert!(complaint(&USERS.replace("interval", "intervall")).contains("intervall"));
        assert!(complaint(&USERS.replace("250ms", "soon")).contains("\"soon\" is not a duration"));
        assert!(complaint(&USERS.replace("key = \"id\"", "key = \"uuid\"")).contains("\"uuid\" is not one of its fields"));
        assert!(complaint(&USERS.replace(":https://randomuser.me/api/", "")).contains("USERS_API_URL is not set"));
    }
}
