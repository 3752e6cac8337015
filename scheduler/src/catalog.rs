//! The durable catalog: one object, replaced by compare-and-swap, so that of two statements at once one wins and the other is tried again.
use std::sync::Arc;

use parking_lot::RwLock;
use polybolos_persist::{Expected, Store, StoreError, Swap, Version, envelope, keys};
use polybolos_sql::{catalog::Catalog, error::SqlError};
use thiserror::Error;

/// Statements that lose a race are tried again so often.
const RACES: usize = 10;

#[derive(Debug, Error)]
pub enum CatalogError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the catalog is being changed by somebody else all the time; try again")]
    Busy,
}

#[derive(Debug)]
pub struct CatalogStore {
    store: Arc<dyn Store>,
    current: RwLock<(Arc<Catalog>, Option<Version>)>,
}

impl CatalogStore {
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let current = load(&*store).await?;
        Ok(Self { store, current: RwLock::new(current) })
    }

    pub fn current(&self) -> Arc<Catalog> {
        self.current.read().0.clone()
    }

    /// Reads the stored catalog again, as a new leader must.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let loaded = load(&*self.store).await?;
        *self.current.write() = loaded;
        Ok(())
    }

    /// Stores what `change` makes of the catalog; answers the catalogs before and after.
    pub async fn change(
        &self,
        change: impl Fn(&Catalog) -> Result<Catalog, SqlError>,
    ) -> Result<(Arc<Catalog>, Arc<Catalog>), CatalogError> {
        for _ in 0..RACES {
            let (before, version) = self.current.read().clone();
            let after = Arc::new(change(&before)?);
            if after == before {
                return Ok((before, after));
            }
            let bytes = envelope::encode("catalog", &*after)?;
            let expected = version.map_or(Expected::Absent, Expected::Version);
            match self.store.put_if(keys::CATALOG, bytes, expected).await? {
                Swap::Stored(version) => {
                    *self.current.write() = (after.clone(), Some(version));
                    return Ok((before, after));
                }
                Swap::Conflict => self.refresh().await?,
            }
        }
        Err(CatalogError::Busy)
    }
}

async fn load(store: &dyn Store) -> Result<(Arc<Catalog>, Option<Version>), StoreError> {
    Ok(match store.get(keys::CATALOG).await? {
        Some((bytes, version)) => (Arc::new(envelope::decode(keys::CATALOG, "catalog", &bytes)?), Some(version)),
        None => (Arc::default(), None),
    })
}
