//! What UNNEST takes apart beside the items of an array. `entries_of(map, 'k', 'v')` is an array of a MAP's entries, as ROWs with fields of these names; an
//! array stays as it is. `with_places(array)` is an array of ROWs: each item, and its place, from 1 on, which is what `WITH ORDINALITY` asks for.
use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, Int64Array, ListArray, StructArray},
        datatypes::{DataType, Field, FieldRef, Fields},
    },
    common::{Result, exec_err, internal_err, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

use super::kept_items::{item_of, one_array};

pub(crate) const ENTRIES_OF: &str = "entries_of";
pub(crate) const WITH_PLACES: &str = "with_places";

/// Fields of what `with_places` gives.
pub(crate) const ITEM: &str = "item";
pub(crate) const PLACE: &str = "place";

fn array_of(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(fields), true)))
}

/// The items of an array of ROWs, and their fields.
fn rows_of(array: &DataType) -> Option<(&FieldRef, &Fields)> {
    match array {
        DataType::List(row) => match row.data_type() {
            DataType::Struct(fields) => Some((row, fields)),
            _ => None,
        },
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct EntriesOf {
    signature: Signature,
}

impl EntriesOf {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for EntriesOf {
    fn name(&self) -> &str {
        ENTRIES_OF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Map(..), ..] => {
                Ok(arguments.to_vec())
            }
            _ => plan_err!("UNNEST takes an array or a MAP"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the fields of {ENTRIES_OF} are named by its arguments")
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let Some(unnested) = arguments.arg_fields.first() else { return plan_err!("UNNEST takes an array or a MAP") };
        let DataType::Map(entries, _) = unnested.data_type() else { return Ok(unnested.clone()) };
        let names = arguments.scalar_arguments.iter().skip(1);
        let names: Vec<&str> = names.filter_map(|name| name.and_then(|name| name.try_as_str().flatten())).collect();
        let ([key, value], DataType::Struct(fields)) = (names.as_slice(), entries.data_type()) else {
            return plan_err!("a MAP has keys and values; name both: UNNEST(map) AS x (k, v)");
        };
        let [of_keys, of_values] = &fields[..] else { return internal_err!("an entry of a MAP is a key and a value") };
        let field = |name: &str, of: &FieldRef| Field::new(name, of.data_type().clone(), true);
        let row = Fields::from(vec![field(key, of_keys), field(value, of_values)]);
        Ok(Arc::new(Field::new(self.name(), array_of(row), unnested.is_nullable())))
    }

    fn simplify(&self, mut arguments: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let is_array = |unnested: &Expr| context.get_data_type(unnested).is_ok_and(|known| !matches!(known, DataType::Map(..)));
        if arguments.first().is_some_and(is_array) {
            return Ok(ExprSimplifyResult::Simplified(arguments.swap_remove(0)));
        }
        Ok(ExprSimplifyResult::Original(arguments))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(unnested) = arguments.args.first() else { return exec_err!("UNNEST takes an array or a MAP") };
        if !matches!(unnested.data_type(), DataType::Map(..)) {
            return Ok(unnested.clone());
        }
        let Some((row, fields)) = rows_of(arguments.return_field.data_type()) else {
            return internal_err!("{ENTRIES_OF} gives an array of ROWs");
        };
        let maps = unnested.to_array(arguments.number_rows)?;
        let maps = maps.as_map();
        let entries = StructArray::try_new(fields.clone(), vec![maps.keys().clone(), maps.values().clone()], None)?;
        let arrays = ListArray::try_new(row.clone(), maps.offsets().clone(), Arc::new(entries), maps.nulls().cloned())?;
        Ok(ColumnarValue::Array(Arc::new(arrays)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WithPlaces {
    signature: Signature,
}

impl WithPlaces {
    pub fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WithPlaces {
    fn name(&self) -> &str {
        WITH_PLACES
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        one_array("UNNEST", arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let item = Field::new(ITEM, item_of(arguments)?.data_type().clone(), true);
        Ok(array_of(Fields::from(vec![item, Field::new(PLACE, DataType::Int64, true)])))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ([arrays], Some((row, fields))) = (arguments.args.as_slice(), rows_of(arguments.return_field.data_type())) else {
            return exec_err!("UNNEST takes an array");
        };
        let arrays = arrays.to_array(arguments.number_rows)?;
        let arrays = arrays.as_list::<i32>();
        let mut places = vec![0_i64; arrays.values().len()];
        for bounds in arrays.value_offsets().windows(2) {
            for (place, index) in (1..).zip(bounds[0]..bounds[1]) {
                places[index as usize] = place;
            }
        }
        let items = vec![arrays.values().clone(), Arc::new(Int64Array::from(places))];
        let items = StructArray::try_new(fields.clone(), items, None)?;
        let arrays = ListArray::try_new(row.clone(), arrays.offsets().clone(), Arc::new(items), arrays.nulls().cloned())?;
        Ok(ColumnarValue::Array(Arc::new(arrays)))
    }
}
