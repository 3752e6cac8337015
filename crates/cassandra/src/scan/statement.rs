//! A slice's statement: its text, and how it is kept prepared until its table becomes another.
use std::collections::HashMap;

use parking_lot::Mutex;
use polybolos_tables::{KeyPredicate, PredicateOp, ScanRequest, ScanSlice, TableError};
use scylla::{
    client::session::Session,
    statement::{Statement, prepared::PreparedStatement},
    value::{CqlValue, Row},
};

use super::{
    PAGE_ROWS,
    slices::{ONE_PARTITION, bounds},
};
use crate::{
    catalog,
    types::{native_name, quoted, typed_mark},
};

/// Statements that read, by their text without types: look-ups ask with the same one again and again.
#[derive(Debug, Default)]
pub(crate) struct PreparedReads(Mutex<HashMap<String, PreparedStatement>>);

/// More different look-ups than that prepare theirs again.
const MAX_PREPARED: usize = 1_024;

/// A statement's text, around its markers.
pub(super) struct ReadText {
    before: String,
    /// Columns with how each is compared with a marker.
    keys: Vec<String>,
    after: String,
}

impl ReadText {
    fn with(&self, marks: impl Iterator<Item = String>) -> String {
        let conditions: Vec<String> = self.keys.iter().zip(marks).map(|(key, mark)| format!("{key} {mark}")).collect();
        format!("{}{}{}", self.before, conditions.join(" AND "), self.after)
    }

    fn plain(&self) -> String {
        self.with(std::iter::repeat("?".to_owned()))
    }
}

impl PreparedReads {
    pub(super) async fn of(&self, session: &Session, text: &ReadText, doing: &str) -> Result<PreparedStatement, TableError> {
        let plain = text.plain();
        if let Some(known) = self.0.lock().get(&plain) {
            return Ok(known.clone());
        }
        let statement = |text: String| Statement::new(text).with_page_size(PAGE_ROWS);
        let mut prepared = catalog::prepared(session, doing, statement(plain.clone())).await?;
        if !text.keys.is_empty() {
            // The statement is kept, and its table may be made again with another key: the server must then refuse it, and not compare a
            // number's bytes with texts.
            let marks: Vec<String> =
                prepared.get_variable_col_specs().iter().map(|column| typed_mark(Some(&native_name(column.typ())))).collect();
            prepared = catalog::prepared(session, doing, statement(text.with(marks.into_iter()))).await?;
        }
        prepared.set_is_idempotent(true);
        let mut known = self.0.lock();
        if known.len() >= MAX_PREPARED {
            known.clear();
        }
        known.insert(plain, prepared.clone());
        Ok(prepared)
    }

    /// A statement that was refused is prepared again when it is wanted again.
    pub(super) fn forget(&self, text: &ReadText) {
        self.0.lock().remove(&text.plain());
    }
}

/// What to select: the columns asked for, and where one is that every row has. A partition of which only static columns were written comes
/// as a row without clustering columns, and is none.
pub(super) fn selected(request: &ScanRequest, clustering: Option<String>) -> (Vec<String>, Option<usize>) {
    let mut selected = request.columns.clone();
    let sure = clustering.map(|column| {
        selected.iter().position(|other| *other == column).unwrap_or_else(|| {
            selected.push(column);
            selected.len() - 1
        })
    });
    if selected.is_empty() {
        // A count needs rows, and any key column makes them.
        selected.push(request.table.partition_key[0].clone());
    }
    (selected, sure)
}

/// Whether it has the column that every row has.
pub(super) fn is_row(row: &Row, sure: Option<usize>) -> bool {
    sure.is_none_or(|column| row.columns.get(column).is_some_and(Option::is_some))
}

