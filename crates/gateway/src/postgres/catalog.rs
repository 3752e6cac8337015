//! Sessions that see the engine's catalog as PostgreSQL would show it: one database `polybolos`, `pg_catalog` beside the engine's
//! schemas, PostgreSQL's functions, everything owned by whoever is logged in. The engine's own session is left alone.
use std::sync::Arc;

use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider},
    error::Result,
    execution::session_state::SessionStateBuilder,
    prelude::SessionContext,
};
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::{
    PgCatalogSchemaProvider, PgCatalogStaticTables, context::EmptyContextProvider, setup_pg_catalog,
};
use parking_lot::RwLock;

use super::{DATABASE, functions, keys::Keys, relations::Relations, tables::PgCatalog, views::Views};
use crate::{auth::Principal, engine::Engine};

const PG_CATALOG: &str = "pg_catalog";

/// The engine's catalog, live, with schemas laid over it.
#[derive(Debug)]
struct Overlay {
    engine: Arc<dyn CatalogProvider>,
    pg_catalog: RwLock<Option<Arc<dyn SchemaProvider>>>,
}

impl CatalogProvider for Overlay {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.engine.schema_names();
        if !names.iter().any(|name| name == PG_CATALOG) {
            names.push(PG_CATALOG.to_owned());
        }
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == PG_CATALOG { self.pg_catalog.read().clone() } else { self.engine.schema(name) }
    }

    fn register_schema(&self, name: &str, schema: Arc<dyn SchemaProvider>) -> Result<Option<Arc<dyn SchemaProvider>>> {
        if name == PG_CATALOG {
            return Ok(self.pg_catalog.write().replace(schema));
        }
        datafusion::common::plan_err!("schemas are made by the engine")
    }
}

/// What all logins share.
pub struct Catalog {
    base: SessionContext,
    engine: Arc<dyn CatalogProvider>,
    emulated: Arc<dyn SchemaProvider>,
    views: Views,
    keys: Keys,
}

impl Catalog {
    pub fn new(engine: Arc<dyn Engine>) -> Result<Self> {
        let session = engine.session();
        let state = session.state();
        let name = &state.config_options().catalog.default_catalog;
        let Some(catalog) = session.catalog(name) else {
            return datafusion::common::config_err!("the engine's session has no catalog {name}");
        };
        let overlay = Arc::new(Overlay { engine: catalog.clone(), pg_catalog: RwLock::new(None) });
        let list: Arc<dyn CatalogProviderList> = Arc::new(MemoryCatalogProviderList::new());
        list.register_catalog(DATABASE.to_owned(), overlay.clone());
        let schema = state.config_options().catalog.default_schema.clone();
        let config = state
            .config()
            .clone()
            .with_default_catalog_and_schema(DATABASE, schema)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        let state = SessionStateBuilder::new_from_existing(state).with_config(config).with_catalog_list(list.clone()).build();
        let base = SessionContext::new_with_state(state);
        setup_pg_catalog(&base, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
        functions::register(&base);
        let views = Views::new(engine.clone());
        let relations = Relations::new(list, views.clone());
        let tables = Arc::new(PgCatalogStaticTables::try_new()?);
        let emulated: Arc<dyn SchemaProvider> =
            Arc::new(PgCatalogSchemaProvider::try_new(relations, tables, EmptyContextProvider)?);
        overlay.register_schema(PG_CATALOG, emulated.clone())?;
        let keys = Keys::new(emulated.clone(), engine);
        Ok(Self { base, engine: catalog, emulated, views, keys })
    }

    /// The session of one login.
    pub fn session(&self, owner: &Principal) -> SessionContext {
        let pg_catalog: Arc<dyn SchemaProvider> =
            Arc::new(PgCatalog::new(self.emulated.clone(), owner.clone(), self.views.clone(), self.keys.clone()));
        let overlay = Overlay { engine: self.engine.clone(), pg_catalog: RwLock::new(Some(pg_catalog)) };
        let list = MemoryCatalogProviderList::new();
        list.register_catalog(DATABASE.to_owned(), Arc::new(overlay));
        let state = SessionStateBuilder::new_from_existing(self.base.state()).with_catalog_list(Arc::new(list)).build();
        let session = SessionContext::new_with_state(state);
        functions::register_owner(&session, &owner.name);
        session
    }
}
