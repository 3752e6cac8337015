//! The three ways in which a case is run: everything at once, an epoch per record, and with a crash in the middle.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use polybolos_golden::{
    rows::Rows,
    script::{FILES, Record, Script},
};
use polybolos_kafka::{admin::Admin, connection::Connection, produce::Producer};
use polybolos_sql::names::RelationName;

use super::platform::Platform;
use crate::client::{Client, identifier, literal};

/// Time for everything to be recorded and published.
const PATIENCE: Duration = Duration::from_secs(120);

/// Most rows of a table: what the platform's HTTP door gives at once.
const MAX_ROWS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    OneGo,
    RecordByRecord,
    Crash,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::OneGo, Self::RecordByRecord, Self::Crash];

    pub fn name(self) -> &'static str {
        match self {
            Self::OneGo => "one go",
            Self::RecordByRecord => "an epoch per record",
            Self::Crash => "a crash in the middle",
        }
    }
}

/// A table whose rows are compared.
#[derive(Debug)]
pub struct Asked {
    pub table: RelationName,
    /// Those that the expected file names; none: all.
    pub columns: Vec<String>,
    pub key: Vec<String>,
}

/// Runs the jobs over the input on a platform of their own; the rows of each table asked for.
pub async fn run(script: &Script, asked: &[Asked], way: Way) -> anyhow::Result<Vec<Rows>> {
    let mut platform = Platform::start().await?;
    let found = in_platform(script, asked, way, &mut platform).await;
    let found = match found {
        Err(error) if platform.client.sql("SELECT 1", 1).await.is_err() => {
            Err(error.context(format!("the platform is gone: {}", platform.log())))
        }
        found => found,
    };
    platform.end().await;
    found
}

async fn in_platform(script: &Script, asked: &[Asked], way: Way, platform: &mut Platform) -> anyhow::Result<Vec<Rows>> {
    set_up(script, platform).await?;
    let mut feed = Feed::new(script);
    match way {
        Way::OneGo => {
            for (job, _) in &script.jobs {
                platform.client.sql(&format!("PAUSE JOB {}", identifier(job)), 1).await?;
            }
            feed.give(usize::MAX, &platform.client).await?;
            for (job, _) in &script.jobs {
                platform.client.sql(&format!("RESUME JOB {}", identifier(job)), 1).await?;
            }
        }
        Way::RecordByRecord => {
            while feed.has_more() {
                feed.give(1, &platform.client).await?;
                feed.wait(&platform.client, Awaited::Recorded).await?;
            }
        }
        Way::Crash => {
            let half = feed.left() / 2;
            feed.give(half, &platform.client).await?;
            feed.wait(&platform.client, Awaited::Recorded).await?;
            // So that an epoch may be under way, or recorded and not yet published.
            feed.give(feed.left() / 2, &platform.client).await?;
            platform.crash().await?;
            feed.give(usize::MAX, &platform.client).await?;
        }
    }
    feed.wait(&platform.client, Awaited::Published).await?;
    let mut found = vec![];
    for asked in asked {
        found.push(rows(&platform.client, asked).await?);
    }
    Ok(found)
}

/// Files and topics first, the latter of one partition each, so that records have one order; then tables; then jobs, which find their topics empty, wherever they begin.
async fn set_up(script: &Script, platform: &Platform) -> anyhow::Result<()> {
    let (client, files) = (&platform.client, platform.files());
    for (folder, lines) in &script.files {
        let folder = files.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        std::fs::write(folder.join("rows.json"), lines.join("\n"))?;
    }
    let place = format!("file://{}", files.display());
    let admin = Admin::connect(&Connection::new(client.endpoint("kafka")?.to_owned()))?;
    for topic in script.topics.keys() {
        admin.create_topic(topic, 1, 1, &[]).await?;
    }
    for statement in script.setup.iter().chain(script.jobs.iter().map(|(_, statement)| statement)) {
        client
            .sql(&statement.replace(FILES, &place), 1)
            .await
            .with_context(|| statement.lines().next().unwrap_or_default().to_owned())?;
    }
    Ok(())
}

async fn rows(client: &Client, asked: &Asked) -> anyhow::Result<Rows> {
    let columns: Vec<String> = asked.columns.iter().map(|name| identifier(name)).collect();
    let columns = if columns.is_empty() { "*".to_owned() } else { columns.join(", ") };
    let answer = client.sql(&format!("SELECT {columns} FROM {}", asked.table), MAX_ROWS).await?;
    if answer.truncated {
        bail!("{} has more rows than a test takes ({MAX_ROWS}); give the case less input", asked.table);
    }
    Ok(Rows { columns: answer.columns.into_iter().map(|column| column.name).collect(), rows: answer.rows })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Every record so far is in a recorded epoch.
    Recorded,
    /// And in the tables, and no window that has closed is still to come.
    Published,
}

/// The case's records, on their way.
struct Feed<'a> {
    script: &'a Script,
    /// With their topics, those of all evenly mixed, so that event time passes in all of them.
    records: Vec<(&'a str, &'a Record)>,
    given: usize,
    /// With the address that it is connected to: a platform that was started again has another.
    producer: Option<(String, Producer)>,
}

