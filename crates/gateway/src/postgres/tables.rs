//! The tables of `pg_catalog` as one login sees them: the emulated ones, with the columns that they lack, and those that this door fills:
//! roles, views, keys, the one database.
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, StringArray},
        datatypes::{DataType, Field},
        record_batch::RecordBatch,
    },
    catalog::{MemTable, SchemaProvider},
    common::ScalarValue,
    datasource::{TableProvider, ViewTable, provider_as_source},
    error::Result,
    logical_expr::{Expr, LogicalPlanBuilder},
    prelude::{ident, lit},
};

use super::{
    DATABASE,
    keys::Keys,
    relations::external,
    views::{ViewName, Views},
};
use crate::auth::{Principal, Role};

/// The role that owns everything, in PostgreSQL's own numbering that of whoever made the cluster.
const OWNER: i32 = 10;

#[derive(Debug)]
pub struct PgCatalog {
    emulated: Arc<dyn SchemaProvider>,
    owner: Principal,
    views: Views,
    keys: Keys,
}

impl PgCatalog {
    pub fn new(emulated: Arc<dyn SchemaProvider>, owner: Principal, views: Views, keys: Keys) -> Self {
        Self { emulated, owner, views, keys }
    }

    /// One role: whoever is logged in.
    fn roles(&self, emulated: &dyn TableProvider) -> Result<Arc<dyn TableProvider>> {
        let schema = emulated.schema();
        let columns = schema.fields().iter().map(|field| role_column(field, &self.owner)?.to_array());
        let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<Vec<_>>>()?)?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
    }

    async fn views(&self, emulated: &dyn TableProvider) -> Result<Arc<dyn TableProvider>> {
        let names = self.views.names().await.map_err(external)?;
        let mut definitions = Vec::with_capacity(names.len());
        for view in &names {
            definitions.push(self.views.definition(view).await.map_err(external)?);
        }
        let texts = |text: fn(&ViewName) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(names.iter().map(text))) };
        let owners: ArrayRef = Arc::new(StringArray::from_iter_values(names.iter().map(|_| self.owner.name.as_str())));
        let definitions: ArrayRef = Arc::new(StringArray::from_iter_values(definitions));
        let columns = vec![texts(|view| view.schema.as_str()), texts(|view| view.name.as_str()), owners, definitions];
        let schema = emulated.schema();
        let batch = RecordBatch::try_new(schema.clone(), columns)?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
    }
}

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        self.emulated.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(emulated) = self.emulated.table(name).await? else { return Ok(None) };
        let table = match name {
            "pg_roles" => self.roles(emulated.as_ref())?,
            "pg_constraint" => self.keys.constraints(emulated.as_ref())?,
            "pg_index" => self.keys.indexes(emulated.as_ref())?,
            "pg_views" => self.views(emulated.as_ref()).await?,
            _ => completed(name, emulated)?,
        };
        Ok(Some(table))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.emulated.table_exist(name)
    }
}

fn role_column(field: &Field, owner: &Principal) -> Result<ScalarValue> {
    Ok(match field.name().as_str() {
        "oid" => ScalarValue::from(OWNER),
        "rolname" => ScalarValue::from(owner.name.as_str()),
        "rolsuper" | "rolcreaterole" | "rolcreatedb" => ScalarValue::from(owner.role == Role::Admin),
        "rolinherit" | "rolcanlogin" => ScalarValue::from(true),
        "rolreplication" | "rolbypassrls" => ScalarValue::from(false),
        "rolconnlimit" => ScalarValue::from(-1_i32),
        _ => ScalarValue::try_from(field.data_type())?,
    })
}

/// An emulated table with what clients of PostgreSQL expect of it.
fn completed(name: &str, table: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let schema = table.schema();
    let replacements: Vec<Option<Expr>> = schema.fields().iter().map(|field| replacement(name, field.name())).collect();
    let additions = additions(name);
    if additions.is_empty() && replacements.iter().all(Option::is_none) {
        return Ok(table);
    }
    let columns = schema.fields().iter().zip(replacements);
    let columns = columns.map(|(field, replacement)| match replacement {
        Some(value) => value.alias(field.name()),
        None => ident(field.name()),
    });
    let columns: Vec<Expr> = columns.chain(additions).collect();
    let mut plan = LogicalPlanBuilder::scan(name, provider_as_source(table), None)?;
    if name == "pg_database" {
        plan = plan.filter(ident("datname").eq(lit(DATABASE)))?;
    }
    Ok(Arc::new(ViewTable::new(plan.project(columns)?.build()?, None)))
}

/// Lists of privileges and settings are arrays, and there are none.
fn replacement(table: &str, column: &str) -> Option<Expr> {
    match (table, column) {
        ("pg_class", "relowner") => Some(lit(OWNER)),
        // libc.
        ("pg_database", "datlocprovider") => Some(lit("c")),
        (_, "setconfig") => Some(no_texts()),
        (_, column) if column.ends_with("acl") => Some(no_texts()),
        _ => None,
    }
}

fn additions(table: &str) -> Vec<Expr> {
    match table {
        "pg_class" => vec![no_texts().alias("relacl"), no_texts().alias("reloptions")],
        "pg_settings" => vec![ident("bool_val").alias("boot_val")],
        _ => Vec::new(),
    }
}

fn no_texts() -> Expr {
    lit(ScalarValue::new_null_list(DataType::Utf8, true, 1))
}
