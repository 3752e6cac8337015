//! One polled HTTP API: ask, map, deliver, wait, for ever. What was answered is delivered before the next question; a broker that is away
//! holds the feed up and loses nothing.
mod delivering;
mod fetching;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use polybolos_kafka::produce::Producer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::StatusCode;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::{delivering::deliver, fetching::fetch};
use crate::{
    account::Account,
    config::{Feed, HttpPoll},
    mapping::{self, Mapped, MappingError, Unusable},
    target::TargetError,
};

/// Redirects followed for one request, each judged like the first address.
const MAX_REDIRECTS: usize = 5;

/// A server that asks for more patience than this is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
