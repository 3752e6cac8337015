//! Places in a script, as people count them: lines and columns from 1, columns in characters.
use std::fmt;

use datafusion::sql::sqlparser::tokenizer;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    pub line: u64,
    pub column: u64,
}

impl Location {
    pub const START: Self = Self { line: 1, column: 1 };

    pub fn new(line: u64, column: u64) -> Self {
        Self { line, column }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl From<tokenizer::Location> for Location {
    fn from(at: tokenizer::Location) -> Self {
        Self { line: at.line, column: at.column }
    }
}

/// Finds the byte offset of a [`Location`]; built once per script.
pub(crate) struct LineIndex<'a> {
    text: &'a str,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    pub fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, lines }
    }

    /// The offset of `at`; past the end of its line or of the text, that end.
    pub fn offset(&self, at: Location) -> usize {
        let line = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(&start) = self.lines.get(line) else { return self.text.len() };
        let end = self.lines.get(line + 1).copied().unwrap_or(self.text.len());
        let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
        self.text[start..end].char_indices().nth(column).map_or(end, |(offset, _)| start + offset)
    }

    /// Where the text ends.
    pub fn end(&self) -> Location {
        let start = self.lines.last().copied().unwrap_or(0);
        Location::new(self.lines.len() as u64, self.text[start..].chars().count() as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters_not_bytes() {
        let text = "é 'x'\nsecond";
        let index = LineIndex::new(text);
        assert_eq!(index.offset(Location::new(1, 1)), 0);
        assert_eq!(index.offset(Location::new(1, 3)), 3);
        assert_eq!(&text[index.offset(Location::new(2, 1))..], "second");
        assert_eq!(index.offset(Location::new(9, 9)), text.len());
        assert_eq!(index.end(), Location::new(2, 7));
    }
}
