//! Reads column types, in Flink's words.
use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::{
    error::{SqlError, did_you_mean},
    location::Location,
    types::SqlType,
};

const WORDS: [&str; 35] = [
    "STRING",
    "TEXT",
    "VARCHAR",
    "CHAR",
    "CHARACTER",
    "UUID",
    "BOOLEAN",
    "BOOL",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "DEC",
    "NUMERIC",
    "BYTES",
    "VARBINARY",
    "BINARY",
    "BYTEA",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMP_LTZ",
    "TIMESTAMPTZ",
    "ARRAY",
    "MAP",
    "ROW",
    "STRUCT",
    "INT2",
    "INT4",
    "INT8",
];
const MAX_DECIMAL_DIGITS: u64 = 38;
/// Deepest nesting of ARRAY, MAP and ROW.
const MAX_DEPTH: usize = 16;

/// Reads one type. `>>` closes two brackets at once, so open ones are counted here.
pub(super) fn read_type(cursor: &mut Cursor<'_>) -> Result<SqlType, SqlError> {
    let mut reader = TypeReader { cursor, pending: 0 };
    let kind = reader.read(0)?;
    if reader.pending > 0 {
        return Err(reader.cursor.expected("\",\" or \")\" after one \">\" less"));
    }
    Ok(kind)
}

fn too_deep(at: Location) -> SqlError {
    SqlError::TooLarge { at, message: format!("the type is nested more than {MAX_DEPTH} deep; flatten it") }
}

/// How many types stand inside one another.
fn nesting(kind: &SqlType) -> usize {
    match kind {
        SqlType::Array(item) => 1 + nesting(item),
        SqlType::Map(key, value) => 1 + nesting(key).max(nesting(value)),
        SqlType::Row(fields) => 1 + fields.iter().map(|(_, kind)| nesting(kind)).max().unwrap_or(0),
        _ => 0,
    }
}

struct TypeReader<'r, 'a> {
    cursor: &'r mut Cursor<'a>,
    /// Closing brackets read and not yet used: one after `>>` of an inner type.
    pending: u8,
}

impl TypeReader<'_, '_> {
    fn read(&mut self, depth: usize) -> Result<SqlType, SqlError> {
        let at = self.cursor.at();
        if depth > MAX_DEPTH {
            return Err(too_deep(at));
        }
        let Token::Word(word) = self.cursor.peek() else {
            return Err(self.cursor.expected_or("a type", "write for example STRING, INT, DOUBLE or TIMESTAMP(3)"));
        };
        let name = word.value.to_ascii_uppercase();
        if !WORDS.contains(&name.as_str()) {
            let hint = match did_you_mean(&name, WORDS) {
                Some(near) => format!("did you mean {near}?"),
                None => "known are STRING, INT, BIGINT, DOUBLE, DECIMAL(p, s), BOOLEAN, BYTES, DATE, TIME, TIMESTAMP(p) and others"
                    .to_owned(),
            };
            return Err(SqlError::Syntax { at, message: format!("unknown type \"{}\"", word.value), hint: Some(hint) });
        }
        self.cursor.advance();
        let kind = match name.as_str() {
            "STRING" | "TEXT" => SqlType::String,
            "VARCHAR" | "CHAR" | "CHARACTER" => {
                self.cursor.word("VARYING");
                self.optional_length()?;
                SqlType::String
            }
            "UUID" => SqlType::Uuid,
            "BOOLEAN" | "BOOL" => SqlType::Boolean,
            "TINYINT" => SqlType::TinyInt,
            "SMALLINT" | "INT2" => SqlType::SmallInt,
            "INT" | "INTEGER" | "INT4" => SqlType::Int,
            "BIGINT" | "INT8" => SqlType::BigInt,
            "FLOAT" | "REAL" => SqlType::Float,
            "DOUBLE" => {
                self.cursor.word("PRECISION");
                SqlType::Double
            }
            "DECIMAL" | "DEC" | "NUMERIC" => self.decimal(at)?,
            "BYTES" | "BYTEA" => SqlType::Bytes,
            "VARBINARY" | "BINARY" => {
                self.optional_length()?;
                SqlType::Bytes
            }
            "DATE" => SqlType::Date,
            "TIME" => {
                let precision = self.precision(0)?;
                self.cursor.words(&["WITHOUT", "TIME", "ZONE"]);
                SqlType::Time { precision }
            }
            "TIMESTAMP" => self.timestamp(at)?,
            "TIMESTAMP_LTZ" | "TIMESTAMPTZ" => SqlType::TimestampLtz { precision: self.precision(6)? },
            "ARRAY" => {
                self.open("ARRAY<STRING>")?;
                let item = self.read(depth + 1)?;
                self.close()?;
                SqlType::Array(Box::new(item))
            }
            "MAP" => {
                self.open("MAP<STRING, INT>")?;
                let key = self.read(depth + 1)?;
                self.cursor.expect(&Token::Comma)?;
                let value = self.read(depth + 1)?;
                self.close()?;
                SqlType::Map(Box::new(key), Box::new(value))
            }
            _ => self.row(depth)?,
        };
        self.brackets(kind, depth, at)
    }

