//! A store for tests of look-ups.
use std::{fmt, ops::Deref, sync::Arc};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use futures::{StreamExt, stream::BoxStream};
use polybolos_tables::{
    CreateOptions, KeyPredicate, ScanRequest, ScanSlice, TableBackend, TableError, TableName, TableSchema, TableWriter,
    WriteOptions,
};

/// What the tables of such a store have.
pub(super) trait Rows: fmt::Debug + Send + Sync + 'static {
    /// Whether it is away, each time that it is asked.
    fn is_away(&self) -> bool;

    fn rows(&self, request: &ScanRequest) -> RecordBatch;
}

/// Tables of which rows are only asked for, by their keys.
#[derive(Debug, Default)]
pub(super) struct Store<R>(pub R);

impl<R> Deref for Store<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.0
    }
}

#[async_trait]
impl<R: Rows> TableBackend for Store<R> {
    fn store(&self) -> &str {
        "test"
    }
    async fn describe(&self, _: &TableName) -> Result<Option<TableSchema>, TableError> {
        Ok(None)
    }
    async fn create(&self, _: &TableSchema, _: &CreateOptions) -> Result<(), TableError> {
        Ok(())
    }
    async fn gc_grace_seconds(&self, _: &TableName) -> Result<Option<u64>, TableError> {
        Ok(None)
    }
    async fn list(&self) -> Result<Vec<TableName>, TableError> {
        Ok(vec![])
    }
    async fn clock_us(&self) -> Result<i64, TableError> {
        Ok(0)
    }
    async fn writer(&self, _: &TableSchema, _: &[String], _: &WriteOptions) -> Result<Arc<dyn TableWriter>, TableError> {
        Err(TableError::Bug("nothing is written".into()))
    }
    fn supports(&self, _: &TableSchema, predicates: &[KeyPredicate]) -> Vec<bool> {
        vec![true; predicates.len()]
    }
    async fn slices(&self, _: &ScanRequest, _: usize) -> Result<Vec<ScanSlice>, TableError> {
        if self.0.is_away() {
            return Err(TableError::Unavailable { store: "test".into(), message: "away".into(), source: None });
        }
        Ok(vec![ScanSlice { descriptor: "all".into() }])
    }
    fn scan(&self, request: &ScanRequest, _: &ScanSlice) -> BoxStream<'static, Result<RecordBatch, TableError>> {
        futures::stream::iter([Ok(self.0.rows(request))]).boxed()
    }
}
