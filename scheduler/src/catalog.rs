//! The durable catalog: one object, replaced by compare-and-swap, so that of two statements at once one wins and the other is tried again.
use std::sync::Arc;

use parking_lot::RwLock;
use polybolos_persist::{Expected, Store, StoreError, Swap, Version, envelope, keys};
use polybolos_sql::{catalog::Catalog, error::SqlError};
use thiserror::Error;
use tokio::sync::Mutex;

/// Statements that lose a race against another process are tried again so often.
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
    /// Held from the look at the store until `current` follows: versions have no order, so what was read first must be set first. Statements of
    /// this process wait here for each other instead of racing.
    changing: Mutex<()>,
}

impl CatalogStore {
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let current = load(&*store).await?;
        Ok(Self { store, current: RwLock::new(current), changing: Mutex::default() })
    }

    pub fn current(&self) -> Arc<Catalog> {
        self.current.read().0.clone()
    }

    /// Reads the stored catalog again, as a new leader must.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        self.reload().await
    }

    /// Only for who holds `changing`.
    async fn reload(&self) -> Result<(), StoreError> {
        let loaded = load(&*self.store).await?;
        *self.current.write() = loaded;
        Ok(())
    }

    /// Stores what `change` makes of the catalog; answers the catalogs before and after.
    pub async fn change(
        &self,
        change: impl Fn(&Catalog) -> Result<Catalog, SqlError>,
    ) -> Result<(Arc<Catalog>, Arc<Catalog>), CatalogError> {
        let _changing = self.changing.lock().await;
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
                Swap::Conflict => self.reload().await?,
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use polybolos_persist::{Entry, NewFile};
    use polybolos_sql::{
        catalog::{Change, ViewDefinition, apply},
        names::RelationName,
        parser::parse,
    };

    use super::*;

    /// One object, whose bytes and answers take their time on the way, so that what others do meanwhile comes in between.
    #[derive(Debug, Default)]
    struct SlowStore {
        object: parking_lot::Mutex<Option<(Bytes, u64)>>,
    }

    async fn on_the_way() {
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }

    #[async_trait]
    impl Store for SlowStore {
        async fn get(&self, _: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
            let found = self.object.lock().clone();
            on_the_way().await;
            Ok(found.map(|(bytes, version)| (bytes, Version(version.to_string()))))
        }

        async fn put_if(&self, _: &str, bytes: Bytes, expected: Expected) -> Result<Swap, StoreError> {
            tokio::task::yield_now().await;
            let mut object = self.object.lock();
            let version = object.as_ref().map(|(_, version)| *version);
            if expected != version.map_or(Expected::Absent, |version| Expected::Version(Version(version.to_string()))) {
                return Ok(Swap::Conflict);
            }
            let next = version.unwrap_or_default() + 1;
            *object = Some((bytes, next));
            Ok(Swap::Stored(Version(next.to_string())))
        }

        async fn create(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
            unreachable!("the catalog is one object")
        }

        async fn read(&self, _: &str) -> Result<Bytes, StoreError> {
            unreachable!("the catalog is one object")
        }

        async fn read_range(&self, _: &str, _: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
            unreachable!("the catalog is one object")
        }

        async fn begin(&self, _: &str) -> Result<Box<dyn NewFile>, StoreError> {
            unreachable!("the catalog is one object")
        }

        async fn delete(&self, _: &[String]) -> Result<(), StoreError> {
            unreachable!("the catalog is one object")
        }

        async fn list(&self, _: &str) -> Result<Vec<Entry>, StoreError> {
            unreachable!("the catalog is one object")
        }

        async fn folders(&self, _: &str) -> Result<Vec<String>, StoreError> {
            unreachable!("the catalog is one object")
        }

        fn describe(&self) -> String {
            "memory".to_owned()
        }

        fn serves_one_machine(&self) -> bool {
            true
        }
    }

    async fn create_view(catalog: &CatalogStore, name: &str) -> Result<(), CatalogError> {
        let name = RelationName::new("public", name);
        let with_view = |catalog: &Catalog| {
            let mut after = catalog.clone();
            after.views.push(ViewDefinition { name: name.clone(), sql: String::new(), sources: vec![] });
            Ok(after)
        };
        catalog.change(with_view).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_catalog_that_was_read_earlier_does_not_replace_a_newer_one() {
        let catalog = CatalogStore::open(Arc::<SlowStore>::default()).await.expect("opened");
        create_view(&catalog, "first").await.expect("stored");
        let (refreshed, created) = tokio::join!(catalog.refresh(), create_view(&catalog, "second"));
        refreshed.expect("read");
        created.expect("stored");
        assert_eq!(catalog.current().views.len(), 2, "what was acknowledged is there for the next statement");
    }

    #[tokio::test]
    async fn functions_are_there_after_a_restart() {
        let store = Arc::<SlowStore>::default();
        let catalog = CatalogStore::open(store.clone()).await.expect("opened");
        let created = parse("CREATE FUNCTION half(n BIGINT) RETURNS BIGINT RETURN n / 2").expect("read").remove(0);
        let change = Change { now_us: 0, incarnation: "a1".into() };
        catalog.change(|catalog| apply(catalog, &created, &change)).await.expect("stored");
        let again = CatalogStore::open(store).await.expect("opened").current();
        assert_eq!(again.function("half").expect("kept").sql, created.sql);
        assert_eq!(again, catalog.current());
    }

    #[tokio::test]
    async fn statements_of_one_process_wait_for_each_other() {
        let store = Arc::<SlowStore>::default();
        let catalog = CatalogStore::open(store.clone()).await.expect("opened");
        let names: Vec<String> = (0..3 * RACES).map(|number| format!("view_{number}")).collect();
        let created = futures::future::join_all(names.iter().map(|name| create_view(&catalog, name))).await;
        assert!(created.iter().all(Result::is_ok), "{created:?}");
        assert_eq!(catalog.current().views.len(), names.len());
        assert_eq!(CatalogStore::open(store).await.expect("opened").current(), catalog.current());
    }

    #[tokio::test]
    async fn a_change_by_another_process_is_built_on() {
        let store = Arc::<SlowStore>::default();
        let (here, there) =
            (CatalogStore::open(store.clone()).await.expect("opened"), CatalogStore::open(store.clone()).await.expect("opened"));
        create_view(&there, "there").await.expect("stored");
        create_view(&here, "here").await.expect("stored");
        assert_eq!(here.current().views.len(), 2);
    }
}
