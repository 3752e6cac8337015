//! One polled HTTP API: ask, map, deliver, wait, for ever. What was answered is delivered before the next question; a broker that is away
//! holds the feed up and loses nothing.
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use polybolos_kafka::{error::KafkaError, produce::Producer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{StatusCode, Url, header, redirect::Policy};
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    account::Account,
    cause,
    config::{Feed, HttpPoll},
    mapping::{self, Mapped, MappingError, Record, Unusable},
    target::{self, TargetError},
};

/// Redirects followed for one request, each judged like the first address.
const MAX_REDIRECTS: usize = 5;

/// A server that asks for more patience than this is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How often it is told that records wait for Kafka, and looked whether they wait for ever.
const TELL: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
enum PollError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{message}")]
    Http { message: String, source: reqwest::Error },
    #[error("the server answered {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
    #[error("the answer is empty ({0})")]
    Empty(StatusCode),
    #[error("the answer is compressed ({0:?}), though it was asked for as it is; feeds read answers without Content-Encoding")]
    Encoded(String),
    #[error("the answer is larger than max_response_bytes = {0}")]
    TooLarge(usize),
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

/// Runs a feed until `shutdown`.
pub async fn run(feed: Feed, account: Arc<Account>, producer: Arc<Producer>, seed: u64, shutdown: CancellationToken) {
    let mut jitter = ChaCha8Rng::seed_from_u64(seed);
    let mut ticks = interval(feed.http.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0_u32;
    let mut skipped_before = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        account.requested();
        let answer = tokio::select! {
            () = shutdown.cancelled() => return,
            answer = poll(&feed) => answer,
        };
        let pause = match answer {
            Ok(Mapped { records, skipped }) => {
                if failures > 0 {
                    tracing::info!(feed = %feed.name, failures, "feed answers again");
                }
                failures = 0;
                tell_skipped(&feed, &skipped, &skipped_before, &account);
                skipped_before = skipped;
                if !deliver(&feed, records, &producer, &account, &shutdown).await {
                    return;
                }
                account.runs();
                continue;
            }
            Err(error) => {
                account.failed(&error.to_string());
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

/// Counts every item that made no record, and warns of a reason unless the answer before had it too.
fn tell_skipped(feed: &Feed, skipped: &BTreeMap<Unusable, u64>, before: &BTreeMap<Unusable, u64>, account: &Account) {
    for (reason, items) in skipped {
        account.skipped(*items);
        if !before.contains_key(reason) {
            tracing::warn!(feed = %feed.name, items, %reason, "items make no records and are skipped");
        }
    }
}

/// What the server asks for is kept to, however long the feed's own pauses are; one that asks for none gets them. No pause is shorter than
/// the feed's first: `Retry-After: 0` does not ask for requests without end.
fn backoff(http: &HttpPoll, failures: u32, error: &PollError, jitter: &mut ChaCha8Rng) -> Duration {
    if let PollError::Status { retry_after: Some(pause), .. } = error {
        return (*pause).max(http.retry_period).min(RETRY_AFTER_MAX);
    }
    let longest = http.retry_period.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(http.max_retry_backoff);
    longest.mul_f64(jitter.random_range(0.5..=1.0))
}

async fn poll(feed: &Feed) -> Result<Mapped, PollError> {
    let body = fetch(&feed.http).await?;
    Ok(mapping::records(&feed.record, &body)?)
}

/// One answer's body, redirects followed by hand so that each is judged.
async fn fetch(http: &HttpPoll) -> Result<Vec<u8>, PollError> {
    let named = Url::parse(&http.url).map_err(|_| TargetError::NotHttp(target::shown(&http.url)))?;
    let mut url = named.clone();
    let deadline = Instant::now() + http.timeout;
    let failed = |source| failed(source, http.timeout);
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
        let mut request = client.build().map_err(failed)?.get(url.clone());
        for (name, value) in headers(http, &named, &url) {
            request = request.header(name, value);
        }
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        if status.is_redirection()
            && let Some(location) = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok())
        {
            url = url.join(location).map_err(|_| TargetError::NotHttp(target::shown(location)))?;
            continue;
        }
        if !status.is_success() {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(PollError::Status { status, retry_after: seconds.map(Duration::from_secs) });
        }
        return read_body(answer, http).await;
    }
    Err(PollError::Redirects)
}

/// What a request to `url` says. Answers are read as they come, so none shall come compressed. What else the feed says (a token, a
/// cookie) is for the server that it names, and that over no less private a way: it does not go where a redirect leads elsewhere.
fn headers<'a>(http: &'a HttpPoll, named: &Url, url: &Url) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    const ENCODING: &str = "accept-encoding";
    let is_secured = named.scheme() == "http" && url.scheme() == "https" && url.port().is_none();
    let is_named = named.host() == url.host() && (named.origin() == url.origin() || is_secured);
    let may_go = move |name: &str| is_named || name.to_ascii_lowercase().starts_with("accept");
    let is_given = http.headers.keys().any(|name| name.eq_ignore_ascii_case(ENCODING));
    let ours = (!is_given).then_some((ENCODING, "identity"));
    let given = http.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    given.filter(move |(name, _)| may_go(name)).chain(ours)
}