/// A slice's statement, and the range of tokens that is bound to it.
pub(super) fn text(
    request: &ScanRequest,
    slice: &ScanSlice,
    selected: &[String],
    is_limited_here: bool,
) -> Result<(ReadText, Option<Vec<CqlValue>>), TableError> {
    let table = &request.table;
    let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let from = format!("{}.{}", quoted(&table.name.keyspace), quoted(&table.name.table));
    let before = format!("SELECT {} FROM {from} WHERE ", list(selected));
    // An INT there. Whoever asks keeps the limit, too.
    let limit = request.limit.filter(|limit| !is_limited_here && i32::try_from(*limit).is_ok());
    let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
    if slice.descriptor == ONE_PARTITION {
        let compared = |predicate: &KeyPredicate| {
            let operator = match predicate.op {
                PredicateOp::Eq | PredicateOp::In => "=",
                PredicateOp::Lt => "<",
                PredicateOp::LtEq => "<=",
                PredicateOp::Gt => ">",
                PredicateOp::GtEq => ">=",
            };
            format!("{} {operator}", quoted(&predicate.column))
        };
        let keys = request.predicates.iter().map(compared).collect();
        return Ok((ReadText { before, keys, after: limit }, None));
    }
    let (start, end) =
        bounds::<i64>(&slice.descriptor).ok_or_else(|| TableError::Bug(format!("{:?} is not a token range", slice.descriptor)))?;
    let token = format!("token({})", list(&table.partition_key));
    // No token is i64::MIN, so the first range loses nothing.
    let after = format!("{token} > ? AND {token} <= ?{limit}");
    Ok((ReadText { before, keys: vec![], after }, Some(vec![CqlValue::BigInt(start), CqlValue::BigInt(end)])))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{AsArray, Int64Array},
        datatypes::Int64Type,
    };

    use super::*;
    use crate::scan::{
        slices::{slices, statements},
        tests::request,
    };

    #[test]
    fn each_partition_of_a_list_is_read_once() {
        let predicate = |column: &str, op, values: Vec<i64>| KeyPredicate {
            column: column.into(),
            op,
            values: Arc::new(Int64Array::from(values)),
        };
        let predicates = vec![predicate("id", PredicateOp::In, vec![5, 6, 7]), predicate("sub", PredicateOp::LtEq, vec![9])];
        let request = ScanRequest { predicates, ..request(&["v"]) };
        for (wanted, slice_count) in [(1, 1), (2, 2), (64, 3)] {
            let slices = slices(&request, wanted);
            assert_eq!(slices.len(), slice_count);
            let mut read = vec![];
            for (request, slice) in slices.into_iter().flat_map(|slice| statements(request.clone(), slice)) {
                let (text, range) = text(&request, &slice, &["v".to_owned()], false).expect("a statement");
                assert_eq!(text.plain(), r#"SELECT "v" FROM "k"."t" WHERE "id" = ? AND "sub" <= ? LIMIT 5"#);
                assert!(range.is_none());
                read.push(request.predicates[0].values.as_primitive::<Int64Type>().value(0));
            }
            assert_eq!(read, [5, 6, 7]);
        }
    }

    #[test]
    fn a_limit_is_left_out_where_the_server_has_no_number_for_it() {
        let slice = ScanSlice { descriptor: "0..9".into() };
        for (limit, told) in [(i32::MAX as usize, " LIMIT 2147483647"), (i32::MAX as usize + 1, "")] {
            let (text, _) = text(&ScanRequest { limit: Some(limit), ..request(&["v"]) }, &slice, &["v".to_owned()], false)
                .expect("a statement");
            assert_eq!(text.after, format!(r#"token("id") > ? AND token("id") <= ?{told}"#));
        }
    }

    #[test]
    fn a_partition_without_rows_is_none() {
        let sub = || Some("sub".to_owned());
        assert_eq!(selected(&request(&["v", "sub"]), sub()), (vec!["v".to_owned(), "sub".to_owned()], Some(1)));
        assert_eq!(selected(&request(&["v"]), sub()), (vec!["v".to_owned(), "sub".to_owned()], Some(1)));
        assert_eq!(selected(&request(&[]), sub()), (vec!["sub".to_owned()], Some(0)));
        assert_eq!(selected(&request(&[]), None), (vec!["id".to_owned()], None));
        let row = |sub| Row { columns: vec![None, sub] };
        assert!(is_row(&row(Some(CqlValue::BigInt(1))), Some(1)));
        assert!(!is_row(&row(None), Some(1)));
        assert!(is_row(&row(None), None));
        // Of rows that are left out here, the store must not count any.
        let slice = ScanSlice { descriptor: "0..9".into() };
        for (is_limited_here, limit) in [(true, ""), (false, " LIMIT 5")] {
            let (text, range) = text(&request(&[]), &slice, &["sub".to_owned()], is_limited_here).expect("a statement");
            let wanted = format!(r#"SELECT "sub" FROM "k"."t" WHERE token("id") > ? AND token("id") <= ?{limit}"#);
            assert_eq!((text.plain(), range.map_or(0, |range| range.len())), (wanted, 2));
        }
    }
}
