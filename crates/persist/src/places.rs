//! Folders and parts of buckets beside the store, where files for others are put. A file is there whole or not at all; put again under its name, it is
//! replaced.
use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{PutMode, PutPayload};
use tokio::sync::Mutex;

use crate::{
    S3Address, S3Settings, StoreError, local,
    s3::{Bucket, FILES},
    store::is_sound,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Bucket(S3Address),
}

impl Place {
    /// Reads `s3://bucket/prefix`, `file:///folder` or `/folder`.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("s3://") {
            return S3Address::parse(url).map(Self::Bucket);
        }
        let folder = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !folder.is_absolute() || !folder.components().all(is_plain) {
            let message = "it is neither s3://bucket/prefix nor an absolute folder without '..'".into();
            return Err(StoreError::BadAddress { url: url.to_owned(), message });
        }
        Ok(Self::Folder(folder))
    }

    /// Whether it is `outer` or below it, wherever links lead.
    pub fn is_within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (Self::Folder(inner), Self::Folder(outer)) => real(inner).starts_with(real(outer)),
            (Self::Bucket(inner), Self::Bucket(outer)) => {
                let below = inner.prefix.strip_prefix(&outer.prefix);
                let is_below = |rest: &str| rest.is_empty() || outer.prefix.is_empty() || rest.starts_with('/');
                inner.bucket == outer.bucket && below.is_some_and(is_below)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(formatter, "file://{}", folder.display()),
            Self::Bucket(address) => address.fmt(formatter),
        }
    }
}

/// As far as it exists, without links.
fn real(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    existing.canonicalize().map(|existing| existing.join(rest)).unwrap_or_else(|_| path.to_path_buf())
}

/// Writes and reads files in places; keeps its connections.
#[derive(Debug, Default)]
pub struct Places {
    settings: S3Settings,
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
}

impl Places {
    pub fn new(settings: S3Settings) -> Self {
        Self { settings, buckets: Mutex::default() }
    }

    /// Puts a file, durably.
    pub async fn put(&self, place: &Place, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        if !is_sound(name) || name.contains('/') {
            return Err(StoreError::BadKey { key: name.to_owned() });
        }
        match place {
            Place::Bucket(address) => {
                let bucket = self.bucket(address).await?;
                let location = bucket.location(name)?;
                let put = bucket.put(&location, &PutPayload::from(bytes), &PutMode::Overwrite, FILES, &mut 0).await;
                put.map(|_| ()).map_err(|refusal| bucket.failed("writing", name, &refusal))
            }
            Place::Folder(folder) => {
                let path = folder.join(name);
                let failed = |source| StoreError::Io { action: "writing", object: path.display().to_string(), source };
                let (folder, name) = (folder.clone(), name.to_owned());
                let placed = tokio::task::spawn_blocking(move || put_in_folder(&folder, &name, &bytes)).await;
                placed.map_err(io::Error::other).flatten().map_err(failed)
            }
        }
    }

    /// Names of the files right in a place, in order. Names that begin with a dot or an underscore are of files that are none yet, or say something of
    /// the others.
    pub async fn list(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let mut names = match place {
            Place::Bucket(address) => {
                let listed = self.bucket(address).await?.list(None, FILES).await?;
                listed.into_iter().map(|(name, _)| name).filter(|name| !name.contains('/')).collect()
            }
            Place::Folder(folder) => {
                let failed = |source| StoreError::Io { action: "listing", object: place.to_string(), source };
                let folder = folder.clone();
                let listed = tokio::task::spawn_blocking(move || names_in(&folder)).await;
                listed.map_err(io::Error::other).flatten().map_err(failed)?
            }
        };
        names.retain(|name: &String| !name.is_empty() && !is_hidden(name));
        names.sort();
        Ok(names)
    }

    /// A file's bytes.
    pub async fn get(&self, place: &Place, name: &str) -> Result<Bytes, StoreError> {
        if !is_sound(name) || name.contains('/') {
            return Err(StoreError::BadKey { key: name.to_owned() });
        }
        match place {
            Place::Bucket(address) => {
                let bucket = self.bucket(address).await?;
                let found = bucket.fetch(name, FILES).await?;
                found.map(|(bytes, _)| bytes).ok_or_else(|| StoreError::Missing { object: bucket.object(name) })
            }
            Place::Folder(folder) => {
                let path = folder.join(name);
                let object = path.display().to_string();
                let read = tokio::fs::read(path).await;
                read.map(Bytes::from).map_err(|source| StoreError::Io { action: "reading", object, source })
            }
        }
    }

