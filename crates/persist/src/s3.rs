//! A bucket, or a part of one, as a store: S3, and whatever speaks its API and honours conditional writes.
//!
//! A swap is a PUT with `If-Match`, a new object one with `If-None-Match`. An object starts with a mark that no other write has: so its ETag, which may
//! be a digest of what it holds, never repeats, and a write whose answer was lost is known again. Requests that may succeed later are sent again
//! for a while; sent twice they are as one, because of their condition.
mod request;
mod settings;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    GetOptions, ObjectStore, PutMode, PutPayload, PutResult, UpdateVersion,
    aws::AmazonS3,
    path::Path,
};
pub use settings::{S3Address, S3Settings};

use crate::{Entry, Expected, Store, StoreError, Swap, Version, store::is_sound};
use request::{Patience, Refusal, within};

/// Objects that are swapped are asked for by others who wait for them, and who ask again themselves; files may take longer.
const OBJECTS: Patience = Patience { in_all: Duration::from_secs(5), one_request: Duration::from_secs(3) };
const FILES: Patience = Patience { in_all: Duration::from_secs(30), one_request: Duration::from_secs(5) };

/// The mark in front of an object: a UUID in hexadecimal digits and a newline.
const MARK_BYTES: usize = 33;

/// S3 may answer that somebody else is writing just now (409): then nothing is decided, and we ask again so often.
const CONTESTS: usize = 20;
const CONTEST_PAUSE: Duration = Duration::from_millis(50);

pub struct S3Store {
    address: S3Address,
    client: AmazonS3,
}

impl fmt::Debug for S3Store {
    /// Not the client: it holds secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("S3Store").field(&self.describe()).finish()
    }
}

impl S3Store {
    /// Connects, and tries whether swaps there are sound.
    pub async fn open(address: S3Address, settings: &S3Settings) -> Result<Self, StoreError> {
        let client = settings.client(&address.bucket)?;
        let store = Self { address, client };
        match crate::trial(&store).await {
            Ok(()) => Ok(store),
            Err(StoreError::Unsound { store, message }) => {
                let message = format!("{message}; use a server that honours If-Match and If-None-Match when objects are put");
                Err(StoreError::Unsound { store, message })
            }
            Err(error) => Err(error),
        }
    }