impl<'a> Feed<'a> {
    fn new(script: &'a Script) -> Self {
        let mut placed = vec![];
        for (topic, records) in &script.topics {
            for (index, record) in records.iter().enumerate() {
                placed.push(((2 * index + 1) * PLACES / (2 * records.len()), topic.as_str(), record));
            }
        }
        placed.sort_by_key(|(place, topic, _)| (*place, *topic));
        Self { script, records: placed.into_iter().map(|(_, topic, record)| (topic, record)).collect(), given: 0, producer: None }
    }

    fn left(&self) -> usize {
        self.records.len() - self.given
    }

    fn has_more(&self) -> bool {
        self.left() > 0
    }

    /// Produces the next so many records, each topic's in their order.
    async fn give(&mut self, count: usize, client: &Client) -> anyhow::Result<()> {
        let address = client.endpoint("kafka")?;
        let producer = match self.producer.take() {
            Some((of, producer)) if of == address => producer,
            _ => Producer::connect(&Connection::new(address.to_owned()))?,
        };
        let end = self.given.saturating_add(count).min(self.records.len());
        let bytes = |text: &'a Option<String>| text.as_deref().map(str::as_bytes);
        let records = self.records[self.given..end].iter();
        let sends = records.map(|(topic, record)| producer.send_to(topic, None, bytes(&record.key), bytes(&record.value)));
        for outcome in futures::future::join_all(sends).await {
            outcome.context("a record could not be produced")?;
        }
        self.producer = Some((address.to_owned(), producer));
        self.given = end;
        Ok(())
    }

    fn given_to(&self, topic: &str) -> i64 {
        self.records[..self.given].iter().filter(|(of, _)| *of == topic).count() as i64
    }

    async fn wait(&self, client: &Client, awaited: Awaited) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = None;
        loop {
            let (done, picture) = self.look(client, awaited).await?;
            // Nothing may have happened between two looks: an epoch that only lets time pass comes by itself.
            if done && (awaited == Awaited::Recorded || seen.as_ref() == Some(&picture)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the jobs did not come to rest within {} s: {picture}", PATIENCE.as_secs());
            }
            seen = Some(picture);
            tokio::time::sleep(if done { Duration::from_millis(150) } else { Duration::from_millis(4) }).await;
        }
    }

    /// Whether it is so, and what the jobs look like.
    async fn look(&self, client: &Client, awaited: Awaited) -> anyhow::Result<(bool, String)> {
        let names: Vec<String> = self.script.jobs.iter().map(|(job, _)| literal(job)).collect();
        let names = names.join(", ");
        let sql = format!(
            "SELECT name, state, epoch, unpublished_epochs, lag_records, limiting, error FROM polybolos.jobs WHERE name IN ({names})"
        );
        let jobs = client.sql(&sql, MAX_ROWS).await?;
        let mut done = jobs.rows.len() == self.script.jobs.len();
        for job in &jobs.rows {
            if job[1] == "failed" {
                bail!("job {} failed: {}", job[0].as_str().unwrap_or_default(), job[6].as_str().unwrap_or("no reason told"));
            }
            done &= awaited == Awaited::Recorded || (job[1] == "idle" && job[3] == 0 && job[4] == 0);
        }
        let sql = format!("SELECT job, topic, next_offset FROM polybolos.partitions WHERE job IN ({names})");
        let mut read: BTreeMap<(String, String), i64> = BTreeMap::new();
        for row in &client.sql(&sql, MAX_ROWS).await?.rows {
            let text = |index: usize| row[index].as_str().unwrap_or_default().to_owned();
            *read.entry((text(0), text(1))).or_default() += row[2].as_i64().unwrap_or(0);
        }
        for (job, topics) in &self.script.reads {
            for topic in topics.iter().filter(|topic| !self.script.topics[*topic].is_empty()) {
                done &= read.get(&(job.clone(), topic.clone())) == Some(&self.given_to(topic));
            }
        }
        let lines: Vec<String> = jobs
            .rows
            .iter()
            .map(|job| {
                let text = |index: usize| job[index].as_str().unwrap_or_default();
                format!(
                    "{} is {} ({}), {} epochs, {} unpublished, {} records behind",
                    text(0),
                    text(1),
                    text(5),
                    job[2],
                    job[3],
                    job[4]
                )
            })
            .collect();
        Ok((done, lines.join("; ")))
    }
}

/// Among which records of all topics are placed evenly.
const PLACES: usize = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_several_topics_are_mixed_evenly_and_keep_their_order() {
        let lines = |texts: &[&str]| texts.iter().map(|text| Record::from(&(*text).to_owned())).collect();
        let topics = BTreeMap::from([
            ("a".to_owned(), lines(&["1", "2", "3", "4"])),
            ("b".to_owned(), lines(&["x", "y"])),
            ("c".to_owned(), vec![]),
        ]);
        let script = Script { topics, ..Script::default() };
        let feed = Feed::new(&script);
        let mixed: Vec<&str> = feed.records.iter().filter_map(|(_, record)| record.value.as_deref()).collect();
        assert_eq!(mixed, ["1", "x", "2", "3", "y", "4"]);
        assert_eq!((feed.left(), feed.given_to("a")), (6, 0));
    }
}
