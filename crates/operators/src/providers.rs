//! Kafka topics and keyed tables as DataFusion tables.
use std::{cmp::Ordering, fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::ArrayRef,
        datatypes::{Schema, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{Column, Result, ScalarValue, project_schema},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType, expr::InList},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
};
use polybolos_kafka::decode::Field;
use polybolos_tables::{KeyPredicate, PredicateOp, ScanRequest, TableBackend, TableSchema};

use crate::{
    external,
    record_scan::{RecordScanExec, ScanSpec},
    table_scan::TableScanExec,
    task::{TaskDescriptor, descriptor_source},
};

/// Which offsets a scan of a topic covers.
#[derive(Clone, Debug)]
pub enum Reading {
    /// Those of a job's frames: the coordinator fills them in.
    Job,
    /// Those that there are when the query is planned.
    Query(Arc<dyn QueryRanges>),
}

/// Asks the broker for the ranges of a bounded query.
#[async_trait]
pub trait QueryRanges: fmt::Debug + Send + Sync {
    async fn ranges(&self) -> Result<Vec<TaskDescriptor>>;
}

/// A Kafka topic, for jobs and for queries.
#[derive(Debug)]
pub struct KafkaTable {
    schema: SchemaRef,
    /// Without its fields, which follow the projection.
    spec: ScanSpec,
    fields: Vec<Field>,
    reading: Reading,
}

impl KafkaTable {
    /// One field per column of `schema`.
    pub fn new(schema: SchemaRef, fields: Vec<Field>, spec: ScanSpec, reading: Reading) -> Self {
        Self { schema, spec, fields, reading }
    }
}

#[async_trait]
impl TableProvider for KafkaTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.fields.len()).collect();
        let kept = projection.unwrap_or(&all);
        let decoded: Schema = self.schema.project(kept)?;
        let mut spec = self.spec.clone();
        spec.fields = kept.iter().map(|&index| self.fields[index].clone()).collect();
        let ranges = match &self.reading {
            Reading::Job => vec![],
            Reading::Query(query) => match query.ranges().await? {
                // A plan without partitions cannot be sorted.
                ranges if ranges.is_empty() => return Ok(Arc::new(EmptyExec::new(Arc::new(decoded)))),
                ranges => ranges,
            },
        };
        let source = descriptor_source(&ranges)?;
        Ok(Arc::new(RecordScanExec::new(Arc::new(spec), Arc::new(decoded), Arc::new([]), source)))
    }
}

/// A keyed table of a backend: scanned slice by slice, key predicates pushed down.
pub struct KeyedTable {
    backend: Arc<dyn TableBackend>,
    table: TableSchema,
    /// The store has it from when the first job needs it; until then it is empty.
    made_on_demand: bool,
}

impl KeyedTable {
    pub fn new(backend: Arc<dyn TableBackend>, table: TableSchema, made_on_demand: bool) -> Self {
        Self { backend, table, made_on_demand }
    }
}

impl fmt::Debug for KeyedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTable").field("table", &self.table.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for KeyedTable {
    fn schema(&self) -> SchemaRef {
        self.table.arrow()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let predicates: Vec<Option<KeyPredicate>> = filters.iter().map(|filter| key_predicate(&self.table, filter)).collect();
        let known: Vec<KeyPredicate> = predicates.iter().flatten().cloned().collect();
        let mut applied = self.backend.supports(&self.table, &known).into_iter();
        let answer = predicates.iter().map(|predicate| match predicate {
            Some(_) if applied.next().unwrap_or(false) => TableProviderFilterPushDown::Exact,
            _ => TableProviderFilterPushDown::Unsupported,
        });
        Ok(answer.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(kept) => kept.iter().map(|&index| self.table.columns[index].name.clone()).collect(),
            None => self.table.columns.iter().map(|column| column.name.clone()).collect(),
        };
        let predicates = filters.iter().filter_map(|filter| key_predicate(&self.table, filter)).collect();
        let request = ScanRequest { table: self.table.clone(), columns, predicates, limit };
        if self.made_on_demand && self.backend.describe(&self.table.name).await.map_err(external)?.is_none() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema(), projection)?)));
        }
        let wanted = state.config().target_partitions();
        let slices = self.backend.slices(&request, wanted).await.map_err(external)?;
        Ok(Arc::new(TableScanExec::new(self.backend.clone(), request, slices)?))
    }
}

