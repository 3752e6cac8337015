//! One question and its answer: redirects followed by hand, headers that go no further than they may, and no more bytes than a feed takes.
use std::time::Duration;

use reqwest::{Url, header, redirect::Policy};
use tokio::time::Instant;

use super::{MAX_REDIRECTS, PollError};
use crate::{
    cause,
    config::HttpPoll,
    target::{self, TargetError},
};

/// One answer's body, redirects followed by hand so that each is judged.
pub(super) async fn fetch(http: &HttpPoll) -> Result<Vec<u8>, PollError> {
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
