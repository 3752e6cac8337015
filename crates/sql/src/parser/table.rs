//! Reads `CREATE TABLE`.
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{cursor::Cursor, interval::read_interval, precedence, rewrite_alone, tokenise, types::read_type};
use crate::{
    catalog::Watermark,
    error::SqlError,
    limits::Limits,
    location::Location,
    statement::{ColumnClause, CreateTable, MetadataClause, OptionEntry, PrimaryKeyClause},
};

/// After `CREATE TABLE`.
pub(super) fn create_table(cursor: &mut Cursor<'_>) -> Result<CreateTable, SqlError> {
    let if_not_exists = cursor.words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.relation()?;
    if cursor.is_word("AS") {
        let message = format!(
            "CREATE TABLE … AS does not exist; write CREATE TABLE {name} (columns) WITH ('connector' = …), then INSERT INTO {name} SELECT …"
        );
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    refuse_like(cursor)?;
    let mut table =
        CreateTable { name, if_not_exists, columns: Vec::new(), primary_key: None, watermark: None, options: Vec::new() };
    cursor.list(|cursor| element(cursor, &mut table))?;
    if cursor.is_word("PARTITIONED") {
        let message = "PARTITIONED BY does not exist; a Kafka topic has its partitions, a Cassandra table its PRIMARY KEY";
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    refuse_like(cursor)?;
    if !cursor.is_word("WITH") {
        return Err(cursor.expected_or("WITH", "say where the table lives: WITH ('connector' = 'kafka', …)"));
    }
    table.options = options(cursor)?;
    refuse_like(cursor)?;
    Ok(table)
}

/// Flink's `LIKE other`, in all the places that it may have.
fn refuse_like(cursor: &Cursor<'_>) -> Result<(), SqlError> {
    if cursor.is_word("LIKE") {
        let message = "CREATE TABLE … LIKE does not exist; SHOW CREATE TABLE gives the statement of the other table to copy from";
        return Err(SqlError::unsupported_at(cursor.at(), message));
    }
    Ok(())
}

/// A column, `PRIMARY KEY (…)` or `WATERMARK FOR …`.
fn element(cursor: &mut Cursor<'_>, table: &mut CreateTable) -> Result<(), SqlError> {
    let at = cursor.at();
    if cursor.is_word("CONSTRAINT") {
        cursor.advance();
        cursor.identifier("a constraint name")?;
        if !cursor.is_word("PRIMARY") {
            return Err(SqlError::unsupported_at(at, "the only constraint is PRIMARY KEY (…) NOT ENFORCED"));
        }
    }
    if cursor.words(&["PRIMARY", "KEY"]) {
        let key = primary_key(cursor)?;
        return set_once(&mut table.primary_key, key, at, "PRIMARY KEY");
    }
    if cursor.words(&["WATERMARK", "FOR"]) {
        let watermark = watermark(cursor)?;
        return set_once(&mut table.watermark, watermark, at, "WATERMARK");
    }
    for refused in ["UNIQUE", "FOREIGN", "CHECK"] {
        let mut ahead = cursor.clone();
        if ahead.word(refused) && (*ahead.peek() == Token::LParen || ahead.is_word("KEY")) {
            return Err(SqlError::unsupported_at(
                at,
                format!("{refused} is not supported; the only constraint is PRIMARY KEY (…) NOT ENFORCED"),
            ));
        }
    }
    let name = cursor.identifier("a column name")?;
    if cursor.word("AS") {
        let mut rest = cursor.until_delimiter();
        if rest.is_done() {
            return Err(rest.expected_or("an expression", &format!("write for example {name} AS upper(other)")));
        }
        let mut expression = rest.rest(|parser| parser.parse_expr())?;
        precedence::mend(&mut expression);
        rewrite_alone(&mut expression, at)?;
        let computed = Some(expression.to_string());
        let column = ColumnClause { name, sql_type: crate::types::SqlType::String, not_null: false, metadata: None, computed, at };
        table.columns.push(column);
        return Ok(());
    }
    let sql_type = read_type(cursor)?;
    let mut column = ColumnClause { name, sql_type, not_null: false, metadata: None, computed: None, at };
    column_properties(cursor, &mut column, table)?;
    table.columns.push(column);
    Ok(())
}

fn column_properties(cursor: &mut Cursor<'_>, column: &mut ColumnClause, table: &mut CreateTable) -> Result<(), SqlError> {
    loop {
        let at = cursor.at();
        if cursor.words(&["NOT", "NULL"]) {
            column.not_null = true;
        } else if cursor.word("NULL") {
            column.not_null = false;
        } else if cursor.words(&["PRIMARY", "KEY"]) {
            not_enforced(cursor);
            let key = PrimaryKeyClause { partition: vec![column.name.clone()], clustering: Vec::new(), at };
            set_once(&mut table.primary_key, key, at, "PRIMARY KEY")?;
        } else if cursor.word("METADATA") {
            let from = if cursor.word("FROM") { cursor.string("a metadata key")? } else { column.name.clone() };
            column.metadata = Some(MetadataClause { from, is_virtual: cursor.word("VIRTUAL") });
        } else if cursor.word("COMMENT") {
            cursor.string("a comment")?;
        } else if cursor.is_word("DEFAULT") {
            return Err(SqlError::unsupported_at(
                at,
                "DEFAULT is not supported; write coalesce(column, value) in the SELECT of the job",
            ));
        } else if matches!(cursor.peek(), Token::Comma | Token::RParen) {
            return Ok(());
        } else {
            return Err(cursor.expected_or("NOT NULL, METADATA, \",\" or \")\"", "put \",\" between columns"));
        }
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T, at: crate::location::Location, what: &str) -> Result<(), SqlError> {
    if slot.is_some() {
        return Err(SqlError::syntax(at, format!("expected one {what}, found a second; write one with all its columns")));
    }
    *slot = Some(value);
    Ok(())
}

fn not_enforced(cursor: &mut Cursor<'_>) {
    cursor.words(&["NOT", "ENFORCED"]);
}

/// `(a, b)` or `((a, b), c)`, then `NOT ENFORCED`, which is implied.
fn primary_key(cursor: &mut Cursor<'_>) -> Result<PrimaryKeyClause, SqlError> {
    let at = cursor.at();
    let mut partition = Vec::new();
    let mut clustering = Vec::new();
    cursor.list(|cursor| {
        if *cursor.peek() == Token::LParen && partition.is_empty() {
            partition = cursor.list(|cursor| cursor.identifier("a column name"))?;
            return Ok(());
        }
        let column = cursor.identifier("a column name")?;
        if partition.is_empty() {
            partition.push(column)
        } else {
            clustering.push(column)
        }
        Ok(())
    })?;
    not_enforced(cursor);
    Ok(PrimaryKeyClause { partition, clustering, at })
}

/// After `WATERMARK FOR`.
fn watermark(cursor: &mut Cursor<'_>) -> Result<Watermark, SqlError> {
    let column = cursor.identifier("a column name")?;
    cursor.expect_word("AS")?;
    let mut rest = cursor.until_delimiter();
    if rest.is_done() {
        return Err(rest.expected_or("an expression", &format!("write for example {column} - INTERVAL '5' SECOND")));
    }
    let at = rest.at();
    let delay_us = delay(&column, &mut rest.clone());
    let expression = rest.rest(|parser| parser.parse_expr())?.to_string();
    if delay_us.is_some() {
        return Ok(Watermark { column, expression });
    }
    let message = format!(
        "the watermark for {column} is {expression}, and only the column itself or a fixed delay behind it can be followed; write {column} or {column} - INTERVAL '5' SECOND"
    );
    Err(SqlError::unsupported_at(at, message))
}

/// `ts` or `ts - INTERVAL …`: how far behind, in microseconds.
fn delay(column: &str, cursor: &mut Cursor<'_>) -> Option<i64> {
    if cursor.identifier("the column").ok()? != column {
        return None;
    }
    if cursor.is_done() {
        return Some(0);
    }
    if !cursor.token(&Token::Minus) {
        return None;
    }
    let delay_us = read_interval(cursor, "the delay of the watermark").ok()?;
    (delay_us >= 0 && cursor.is_done()).then_some(delay_us)
}

/// The same of an expression that is stored as text.
pub(super) fn stored_delay(column: &str, expression: &str, limits: Limits) -> Option<i64> {
    let tokens = tokenise(expression).ok()?;
    delay(column, &mut Cursor::new(&tokens, Location::START, limits))
}

/// `WITH ('key' = 'value', …)`.
pub(super) fn options(cursor: &mut Cursor<'_>) -> Result<Vec<OptionEntry>, SqlError> {
    cursor.expect_word("WITH")?;
    let mut entries: Vec<OptionEntry> = Vec::new();
    cursor.list(|cursor| {
        let at = cursor.at();
        let key = cursor.string("an option")?;
        cursor.expect(&Token::Eq)?;
        let value = cursor.string("a value")?;
        if entries.iter().any(|entry| entry.key == key) {
            return Err(SqlError::invalid_at(at, format!("option '{key}' is given twice; keep one")));
        }
        entries.push(OptionEntry { key, value, at });
        Ok(())
    })?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use crate::parser::parse;

    #[test]
    fn tables_like_others_are_copied_by_hand() {
        for sql in [
            "CREATE TABLE a LIKE b",
            "CREATE TABLE a (x INT) LIKE b",
            "CREATE TABLE a (x INT) WITH ('connector' = 'print') LIKE b (EXCLUDING OPTIONS)",
        ] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains("SHOW CREATE TABLE gives the statement"), "{sql}: {error}");
        }
    }
}
