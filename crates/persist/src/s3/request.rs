//! How long we go on asking, and what a refusal means: `object_store`'s errors hold a page of XML; ours are one line and tell whether to ask again.
use std::{error::Error, future::Future, io, time::Duration};

use object_store::Error as S3Error;
use tokio::time::Instant;

/// Between two tries; it doubles up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection slower than this counts as dead.
const SLOWEST_BYTES_PER_S: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After this no new try begins.
    pub in_all: Duration,
    /// For an answer, not counting its bytes.
    pub one_request: Duration,
}

impl Patience {
    pub fn for_bytes(&self, bytes: u64) -> Duration {
        self.one_request + Duration::from_secs(bytes / SLOWEST_BYTES_PER_S)
    }
}

/// What the store said at last.
#[derive(Debug)]
pub struct Refusal {
    pub status: Option<u16>,
    pub message: String,
    no_bucket: bool,
    condition: bool,
}

impl Refusal {
    fn of(error: &S3Error) -> Self {
        let text = error.to_string();
        let code = between(&text, "<Code>", "</Code>");
        let status = match error {
            S3Error::NotFound { .. } => Some(404),
            _ => between(&text, "status code: ", " ").and_then(|digits| digits.trim_end_matches(':').parse().ok()),
        };
        let message = match (status, code) {
            (Some(status), Some(code)) => {
                let details = between(&text, "<Message>", "</Message>").unwrap_or_default();
                let remedy = if code == "NoSuchBucket" { "; create the bucket" } else { "" };
                format!("the server answers {status} {code}: {}{remedy}", one_line(details))
            }
            (Some(status), None) => format!("the server answers {status}"),
            (None, _) => one_line(&deepest(error)),
        };
        let condition = matches!(error, S3Error::Precondition { .. } | S3Error::AlreadyExists { .. } | S3Error::NotModified { .. });
        Self { status, message, no_bucket: code == Some("NoSuchBucket"), condition }
    }

    /// The object is not what the condition says, or is being written just now.
    pub fn is_condition(&self) -> bool {
        self.condition
    }

    pub fn is_missing_object(&self) -> bool {
        self.status == Some(404) && !self.no_bucket
    }

    /// No answer, or one that says: later.
    fn is_passing(&self) -> bool {
        !self.condition && matches!(self.status, None | Some(408 | 429 | 500 | 502 | 503 | 504))
    }

    pub fn as_io(&self) -> io::Error {
        let kind = match self.status {
            Some(401 | 403) => io::ErrorKind::PermissionDenied,
            Some(404) => io::ErrorKind::NotFound,
            Some(300..500) if !self.is_passing() => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self.message.clone())
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The cause at the bottom says what happened ("Connection refused"); those above it say who was asked.
fn deepest(error: &S3Error) -> String {
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// One request, which fails when there is no answer in time.
pub async fn within<T>(limit: Duration, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer,
        Err(_) => {
            let source = format!("no answer within {} s", limit.as_secs()).into();
            Err(S3Error::Generic { store: "S3", source })
        }
    }
}

/// Sends a request until there is an answer that does not say "later", or patience is at its end.
pub async fn again<T, F>(patience: Patience, mut request: impl FnMut() -> F) -> Result<T, Refusal>
where
    F: Future<Output = object_store::Result<T>>,
{
    let end = Instant::now() + patience.in_all;
    let mut pause = FIRST_PAUSE;
    loop {
        let refusal = match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) => Refusal::of(&error),
        };
        if !refusal.is_passing() || Instant::now() + pause >= end {
            return Err(refusal);
        }
        tracing::debug!(refusal = refusal.message, "the store is asked again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> S3Error {
        S3Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_again_until_patience_ends_and_nothing_else_is() {
        let patience = Patience { in_all: Duration::from_secs(5), one_request: Duration::from_secs(1) };
        let mut tries = 0;
        let answer = again(patience, || {
            tries += 1;
            let done = tries == 4;
            async move { if done { Ok(7) } else { Err(generic("Server returned non-2xx status code: 503 Service Unavailable: ")) } }
        });
        assert_eq!(answer.await.expect("an answer"), 7);

        let begun = Instant::now();
        let never = again(patience, || within(patience.one_request, std::future::pending::<object_store::Result<()>>()));
        assert_eq!(never.await.expect_err("no answer").message, "no answer within 1 s");
        assert!(begun.elapsed() <= patience.in_all + patience.one_request);

        let mut tries = 0;
        let denied = again(patience, || {
            tries += 1;
            async { Err::<(), _>(generic("status code: 403 Forbidden: <Code>AccessDenied</Code><Message>Not\n  you</Message>")) }
        });
        let refusal = denied.await.expect_err("denied");
        assert_eq!((tries, refusal.message.as_str()), (1, "the server answers 403 AccessDenied: Not you"));
        assert_eq!(refusal.as_io().kind(), io::ErrorKind::PermissionDenied);
    }
}
