//! One polled HTTP API: ask, map, deliver, wait, for ever. What was answered is delivered before the next question; a broker that is away
//! holds the feed up and loses nothing.
use std::{sync::Arc, time::Duration};

use polybolos_kafka::produce::Producer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{StatusCode, Url, header, redirect::Policy};
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Feed, HttpPoll},
    mapping::{self, MappingError, Record},
    metrics::Metrics,
    target::{self, TargetError},
};

/// Redirects followed for one request, each judged like the first address.
const MAX_REDIRECTS: usize = 5;

#[derive(Debug, Error)]
enum PollError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the server answered {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
    #[error("the answer is larger than max_response_bytes = {0}")]
    TooLarge(usize),
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

/// Runs a feed until `shutdown`.
pub async fn run(feed: Feed, producer: Arc<Producer>, metrics: Metrics, seed: u64, shutdown: CancellationToken) {
    let mut jitter = ChaCha8Rng::seed_from_u64(seed);
    let mut ticks = interval(feed.http.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0_u32;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        metrics.requests.with_label_values(&[&feed.name]).inc();
        let answer = tokio::select! {
            () = shutdown.cancelled() => return,
            answer = poll(&feed) => answer,
        };
        let pause = match answer {
            Ok(records) => {
                if failures > 0 {
                    tracing::info!(feed = %feed.name, failures, "feed answers again");
                }
                failures = 0;
                if !deliver(&feed, records, &producer, &metrics, &shutdown).await {
                    return;
                }
                continue;
            }
            Err(error) => {
                metrics.failures.with_label_values(&[&feed.name]).inc();
                let pause = backoff(&feed.http, failures, &error, &mut jitter);
                tracing::warn!(feed = %feed.name, %error, pause_ms = pause.as_millis() as u64, "feed failed; trying again");
                failures = failures.saturating_add(1);
                pause
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn backoff(http: &HttpPoll, failures: u32, error: &PollError, jitter: &mut ChaCha8Rng) -> Duration {
    if let PollError::Status { retry_after: Some(pause), .. } = error {
        return (*pause).min(http.max_retry_backoff);
    }
    let longest = http.retry_period.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(http.max_retry_backoff);
    longest.mul_f64(jitter.random_range(0.5..=1.0))
}

async fn poll(feed: &Feed) -> Result<Vec<Record>, PollError> {
    let body = fetch(&feed.http).await?;
    Ok(mapping::records(&feed.record, &body)?)
}

/// One answer's body, redirects followed by hand so that each is judged.
async fn fetch(http: &HttpPoll) -> Result<Vec<u8>, PollError> {
    let mut url = Url::parse(&http.url).map_err(|_| TargetError::NotHttp(http.url.clone()))?;
    let deadline = Instant::now() + http.timeout;
    for _ in 0..=MAX_REDIRECTS {
        let address = target::resolve(&url, http.allow_private).await?;
        let mut client = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .user_agent(concat!("polybolos/", env!("CARGO_PKG_VERSION")));
        if let Some(host) = url.host_str() {
            client = client.resolve(host, address);
        }
        let mut request = client.build()?.get(url.clone());
        for (name, value) in &http.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await?;
        let status = answer.status();
        if status.is_redirection()
            && let Some(location) = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok())
        {
            url = url.join(location).map_err(|_| TargetError::NotHttp(location.to_owned()))?;
            continue;
        }
        if !status.is_success() {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(PollError::Status { status, retry_after: seconds.map(Duration::from_secs) });
        }
        return read_body(answer, http.max_response_bytes).await;
    }
    Err(PollError::Redirects)
}

async fn read_body(mut answer: reqwest::Response, limit: usize) -> Result<Vec<u8>, PollError> {
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(PollError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Delivers all records, however long the broker is away; false when shut down before that.
async fn deliver(feed: &Feed, records: Vec<Record>, producer: &Producer, metrics: &Metrics, shutdown: &CancellationToken) -> bool {
    let mut left = records;
    let mut pause = Duration::from_millis(100);
    loop {
        let sends = left.iter().map(|record| producer.send(&feed.topic, record.key.as_deref(), &record.payload));
        let outcomes = tokio::select! {
            () = shutdown.cancelled() => return false,
            outcomes = futures::future::join_all(sends) => outcomes,
        };
        let mut failed = vec![];
        let mut last_error = None;
        for (record, outcome) in left.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => {
                    metrics.records.with_label_values(&[&feed.name]).inc();
                    metrics.bytes.with_label_values(&[&feed.name]).inc_by(record.payload.len() as u64);
                }
                Err(error) if error.is_retryable() => {
                    last_error = Some(error);
                    failed.push(record);
                }
                Err(error) => {
                    metrics.failures.with_label_values(&[&feed.name]).inc();
                    tracing::error!(feed = %feed.name, topic = %feed.topic, %error, bytes = record.payload.len(), "record refused by Kafka");
                }
            }
        }
        let Some(error) = last_error else { return true };
        metrics.failures.with_label_values(&[&feed.name]).inc();
        tracing::warn!(feed = %feed.name, %error, records = failed.len(), "records not delivered yet; trying again");
        left = failed;
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
