//! `items_or_null(array)`: the array, or one NULL in the place of an array that is empty or NULL. So UNNEST keeps every row, as
//! `LEFT JOIN UNNEST(array) ON TRUE` does.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, Int32Array, ListArray},
        buffer::OffsetBuffer,
        compute::take,
        datatypes::{DataType, Field, FieldRef},
    },
    common::{Result, exec_err, plan_err},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ItemsOrNull {
    signature: Signature,
}

impl ItemsOrNull {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The one argument of a function that takes an array, as a list, of whichever kind it is. `function` is what its user wrote.
pub(super) fn one_array(function: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
    match arguments {
        [DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)] => {
            Ok(vec![DataType::List(item.clone())])
        }
        [DataType::Map(..)] => plan_err!("{function} takes an array; of a MAP write CROSS JOIN UNNEST(map) AS x (k, v)"),
        _ => plan_err!("{function} takes an array"),
    }
}

/// The items of that list.
pub(super) fn item_of(arguments: &[DataType]) -> Result<&FieldRef> {
    let [DataType::List(item)] = arguments else { return plan_err!("UNNEST takes an array") };
    Ok(item)
}

impl ScalarUDFImpl for ItemsOrNull {
    fn name(&self) -> &str {
        "items_or_null"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        one_array("UNNEST", arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::clone(item_of(arguments)?).with_nullable(true))))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ([arrays], DataType::List(item)) = (arguments.args.as_slice(), arguments.return_field.data_type()) else {
            return exec_err!("UNNEST takes an array");
        };
        let arrays = arrays.to_array(arguments.number_rows)?;
        let arrays = arrays.as_list::<i32>();
        let mut places = Vec::with_capacity(arrays.values().len());
        let mut lengths = Vec::with_capacity(arrays.len());
        for (row, bounds) in arrays.value_offsets().windows(2).enumerate() {
            let before = places.len();
            if arrays.is_null(row) || bounds[0] == bounds[1] {
                places.push(None);
            } else {
                places.extend((bounds[0]..bounds[1]).map(Some));
            }
            lengths.push(places.len() - before);
        }
        let items = take(arrays.values(), &Int32Array::from(places), None)?;
        let arrays = ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), items, None)?;
        Ok(ColumnarValue::Array(Arc::new(arrays)))
    }
}
