//! A bucket, or a part of one, as a store: S3, and whatever speaks its API and honours conditional writes.
//!
//! A swap is a PUT with `If-Match`, a new object one with `If-None-Match`. An object starts with a mark that no other write has: so its ETag, which may
//! be a digest of what it holds, never repeats, and a write whose answer was lost is known again. Requests that may succeed later are sent again
//! for a while; sent twice they are as one, because of their condition.
mod bucket;
mod request;
mod settings;
mod upload;

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, PutMode, PutPayload, UpdateVersion};

pub(crate) use self::bucket::Bucket;
pub use self::settings::{S3Address, S3Settings};
use self::{
    request::{Patience, within},
    upload::Upload,
};
use crate::{Entry, Expected, NewFile, Store, StoreError, Swap, Version, keys};

/// Objects that are swapped are asked for by others who wait for them, and who ask again themselves; files may take longer, and so may what people's
/// statements change, who would have to say them again.
const OBJECTS: Patience = Patience { in_all: Duration::from_secs(5), one_request: Duration::from_secs(3) };
pub(crate) const FILES: Patience = Patience { in_all: Duration::from_secs(30), one_request: Duration::from_secs(5) };

/// The mark in front of an object: a UUID in hexadecimal digits and a newline.
const MARK_BYTES: usize = 33;

/// S3 may answer that somebody else is writing just now (409): then nothing is decided, and we ask again so often.
const CONTESTS: usize = 20;
const CONTEST_PAUSE: Duration = Duration::from_millis(50);

fn patience(key: &str, expected: Option<&Expected>) -> Patience {
    let is_first_manifest = keys::is_manifest(key) && expected == Some(&Expected::Absent);
    if is_first_manifest || keys::is_of_statements(key) { FILES } else { OBJECTS }
}

#[derive(Debug)]
pub struct S3Store {
    bucket: Arc<Bucket>,
}

impl S3Store {
    /// Connects, and tries whether swaps there are sound.
    pub async fn open(address: S3Address, settings: &S3Settings) -> Result<Self, StoreError> {
        let store = Self { bucket: Arc::new(Bucket::new(address, settings)?) };
        match crate::trial(&store).await {
            Ok(()) => Ok(store),
            Err(StoreError::Unsound { store, message }) => {
                let message = format!("{message}; use a server that honours If-Match and If-None-Match when objects are put");
                Err(StoreError::Unsound { store, message })
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self, key: &str, patience: Patience) -> Result<Option<(Bytes, Version)>, StoreError> {
        let Some((bytes, tag)) = self.bucket.fetch(key, patience).await? else { return Ok(None) };
        Ok(Some((bytes, self.version(key, tag)?)))
    }

    fn version(&self, key: &str, tag: Option<String>) -> Result<Version, StoreError> {
        let unsound = || StoreError::Unsound { store: self.describe(), message: format!("it gives {key} no ETag") };
        tag.map(Version).ok_or_else(unsound)
    }

    fn contested(&self, key: &str) -> StoreError {
        let source = std::io::Error::other("others write it all the time");
        StoreError::Io { action: "writing", object: self.bucket.object(key), source }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let Some((mut bytes, version)) = self.fetch(key, patience(key, None)).await? else { return Ok(None) };
        if bytes.len() < MARK_BYTES {
            let object = self.bucket.object(key);
            return Err(StoreError::Corrupt { object, message: "it is cut short".into() });
        }
        Ok(Some((bytes.split_off(MARK_BYTES), version)))
    }

    async fn put_if(&self, key: &str, bytes: Bytes, expected: Expected) -> Result<Swap, StoreError> {
        let location = self.bucket.location(key)?;
        let mark = Bytes::from(format!("{}\n", uuid::Uuid::new_v4().simple()));
        let payload = PutPayload::from_iter([mark.clone(), bytes]);
        let mode = match &expected {
            Expected::Absent => PutMode::Create,
            Expected::Version(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: None }),
        };
        let patience = patience(key, Some(&expected));
        for _ in 0..CONTESTS {
            match self.bucket.put(&location, &payload, &mode, patience, &mut 0).await {
                Ok(put) => return Ok(Swap::Stored(self.version(key, put.e_tag)?)),
                Err(refusal) if refusal.is_condition() => {}
                Err(refusal) => return Err(self.bucket.failed("writing", key, &refusal)),
            }
            match (self.fetch(key, patience).await?, &expected) {
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
        let location = self.bucket.location(key)?;
        let payload = PutPayload::from(bytes.clone());
        let mut tries = 0;
        for _ in 0..CONTESTS {
            match self.bucket.put(&location, &payload, &PutMode::Create, FILES, &mut tries).await {
                Ok(_) => return Ok(()),
                Err(refusal) if refusal.is_condition() => {}
                Err(refusal) => return Err(self.bucket.failed("writing", key, &refusal)),
            }
            match self.fetch(key, FILES).await? {
                None => {}
                // An earlier try had got through; only its answer was lost.
                Some((found, _)) if tries > 1 && found == bytes => return Ok(()),
                Some(_) => return Err(StoreError::Exists { object: self.bucket.object(key) }),
            }
            tokio::time::sleep(CONTEST_PAUSE).await;
        }
        Err(self.contested(key))
    }

    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let found = self.fetch(key, FILES).await?;
        found.map(|(bytes, _)| bytes).ok_or_else(|| StoreError::Missing { object: self.bucket.object(key) })
    }

    async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let found = self.bucket.fetch_range(key, Some(range), FILES).await?;
        found.map(|(bytes, _)| bytes).ok_or_else(|| StoreError::Missing { object: self.bucket.object(key) })
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn NewFile>, StoreError> {
        Ok(Box::new(Upload::begin(self.bucket.clone(), key).await?))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let locations = keys.iter().map(|key| self.bucket.location(key)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = keys.first() else { return Ok(()) };
        let deleted = request::again(FILES, || {
            let asked = futures::stream::iter(locations.clone().into_iter().map(Ok)).boxed();
            let answers = self.bucket.client.delete_stream(asked).filter_map(|answer| async move {
                match answer {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => None,
                    Err(error) => Some(Err::<(), _>(error)),
                }
            });
            within(FILES.in_all, answers.try_collect::<Vec<_>>())
        });
        deleted.await.map(|_| ()).map_err(|refusal| self.bucket.failed("deleting", first, &refusal))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let found = self.bucket.list(Some(prefix.trim_end_matches('/')), FILES).await?;
        let entry = |(key, meta): (String, ObjectMeta)| Entry { key, bytes: meta.size, modified: meta.last_modified.into() };
        let mut entries: Vec<Entry> = found.into_iter().map(entry).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.bucket.folders(prefix.trim_end_matches('/'), FILES).await
    }

    fn describe(&self) -> String {
        self.bucket.address.to_string()
    }

    fn serves_one_machine(&self) -> bool {
        false
    }
}
