//! `longest_run(array)`: of items that stand in order, the one that comes most often, the first of those that do. `mode() WITHIN GROUP (ORDER BY x)` is made of it.
use datafusion::{
    arrow::{
        array::{Array, AsArray, Int32Array, ListArray},
        compute::{partition, take},
        datatypes::DataType,
    },
    common::{Result, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

use super::kept_items::one_array;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct LongestRun {
    signature: Signature,
}

impl LongestRun {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for LongestRun {
    fn name(&self) -> &str {
        "longest_run"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        one_array("longest_run", arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::List(item)] => Ok(item.data_type().clone()),
            _ => plan_err!("longest_run takes an array"),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [arrays] = arguments.args.as_slice() else { return exec_err!("longest_run takes an array") };
        let arrays = arrays.to_array(arguments.number_rows)?;
        let arrays = arrays.as_list::<i32>();
        let places = (0..arrays.len()).map(|row| place(arrays, row)).collect::<Result<Int32Array>>()?;
        Ok(ColumnarValue::Array(take(arrays.values(), &places, None)?))
    }
}

/// Where the longest run of an array begins, among the items of all.
fn place(arrays: &ListArray, row: usize) -> Result<Option<i32>> {
    if arrays.is_null(row) {
        return Ok(None);
    }
    let runs = partition(&[arrays.value(row)])?.ranges();
    // Of several that are as long, the last one counts.
    let longest = runs.into_iter().rev().max_by_key(|run| run.len());
    Ok(longest.map(|run| arrays.value_offsets()[row] + run.start as i32))
}
