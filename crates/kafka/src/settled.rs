//! What was committed, for all to read: a broker answers that a transaction is committed before every partition of it knows, so whoever reads at once may miss
//! the last of it.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::{
    admin::Admin,
    connection::Connection,
    context::QuietContext,
    error::{KafkaError, Result},
    transaction::unsettled,
};

/// For one answer of a broker.
const ANSWER: Duration = Duration::from_secs(5);
/// For transactions to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Returns once readers of committed records see a topic up to the ends that its partitions had when this was asked.
///
/// # Errors
/// When there is no such topic, nobody answers, or a transaction in it does not end.
pub async fn until_settled(connection: &Connection, topic: &str) -> Result<()> {
    let admin = Admin::connect(connection)?;
    let partitions = admin.partitions(topic).await?.ok_or_else(|| KafkaError::NoSuchTopic { topic: topic.to_owned() })?;
    settled_ends(&admin, connection, topic, &partitions).await?;
    Ok(())
}

/// The same for some partitions; answers those ends.
pub(crate) async fn settled_ends(
    admin: &Admin,
    connection: &Connection,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, i64>> {
    let asked = (connection.clone(), topic.to_owned(), partitions.to_vec());
    let written = tokio::task::spawn_blocking(move || written(&asked.0, &asked.1, &asked.2));
    let written = written.await.map_err(|error| KafkaError::Bug(error.to_string()))??;
    let until = Instant::now() + PATIENCE;
    loop {
        let readable = admin.ends(topic, partitions).await?;
        let waited_for = waited_for(&written, &readable);
        if waited_for.is_empty() {
            return Ok(written);
        }
        if Instant::now() > until {
            let reason = format!("what was written to topic {topic:?} is not committed: {}", waited_for.join(", "));
            return Err(KafkaError::Away { servers: connection.bootstrap_servers.clone(), reason });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The partitions whose readers do not see yet what was written, and why.
fn waited_for(written: &BTreeMap<i32, i64>, readable: &BTreeMap<i32, i64>) -> Vec<String> {
    let why = |(partition, end): (&i32, &i64)| match readable.get(partition) {
        Some(readable) if readable >= end => None,
        Some(readable) => {
            Some(format!("a transaction in partition {partition} does not end (readers see {readable} of {end} offsets)"))
        }
        None => Some(format!("the end of partition {partition} is not known")),
    };
    written.iter().filter_map(why).collect()
}

/// Where partitions end, with what is not committed.
fn written(connection: &Connection, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
    let fixed = [
        ("group.id", "polybolos-settled"),
        ("enable.auto.commit", "false"),
        ("allow.auto.create.topics", "false"),
        ("isolation.level", "read_uncommitted"),
    ];
    let action = format!("looking for the end of topic {topic:?}");
    let failed = |error| unsettled(error, &connection.bootstrap_servers, action.clone());
    let consumer: BaseConsumer<QuietContext> =
        connection.client_config(&[], &fixed).create_with_context(QuietContext).map_err(failed)?;
    let end = |&partition: &i32| -> Result<(i32, i64)> {
        let (_, end) = consumer.fetch_watermarks(topic, partition, ANSWER).map_err(failed)?;
        Ok((partition, end))
    };
    partitions.iter().map(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_for_which_partitions() {
        let written = BTreeMap::from([(0, 5), (1, 7), (2, 9)]);
        let told = waited_for(&written, &BTreeMap::from([(0, 6), (1, 4)]));
        assert_eq!(
            told,
            ["a transaction in partition 1 does not end (readers see 4 of 7 offsets)", "the end of partition 2 is not known"]
        );
        assert!(waited_for(&written, &written).is_empty());
    }
}
