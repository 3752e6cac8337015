//! Where a bucket is and who we are to it: `s3://bucket/prefix`, the configuration's `[s3]` section and the usual `AWS_…` variables.
use std::{fmt, net::IpAddr, sync::Arc};

use object_store::{
    ClientConfigKey, RetryConfig, StaticCredentialProvider,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, S3ConditionalPut},
};

use crate::{StoreError, store::is_sound};

const CONNECT_TIMEOUT: &str = "3s";
/// For one request, however large; what is smaller has a shorter limit of its own.
const LONGEST_REQUEST: &str = "10m";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Address {
    pub bucket: String,
    /// Without slashes at its ends; may be empty.
    pub prefix: String,
}

impl S3Address {
    /// Reads `s3://bucket/prefix`.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let bad = |message: &str| StoreError::BadAddress { url: url.to_owned(), message: message.to_owned() };
        let rest = url.strip_prefix("s3://").ok_or_else(|| bad("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() {
            return Err(bad("it names no bucket"));
        }
        if bucket.contains(['@', ':', '?', '#']) {
            return Err(bad("credentials and ports do not belong there; see [s3]"));
        }
        if !prefix.is_empty() && !is_sound(prefix) {
            return Err(bad("its prefix has an empty part, '.' or '..'"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_str() {
            "" => write!(formatter, "s3://{}", self.bucket),
            prefix => write!(formatter, "s3://{}/{prefix}", self.bucket),
        }
    }
}

/// What is empty comes from the environment: `AWS_ACCESS_KEY_ID` and the like, a web identity, a container's or an instance's role.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// Of a server that is not Amazon's. Without TLS only on loopback, or with `AWS_ALLOW_HTTP=true`.
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("S3Settings").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

impl S3Settings {
    /// A client of one bucket. It does not ask again by itself, so that whoever asks knows how often it did.
    pub(crate) fn client(&self, bucket: &str) -> Result<AmazonS3, StoreError> {
        let bad = |message: String| StoreError::BadAddress { url: format!("s3://{bucket}"), message };
        let client = |key: ClientConfigKey| AmazonS3ConfigKey::Client(key);
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT)
            .with_config(client(ClientConfigKey::Timeout), LONGEST_REQUEST);
        if !self.endpoint.is_empty() {
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, &self.endpoint);
        }
        if !self.region.is_empty() {
            builder = builder.with_region(&self.region);
        }
        builder = match (self.access_key_id.as_str(), self.secret_access_key.as_str()) {
            ("", "") => builder,
            ("", _) | (_, "") => return Err(bad("s3.access_key_id and s3.secret_access_key go together; set both or none".into())),
            (key, secret) => {
                let credential = AwsCredential { key_id: key.to_owned(), secret_key: secret.to_owned(), token: None };
                builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
            }
        };
        let asked =
            [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint].iter().find_map(|key| builder.get_config_value(key));
        if let Some(endpoint) = asked.filter(|endpoint| endpoint.starts_with("http://")) {
            if is_loopback(&endpoint) {
                builder = builder.with_allow_http(true);
            } else if builder.get_config_value(&client(ClientConfigKey::AllowHttp)).as_deref() != Some("true") {
                return Err(bad(format!(
                    "{endpoint} is not encrypted and not on this machine; use https, or set AWS_ALLOW_HTTP=true"
                )));
            }
        }
        builder.build().map_err(|error| bad(error.to_string()))
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let authority = endpoint.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_those_that_hide_something_refused() {
        let address = S3Address::parse("s3://lake/polybolos/prod/").expect("reads");
        assert_eq!((address.bucket.as_str(), address.prefix.as_str()), ("lake", "polybolos/prod"));
        assert_eq!(address.to_string(), "s3://lake/polybolos/prod");
        assert_eq!(S3Address::parse("s3://lake").expect("reads").prefix, "");
        for url in ["/folder", "s3://", "s3:///key", "s3://key:secret@lake/x", "s3://lake//x", "s3://lake/../x"] {
            assert!(matches!(S3Address::parse(url), Err(StoreError::BadAddress { .. })), "{url}");
        }
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        for (endpoint, loopback) in [
            ("http://127.0.0.1:9000", true),
            ("http://localhost:9000/", true),
            ("http://[::1]:9000", true),
            ("http://127.0.0.1.example.org", false),
            ("http://10.0.0.7:9000", false),
        ] {
            assert_eq!(is_loopback(endpoint), loopback, "{endpoint}");
            let settings = S3Settings {
                endpoint: endpoint.into(),
                access_key_id: "k".into(),
                secret_access_key: "hush".into(),
                ..S3Settings::default()
            };
            assert_eq!(settings.client("lake").is_ok(), loopback, "{endpoint}");
            assert!(!format!("{settings:?}").contains("hush"));
        }
    }

    #[test]
    fn half_a_login_is_refused() {
        let settings = S3Settings { access_key_id: "k".into(), ..S3Settings::default() };
        assert!(settings.client("lake").expect_err("refused").to_string().contains("go together"));
    }
}
