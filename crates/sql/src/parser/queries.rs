//! Reads a query and writes it anew, step by step, as the planner takes it.
use datafusion::sql::sqlparser::ast;

use super::{
    casts, clauses, counts,
    cursor::Cursor,
    equivalents, first_rows, group_window, headings, job, named_windows, numbers, ordinals, precedence, rows, table_functions,
    table_query, text_lengths, unnest,
    window::{self, Place},
};
use crate::{error::SqlError, statement::Query};

/// The rest of the statement as a query.
pub(super) fn query(cursor: &mut Cursor<'_>) -> Result<Box<ast::Query>, SqlError> {
    headed_query(cursor).map(|query| query.ast)
}

/// A query that is the whole statement: its rows may be asked for as they come, by ksqlDB's `EMIT CHANGES` before or after LIMIT.
pub(super) fn query_by_itself(cursor: &mut Cursor<'_>) -> Result<Query, SqlError> {
    let Some(before) = job::emit_at(cursor.remaining()) else { return headed_query(cursor) };
    let mut behind = cursor.clone();
    behind.take(before);
    if !behind.words(&["EMIT", "CHANGES"]) {
        return headed_query(cursor);
    }
    let tokens = [&cursor.remaining()[..before], behind.remaining()].concat();
    let query = headed_query(&mut Cursor::new(&tokens, cursor.end(), cursor.limits()))?;
    cursor.take(usize::MAX);
    Ok(Query { emit_changes: true, ..query })
}

/// The rest of the statement as a query whose rows somebody looks at.
fn headed_query(cursor: &mut Cursor<'_>) -> Result<Query, SqlError> {
    let at = cursor.at();
    if let Some(before) = job::emit_at(cursor.remaining()) {
        cursor.take(before);
        let message = "EMIT ON … belongs to a job's INSERT, and EMIT CHANGES to the end of a SELECT by itself; leave it out";
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    casts::refuse_nested(cursor.remaining())?;
    let place = Place { end: cursor.end(), limits: cursor.limits() };
    let lowered = table_query::lower(&window::lower(cursor.remaining(), place)?)?;
    let mut query = Cursor::new(&lowered, place.end, place.limits).rest(|parser| parser.parse_query())?;
    cursor.take(usize::MAX);
    let headings = headings::of(&query);
    precedence::mend(&mut query);
    first_rows::limit(&mut query, at)?;
    named_windows::resolve(&mut query, at)?;
    numbers::keep_digits(&mut query, at)?;
    rows::rewrite(&mut query, at)?;
    equivalents::rewrite(&mut query, at)?;
    counts::count_together(&mut query);
    // Behind it: a cast that is cut has the name of its column, too.
    casts::name(&mut query);
    text_lengths::cut(&mut query, at)?;
    table_functions::rewrite(&mut query, at)?;
    unnest::rewrite(&mut query, at)?;
    group_window::rewrite(&mut query, at, place)?;
    // Last: those before change SELECT alone.
    ordinals::resolve(&mut query);
    clauses::refuse(&query, at)?;
    Ok(Query { ast: query, headings, emit_changes: false })
}