    fn location(&self, key: &str) -> Result<Path, StoreError> {
        let bad = || StoreError::BadKey { key: key.to_owned() };
        if !is_sound(key) {
            return Err(bad());
        }
        let path = if self.address.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.address.prefix) };
        Path::parse(path).map_err(|_| bad())
    }

    fn failed(&self, action: &'static str, key: &str, refusal: &Refusal) -> StoreError {
        if refusal.status == Some(501) {
            return StoreError::Unsound { store: self.describe(), message: format!("{action} {key}: {}", refusal.message) };
        }
        StoreError::Io { action, object: format!("{}/{key}", self.describe()), source: refusal.as_io() }
    }

    /// An object's bytes and ETag.
    async fn fetch(&self, key: &str, patience: Patience) -> Result<Option<(Bytes, Version)>, StoreError> {
        let location = self.location(key)?;
        let fetched = request::again(patience, || async {
            let found = within(patience.one_request, self.client.get_opts(&location, GetOptions::default())).await?;
            let tag = found.meta.e_tag.clone();
            let bytes = within(patience.for_bytes(found.meta.size), found.bytes()).await?;
            Ok((bytes, tag))
        });
        match fetched.await {
            Ok((bytes, tag)) => Ok(Some((bytes, self.version(key, tag)?))),
            Err(refusal) if refusal.is_missing_object() => Ok(None),
            Err(refusal) => Err(self.failed("reading", key, &refusal)),
        }
    }

    fn version(&self, key: &str, tag: Option<String>) -> Result<Version, StoreError> {
        let unsound = || StoreError::Unsound { store: self.describe(), message: format!("it gives {key} no ETag") };
        tag.map(Version).ok_or_else(unsound)
    }

    async fn put(&self, location: &Path, payload: &PutPayload, mode: &PutMode, patience: Patience, tries: &mut u32) -> Result<PutResult, Refusal> {
        let limit = patience.for_bytes(payload.content_length() as u64);
        request::again(patience, || {
            *tries += 1;
            within(limit, self.client.put_opts(location, payload.clone(), mode.clone().into()))
        })
        .await
    }

    fn contested(&self, key: &str) -> StoreError {
        let source = std::io::Error::other("others write it all the time");
        StoreError::Io { action: "writing", object: format!("{}/{key}", self.describe()), source }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let Some((mut bytes, version)) = self.fetch(key, OBJECTS).await? else { return Ok(None) };
        if bytes.len() < MARK_BYTES {
            let object = format!("{}/{key}", self.describe());
            return Err(StoreError::Corrupt { object, message: "it is cut short".into() });
        }
        Ok(Some((bytes.split_off(MARK_BYTES), version)))
    }

    async fn put_if(&self, key: &str, bytes: Bytes, expected: Expected) -> Result<Swap, StoreError> {
        let location = self.location(key)?;
        let mark = Bytes::from(format!("{}\n", uuid::Uuid::new_v4().simple()));
        let payload = PutPayload::from_iter([mark.clone(), bytes]);
        let mode = match &expected {
            Expected::Absent => PutMode::Create,
            Expected::Version(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: None }),
        };
        for _ in 0..CONTESTS {
            match self.put(&location, &payload, &mode, OBJECTS, &mut 0).await {
                Ok(put) => return Ok(Swap::Stored(self.version(key, put.e_tag)?)),
                Err(refusal) if refusal.is_condition() => {}
                Err(refusal) => return Err(self.failed("writing", key, &refusal)),
            }
            match (self.fetch(key, OBJECTS).await?, &expected) {
                // An earlier try of this call had got through; only its answer was lost.
                (Some((found, version)), _) if found.starts_with(&mark) => return Ok(Swap::Stored(version)),
                (None, Expected::Absent) => {}
                (Some((_, version)), Expected::Version(wanted)) if version == *wanted => {}
                _ => return Ok(Swap::Conflict),
            }
            tokio::time::sleep(CONTEST_PAUSE).await;
        }
        Err(self.contested(key))
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let location = self.location(key)?;
        let payload = PutPayload::from(bytes.clone());
        let mut tries = 0;
        for _ in 0..CONTESTS {
            match self.put(&location, &payload, &PutMode::Create, FILES, &mut tries).await {
                Ok(_) => return Ok(()),
                Err(refusal) if refusal.is_condition() => {}
                Err(refusal) => return Err(self.failed("writing", key, &refusal)),
            }
            match self.fetch(key, FILES).await? {
                None => {}
                // An earlier try had got through; only its answer was lost.
                Some((found, _)) if tries > 1 && found == bytes => return Ok(()),
                Some(_) => return Err(StoreError::Exists { object: format!("{}/{key}", self.describe()) }),
            }
            tokio::time::sleep(CONTEST_PAUSE).await;
        }
        Err(self.contested(key))
    }

    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let found = self.fetch(key, FILES).await?;
        found.map(|(bytes, _)| bytes).ok_or_else(|| StoreError::Missing { object: format!("{}/{key}", self.describe()) })
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let locations = keys.iter().map(|key| self.location(key)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = keys.first() else { return Ok(()) };
        let deleted = request::again(FILES, || {
            let asked = futures::stream::iter(locations.clone().into_iter().map(Ok)).boxed();
            let answers = self.client.delete_stream(asked).filter_map(|answer| async move {
                match answer {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => None,
                    Err(error) => Some(Err::<(), _>(error)),
                }
            });
            within(FILES.in_all, answers.try_collect::<Vec<_>>())
        });
        deleted.await.map(|_| ()).map_err(|refusal| self.failed("deleting", first, &refusal))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let folder = self.location(prefix.trim_end_matches('/'))?;
        let listed = request::again(FILES, || within(FILES.in_all, self.client.list(Some(&folder)).try_collect::<Vec<_>>()));
        let found = listed.await.map_err(|refusal| self.failed("listing", prefix, &refusal))?;
        let own = if self.address.prefix.is_empty() { 0 } else { self.address.prefix.len() + 1 };
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter_map(|meta| {
                let key = meta.location.as_ref().get(own..)?.to_owned();
                Some(Entry { key, bytes: meta.size, modified: meta.last_modified.into() })
            })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    fn describe(&self) -> String {
        self.address.to_string()
    }
}
