//! Answers as multisets of rows: what deltas add up to, and how that differs from what it should be.
use std::{collections::BTreeMap, fmt};

use datafusion::arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float64Type},
    util::display::{ArrayFormatter, FormatOptions},
};

/// Floats may differ by so much of the larger.
const TOLERANCE: f64 = 1e-9;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Text(String),
    /// The bits, so that a row that was put in is the one that is taken out.
    Float(u64),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Float(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
        }
    }
}

/// Rows with how often each is there.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    rows: BTreeMap<Vec<Cell>, i64>,
    types: Option<Vec<DataType>>,
}

impl Answer {
    pub fn of(batches: &[RecordBatch]) -> Result<Self, String> {
        let mut answer = Self::default();
        for batch in batches {
            answer.add(batch, &vec![1; batch.num_rows()])?;
        }
        Ok(answer)
    }

    pub fn add(&mut self, batch: &RecordBatch, weights: &[i64]) -> Result<(), String> {
        if weights.len() != batch.num_rows() {
            return Err(format!("{} weights for {} rows", weights.len(), batch.num_rows()));
        }
        let types: Vec<DataType> = batch.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        match &self.types {
            Some(before) if *before != types => return Err(format!("columns of types {types:?} after {before:?}")),
            _ => self.types = Some(types),
        }
        let options = FormatOptions::default().with_null("NULL");
        let formatters = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        for (row, weight) in weights.iter().enumerate() {
            let cells = batch.columns().iter().zip(&formatters).map(|(column, formatter)| match column.data_type() {
                DataType::Float64 if column.is_valid(row) => Cell::Float(column.as_primitive::<Float64Type>().value(row).to_bits()),
                _ => Cell::Text(formatter.value(row).to_string()),
            });
            let cells: Vec<Cell> = cells.collect();
            let count = self.rows.entry(cells).or_default();
            *count += weight;
        }
        self.rows.retain(|_, count| *count != 0);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.rows.values().map(|count| count.unsigned_abs() as usize).sum()
    }

    /// What is here and should not be, and what should be here and is not; `None` when they are the same.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        if let (Some(ours), Some(theirs)) = (&self.types, &expected.types)
            && ours != theirs
            && self.len() + expected.len() > 0
        {
            return Some(format!("columns of types {ours:?} instead of {theirs:?}"));
        }
        let mut surplus: Vec<(Vec<Cell>, i64)> = Vec::new();
        let mut missing: Vec<(Vec<Cell>, i64)> = Vec::new();
        for (row, count) in &self.rows {
            let more = count - expected.rows.get(row).unwrap_or(&0);
            if more > 0 {
                surplus.push((row.clone(), more));
            } else if more < 0 {
                missing.push((row.clone(), -more));
            }
        }
        for (row, count) in expected.rows.iter().filter(|(row, _)| !self.rows.contains_key(*row)) {
            missing.push((row.clone(), *count));
        }
        // What a rounding apart is the same. But a row that is there a negative number of times never is.
        for (row, count) in surplus.iter_mut().filter(|(row, _)| self.rows.contains_key(row)) {
            for (other, wanted) in &mut missing {
                if self.rows.get(other).is_none_or(|there| *there > 0) && is_near(row, other) {
                    let same = (*count).min(*wanted);
                    *count -= same;
                    *wanted -= same;
                }
            }
        }
        let lines: Vec<String> = [("surplus", surplus), ("missing", missing)]
            .into_iter()
            .flat_map(|(word, rows)| {
                rows.into_iter().filter(|(_, count)| *count != 0).map(move |(row, count)| line(word, &row, count))
            })
            .collect();
        if lines.is_empty() {
            return None;
        }
        let more = lines.len().saturating_sub(SHOWN);
        let shown = lines[..lines.len().min(SHOWN)].join("\n");
        Some(if more > 0 { format!("{shown}\n  … and {more} more") } else { shown })
    }
}

const SHOWN: usize = 20;

fn line(word: &str, row: &[Cell], count: i64) -> String {
    let cells: Vec<String> = row.iter().map(Cell::to_string).collect();
    format!("  {word} {count} x ({})", cells.join(", "))
}

fn is_near(row: &[Cell], other: &[Cell]) -> bool {
    row.len() == other.len()
        && row.iter().zip(other).all(|pair| match pair {
            (Cell::Float(one), Cell::Float(other)) => {
                let (one, other) = (f64::from_bits(*one), f64::from_bits(*other));
                one == other
                    || (one.is_nan() && other.is_nan())
                    // What is infinite is far from everything else.
                    || ((one - other).is_finite()
                        && (one - other).abs() <= TOLERANCE * one.abs().max(other.abs()).max(1e-3))
            }
            (one, other) => one == other,
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array};

    use super::*;

    fn batch(ids: &[i64], values: &[f64]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] =
            [("id", Arc::new(Int64Array::from(ids.to_vec()))), ("value", Arc::new(Float64Array::from(values.to_vec())))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn deltas_add_up_and_rounding_is_no_difference() {
        let mut answer = Answer::default();
        answer.add(&batch(&[1, 2, 1], &[0.5, 1.0, 0.5]), &[1, 1, -1]).unwrap();
        assert_eq!(answer.difference(&Answer::of(&[batch(&[2], &[1.0 + 1e-12])]).unwrap()), None);
        assert!(answer.difference(&Answer::of(&[batch(&[2], &[1.1])]).unwrap()).unwrap().contains("surplus 1 x (2, 1.0)"));
        assert!(answer.difference(&Answer::of(&[batch(&[2, 2], &[1.0, 1.0])]).unwrap()).unwrap().contains("missing 1 x (2, 1.0)"));
    }

    #[test]
    fn infinities_and_nan_are_near_themselves_only() {
        let values = [1.0, 1e308, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        for (place, value) in values.iter().enumerate() {
            for (other_place, other) in values.iter().enumerate() {
                let answer = |value: f64| Answer::of(&[batch(&[2], &[value])]).unwrap();
                let difference = answer(*value).difference(&answer(*other));
                assert_eq!(difference.is_none(), place == other_place, "{value} and {other}");
            }
        }
    }

    #[test]
    fn a_row_must_not_be_there_a_negative_number_of_times() {
        let mut answer = Answer::default();
        answer.add(&batch(&[2, 2, 2], &[1.0, 1.0, 1.0 + 1e-12]), &[1, 1, -1]).unwrap();
        assert!(answer.difference(&Answer::of(&[batch(&[2], &[1.0])]).unwrap()).is_some());
    }
}
