//! Stateless steps over decoded records: filters, projections and checks. A batch is evaluated as a whole; only when that fails is it
//! bisected, so that exactly the rows that fail become failures and all others go on.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array},
        compute::{filter, filter_record_batch, is_not_null},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    common::{Result, cast::as_boolean_array},
    physical_expr_common::physical_expr::is_volatile,
    physical_plan::PhysicalExpr,
};
use polybolos_tables::plain::plain;
use serde::{Deserialize, Serialize};

/// One step over the columns that the step before it left.
#[derive(Clone, Debug)]
pub enum Step {
    Filter(Arc<dyn PhysicalExpr>),
    Project { expressions: Vec<(Arc<dyn PhysicalExpr>, String)>, schema: SchemaRef },
}

impl Step {
    pub fn project(expressions: Vec<(Arc<dyn PhysicalExpr>, String)>, input: &Schema) -> Result<Self> {
        let fields = expressions
            .iter()
            .map(|(expression, name)| Ok(Field::new(name, expression.data_type(input)?, expression.nullable(input)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self::Project { expressions, schema: Arc::new(Schema::new(fields)) })
    }

    /// The same step over other expressions of the same types.
    pub fn map_expressions(&self, mut map: impl FnMut(&Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>>) -> Result<Self> {
        Ok(match self {
            Self::Filter(predicate) => Self::Filter(map(predicate)?),
            Self::Project { expressions, schema } => {
                let expressions = expressions.iter().map(|(expression, name)| Ok((map(expression)?, name.clone())));
                Self::Project { expressions: expressions.collect::<Result<_>>()?, schema: schema.clone() }
            }
        })
    }

    /// Whether it answers otherwise each time it is asked.
    pub fn is_volatile(&self) -> bool {
        match self {
            Self::Filter(predicate) => is_volatile(predicate),
            Self::Project { expressions, .. } => expressions.iter().any(|(expression, _)| is_volatile(expression)),
        }
    }

    /// The columns after this step, given those before it.
    pub fn output(&self, input: &SchemaRef) -> SchemaRef {
        match self {
            Self::Filter(_) => input.clone(),
            Self::Project { schema, .. } => schema.clone(),
        }
    }
}

/// What the sink is known to refuse (EPOCHS rule 15), checked before anything is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Index of a key column in the final columns.
    pub column: usize,
    pub name: String,
    /// Whether an empty text is refused too: Cassandra takes no empty partition key of one column.
    pub refuse_empty: bool,
}

/// Cassandra's limit of a key's bytes.
const MAX_KEY_BYTES: usize = 65_535;

impl Check {
    /// Rows that may pass, or `None` when all may.
    pub(crate) fn passes(&self, column: &ArrayRef) -> Result<Option<BooleanArray>> {
        let lengths_matter = matches!(column.data_type(), DataType::Utf8);
        if !lengths_matter {
            return if column.null_count() == 0 { Ok(None) } else { Ok(Some(is_not_null(column)?)) };
        }
        let texts = column.as_string::<i32>();
        let fits = |index: usize| {
            let bytes = texts.value_length(index) as usize;
            texts.is_valid(index) && bytes <= MAX_KEY_BYTES && !(self.refuse_empty && bytes == 0)
        };
        if (0..texts.len()).all(fits) {
            return Ok(None);
        }
        Ok(Some((0..texts.len()).map(|index| Some(fits(index))).collect()))
    }

    pub(crate) fn complaint(&self, column: &ArrayRef, row: usize) -> String {
        if column.is_null(row) {
            return format!("key column {:?} is null", self.name);
        }
        match column.as_string_opt::<i32>() {
            Some(texts) if texts.value(row).is_empty() => format!("key column {:?} is empty", self.name),
            _ => format!("key column {:?} is longer than {MAX_KEY_BYTES} bytes", self.name),
        }
    }
}

/// A record that a step or a check refused: its index among the chunk's records, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub record: u32,
    pub error: String,
}

/// Runs all steps and checks. `records` names the record of each row of `batch`.
pub fn run(
    steps: &[Step],
    checks: &[Check],
    batch: RecordBatch,
    records: UInt32Array,
    failures: &mut Vec<Failure>,
) -> Result<Vec<RecordBatch>> {
    let mut output = Vec::with_capacity(1);
    run_bisecting(steps, checks, batch, records, failures, &mut output)?;
    Ok(output)
}

fn run_bisecting(
    steps: &[Step],
    checks: &[Check],
    batch: RecordBatch,
    records: UInt32Array,
    failures: &mut Vec<Failure>,
    output: &mut Vec<RecordBatch>,
) -> Result<()> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Ok(());
    }
    match evaluate(steps, batch.clone(), records.clone()) {
        Ok((batch, records)) => {
            let batch = apply_checks(checks, batch, records, failures)?;
            if batch.num_rows() > 0 {
                output.push(batch);
            }
            Ok(())
        }
        Err(error) if rows == 1 => {
            failures.push(Failure { record: records.value(0), error: plain(&error.to_string()) });
            Ok(())
        }
        Err(_) => {
            let half = rows / 2;
            for (start, length) in [(0, half), (half, rows - half)] {
                run_bisecting(steps, checks, batch.slice(start, length), records.slice(start, length), failures, output)?;
            }
            Ok(())
        }
    }
}

