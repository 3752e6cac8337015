//! The catalog as DataFusion sees it: catalog `polybolos`, schema `public`, one schema per keyspace, the system tables in schema
//! `polybolos`. Tables come from a [`Catalog`], what reads them from [`Providers`], which the scheduler implements.
use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider},
    common::Result,
    datasource::{TableType, empty::EmptyTable},
};
use parking_lot::RwLock;

use crate::{
    catalog::{Catalog, TableDefinition},
    names::{CATALOG, DEFAULT_SCHEMA, LOOKUP_PREFIX, RelationName, SYSTEM_SCHEMA},
};

/// The system tables, as far as [`Providers::system`] has them.
pub const SYSTEM_TABLES: [&str; 18] = [
    "jobs",
    "completeness",
    "epochs",
    "job_events",
    "savepoints",
    "operators",
    "topics",
    "partitions",
    "executors",
    "dead_letters",
    "late_rows",
    "feeds",
    "models",
    "model_versions",
    "model_metrics",
    "settings",
    "verifications",
    "verification_differences",
];

/// What a table is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// By a job, epoch after epoch: the provider's plan gets its frame filled in.
    Stream,
    /// By a query: everything there is when it starts, then the end.
    Bounded,
    /// By a job, row by row, by key (`FOR SYSTEM_TIME AS OF`). The scan stands in schema `lookup:…`.
    Lookup,
}

/// Makes DataFusion tables of declared ones.
#[async_trait]
pub trait Providers: fmt::Debug + Send + Sync {
    /// A table whose schema is [`TableDefinition::read_schema`]; `table` has no computed columns, which are planned over it. Called for every table that a query names and, for
    /// `information_schema`, for all: ask Kafka and Cassandra nothing here, but when the plan is made.
    async fn provider(&self, table: &TableDefinition, usage: Use) -> Result<Arc<dyn TableProvider>>;

    /// A table of the schema `polybolos`; one of [`SYSTEM_TABLES`].
    fn system(&self, table: &str) -> Option<Arc<dyn TableProvider>>;
}

/// Gives the catalog of this moment.
pub type Snapshot = Arc<dyn Fn() -> Arc<Catalog> + Send + Sync>;

type Planned = RwLock<BTreeMap<RelationName, Arc<dyn TableProvider>>>;

/// A DataFusion catalog over ours. Follows its [`Snapshot`], so that one can be registered in a long-lived session.
pub struct PolybolosCatalog {
    snapshot: Snapshot,
    providers: Arc<dyn Providers>,
    usage: Use,
    /// Views and tables with computed columns that the query at hand stands on.
    planned: Arc<Planned>,
    /// Schemas of others, as `pg_catalog`.
    registered: RwLock<BTreeMap<String, Arc<dyn SchemaProvider>>>,
    /// The catalog of this name in the session that a plan is made for.
    below: Option<Arc<dyn CatalogProvider>>,
}

impl PolybolosCatalog {
    pub fn new(snapshot: Snapshot, providers: Arc<dyn Providers>, usage: Use) -> Self {
        Self { snapshot, providers, usage, planned: Arc::default(), registered: RwLock::default(), below: None }
    }

    /// What stands for a view, or for a table with computed columns.
    pub(crate) fn put(&self, name: RelationName, planned: Arc<dyn TableProvider>) {
        self.planned.write().insert(name, planned);
    }

    /// Schemas that we do not have are looked up in `below`.
    pub(crate) fn above(mut self, below: Option<Arc<dyn CatalogProvider>>) -> Self {
        self.below = below;
        self
    }
}

impl fmt::Debug for PolybolosCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolybolosCatalog").field("usage", &self.usage).finish_non_exhaustive()
    }
}