    async fn bucket(&self, address: &S3Address) -> Result<Arc<Bucket>, StoreError> {
        let mut buckets = self.buckets.lock().await;
        if let Some(bucket) = buckets.get(&address.to_string()) {
            return Ok(bucket.clone());
        }
        let bucket = Arc::new(Bucket::new(address.clone(), &self.settings)?);
        buckets.insert(address.to_string(), bucket.clone());
        Ok(bucket)
    }
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// A folder that does not exist has none. Hidden ones are not looked at: a file that is being put may be gone from its hidden name
/// already.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Through links.
        if !is_hidden(&name) && fs::metadata(entry.path())?.is_file() {
            names.push(name);
        }
    }
    Ok(names)
}

fn put_in_folder(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    local::make_folders(&folder.join(name))?;
    // Hidden, and of this try alone: another may be under way.
    let beside = folder.join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
    let (path, written) = (folder.join(name), local::write_synced(&beside, &[bytes]));
    if let Err(error) = written.and_then(|()| fs::rename(&beside, &path)) {
        // What is left takes room only.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    local::sync_folder(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Place::parse(url).expect("a place")
    }

    #[test]
    fn places_are_read_and_shown() {
        for url in ["s3://lake/out/orders", "s3://lake", "file:///data/out"] {
            assert_eq!(place(url).to_string(), url);
        }
        assert_eq!(place("/data/out"), place("file:///data/out/"));
        for url in ["data/out", "file://data", "/data/../etc", "http://host/x", ""] {
            assert!(matches!(Place::parse(url), Err(StoreError::BadAddress { .. })), "{url}");
        }
    }

    #[test]
    fn a_place_is_within_another_by_whole_parts_and_through_links() {
        assert!(place("s3://lake/out/orders").is_within(&place("s3://lake/out")));
        assert!(place("s3://lake/out").is_within(&place("s3://lake")));
        assert!(!place("s3://lake/outlet").is_within(&place("s3://lake/out")));
        assert!(!place("s3://lakes/out").is_within(&place("s3://lake/out")));
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().canonicalize().expect("real");
        fs::create_dir_all(root.join("allowed")).expect("made");
        fs::create_dir_all(root.join("elsewhere")).expect("made");
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join("allowed/link")).expect("linked");
        let allowed = Place::Folder(root.join("allowed"));
        assert!(Place::Folder(root.join("allowed/not/yet")).is_within(&allowed));
        assert!(!Place::Folder(root.join("allowed/link/in")).is_within(&allowed));
        assert!(!Place::Folder(root.join("allowedly")).is_within(&allowed));
        assert!(!place("s3://lake").is_within(&allowed));
    }

    #[tokio::test]
    async fn files_are_listed_while_others_are_put() {
        let folder = tempfile::tempdir().expect("folder");
        let place = Place::Folder(folder.path().to_owned());
        let places = Places::default();
        places.put(&place, "part.json", "x".into()).await.expect("put");
        // A name that leads nowhere, as that of a file which was there when the folder was read.
        std::os::unix::fs::symlink(folder.path().join("gone"), folder.path().join(".part.json.1")).expect("linked");
        assert_eq!(places.list(&place).await.expect("lists"), ["part.json"]);
    }

    #[tokio::test]
    async fn a_file_is_put_in_its_place_whole_and_again() {
        let folder = tempfile::tempdir().expect("folder");
        let below = Place::Folder(folder.path().join("a/b"));
        let places = Places::default();
        places.put(&below, "part.json", "first".into()).await.expect("put");
        places.put(&below, "part.json", "second".into()).await.expect("put again");
        let names: Vec<_> =
            fs::read_dir(folder.path().join("a/b")).expect("folder").map(|entry| entry.expect("entry").file_name()).collect();
        assert_eq!(names, ["part.json"]);
        assert_eq!(fs::read(folder.path().join("a/b/part.json")).expect("file"), b"second");
        assert_eq!(places.get(&below, "part.json").await.expect("get"), "second");
        assert!(places.get(&below, "../b/part.json").await.is_err());
        assert!(places.put(&below, "../part.json", "x".into()).await.is_err());
    }
}