/// How the body is compressed.
fn encoding(answer: &reqwest::Response) -> Option<String> {
    let encoding = answer.headers().get(header::CONTENT_ENCODING)?;
    let encoding = String::from_utf8_lossy(encoding.as_bytes()).trim().to_owned();
    (!encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")).then_some(encoding)
}

async fn read_body(mut answer: reqwest::Response, http: &HttpPoll) -> Result<Vec<u8>, PollError> {
    if let Some(encoding) = encoding(&answer) {
        return Err(PollError::Encoded(encoding));
    }
    let limit = http.max_response_bytes;
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await.map_err(|source| failed(source, http.timeout))? {
        if body.len() + chunk.len() > limit {
            return Err(PollError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    if body.trim_ascii().is_empty() {
        return Err(PollError::Empty(answer.status()));
    }
    Ok(body)
}

fn failed(source: reqwest::Error, timeout: Duration) -> PollError {
    PollError::Http { message: cause::in_words(&source, timeout), source }
}

/// Delivers all records, however long the broker is away; false when shut down before that. The client itself sends them until they are there, since only it can do that
/// without writing one twice; what comes back here was never sent, or the client was given up.
async fn deliver(feed: &Feed, records: Vec<Record>, producer: &Producer, account: &Account, shutdown: &CancellationToken) -> bool {
    let mut left = records;
    let mut pause = Duration::from_millis(100);
    loop {
        let Some(outcomes) = send_all(feed, &left, producer, account, shutdown).await else { return false };
        let mut failed = vec![];
        let mut last_error = None;
        for (record, outcome) in left.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => account.delivered(record.payload.len()),
                Err(error) if error.is_retryable() => {
                    last_error = Some(error);
                    failed.push(record);
                }
                Err(error) => {
                    account.refused(&error.to_string());
                    tracing::error!(feed = %feed.name, topic = %feed.topic, %error, bytes = record.payload.len(), "record refused by Kafka");
                }
            }
        }
        let Some(error) = last_error else { return true };
        account.not_delivered(&error.to_string());
        tracing::warn!(feed = %feed.name, %error, records = failed.len(), "records not delivered yet; trying again");
        left = failed;
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// What became of each record; `None` when shut down before that. Tells, while they wait, how many do.
async fn send_all(
    feed: &Feed,
    records: &[Record],
    producer: &Producer,
    account: &Account,
    shutdown: &CancellationToken,
) -> Option<Vec<Result<(i32, i64), KafkaError>>> {
    let answered = AtomicUsize::new(0);
    let sends = records.iter().map(|record| send(feed, record, producer, &answered));
    let outcomes = futures::future::join_all(sends);
    tokio::select! {
        () = shutdown.cancelled() => None,
        outcomes = outcomes => Some(outcomes),
        () = tell(feed, records.len(), producer, account, &answered) => None,
        () = renew(feed, producer) => None,
    }
}

/// Never ends.
async fn tell(feed: &Feed, count: usize, producer: &Producer, account: &Account, answered: &AtomicUsize) {
    loop {
        tokio::time::sleep(TELL).await;
        account
            .not_delivered(&format!("Kafka at {} does not acknowledge records; they are kept until it does", producer.servers()));
        let records = count - answered.load(Ordering::Relaxed);
        tracing::warn!(feed = %feed.name, kafka = producer.servers(), records, "records not delivered yet; trying again");
    }
}

/// Never ends. What comes back from a client that is given up is sent again by [`deliver`].
async fn renew(feed: &Feed, producer: &Producer) {
    loop {
        tokio::time::sleep(TELL).await;
        if producer.renew_if_lost().await {
            let kafka = producer.servers();
            tracing::warn!(feed = %feed.name, kafka, "the client had lost its brokers; another one sends the records from now on");
        }
    }
}

async fn send(feed: &Feed, record: &Record, producer: &Producer, answered: &AtomicUsize) -> Result<(i32, i64), KafkaError> {
    let outcome = producer.send(&feed.topic, record.key.as_deref(), &record.payload).await;
    answered.fetch_add(1, Ordering::Relaxed);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_answer_is_called_so() {
        let http: HttpPoll = toml::from_str("url = 'http://127.0.0.1/'").expect("settings");
        for (status, body) in [(204_u16, ""), (200, "\n")] {
            let answer = axum::http::Response::builder().status(status).body(body).expect("an answer");
            let error = read_body(answer.into(), &http).await.expect_err("there is nothing in it");
            assert!(error.to_string().starts_with(&format!("the answer is empty ({status} ")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_compressed_answer_is_called_so() {
        let http: HttpPoll = toml::from_str("url = 'http://127.0.0.1/'").expect("settings");
        let answer = |encoding: &str| {
            let answer = axum::http::Response::builder().header("content-encoding", encoding).body("{}");
            reqwest::Response::from(answer.expect("an answer"))
        };
        let error = read_body(answer("gzip"), &http).await.expect_err("nobody unpacks it");
        assert!(error.to_string().contains("compressed (\"gzip\")"), "{error}");
        assert_eq!(read_body(answer("identity"), &http).await.expect("it is not compressed"), b"{}");
    }

    #[test]
    fn a_server_that_asks_for_patience_gets_it() {
        let http: HttpPoll = toml::from_str("url = 'http://127.0.0.1/'\nmax_retry_backoff = '1s'").expect("settings");
        let mut jitter = ChaCha8Rng::seed_from_u64(1);
        let mut pause = |seconds: Option<u64>| {
            let error = PollError::Status { status: StatusCode::TOO_MANY_REQUESTS, retry_after: seconds.map(Duration::from_secs) };
            backoff(&http, 9, &error, &mut jitter)
        };
        assert_eq!(pause(Some(120)), Duration::from_secs(120));
        assert_eq!(pause(Some(u64::MAX)), RETRY_AFTER_MAX);
        assert_eq!(pause(Some(0)), http.retry_period);
        assert!(pause(None) <= Duration::from_secs(1));
    }

    #[test]
    fn a_secret_goes_to_the_server_that_is_named_or_to_the_same_over_tls() {
        let address = |url: &str| Url::parse(url).expect("URL");
        let told = |named: &str, url: &str| {
            let text = "headers = { Authorization = 'secret', accept = 'text/json' }";
            let http: HttpPoll = toml::from_str(&format!("url = '{named}'\n{text}")).expect("settings");
            let names: Vec<_> = headers(&http, &address(named), &address(url)).map(|(name, _)| name.to_owned()).collect();
            names.join(" ")
        };
        for url in ["http://api.example.com/v2", "https://api.example.com/v1"] {
            assert_eq!(told("http://api.example.com/v1", url), "Authorization accept accept-encoding", "{url}");
        }
        for url in ["http://example.com/v1", "http://api.example.com:8080/v1", "https://api.example.com:8443/v1"] {
            assert_eq!(told("http://api.example.com/v1", url), "accept accept-encoding", "{url}");
        }
        assert_eq!(told("https://api.example.com/v1", "http://api.example.com/v1"), "accept accept-encoding");
    }

    #[test]
    fn answers_are_asked_for_as_they_are_unless_the_feed_says_otherwise() {
        let of = |text: &str| toml::from_str::<HttpPoll>(&format!("url = 'http://127.0.0.1/'\n{text}")).expect("settings");
        let url = Url::parse("http://127.0.0.1/").expect("URL");
        let plain = of("headers = { accept = 'application/json' }");
        let told: Vec<_> = headers(&plain, &url, &url).collect();
        assert_eq!(told, [("accept", "application/json"), ("accept-encoding", "identity")]);
        let given = of("headers = { Accept-Encoding = 'br' }");
        assert_eq!(headers(&given, &url, &url).collect::<Vec<_>>(), [("Accept-Encoding", "br")]);
    }
}
