//! Part of a bucket: keys and requests, with errors that say which object and what to do.
use std::{fmt, ops::Range};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, PutMode, PutPayload, PutResult, aws::AmazonS3, path::Path};

use super::{
    S3Address, S3Settings,
    request::{self, Patience, Refusal, within},
};
use crate::{StoreError, store::is_sound};

pub(crate) struct Bucket {
    pub address: S3Address,
    pub client: AmazonS3,
}

impl fmt::Debug for Bucket {
    /// Not the client: it holds secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Bucket").field(&self.address).finish()
    }
}

impl Bucket {
    pub fn new(address: S3Address, settings: &S3Settings) -> Result<Self, StoreError> {
        let client = settings.client(&address.bucket)?;
        Ok(Self { address, client })
    }

    pub fn location(&self, key: &str) -> Result<Path, StoreError> {
        let bad = || StoreError::BadKey { key: key.to_owned() };
        if !is_sound(key) {
            return Err(bad());
        }
        let path = if self.address.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.address.prefix) };
        Path::parse(path).map_err(|_| bad())
    }

    /// How messages call an object.
    pub fn object(&self, key: &str) -> String {
        format!("{}/{key}", self.address)
    }

    pub fn failed(&self, action: &'static str, key: &str, refusal: &Refusal) -> StoreError {
        if refusal.status == Some(501) {
            return StoreError::Unsound {
                store: self.address.to_string(),
                message: format!("{action} {key}: {}", refusal.message),
            };
        }
        StoreError::Io { action, object: self.object(key), source: refusal.as_io() }
    }

    /// An object's bytes and ETag.
    pub async fn fetch(&self, key: &str, patience: Patience) -> Result<Option<(Bytes, Option<String>)>, StoreError> {
        self.fetch_range(key, None, patience).await
    }

    /// The same of a range, as far as the object goes.
    pub async fn fetch_range(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        patience: Patience,
    ) -> Result<Option<(Bytes, Option<String>)>, StoreError> {
        let location = self.location(key)?;
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let fetched = request::again(patience, || async {
            let found = within(patience.one_request, self.client.get_opts(&location, options.clone())).await?;
            let tag = found.meta.e_tag.clone();
            let limit = patience.for_bytes(found.range.end - found.range.start);
            let bytes = within(limit, found.bytes()).await?;
            Ok((bytes, tag))
        });
        match fetched.await {
            Ok(found) => Ok(Some(found)),
            Err(refusal) if refusal.is_missing_object() => Ok(None),
            // The range begins behind the object's end.
            Err(refusal) if refusal.status == Some(416) => Ok(Some((Bytes::new(), None))),
            Err(refusal) => Err(self.failed("reading", key, &refusal)),
        }
    }

    /// How many bytes an object has, if there is one.
    pub async fn size(&self, key: &str, patience: Patience) -> Result<Option<u64>, StoreError> {
        let location = self.location(key)?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found =
            request::again(patience, || within(patience.one_request, self.client.get_opts(&location, options.clone()))).await;
        match found {
            Ok(found) => Ok(Some(found.meta.size)),
            Err(refusal) if refusal.is_missing_object() => Ok(None),
            Err(refusal) => Err(self.failed("looking for", key, &refusal)),
        }
    }

    /// Counts in `tries` how often it asked: an earlier try may have got through though its answer was lost.
    pub async fn put(
        &self,
        location: &Path,
        payload: &PutPayload,
        mode: &PutMode,
        patience: Patience,
        tries: &mut u32,
    ) -> Result<PutResult, Refusal> {
        let limit = patience.for_bytes(payload.content_length() as u64);
        request::again(patience, || {
            *tries += 1;
            within(limit, self.client.put_opts(location, payload.clone(), mode.clone().into()))
        })
        .await
    }

    /// Everything below a folder, or below the prefix itself, with keys as [`Bucket::location`] takes them.
    pub async fn list(&self, folder: Option<&str>, patience: Patience) -> Result<Vec<(String, ObjectMeta)>, StoreError> {
        let below = match folder {
            Some(folder) => self.location(folder)?,
            None => Path::parse(&self.address.prefix).map_err(|_| StoreError::BadKey { key: self.address.prefix.clone() })?,
        };
        let listed = request::again(patience, || within(patience.in_all, self.client.list(Some(&below)).try_collect::<Vec<_>>()));
        let found = listed.await.map_err(|refusal| self.failed("listing", folder.unwrap_or_default(), &refusal))?;
        let own = if self.address.prefix.is_empty() { 0 } else { self.address.prefix.len() + 1 };
        let keyed = |meta: ObjectMeta| meta.location.as_ref().get(own..).map(str::to_owned).map(|key| (key, meta));
        Ok(found.into_iter().filter_map(keyed).collect())
    }

    /// Names of the folders right below one.
    pub async fn folders(&self, folder: &str, patience: Patience) -> Result<Vec<String>, StoreError> {
        let below = self.location(folder)?;
        let listed = request::again(patience, || within(patience.in_all, self.client.list_with_delimiter(Some(&below))));
        let found = listed.await.map_err(|refusal| self.failed("listing", folder, &refusal))?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }
}
