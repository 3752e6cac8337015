//! Deletes in a part file: batches of the key columns alone, told from upserts by their schema's metadata. A sink's list may hold both; no
//! key is in both, as an epoch has one change per key.
use std::{collections::HashMap, sync::Arc};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::Schema},
    common::Result,
};

/// Metadata key and value of a batch of deletes.
pub const CHANGE: &str = "polybolos.change";
const DELETE: &str = "delete";

/// `keys`, the columns of a sink's key in the key's order, as deletes.
pub fn mark_delete(keys: &RecordBatch) -> Result<RecordBatch> {
    let mut metadata: HashMap<String, String> = keys.schema().metadata().clone();
    metadata.insert(CHANGE.into(), DELETE.into());
    let schema = Schema::new_with_metadata(keys.schema().fields().clone(), metadata);
    Ok(keys.clone().with_schema(Arc::new(schema))?)
}

/// Whether a batch deletes.
pub fn is_delete(batch: &RecordBatch) -> bool {
    batch.schema_ref().metadata().get(CHANGE).is_some_and(|change| change == DELETE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::arrow::{
        array::{Int64Array, StringArray},
        datatypes::{DataType, Field},
    };
    use polybolos_persist::part;
    use polybolos_streaming::ids::SinkId;

    use super::*;

    #[test]
    fn deletes_and_upserts_share_a_part_file() {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Int64, true)]));
        let upserts = RecordBatch::try_new(
            schema,
            vec![Arc::new(StringArray::from(vec!["a", "b"])), Arc::new(Int64Array::from(vec![Some(1), None]))],
        )
        .expect("batch");
        let keys = RecordBatch::try_from_iter([("k", Arc::new(StringArray::from(vec!["c"])) as _)]).expect("batch");
        let deletes = mark_delete(&keys).expect("marked");
        let sinks = BTreeMap::from([(SinkId(0), vec![upserts.clone(), deletes.clone(), upserts.clone()])]);
        let sections = part::Sections { sinks: sinks.clone(), state: vec![] };
        let part::Encoded { bytes, crc32, .. } = part::encode(&sections).expect("encodes");
        let back = part::decode("p", &bytes, crc32).expect("decodes").sinks;
        assert_eq!(back, sinks);
        assert_eq!(back[&SinkId(0)].iter().map(is_delete).collect::<Vec<_>>(), [false, true, false]);
    }
}