impl CatalogProvider for PolybolosCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = (self.snapshot)().schemas();
        names.push(SYSTEM_SCHEMA.to_owned());
        names.extend(self.registered.read().keys().cloned());
        names.extend(self.below.iter().flat_map(|below| below.schema_names()));
        names.sort();
        names.dedup();
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == SYSTEM_SCHEMA {
            return Some(Arc::new(SystemSchema { providers: self.providers.clone() }));
        }
        let catalog = (self.snapshot)();
        if let Some(name) = name.strip_prefix(LOOKUP_PREFIX) {
            let usage = if self.usage == Use::Stream { Use::Lookup } else { self.usage };
            let (name, providers) = (name.to_owned(), self.providers.clone());
            return Some(Arc::new(DeclaredSchema { name, catalog, providers, usage, planned: self.planned.clone() }));
        }
        if name == DEFAULT_SCHEMA || catalog.schemas().iter().any(|schema| schema == name) {
            let (name, providers) = (name.to_owned(), self.providers.clone());
            return Some(Arc::new(DeclaredSchema { name, catalog, providers, usage: self.usage, planned: self.planned.clone() }));
        }
        let registered = self.registered.read().get(name).cloned();
        registered.or_else(|| self.below.as_ref().and_then(|below| below.schema(name)))
    }

    fn register_schema(&self, name: &str, schema: Arc<dyn SchemaProvider>) -> Result<Option<Arc<dyn SchemaProvider>>> {
        Ok(self.registered.write().insert(name.to_owned(), schema))
    }
}

/// The tables declared in one schema, and those stored in the keyspace of this name.
struct DeclaredSchema {
    name: String,
    catalog: Arc<Catalog>,
    providers: Arc<dyn Providers>,
    usage: Use,
    planned: Arc<Planned>,
}

impl fmt::Debug for DeclaredSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeclaredSchema").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for DeclaredSchema {
    fn table_names(&self) -> Vec<String> {
        let here = |table: &&TableDefinition| table.name.schema == self.name;
        let tables = self.catalog.tables.iter().filter(here).map(|table| table.name.name.clone());
        let views = self.catalog.views.iter().filter(|view| view.name.schema == self.name).map(|view| view.name.name.clone());
        tables.chain(views).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let name = RelationName::new(&self.name, name);
        if self.catalog.find_view(&name).is_some() {
            return Ok(self.planned.read().get(&name).cloned());
        }
        let Some(table) = self.catalog.find_table(&name) else { return Ok(None) };
        if table.has_plan() {
            // Who only looks at the schema has planned nothing.
            let planned = self.planned.read().get(&table.name).cloned();
            return Ok(Some(planned.unwrap_or_else(|| Arc::new(EmptyTable::new(table.arrow_schema())))));
        }
        self.providers.provider(table, self.usage).await.map(Some)
    }

    /// A table with a plan of its own is a table all the same, and a view is one before it is planned.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        let name = RelationName::new(&self.name, name);
        if self.catalog.find_view(&name).is_some() {
            return Ok(Some(TableType::View));
        }
        Ok(self.catalog.find_table(&name).map(|_| TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        let name = RelationName::new(&self.name, name);
        self.catalog.find_table(&name).is_some() || self.catalog.find_view(&name).is_some()
    }
}

struct SystemSchema {
    providers: Arc<dyn Providers>,
}

impl fmt::Debug for SystemSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemSchema")
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        SYSTEM_TABLES.iter().filter(|name| self.table_exist(name)).map(|name| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.providers.system(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.providers.system(name).is_some()
    }
}

/// The catalogs of a session, with ours in place of its `polybolos`.
#[derive(Debug)]
pub(crate) struct CatalogsWithOurs {
    pub ours: Arc<PolybolosCatalog>,
    pub others: Arc<dyn CatalogProviderList>,
}

impl CatalogProviderList for CatalogsWithOurs {
    fn register_catalog(&self, name: String, catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        self.others.register_catalog(name, catalog)
    }

    fn catalog_names(&self) -> Vec<String> {
        let mut names = self.others.catalog_names();
        if !names.iter().any(|name| name == CATALOG) {
            names.push(CATALOG.to_owned());
        }
        names
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        if name == CATALOG { Some(self.ours.clone()) } else { self.others.catalog(name) }
    }
}
