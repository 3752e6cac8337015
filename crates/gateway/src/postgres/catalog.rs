//! A session that sees the engine's catalog as PostgreSQL would show it: one database `polybolos`, `pg_catalog` beside the engine's
//! schemas, PostgreSQL's functions. The engine's own session is left alone.
use std::sync::Arc;

use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider},
    error::Result,
    execution::session_state::SessionStateBuilder,
    prelude::SessionContext,
};
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::{context::EmptyContextProvider, setup_pg_catalog};
use parking_lot::RwLock;

use super::{DATABASE, functions};

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

pub fn session(engine: &SessionContext) -> Result<SessionContext> {
    let state = engine.state();
    let name = &state.config_options().catalog.default_catalog;
    let Some(catalog) = engine.catalog(name) else {
        return datafusion::common::config_err!("the engine's session has no catalog {name}");
    };
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(DATABASE.to_owned(), Arc::new(Overlay { engine: catalog, pg_catalog: RwLock::new(None) }));
    let schema = state.config_options().catalog.default_schema.clone();
    let config = state
        .config()
        .clone()
        .with_default_catalog_and_schema(DATABASE, schema)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    let state = SessionStateBuilder::new_from_existing(state).with_config(config).with_catalog_list(Arc::new(list)).build();
    let session = SessionContext::new_with_state(state);
    setup_pg_catalog(&session, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
    functions::register(&session);
    Ok(session)
}
