//! A strict JSON scanner (RFC 8259) over one record: what is not wanted is skipped, yet checked. It never allocates on the good path and
//! never goes deeper than its limit.
use super::fault::{Fault, Outcome};

/// Where a string's content lies, and whether it has escapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct StringSpan {
    pub start: usize,
    pub end: usize,
    pub escaped: bool,
}

/// A number's text and, when it is written without fraction or exponent, its digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    pub text: &'a str,
    pub negative: bool,
    /// `None` for fractions, exponents, and more than 64 bits.
    pub magnitude: Option<u64>,
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pos: usize,
    depth: usize,
    max_depth: usize,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Marks quote, backslash and control bytes of a word; the lowest mark is exact.
#[inline(always)]
fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let marks = (quote.wrapping_sub(ONES) & !quote)
        | (backslash.wrapping_sub(ONES) & !backslash)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    marks & HIGHS
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, max_depth: usize) -> Self {
        Self { text, bytes: text.as_bytes(), pos: 0, depth: 0, max_depth }
    }

    #[inline(always)]
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    #[inline(always)]
    pub fn advance(&mut self) {
        self.pos += 1;
    }

    /// Skips white space and looks at what follows.
    #[inline(always)]
    pub fn token(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.pos += 1;
        }
        None
    }

    #[cold]
    pub fn unexpected(&self, wanted: &str) -> Box<Fault> {
        match self.text.get(self.pos..).and_then(|rest| rest.chars().next()) {
            Some(found) => Fault::syntax(format!("expected {wanted} at byte {}, found {found:?}", self.pos)),
            None => Fault::syntax(format!("expected {wanted}, but the record ends at byte {}", self.bytes.len())),
        }
    }

    #[inline(always)]
    pub fn expect(&mut self, byte: u8, wanted: &'static str) -> Outcome {
        if self.token() != Some(byte) {
            return Err(self.unexpected(wanted));
        }
        self.pos += 1;
        Ok(())
    }

    /// Nothing but white space may be left.
    pub fn end(&mut self) -> Outcome {
        match self.token() {
            None => Ok(()),
            Some(_) => {
                Err(Fault::syntax(format!("something follows the value at byte {}; a record holds exactly one value", self.pos)))
            }
        }
    }

    /// Steps into an object or list.
    #[inline(always)]
    pub fn enter(&mut self) -> Outcome {
        self.depth += 1;
        if self.depth > self.max_depth {
            return Err(Fault::syntax(format!("nested deeper than {} levels", self.max_depth)));
        }
        Ok(())
    }

    #[inline(always)]
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Passes one value and answers its text, as it stands there; stands on its first byte.
    pub fn value_text(&mut self) -> Outcome<&'a str> {
        let start = self.pos;
        self.skip_value()?;
        Ok(&self.text[start..self.pos])
    }

    /// A second scanner behind the quote that this one stands on.
    pub fn at_string(&self) -> Self {
        Self { pos: self.pos + 1, ..*self }
    }

    /// Whether the next bytes are `key` and its closing quote; they are passed then. Stands behind the opening quote.
    #[inline(always)]
    pub fn pass_key(&mut self, key: &[u8]) -> bool {
        let end = self.pos + key.len();
        let same = self.bytes.get(end) == Some(&b'"') && &self.bytes[self.pos..end] == key;
        if same {
            self.pos = end + 1;
        }
        same
    }

    /// A string whose opening quote has been passed.
    #[inline]
    pub fn string(&mut self) -> Outcome<StringSpan> {
        let start = self.pos;
        let mut escaped = false;
        loop {
            while let Some(word) = self.bytes.get(self.pos..self.pos + 8) {
                let marks = special(u64::from_le_bytes(word.try_into().expect("eight bytes")));
                if marks != 0 {
                    self.pos += marks.trailing_zeros() as usize / 8;
                    break;
                }
                self.pos += 8;
            }
            match self.peek() {
                Some(b'"') => {
                    let end = self.pos;
                    self.pos += 1;
                    return Ok(StringSpan { start, end, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(byte) if byte < 0x20 => return Err(self.unexpected("no raw control character in a string")),
                Some(_) => self.pos += 1,
                None => return Err(self.unexpected("the end of a string")),
            }
        }
    }

    /// Checks one escape sequence and passes it.
    fn escape(&mut self) -> Outcome {
        self.pos += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.pos += 1;
                Ok(())
            }
            Some(b'u') => {
                self.pos += 1;
                let unit = self.hex()?;
                match unit {
                    0xD800..=0xDBFF => {
                        let low = self.bytes.get(self.pos..self.pos + 2) == Some(b"\\u");
                        if low {
                            self.pos += 2;
                        }
                        if !low || !matches!(self.hex()?, 0xDC00..=0xDFFF) {
                            return Err(Fault::syntax(format!("half a surrogate pair before byte {}", self.pos)));
                        }
                        Ok(())
                    }
                    0xDC00..=0xDFFF => Err(Fault::syntax(format!("half a surrogate pair before byte {}", self.pos))),
                    _ => Ok(()),
                }
            }
            _ => Err(self.unexpected("an escape sequence")),
        }
    }

    fn hex(&mut self) -> Outcome<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return Err(self.unexpected("four hexadecimal digits")) };
            unit = unit << 4 | digit as u16;
            self.pos += 1;
        }
        Ok(unit)
    }

    /// The bytes between the quotes, escapes as they were written.
    #[inline(always)]
    pub fn raw(&self, span: StringSpan) -> &'a [u8] {
        &self.bytes[span.start..span.end]
    }

    #[inline]
    pub fn raw_text(&self, span: StringSpan) -> &'a str {
        &self.text[span.start..span.end]
    }

    /// Appends the string's content, escapes resolved.
    #[inline]
    pub fn append_string(&self, span: StringSpan, out: &mut Vec<u8>) {
        if span.escaped { self.append_unescaped(span, out) } else { out.extend_from_slice(self.raw(span)) }
    }

    fn append_unescaped(&self, span: StringSpan, out: &mut Vec<u8>) {
        let mut rest = self.raw_text(span);
        while let Some(at) = rest.find('\\') {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            let kind = rest.as_bytes()[at + 1];
            rest = &rest[at + 2..];
            match kind {
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => {
                    let unit = |text: &str| u32::from_str_radix(text, 16).expect("escapes were checked");
                    let mut code = unit(&rest[..4]);
                    rest = &rest[4..];
                    if (0xD800..0xDC00).contains(&code) {
                        code = 0x1_0000 + ((code - 0xD800) << 10) + (unit(&rest[2..6]) - 0xDC00);
                        rest = &rest[6..];
                    }
                    let character = char::from_u32(code).expect("surrogates were paired");
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => out.push(other),
            }
        }
        out.extend_from_slice(rest.as_bytes());
    }

    /// A number; stands on its first byte.
    #[inline]
    pub fn number(&mut self) -> Outcome<Number<'a>> {
        let start = self.pos;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.pos += 1;
        }
        let first_digit = self.pos;
        let mut magnitude = 0u64;
        let mut overflow = false;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            match magnitude.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0'))) {
                Some(sum) => magnitude = sum,
                None => overflow = true,
            }
            self.pos += 1;
        }
        let digits = self.pos - first_digit;
        if digits == 0 {
            return Err(self.unexpected("a digit"));
        }
        if digits > 1 && self.bytes[first_digit] == b'0' {
            return Err(Fault::syntax(format!("a number with a leading zero at byte {first_digit}")));
        }
        let mut integral = true;
        if self.peek() == Some(b'.') {
            integral = false;
            self.pos += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integral = false;
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            self.digits()?;
        }
        let magnitude = (integral && !overflow).then_some(magnitude);
        Ok(Number { text: &self.text[start..self.pos], negative, magnitude })
    }

    fn digits(&mut self) -> Outcome {
        let start = self.pos;
        while let Some(b'0'..=b'9') = self.peek() {
            self.pos += 1;
        }
        if self.pos == start { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    /// `null`, `true` or `false`; stands on its first byte.
    #[inline]
    pub fn literal(&mut self, literal: &'static str) -> Outcome {
        let end = self.pos + literal.len();
        if self.bytes.get(self.pos..end) != Some(literal.as_bytes()) {
            return Err(self.unexpected("a value"));
        }
        self.pos = end;
        Ok(())
    }

    /// Passes one value that nobody wants.
    pub fn skip_value(&mut self) -> Outcome {
        match self.token() {
            Some(b'"') => {
                self.pos += 1;
                self.string().map(|_| ())
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(b'{') => self.skip_object(),
            Some(b'[') => self.skip_list(),
            Some(b'n') => self.literal("null"),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn skip_object(&mut self) -> Outcome {
        self.enter()?;
        self.pos += 1;
        if self.token() == Some(b'}') {
            self.pos += 1;
            self.leave();
            return Ok(());
        }
        loop {
            self.expect(b'"', "a key in quotes")?;
            self.string()?;
            self.expect(b':', "':'")?;
            self.skip_value()?;
            if !self.another(b'}', "',' or '}'")? {
                return Ok(());
            }
        }
    }

    fn skip_list(&mut self) -> Outcome {
        self.enter()?;
        self.pos += 1;
        if self.token() == Some(b']') {
            self.pos += 1;
            self.leave();
            return Ok(());
        }
        loop {
            self.skip_value()?;
            if !self.another(b']', "',' or ']'")? {
                return Ok(());
            }
        }
    }

    /// After a member: whether another follows. Leaves the container at its closing byte.
    #[inline(always)]
    pub fn another(&mut self, close: u8, wanted: &'static str) -> Outcome<bool> {
        match self.token() {
            Some(b',') => {
                self.pos += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.pos += 1;
                self.leave();
                Ok(false)
            }
            _ => Err(self.unexpected(wanted)),
        }
    }

    /// The value that starts here, shortened, for error messages.
    #[cold]
    pub fn glimpse(&self) -> String {
        const SHOWN: usize = 40;
        let rest = self.text.get(self.pos..).unwrap_or_default();
        let line: String = rest.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
        match rest.as_bytes().first() {
            Some(b'{') => "an object".into(),
            Some(b'[') => "a list".into(),
            Some(b'"') => match line[1..].find('"') {
                Some(end) => line[..end + 2].to_string(),
                None => format!("{line}…"),
            },
            _ => line.split([',', '}', ']', ' ']).next().unwrap_or_default().to_string(),
        }
    }
}
