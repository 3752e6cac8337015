//! Talks to a running platform: statements over its HTTP door.
use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use polybolos_service::exit::{Exit, Failure, chained};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Connect, flight_sql::FlightSql};

/// So long a statement runs before the platform is asked whether it is there, and so long may that answer take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file may be large and the way slow.
const FILE_TIME: Duration = Duration::from_secs(3_600);

/// Of a file, sent at once.
const PIECE_BYTES: usize = 1 << 20;

pub struct Client {
    http: reqwest::Client,
    /// `http` or `https`.
    scheme: &'static str,
    address: String,
    token: String,
    endpoints: BTreeMap<String, String>,
    flight_sql: Option<FlightSql>,
}

#[derive(Debug, Deserialize)]
pub struct Rows {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
    #[serde(default)]
    pub truncated: bool,
    #[serde(default)]
    pub tag: String,
    #[serde(default)]
    pub notices: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Column {
    pub name: String,
}

impl Client {
    pub fn connect(connect: &Connect) -> anyhow::Result<Self> {
        let folder = connect.data_dir.display();
        let unreachable = |message: String| Exit::new(Failure::Unreachable, message);
        let endpoints: BTreeMap<String, String> = match std::fs::read(connect.data_dir.join("endpoints.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{folder}/endpoints.json"))?,
            Err(_) => BTreeMap::new(),
        };
        let address = connect.http.clone().or_else(|| endpoints.get("http").cloned());
        let address = address.ok_or_else(|| {
            unreachable(format!(
                "no platform runs on the data folder {folder}, or not on this machine; start one with `polybolos up`, or give --data-dir, or --http and --token"
            ))
        })?;
        let token = match &connect.token {
            Some(token) => token.clone(),
            None => std::fs::read_to_string(connect.data_dir.join("token"))
                .map_err(|error| unreachable(format!("cannot read the token in {folder}: {error}; give --token")))?,
        };
        let mut http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120));
        let scheme = match &connect.ca_file {
            None => "http",
            Some(file) => {
                for certificate in authority(file)? {
                    http = http.add_root_certificate(certificate);
                }
                "https"
            }
        };
        let http = http.build().with_context(|| match &connect.ca_file {
            Some(file) => format!("the certificate authority {} cannot be used", file.display()),
            None => "no HTTP client can be made".into(),
        })?;
        let token = token.trim().to_owned();
        let flight_sql = match (&connect.http, endpoints.get("flight_sql")) {
            (None, Some(address)) => {
                let authority = connect.ca_file.as_ref().map(std::fs::read).transpose()?;
                Some(FlightSql { address: address.clone(), token: token.clone(), authority })
            }
            // The folder may be another platform's.
            _ => None,
        };
        Ok(Self { http, scheme, address, token, endpoints, flight_sql })
    }

    /// The door that gives all rows of a query, where it is known. What is wrong with the way to the platform is told first, as of other statements.
    pub async fn flight_sql(&self) -> anyhow::Result<Option<&FlightSql>> {
        if self.flight_sql.is_some() {
            let health = self.request(reqwest::Method::GET, &["healthz"])?.timeout(PATIENCE);
            health.send().await.map_err(|error| self.unreachable(&error))?;
        }
        Ok(self.flight_sql.as_ref())
    }

    pub fn endpoint(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.endpoints.get(name).map(String::as_str);
        found.ok_or_else(|| {
            Exit::new(Failure::Unreachable, format!("the platform does not say where {name} is; give --{name}")).into()
        })
    }

    /// A file of the platform, into a new file here. It has its name only once all of it is there.
    pub async fn download(&self, path: &[&str], file: &Path) -> anyhow::Result<u64> {
        if file.exists() {
            return Err(Exit::new(Failure::Failed, format!("{} exists already; choose another name", file.display())).into());
        }
        let partial = file.with_extension("partial");
        let cannot = |error: std::io::Error| {
            let message = format!(
                "{} cannot be written: {error}; name a file in a folder that exists, has space, and that you may write to",
                file.display()
            );
            Exit::new(Failure::Failed, message)
        };
        let answer =
            self.request(reqwest::Method::GET, path)?.timeout(FILE_TIME).send().await.map_err(|error| self.unreachable(&error))?;
        let answer = Self::check(answer).await?;
        let mut pieces = answer.bytes_stream();
        let mut out = tokio::fs::File::create(&partial).await.map_err(&cannot)?;
        let mut bytes = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.context("the platform broke off; try again")?;
            bytes += piece.len() as u64;
            out.write_all(&piece).await.map_err(&cannot)?;
        }
        out.sync_all().await.map_err(&cannot)?;
        tokio::fs::rename(&partial, file).await.map_err(&cannot)?;
        Ok(bytes)
    }

    /// Sends a file to the platform; its answer.
    pub async fn upload(&self, path: &[&str], query: &[(&str, &str)], file: &Path) -> anyhow::Result<Value> {
        let source = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        let pieces = futures::stream::try_unfold(source, |mut source| async move {
            let mut piece = vec![0; PIECE_BYTES];
            let count = source.read(&mut piece).await?;
            piece.truncate(count);
            std::io::Result::Ok((count > 0).then_some((piece, source)))
        });
        let request = self.request(reqwest::Method::POST, path)?.query(query).timeout(FILE_TIME);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.body(reqwest::Body::wrap_stream(pieces)).send().await.map_err(|error| self.unreachable(&error))?;
        Ok(Self::check(answer).await?.json().await?)
    }

    /// `path` piece by piece, as names in it may have any characters.
    fn request(&self, method: reqwest::Method, path: &[&str]) -> anyhow::Result<reqwest::RequestBuilder> {
        let base = format!("{}://{}", self.scheme, self.address);
        let mut url = reqwest::Url::parse(&base).with_context(|| format!("{base} is no address"))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        Ok(self.http.request(method, url).bearer_auth(&self.token))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Exit {
        let why = chained(error);
        let hint = hint(self.scheme, &why);
        Exit::new(Failure::Unreachable, format!("the platform at {} does not answer: {why}{hint}", self.address))
    }

    /// The answer to a statement, which may take its time while the platform is there.
    async fn answered(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let mut sent = std::pin::pin!(request.send());
        loop {
            tokio::select! {
                answer = &mut sent => return Ok(answer.map_err(|error| self.unreachable(&error))?),
                () = tokio::time::sleep(PATIENCE) => {
                    let health = self.request(reqwest::Method::GET, &["healthz"])?.timeout(PATIENCE);
                    health.send().await.map_err(|error| self.unreachable(&error))?;
                }
            }
        }
    }

    /// The answer, or the error that it tells.
    async fn check(answer: reqwest::Response) -> anyhow::Result<reqwest::Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body: Value = answer.json().await.with_context(|| format!("the platform answered {status} without JSON"))?;
        let text = |key: &str| body.pointer(&format!("/error/{key}")).or_else(|| body.get(key)).and_then(Value::as_str);
        let message = text("message").map_or_else(|| body.to_string(), str::to_owned);
        let hint = text("hint").map(|hint| format!("; {hint}")).unwrap_or_default();
        Err(Exit::new(Failure::Failed, format!("{message}{hint}")).into())
    }

    /// Runs statements; the last one's rows.
    pub async fn sql(&self, sql: &str, limit: usize) -> anyhow::Result<Rows> {
        let request = self.request(reqwest::Method::POST, &["api", "v1", "sql"])?.json(&json!({ "sql": sql, "limit": limit }));
        let answer = Self::check(self.answered(request).await?).await?;
        let status = answer.status();
        let body: Value = answer.json().await.with_context(|| format!("the platform answered {status} without JSON"))?;
        Ok(serde_json::from_value(body)?)
    }
}

