//! `polybolos topic`: what is in Kafka.
use std::time::Duration;

use clap::Subcommand;
use polybolos_kafka::{
    admin::Admin,
    connection::Connection,
    fetcher::{FetchTopic, Fetcher, FetcherConfig, SourceKey},
    produce::Producer,
};
use polybolos_service::{
    config::resolve_reference,
    exit::{Exit, Failure},
};
use polybolos_sql::options::kafka::{TOPIC_NAMES, is_topic_name};
use polybolos_streaming::frame::OffsetRange;
use polybolos_tables::plain::counted;
use serde_json::{Value, json};

use crate::{
    Connect,
    client::{Client, Column, Rows},
    output,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Kafka's bootstrap servers, instead of the platform's.
    #[arg(long, env = "POLYBOLOS_KAFKA", global = true)]
    kafka: Option<String>,
    /// A property of librdkafka's by which they are reached, such as security.protocol=SASL_SSL; a secret is ${env:NAME} or ${file:path}.
    #[arg(short = 'X', long = "property", value_name = "NAME=VALUE", value_parser = property, global = true)]
    properties: Vec<(String, String)>,
    /// How answers are written.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: output::Format,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List all topics.
    List,
    /// Make a topic.
    Create {
        topic: String,
        /// How many partitions; without it, the broker's default.
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
    },
    /// Show the partitions and offsets of a topic.
    Describe { topic: String },
    /// Show the newest records of each partition.
    Tail {
        topic: String,
        /// Most records of a partition.
        #[arg(short = 'n', long, default_value_t = 10)]
        records: i64,
    },
    /// Produce a record per line of standard input.
    Produce { topic: String },
    /// Show how far jobs are behind.
    Lag,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a property is NAME=VALUE")?;
    let value = resolve_reference(value).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value))
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let What::Lag = arguments.what {
        let sql =
            "SELECT job, topic, partition, next_offset, end_offset, lag FROM polybolos.partitions ORDER BY job, topic, partition";
        output::print(&Client::connect(&arguments.connect)?.sql(sql, 10_000).await?, arguments.output);
        return Ok(());
    }
    let servers = match &arguments.kafka {
        Some(servers) => servers.clone(),
        None => Client::connect(&arguments.connect)?.endpoint("kafka")?.to_owned(),
    };
    let connection = Connection { bootstrap_servers: servers, properties: arguments.properties.into_iter().collect() };
    let admin = Admin::connect(&connection)?;
    let rows = match &arguments.what {
        What::List => list(&admin).await?,
        What::Create { topic, partitions } => return create(&admin, topic, *partitions).await,
        What::Describe { topic } => describe(&admin, topic).await?,
        What::Tail { topic, records } => tail(&admin, &connection, topic, *records).await?,
        What::Produce { topic } => return produce(&connection, topic).await,
        What::Lag => return Ok(()),
    };
    output::print(&rows, arguments.output);
    Ok(())
}

fn rows(columns: &[&str], rows: Vec<Vec<Value>>) -> Rows {
    let columns = columns.iter().map(|name| Column { name: (*name).to_owned() }).collect();
    Rows { columns, rows, truncated: false, tag: String::new(), notices: vec![] }
}

async fn list(admin: &Admin) -> anyhow::Result<Rows> {
    let topics = admin.topics().await?;
    Ok(rows(&["topic", "partitions"], topics.into_iter().map(|(name, count)| vec![json!(name), json!(count)]).collect()))
}

async fn create(admin: &Admin, topic: &str, partitions: Option<i32>) -> anyhow::Result<()> {
    if !is_topic_name(topic) {
        return Err(Exit::new(Failure::Failed, format!("topic {topic:?} cannot be made; its name takes {TOPIC_NAMES}")).into());
    }
    if admin.exists(topic).await? {
        return Err(Exit::new(
            Failure::Failed,
            format!("topic {topic:?} exists already; `polybolos topic describe {topic}` shows it"),
        )
        .into());
    }
    admin.ensure_topic(topic, partitions, &[]).await?;
    eprintln!("topic {topic} created");
    Ok(())
}

async fn partitions(admin: &Admin, topic: &str) -> anyhow::Result<Vec<(i32, i64, i64)>> {
    let description = admin.describe(topic).await?;
    let missing =
        || format!("topic {topic:?} does not exist; `polybolos topic list` shows all, `polybolos topic create` makes one");
    let description = description.ok_or_else(|| Exit::new(Failure::Failed, missing()))?;
    let offsets = admin.offsets(topic, &description.partitions).await?;
    let partition = |partition: &i32| {
        let of = |offsets: &std::collections::BTreeMap<i32, i64>| offsets.get(partition).copied().unwrap_or(0);
        (*partition, of(&offsets.beginnings), of(&offsets.ends))
    };
    Ok(description.partitions.iter().map(partition).collect())
}

async fn describe(admin: &Admin, topic: &str) -> anyhow::Result<Rows> {
    let partitions = partitions(admin, topic).await?;
    let row = |(partition, first, end): (i32, i64, i64)| vec![json!(partition), json!(first), json!(end), json!(end - first)];
    Ok(rows(&["partition", "first_offset", "end_offset", "records"], partitions.into_iter().map(row).collect()))
}

async fn tail(admin: &Admin, connection: &Connection, topic: &str, records: i64) -> anyhow::Result<Rows> {
    let fetcher = Fetcher::new(FetcherConfig::default(), &Default::default())?;
    let key = SourceKey { incarnation: "tail".into(), source: 0 };
    let mut found = vec![];
    for (partition, first, end) in partitions(admin, topic).await? {
        let range = OffsetRange::new(first.max(end - records), end);
        let chunks = fetcher.read(&key, FetchTopic::new(connection, topic), partition, range, Duration::from_secs(20)).await?;
        for chunk in chunks {
            for index in 0..chunk.len() {
                let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                found.push(vec![
                    json!(partition),
                    json!(chunk.offset(index)),
                    json!(chunk.timestamp_ms(index)),
                    json!(text(chunk.key(index))),
                    json!(text(chunk.payload(index))),
                ]);
            }
        }
    }
    fetcher.forget(&key);
    Ok(rows(&["partition", "offset", "timestamp_ms", "key", "payload"], found))
}

async fn produce(connection: &Connection, topic: &str) -> anyhow::Result<()> {
    let producer = Producer::connect(connection)?;
    let mut produced = 0_u64;
    let lines: Vec<String> = std::io::stdin().lines().collect::<Result<_, _>>()?;
    for chunk in lines.chunks(1_000) {
        let sends = chunk.iter().map(|line| producer.send(topic, None, line.as_bytes()));
        for outcome in futures::future::join_all(sends).await {
            outcome?;
            produced += 1;
        }
    }
    eprintln!("{} produced to {topic}", counted(produced, "record"));
    Ok(())
}