    /// `INT[]` is an array, as in PostgreSQL; a length is read and not enforced.
    fn brackets(&mut self, mut kind: SqlType, depth: usize, at: Location) -> Result<SqlType, SqlError> {
        while self.pending == 0 && self.cursor.token(&Token::LBracket) {
            if *self.cursor.peek() != Token::RBracket {
                self.cursor.number("\"]\"")?;
            }
            self.cursor.expect(&Token::RBracket)?;
            kind = SqlType::Array(Box::new(kind));
            if depth + nesting(&kind) > MAX_DEPTH {
                return Err(too_deep(at));
            }
        }
        Ok(kind)
    }

    /// `(n)`: lengths are read and not enforced.
    fn optional_length(&mut self) -> Result<(), SqlError> {
        if self.cursor.token(&Token::LParen) {
            self.cursor.number("a length")?;
            self.cursor.expect(&Token::RParen)?;
        }
        Ok(())
    }

    fn precision(&mut self, default: u8) -> Result<u8, SqlError> {
        if !self.cursor.token(&Token::LParen) {
            return Ok(default);
        }
        let at = self.cursor.at();
        let digits = self.cursor.number("a precision from 0 to 9")?;
        let Some(digits) = u8::try_from(digits).ok().filter(|digits| *digits <= 9) else {
            return Err(SqlError::syntax(at, format!("expected a precision from 0 to 9, found {digits}")));
        };
        self.cursor.expect(&Token::RParen)?;
        Ok(digits)
    }

    fn timestamp(&mut self, at: Location) -> Result<SqlType, SqlError> {
        let precision = self.precision(6)?;
        if self.cursor.words(&["WITH", "LOCAL", "TIME", "ZONE"]) {
            return Ok(SqlType::TimestampLtz { precision });
        }
        if self.cursor.words(&["WITH", "TIME", "ZONE"]) {
            let message = "TIMESTAMP WITH TIME ZONE does not exist, as no zone is stored; write TIMESTAMP_LTZ(3), an instant";
            return Err(SqlError::unsupported_at(at, message));
        }
        self.cursor.words(&["WITHOUT", "TIME", "ZONE"]);
        Ok(SqlType::Timestamp { precision })
    }

    fn decimal(&mut self, at: Location) -> Result<SqlType, SqlError> {
        if !self.cursor.token(&Token::LParen) {
            return Ok(SqlType::Decimal { precision: 10, scale: 0 });
        }
        let precision = self.cursor.number("a precision from 1 to 38")?;
        let scale = if self.cursor.token(&Token::Comma) { self.cursor.number("a scale")? } else { 0 };
        self.cursor.expect(&Token::RParen)?;
        if !(1..=MAX_DECIMAL_DIGITS).contains(&precision) || scale > precision {
            let message = format!("DECIMAL({precision}, {scale}) does not exist; 1 ≤ precision ≤ 38 and 0 ≤ scale ≤ precision");
            return Err(SqlError::invalid_at(at, message));
        }
        // Both are at most 38.
        Ok(SqlType::Decimal { precision: precision as u8, scale: scale as i8 })
    }

    fn row(&mut self, depth: usize) -> Result<SqlType, SqlError> {
        self.open("ROW<a STRING, b INT>")?;
        let mut fields: Vec<(String, SqlType)> = Vec::new();
        loop {
            let at = self.cursor.at();
            let name = self.cursor.identifier("a field name")?;
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(SqlError::invalid_at(at, format!("the ROW has two fields {name}; rename one")));
            }
            fields.push((name, self.read(depth + 1)?));
            if self.pending > 0 || !self.cursor.token(&Token::Comma) {
                break;
            }
        }
        self.close()?;
        Ok(SqlType::Row(fields))
    }

    fn open(&mut self, example: &str) -> Result<(), SqlError> {
        if self.cursor.token(&Token::Lt) {
            return Ok(());
        }
        Err(self.cursor.expected_or("\"<\"", &format!("write for example {example}")))
    }

    fn close(&mut self) -> Result<(), SqlError> {
        if self.pending > 0 {
            self.pending -= 1;
            return Ok(());
        }
        if self.cursor.token(&Token::Gt) {
            return Ok(());
        }
        if self.cursor.token(&Token::ShiftRight) {
            self.pending = 1;
            return Ok(());
        }
        Err(self.cursor.expected("\">\""))
    }
}

#[cfg(test)]
mod tests {
    use crate::parser::column_type;

    #[test]
    fn brackets_are_arrays() {
        for (written, meant) in [
            ("STRING[]", "ARRAY<STRING>"),
            ("INT[3][]", "ARRAY<ARRAY<INT>>"),
            ("DECIMAL(10, 2)[]", "ARRAY<DECIMAL(10, 2)>"),
            ("TIMESTAMP(3) WITH LOCAL TIME ZONE[]", "ARRAY<TIMESTAMP_LTZ(3)>"),
            ("ROW<a INT[], b MAP<STRING, DOUBLE[]>>[]", "ARRAY<ROW<a ARRAY<INT>, b MAP<STRING, ARRAY<DOUBLE>>>>"),
        ] {
            assert_eq!(column_type(written).unwrap().to_string(), meant, "{written}");
        }
        let deep = |times| format!("INT{}", "[]".repeat(times));
        for (wrong, reason) in [("INT[", "]"), ("INT[x]", "]"), (deep(17).as_str(), "more than 16 deep")] {
            let error = column_type(wrong).unwrap_err().to_string();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
        assert!(column_type(&deep(16)).is_ok());
    }
}
