//! `CAST(x AS VARCHAR(3))` keeps the first three characters, as in Flink and PostgreSQL: it is `left(CAST(x AS VARCHAR), 3)`, as lengths say nothing to
//! DataFusion. So does `CHAR(3)`, which pads nothing: blanks behind a text count for nothing in PostgreSQL, and there is no type here that could say so.
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, CharLengthUnits, CharacterLength, DataType, Expr, VisitMut};

use super::{
    building::{call, number},
    rewrite_each,
};
use crate::{error::SqlError, location::Location};

/// Flink's STRING is a VARCHAR of this length.
const UNBOUNDED: usize = 2_147_483_647;

pub(super) fn cut<T: VisitMut>(node: &mut T, at: Location) -> Result<(), SqlError> {
    rewrite_each(node, at, |expression| {
        let length = match expression {
            Expr::Cast { data_type, .. } => take_length(data_type)?,
            Expr::TypedString(typed) => take_length(&mut typed.data_type)?,
            _ => None,
        };
        if let Some(length) = length {
            *expression = call("left", [expression.clone(), number(length)]);
        }
        Ok(())
    })
}

/// How many characters a text of this type has at most. The type is one of any length then.
fn take_length(data_type: &mut DataType) -> Result<Option<usize>, String> {
    let (length, is_fixed) = match data_type {
        DataType::Varchar(length) | DataType::CharacterVarying(length) | DataType::CharVarying(length) => (*length, false),
        DataType::Char(length) | DataType::Character(length) => (*length, true),
        DataType::Array(
            ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::Parenthesis(item),
        ) => {
            let written = item.to_string();
            return match take_length(item)? {
                None => Ok(None),
                Some(_) => Err(format!("a cast to an array of {written} is not supported, as it cuts no items; write STRING[]")),
            };
        }
        _ => return Ok(None),
    };
    let written = std::mem::replace(data_type, DataType::Varchar(None));
    match length {
        // As the standard has it.
        None if is_fixed => Ok(Some(1)),
        None | Some(CharacterLength::Max) => Ok(None),
        Some(CharacterLength::IntegerLength { unit: Some(CharLengthUnits::Octets), .. }) => {
            Err(format!("{written} is not supported, as texts are cut between characters; leave OCTETS out"))
        }
        Some(CharacterLength::IntegerLength { length: 0, .. }) => {
            Err(format!("{written} has no room for a character; write a length from 1 on, or STRING"))
        }
        Some(CharacterLength::IntegerLength { length, .. }) => {
            Ok(usize::try_from(length).ok().filter(|length| *length < UNBOUNDED))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::parser::equivalents::rewritten;

    #[test]
    fn casts_to_a_length_cut() {
        for (written, meant) in [
            ("CAST(a AS VARCHAR(3))", "left(CAST(a AS VARCHAR), 3)"),
            ("TRY_CAST(a AS CHARACTER VARYING(3))", "left(TRY_CAST(a AS VARCHAR), 3)"),
            ("CAST(a AS CHAR VARYING(3 CHARACTERS))", "left(CAST(a AS VARCHAR), 3)"),
            ("a::CHAR(2) || 'x'", "left(a::VARCHAR, 2) || 'x'"),
            ("CAST(a AS CHARACTER)", "left(CAST(a AS VARCHAR), 1)"),
            ("VARCHAR(2) 'abc'", "left(VARCHAR 'abc', 2)"),
            ("CAST(CAST(a AS CHAR(3)) AS VARCHAR(2))", "left(CAST(left(CAST(a AS VARCHAR), 3) AS VARCHAR), 2)"),
            ("CAST(a AS VARCHAR)", "CAST(a AS VARCHAR)"),
            ("CAST(a AS CHARACTER VARYING)", "CAST(a AS VARCHAR)"),
            ("CAST(a AS VARCHAR(2147483647))", "CAST(a AS VARCHAR)"),
            ("CAST(a AS STRING)", "CAST(a AS STRING)"),
        ] {
            assert_eq!(rewritten(written).unwrap(), meant, "{written}");
        }
        for (written, reason) in [
            ("CAST(a AS VARCHAR(0))", "write a length from 1 on"),
            ("CAST(a AS VARCHAR(3 OCTETS))", "leave OCTETS out"),
            ("CAST(a AS VARCHAR(3)[])", "write STRING[]"),
        ] {
            let error = rewritten(written).unwrap_err().to_string();
            assert!(error.contains(reason), "{written}: {error}");
        }
    }
}
