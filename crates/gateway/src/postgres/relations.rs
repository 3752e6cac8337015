//! What the emulated catalog lists: the tables of the engine's catalog, and its views beside them.
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::CatalogProviderList,
    datasource::TableType,
    error::{DataFusionError, Result},
};
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::catalog_info::CatalogInfo;

use super::views::Views;
use crate::error::EngineError;

#[derive(Clone, Debug)]
pub struct Relations {
    catalogs: Arc<dyn CatalogProviderList>,
    views: Views,
}

impl Relations {
    pub fn new(catalogs: Arc<dyn CatalogProviderList>, views: Views) -> Self {
        Self { catalogs, views }
    }
}

#[async_trait]
impl CatalogInfo for Relations {
    async fn catalog_names(&self) -> Result<Vec<String>> {
        CatalogInfo::catalog_names(&self.catalogs).await
    }

    async fn schema_names(&self, catalog: &str) -> Result<Option<Vec<String>>> {
        CatalogInfo::schema_names(&self.catalogs, catalog).await
    }

    async fn table_names(&self, catalog: &str, schema: &str) -> Result<Option<Vec<String>>> {
        let Some(mut names) = CatalogInfo::table_names(&self.catalogs, catalog, schema).await? else { return Ok(None) };
        for view in self.views.names().await.map_err(external)? {
            if view.schema == schema && !names.contains(&view.name) {
                names.push(view.name);
            }
        }
        Ok(Some(names))
    }

    async fn table_schema(&self, catalog: &str, schema: &str, table: &str) -> Result<Option<SchemaRef>> {
        let known = CatalogInfo::table_schema(&self.catalogs, catalog, schema, table).await?;
        if known.is_some() {
            return Ok(known);
        }
        match self.views.find(schema, table).await.map_err(external)? {
            Some(view) => Ok(Some(self.views.columns(&view).await.map_err(external)?)),
            None => Ok(None),
        }
    }

    async fn table_type(&self, catalog: &str, schema: &str, table: &str) -> Result<Option<TableType>> {
        let known = CatalogInfo::table_type(&self.catalogs, catalog, schema, table).await?;
        if known.is_some() {
            return Ok(known);
        }
        let view = self.views.find(schema, table).await.map_err(external)?;
        Ok(view.map(|_| TableType::View))
    }
}

pub fn external(error: EngineError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