/// The certificates of a file, of which there is one at least.
fn authority(file: &Path) -> anyhow::Result<Vec<reqwest::Certificate>> {
    let shown = file.display();
    let pem = std::fs::read(file).with_context(|| format!("cannot read the certificate authority {shown}"))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| anyhow!("the certificate authority {shown} is no PEM: {error}"))?;
    if certificates.is_empty() {
        bail!(
            "the certificate authority {shown} holds no certificate in PEM; give --ca-file the certificate that the platform's is signed by, not a key"
        );
    }
    let usable = certificates.iter().map(|certificate| reqwest::Certificate::from_der(certificate));
    usable.collect::<Result<_, _>>().with_context(|| format!("the certificate authority {shown} cannot be used"))
}

/// What to do about an answer in another protocol than ours.
fn hint(scheme: &str, why: &str) -> &'static str {
    match scheme {
        "http" if why.contains("invalid HTTP version parsed") => {
            "; it may speak TLS: pass --ca-file with the certificate that its own is signed by"
        }
        "https" if why.contains("InvalidContentType") => "; it does not speak TLS there: leave out --ca-file (POLYBOLOS_CA_FILE)",
        _ => "",
    }
}

/// A value quoted for SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name quoted for SQL.
pub fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_a_certificate_is_refused_when_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        for text in ["", "no PEM at all\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&file, text).expect("writes");
            let told = authority(&file).expect_err("it has none").to_string();
            assert!(told.contains("ca.pem holds no certificate") && told.contains("--ca-file"), "{told}");
        }
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("writes");
        assert_eq!(authority(&file).expect("it has one").len(), 1);
    }

    #[test]
    fn another_protocol_is_hinted_at() {
        let clear = hint("http", "error sending request for url (http://here/): client error: invalid HTTP version parsed");
        assert!(clear.contains("pass --ca-file"), "{clear}");
        let tls = hint("https", "client error (Connect): received corrupt message of type InvalidContentType");
        assert!(tls.contains("leave out --ca-file"), "{tls}");
        assert_eq!(hint("http", "connection refused"), "");
        assert_eq!(hint("https", "invalid peer certificate: UnknownIssuer"), "");
    }
}
