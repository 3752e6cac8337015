//! The client of a source's thread, and its settings.
use std::sync::Arc;

use rdkafka::consumer::BaseConsumer;

use crate::{
    context::QuietContext,
    error::{KafkaError, Result},
    fetcher::source::Source,
};

/// librdkafka's settings: long polls that the broker answers at once when something arrives, so that an idle source costs next to nothing;
/// little read ahead in its own queues (the limit is per partition), since our buffers do that.
const DEFAULTS: &[(&str, &str)] = &[
    ("group.id", "polybolos"),
    ("fetch.wait.max.ms", "100"),
    ("fetch.min.bytes", "1"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.error.backoff.ms", "100"),
    ("queued.max.messages.kbytes", "2048"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    ("topic.metadata.refresh.fast.interval.ms", "100"),
    ("topic.metadata.propagation.max.ms", "5000"),
    ("socket.nagle.disable", "true"),
];

const FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("isolation.level", "read_committed"),
    ("auto.offset.reset", "error"),
    ("allow.auto.create.topics", "false"),
];

pub(super) fn consumer_of(source: &Source) -> Result<Arc<BaseConsumer<QuietContext>>> {
    let connection = source.connection();
    let client_config = connection.client_config(DEFAULTS, FIXED);
    let consumer = client_config.create_with_context::<_, BaseConsumer<QuietContext>>(QuietContext);
    let mut consumer =
        consumer.map_err(|error| KafkaError::from_client(error, &connection.bootstrap_servers, "connecting a consumer"))?;
    let bell = source.bell.clone();
    consumer.set_nonempty_callback(move || bell.ring());
    Ok(Arc::new(consumer))
}