/// Runs the steps over rows that are no records: a failure has the row's place.
pub(crate) fn apply(steps: &[Step], batch: RecordBatch, failures: &mut Vec<Failure>) -> Result<Vec<RecordBatch>> {
    let rows = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
    run(steps, &[], batch, rows, failures)
}

fn evaluate(steps: &[Step], mut batch: RecordBatch, mut records: UInt32Array) -> Result<(RecordBatch, UInt32Array)> {
    for step in steps {
        match step {
            Step::Filter(predicate) => {
                let mask = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
                let mask = as_boolean_array(&mask)?;
                records = filter(&records, mask)?.as_primitive().clone();
                batch = filter_record_batch(&batch, mask)?;
            }
            Step::Project { expressions, schema } => {
                let rows = batch.num_rows();
                let columns = expressions
                    .iter()
                    .map(|(expression, _)| expression.evaluate(&batch)?.into_array(rows))
                    .collect::<Result<Vec<_>>>()?;
                let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
                batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
            }
        }
    }
    Ok((batch, records))
}

fn apply_checks(
    checks: &[Check],
    mut batch: RecordBatch,
    mut records: UInt32Array,
    failures: &mut Vec<Failure>,
) -> Result<RecordBatch> {
    for check in checks {
        let column = batch.column(check.column).clone();
        let Some(passes) = check.passes(&column)? else { continue };
        for row in (0..passes.len()).filter(|&row| !passes.value(row)) {
            failures.push(Failure { record: records.value(row), error: check.complaint(&column, row) });
        }
        records = filter(&records, &passes)?.as_primitive().clone();
        batch = filter_record_batch(&batch, &passes)?;
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::array::{Int32Array, StringArray},
        logical_expr::Operator,
        physical_expr::expressions::{binary, cast, col, lit},
    };

    use super::*;

    fn input() -> RecordBatch {
        let schema = Schema::new(vec![Field::new("id", DataType::Utf8, true), Field::new("age", DataType::Utf8, true)]);
        let ids = StringArray::from(vec![Some("a"), None, Some("c"), Some(""), Some("e")]);
        let ages = StringArray::from(vec!["1", "2", "three", "4", "5"]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(ages)]).expect("test batch")
    }

    #[test]
    fn only_the_rows_that_fail_are_lost_to_a_failing_cast_and_to_checks() {
        let batch = input();
        let schema = batch.schema();
        let age = cast(col("age", &schema).expect("column"), &schema, DataType::Int32).expect("cast");
        let steps =
            [Step::project(vec![(col("id", &schema).expect("column"), "id".into()), (age, "age".into())], &schema).expect("step")];
        let checks = [Check { column: 0, name: "id".into(), refuse_empty: true }];
        let mut failures = vec![];
        let output = run(&steps, &checks, batch, UInt32Array::from(vec![10, 11, 12, 13, 14]), &mut failures).expect("runs");
        let ages: Vec<i32> = output
            .iter()
            .flat_map(|b| b.column(1).as_primitive::<datafusion::arrow::datatypes::Int32Type>().values().to_vec())
            .collect();
        assert_eq!(ages, [1, 5]);
        failures.sort_by_key(|failure| failure.record);
        assert_eq!(failures.iter().map(|f| f.record).collect::<Vec<_>>(), [11, 12, 13]);
        assert_eq!(failures[0].error, "key column \"id\" is null");
        assert!(failures[1].error.contains("three"), "{}", failures[1].error);
        assert_eq!(failures[2].error, "key column \"id\" is empty");
    }

    #[test]
    fn filters_drop_rows_and_keep_their_record_numbers() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int32Array::from(vec![Some(1), None, Some(0), Some(2)]))])
            .expect("batch");
        let n = col("n", &schema).expect("column");
        // 10 / n > 4 fails for 0, is unknown for NULL, true for 1 and 2.
        let quotient = binary(lit(10), Operator::Divide, n, &schema).expect("expression");
        let steps = [Step::Filter(binary(quotient, Operator::Gt, lit(4), &schema).expect("expression"))];
        let mut failures = vec![];
        let output = run(&steps, &[], batch, UInt32Array::from(vec![0, 1, 2, 3]), &mut failures).expect("runs");
        assert_eq!(output.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
        assert_eq!(failures.iter().map(|f| f.record).collect::<Vec<_>>(), [2]);
    }
}
