//! Reads `CREATE VIEW`.
use super::{
    cursor::Cursor,
    job::{columns, emit_at},
    queries::query,
};
use crate::{error::SqlError, statement::CreateView};

/// After `CREATE [TEMPORARY] VIEW`. Temporary ones are kept as all others: a session of ours ends with its statement.
pub(super) fn create_view(cursor: &mut Cursor<'_>) -> Result<CreateView, SqlError> {
    let at = cursor.at();
    let if_not_exists = cursor.words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.relation()?;
    let columns =
        if *cursor.peek() == datafusion::sql::sqlparser::tokenizer::Token::LParen { columns(cursor)? } else { Vec::new() };
    if cursor.word("COMMENT") {
        cursor.string("a comment")?;
    }
    cursor.expect_word("AS")?;
    if emit_at(cursor.remaining()).is_some() {
        let message = format!("view {name} has EMIT, which belongs to a job's INSERT; leave it out here");
        return Err(SqlError::unsupported_at(at, message));
    }
    Ok(CreateView { name, if_not_exists, columns, query: query(cursor)?, at })
}
