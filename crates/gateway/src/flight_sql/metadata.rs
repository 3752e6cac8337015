//! What drivers ask before the first query: what this server can do, and what there is. Names come from the engine's live catalog.
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, Nullable, Searchable, SqlInfo,
    SqlSupportedCaseSensitivity, SqlSupportedTransaction, XdbcDataType,
    metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder},
};
use datafusion::{
    arrow::{
        datatypes::{DataType, Field, Schema, SchemaRef},
        record_batch::RecordBatch,
    },
    logical_expr::TableType,
    prelude::SessionContext,
};
use tonic::Status;

use crate::postgres::views::Views;

const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
const TEMPORARY: &str = "LOCAL TEMPORARY";

pub fn sql_info() -> SqlInfoData {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Polybolos");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, false);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, true);
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32);
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    info.build().expect("the constants above fit their types")
}

/// The types that answers can contain.
pub fn type_info() -> XdbcTypeInfoData {
    let mut types = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, column_size) in [
        ("BOOLEAN", XdbcDataType::XdbcBit, Some(1)),
        ("SMALLINT", XdbcDataType::XdbcSmallint, Some(5)),
        ("INTEGER", XdbcDataType::XdbcInteger, Some(10)),
        ("BIGINT", XdbcDataType::XdbcBigint, Some(19)),
        ("FLOAT", XdbcDataType::XdbcFloat, Some(7)),
        ("DOUBLE", XdbcDataType::XdbcDouble, Some(15)),
        ("DECIMAL", XdbcDataType::XdbcDecimal, Some(38)),
        ("VARCHAR", XdbcDataType::XdbcVarchar, None),
        ("VARBINARY", XdbcDataType::XdbcVarbinary, None),
        ("DATE", XdbcDataType::XdbcDate, Some(10)),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(29)),
    ] {
        types.append(XdbcTypeInfo {
            type_name: name.into(),
            data_type,
            column_size,
            literal_prefix: None,
            literal_suffix: None,
            create_params: None,
            nullable: Nullable::NullabilityNullable,
            case_sensitive: true,
            searchable: Searchable::Full,
            unsigned_attribute: None,
            fixed_prec_scale: false,
            auto_increment: None,
            local_type_name: Some(name.into()),
            minimum_scale: None,
            maximum_scale: None,
            sql_data_type: data_type,
            datetime_subcode: None,
            num_prec_radix: None,
            interval_precision: None,
        });
    }
    types.build().expect("the constants above fit their types")
}

pub fn catalogs(session: &SessionContext, query: CommandGetCatalogs) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for name in session.catalog_names() {
        builder.append(name);
    }
    builder.build().map_err(internal)
}

pub fn schemas(session: &SessionContext, query: CommandGetDbSchemas) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for catalog_name in session.catalog_names() {
        for schema_name in session.catalog(&catalog_name).map(|catalog| catalog.schema_names()).unwrap_or_default() {
            builder.append(&catalog_name, &schema_name);
        }
    }
    builder.build().map_err(internal)
}

pub async fn tables(session: &SessionContext, views: &Views, query: CommandGetTables) -> Result<RecordBatch, Status> {
    let asks_columns = query.include_schema;
    let mut builder = query.into_builder();
    for catalog_name in session.catalog_names() {
        let Some(catalog) = session.catalog(&catalog_name) else { continue };
        for schema_name in catalog.schema_names() {
            let Some(schema) = catalog.schema(&schema_name) else { continue };
            for table_name in schema.table_names() {
                // Dropped since the list was made.
                let Ok(Some(table)) = schema.table(&table_name).await else { continue };
                let kind = match table.table_type() {
                    TableType::Base => TABLE,
                    TableType::View => VIEW,
                    TableType::Temporary => TEMPORARY,
                };
                builder.append(&catalog_name, &schema_name, &table_name, kind, table.schema().as_ref()).map_err(internal)?;
            }
        }
    }
    let catalog_name = session.state().config_options().catalog.default_catalog.clone();
    for view in views.names().await? {
        let columns = if asks_columns { views.columns(&view).await } else { Ok(SchemaRef::new(Schema::empty())) };
        // Dropped since the list was made.
        let Ok(columns) = columns else { continue };
        builder.append(&catalog_name, &view.schema, &view.name, VIEW, columns.as_ref()).map_err(internal)?;
    }
    builder.build().map_err(internal)
}

/// Of an answer without rows: the key of a table says which row a new one replaces, and the catalog does not know it.
pub fn primary_keys() -> SchemaRef {
    let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
    SchemaRef::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        text("key_name", true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// Of an answer without rows: no table refers to another.
pub fn foreign_keys() -> SchemaRef {
    let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
    SchemaRef::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

pub fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, Status> {
    let mut builder = query.into_builder();
    for kind in [TABLE, VIEW, TEMPORARY] {
        builder.append(kind);
    }
    builder.build().map_err(internal)
}

pub fn internal<E: std::fmt::Display>(error: E) -> Status {
    Status::internal(format!("metadata: {}", polybolos_tables::plain::plain(&error.to_string())))
}
