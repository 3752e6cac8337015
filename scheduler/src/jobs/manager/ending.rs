//! Ends incarnations: none that still has to write what it recorded, unless that is given up.
use std::time::Duration;

use anyhow::bail;
use polybolos_persist::StoreError;
use polybolos_sql::catalog::JobDefinition;
use polybolos_streaming::{coordinator::Command, ids::Incarnation};

use super::{Entry, JobManager};
use crate::{
    jobs::runner::{is_alive, load_manifest},
    ownership,
};

impl JobManager {
    /// What there is of a job here. One that is alive and not here is just being started, and not taken for one that has ended.
    async fn settled(&self, definition: &JobDefinition) -> anyhow::Result<Option<Entry>> {
        let (store, incarnation) = (&*self.context.store, Incarnation(definition.incarnation.clone()));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(entry) = self.find(&definition.name) {
                return Ok(Some(entry));
            }
            match load_manifest(store, &incarnation).await {
                Ok(Some((manifest, _))) if is_alive(&manifest.life) => {}
                Ok(_) | Err(StoreError::Corrupt { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if tokio::time::Instant::now() > deadline {
                bail!("job {} is being started at this moment; try again", definition.name);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// That nothing which a job recorded is still to be written, where it cannot write it because it does not start.
    pub async fn check_written(&self, definition: &JobDefinition) -> anyhow::Result<()> {
        let name = &definition.name;
        let Some(Entry::Starting { error, .. }) = self.settled(definition).await? else { return Ok(()) };
        let found = load_manifest(&*self.context.store, &Incarnation(definition.incarnation.clone())).await?;
        match found {
            Some((manifest, _)) if !manifest.unpublished.is_empty() => {
                bail!(
                    "job {name} cannot start ({error}) and may have recorded what is not written yet; add DISCARD to give that up"
                )
            }
            _ => Ok(()),
        }
    }

    /// Ends an incarnation that this leader cannot start, so that its tables are free.
    async fn end_unstarted(&self, definition: &JobDefinition) -> anyhow::Result<()> {
        let (store, name) = (&*self.context.store, &definition.name);
        let (manifest, version) = match load_manifest(store, &Incarnation(definition.incarnation.clone())).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(job = %name, %error, "a dropped job's manifest stays as it is, and with it the job's claim to its tables");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if !ownership::end(store, &manifest, version).await? {
            bail!("job {name} starts at this moment; try again");
        }
        Ok(())
    }

    /// Ends a job's incarnation: nothing recorded is lost, what is unpublished is published first unless `discard`.
    pub async fn drop_job(&self, definition: &JobDefinition, discard: bool) -> anyhow::Result<()> {
        let entry = self.settled(definition).await?;
        let ended = match &entry {
            Some(Entry::Running(handle)) => Some((handle.incarnation.clone(), handle.spec.clone())),
            Some(Entry::Starting { .. }) | None => None,
        };
        match entry {
            // One that is over already was ended by a statement whose leader did not live to change the catalog.
            Some(Entry::Running(handle)) if handle.view().over => {}
            Some(Entry::Running(handle)) => {
                handle.command(Command::Drop { discard }).await?;
                let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                while !handle.view().over {
                    if tokio::time::Instant::now() > deadline {
                        bail!(
                            "job {} is still publishing what it recorded; it ends when that is done (its sink may be away)",
                            definition.name
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Some(Entry::Starting { .. }) => self.end_unstarted(definition).await?,
            None => {}
        }
        self.jobs.write().remove(&definition.name);
        if let Some((incarnation, spec)) = ended {
            self.delete_positions(&incarnation, &spec).await;
        }
        Ok(())
    }
}
