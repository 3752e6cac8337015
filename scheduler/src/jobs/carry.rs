//! Savepoints carried to another cluster: one archive with the savepoint and its files, written and read piece by piece.
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use polybolos_persist::{
    Store, StoreError,
    archive::{Entry, Reader, Writer},
    envelope, keys,
};
use polybolos_streaming::{coordinator::Event, ids::Nonce, savepoint::Savepoint};

use super::manager::{Entry as Job, JobManager};
use crate::savepoints::SavepointError;

/// The archive's first entry.
const SAVEPOINT: &str = "savepoint";

impl JobManager {
    /// The pieces of a savepoint's archive. It stays whole only while the savepoint is there.
    pub fn export_savepoint(&self, name: &str) -> anyhow::Result<BoxStream<'static, Result<Bytes, StoreError>>> {
        let savepoint = self.savepoints().find(name)?;
        let mut writer = Writer::default();
        let first = writer.entry(SAVEPOINT, &envelope::encode(SAVEPOINT, &savepoint)?);
        let rest = pieces(self.context().store.clone(), savepoint, writer);
        Ok(futures::stream::once(async { Ok(first) }).chain(rest).boxed())
    }

    /// Takes an archive in as a savepoint of that name, or of the one it has.
    pub async fn import_savepoint<E: Into<anyhow::Error>>(
        &self,
        name: Option<&str>,
        archive: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> anyhow::Result<Savepoint> {
        let savepoints = self.savepoints().clone();
        let mut created = vec![];
        let taken = self.take_in(name, archive, &mut created).await;
        // Only now: whoever sends the archive may take any time, and its files have names that nobody else has.
        let _changing = savepoints.changing().await;
        let outcome = match taken {
            Ok(savepoint) => savepoints.add(savepoint.clone()).await.map(|()| savepoint).map_err(Into::into),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(savepoint) => {
                if let Some(Job::Running(handle)) = self.find(savepoint.job.as_str()) {
                    handle.tell(Event::Pinned { names: savepoints.files_of(savepoint.job.as_str()) }).await?;
                }
                Ok(savepoint)
            }
            Err(error) => {
                if let Err(error) = self.context().store.delete(&created).await {
                    tracing::warn!(%error, files = created.len(), "files of a savepoint that could not be taken in stay and take room");
                }
                Err(error)
            }
        }
    }

    async fn take_in<E: Into<anyhow::Error>>(
        &self,
        name: Option<&str>,
        mut archive: impl Stream<Item = Result<Bytes, E>> + Unpin,
        created: &mut Vec<String>,
    ) -> anyhow::Result<Savepoint> {
        let mut reader = Reader::new("the archive");
        let mut savepoint: Option<Savepoint> = None;
        while let Some(piece) = archive.next().await {
            reader.push(&piece.map_err(|error| error.into().context("the archive could not be read"))?);
            while let Some(entry) = reader.next_entry()? {
                match &mut savepoint {
                    None => savepoint = Some(self.first_entry(name, &entry)?),
                    Some(savepoint) => created.push(self.file(savepoint, entry).await?),
                }
            }
        }
        reader.finish()?;
        let savepoint = savepoint.context("the archive is empty")?;
        if created.len() != savepoint.state.len() {
            bail!("the archive has {} of the savepoint's {} files", created.len(), savepoint.state.len());
        }
        Ok(savepoint)
    }

    fn first_entry(&self, name: Option<&str>, entry: &Entry) -> anyhow::Result<Savepoint> {
        if entry.name != SAVEPOINT {
            bail!("the archive is none of a savepoint: it begins with {:?}", entry.name);
        }
        let mut savepoint: Savepoint = envelope::decode("the archive's savepoint", SAVEPOINT, &entry.bytes)?;
        if let Some(name) = name {
            name.clone_into(&mut savepoint.name);
        }
        if self.savepoints().find(&savepoint.name).is_ok() {
            return Err(SavepointError::Exists { name: savepoint.name }.into());
        }
        // Another cluster's topic of the same name and offsets has an id of its own.
        savepoint.sources.values_mut().for_each(|position| position.topic_id = None);
        Ok(savepoint)
    }

    /// Stores one file of the state under a name of its own here; answers it.
    async fn file(&self, savepoint: &mut Savepoint, entry: Entry) -> anyhow::Result<String> {
        let name = keys::savepoint_file(&savepoint.name, &Nonce(uuid::Uuid::new_v4().simple().to_string()));
        let run = savepoint.state.iter_mut().find(|run| run.name == entry.name);
        let run = run.ok_or_else(|| anyhow!("the archive has a file {} that its savepoint does not name", entry.name))?;
        if run.bytes != entry.bytes.len() as u64 || run.crc32 != entry.crc32 {
            bail!("file {} of the archive is not the one that its savepoint names", entry.name);
        }
        self.context().store.create(&name, entry.bytes).await?;
        run.name.clone_from(&name);
        Ok(name)
    }
}

/// A file per piece, then the end; nothing after an error.
fn pieces(store: Arc<dyn Store>, savepoint: Savepoint, writer: Writer) -> impl Stream<Item = Result<Bytes, StoreError>> {
    let names: Vec<String> = savepoint.file_names().map(str::to_owned).collect();
    let begin = Some((store, names.into_iter(), writer));
    futures::stream::unfold(begin, |state| async move {
        let (store, mut names, mut writer) = state?;
        let Some(name) = names.next() else { return Some((Ok(writer.end()), None)) };
        match store.read(&name).await {
            Ok(bytes) => {
                let piece = writer.entry(&name, &bytes);
                Some((Ok(piece), Some((store, names, writer))))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}