/// `key column op literal` or a list of them, cast to the column's type; anything else is left to a filter above.
fn key_predicate(table: &TableSchema, filter: &Expr) -> Option<KeyPredicate> {
    let (column, op, literals) = match compared(filter) {
        Some((column, op, literal)) => (column, op, vec![literal]),
        None => {
            let (column, literals) = listed(filter)?;
            (column, PredicateOp::In, literals)
        }
    };
    Some(KeyPredicate { column: column.name.clone(), op, values: key_values(table, &column.name, &literals)? })
}

fn compared(filter: &Expr) -> Option<(&Column, PredicateOp, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
    let (column, literal, op) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, value, *op),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, value, op.swap()?),
        _ => return None,
    };
    let op = match op {
        Operator::Eq => PredicateOp::Eq,
        Operator::Lt => PredicateOp::Lt,
        Operator::LtEq => PredicateOp::LtEq,
        Operator::Gt => PredicateOp::Gt,
        Operator::GtEq => PredicateOp::GtEq,
        _ => return None,
    };
    Some((column, op, literal))
}

/// `column IN (…)`; of a short list the optimiser makes `column = … OR column = …`.
fn listed(filter: &Expr) -> Option<(&Column, Vec<&ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let ((column, mut literals), (other, more)) = (listed(left)?, listed(right)?);
            literals.extend(more);
            (column == other).then_some((column, literals))
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let Expr::Column(column) = expr.as_ref() else { return None };
            let literals = list.iter().map(|item| match item {
                Expr::Literal(value, _) => Some(value),
                _ => None,
            });
            Some((column, literals.collect::<Option<_>>()?))
        }
        _ => compared(filter).filter(|(_, op, _)| *op == PredicateOp::Eq).map(|(column, _, literal)| (column, vec![literal])),
    }
}

/// Each value once. Those of one type are in a total order.
fn key_values(table: &TableSchema, column: &str, literals: &[&ScalarValue]) -> Option<ArrayRef> {
    if !table.is_key(column) || literals.is_empty() || literals.iter().any(|literal| literal.is_null()) {
        return None;
    }
    let data_type = &table.column(column)?.data_type;
    let cast = |literal: &&ScalarValue| literal.cast_to(data_type).ok().filter(|value| !value.is_null());
    let mut values = literals.iter().map(cast).collect::<Option<Vec<ScalarValue>>>()?;
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    values.dedup();
    ScalarValue::iter_to_array(values).ok()
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::AsArray,
            datatypes::{DataType, Int64Type},
        },
        logical_expr::{col, lit},
    };
    use polybolos_tables::TableName;

    use super::*;

    #[test]
    fn lists_of_a_key_are_one_predicate_however_they_are_written() {
        let table = TableSchema {
            name: TableName::new("k", "t"),
            columns: ["id", "v"].map(|name| polybolos_tables::Column::new(name, DataType::Int64)).to_vec(),
            partition_key: vec!["id".into()],
            clustering_key: vec![],
        };
        let found = |filter: Expr| {
            let predicate = key_predicate(&table, &filter)?;
            Some((predicate.op, predicate.values.as_primitive::<Int64Type>().values().to_vec()))
        };
        let is = |column: &str, value: i64| col(column).eq(lit(value));
        assert_eq!(found(is("id", 1)), Some((PredicateOp::Eq, vec![1])));
        assert_eq!(found(lit(1_i64).lt(col("id"))), Some((PredicateOp::Gt, vec![1])));
        assert_eq!(found(is("id", 2).or(is("id", 1)).or(is("id", 2))), Some((PredicateOp::In, vec![1, 2])));
        assert_eq!(found(col("id").in_list(vec![lit(3_i64), lit(3_i64), lit(4_i32)], false)), Some((PredicateOp::In, vec![3, 4])));
        for left in [
            is("id", 1).or(is("v", 2)),
            is("id", 1).or(col("id").gt(lit(2_i64))),
            col("id").in_list(vec![lit(3_i64)], true),
            col("id").in_list(vec![lit(3_i64), col("v")], false),
            col("id").in_list(vec![lit(3_i64), lit(ScalarValue::Int64(None))], false),
            is("v", 1),
        ] {
            assert_eq!(found(left.clone()), None, "{left}");
        }
    }
}
