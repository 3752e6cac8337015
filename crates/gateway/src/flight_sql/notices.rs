//! An answer's notices, in the trailers of its call: what a query left out is known only once its rows were read. Those of a statement without
//! rows are in the headers of the call that carries it out. Clients that do not look for them see rows alone.
use arrow_flight::FlightData;
use futures::{StreamExt, future, stream};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use super::DataStream;
use crate::engine::ToldLast;

/// A value of it for each notice: UTF-8, as its ending makes clients take bytes.
pub const NAME: &str = "polybolos-notice-bin";

/// Of all together. Many clients end a call whose headers are larger than 8 KiB, and on their way these are a third longer.
const MAX_BYTES: usize = 4096;

/// What a header counts beside its value: its name, and 32 bytes by HPACK (RFC 7541, 4.1).
const AROUND_BYTES: usize = NAME.len() + 32;

/// The messages of an answer, and then its notices.
pub fn with_notices(messages: DataStream, notices: Vec<String>, told_last: Option<ToldLast>) -> DataStream {
    let last = stream::once(async move {
        let more = told_last.map(|told_last| told_last()).unwrap_or_default();
        let trailers = metadata(notices.into_iter().chain(more));
        // `Ok` is a status as others are: it ends a call, and what goes with it are the trailers.
        (!trailers.is_empty()).then(|| Err::<FlightData, Status>(Status::with_metadata(Code::Ok, "", trailers)))
    });
    messages.chain(last.filter_map(future::ready)).boxed()
}

pub fn metadata(notices: impl Iterator<Item = String>) -> MetadataMap {
    let (mut metadata, mut room) = (MetadataMap::new(), MAX_BYTES);
    for notice in notices {
        let told = &notice[..notice.floor_char_boundary(room)];
        if told.is_empty() {
            break;
        }
        room = room.saturating_sub(told.len() + AROUND_BYTES);
        metadata.append_bin(NAME, MetadataValue::from_bytes(told.as_bytes()));
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(notices: &[String]) -> Vec<String> {
        let metadata = metadata(notices.iter().cloned());
        let values = metadata.get_all_bin(NAME);
        values.iter().map(|value| String::from_utf8(value.to_bytes().unwrap().to_vec()).unwrap()).collect()
    }

    #[test]
    fn notices_are_cut_where_clients_would_refuse_them() {
        assert!(told(&[]).is_empty());
        let long = "ü".repeat(MAX_BYTES);
        let cut = "ü".repeat((MAX_BYTES - 3 - AROUND_BYTES) / 2);
        assert_eq!(told(&["one".into(), long, "gone".into()]), ["one".to_owned(), cut]);
        let many = told(&["x"; 100].map(str::to_owned));
        assert_eq!(many.len(), MAX_BYTES.div_ceil(1 + AROUND_BYTES), "names count, too");
    }
}
