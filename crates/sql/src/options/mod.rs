//! `WITH` clauses: every key is known, every value typed, and a misspelt key is answered with the near one.
pub mod cassandra;
pub mod filesystem;
pub mod job;
pub mod kafka;
pub mod upsert_kafka;

use std::{collections::BTreeSet, str::FromStr};

use crate::{
    error::{SqlError, did_you_mean},
    statement::OptionEntry,
};

/// A length of time as one writes it in options: a number and a unit, `30 s`, `5min`, `7 days`. `None` where it is not.
pub(crate) fn duration_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit_ms: u64 = match unit.trim() {
        "ms" | "milli" | "millis" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// Takes options out of a WITH clause one by one; what is left at the end is unknown.
pub(crate) struct OptionReader<'a> {
    /// For messages: `table users`.
    object: &'a str,
    entries: &'a [OptionEntry],
    /// Every key asked for, whether given or not.
    known: BTreeSet<&'static str>,
    /// Prefixes under which any key is allowed, as `properties.`.
    prefixes: Vec<&'static str>,
}

impl<'a> OptionReader<'a> {
    pub fn new(object: &'a str, entries: &'a [OptionEntry]) -> Self {
        Self { object, entries, known: BTreeSet::new(), prefixes: Vec::new() }
    }

    pub fn object(&self) -> &'a str {
        self.object
    }

    pub fn entry(&mut self, key: &'static str) -> Option<&'a OptionEntry> {
        self.known.insert(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn text(&mut self, key: &'static str) -> Result<Option<String>, SqlError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        if entry.value.trim().is_empty() {
            return Err(self.wrong(entry, "a value that is not empty"));
        }
        Ok(Some(entry.value.clone()))
    }

    /// `example` is for the message when it is missing.
    pub fn required(&mut self, key: &'static str, example: &str) -> Result<String, SqlError> {
        if let Some(text) = self.text(key)? {
            return Ok(text);
        }
        // A near miss explains itself better than a missing option.
        self.near_miss(key)?;
        Err(SqlError::invalid(format!("{} needs the option '{key}'; write for example '{key}' = '{example}'", self.object)))
    }

    fn near_miss(&self, key: &'static str) -> Result<(), SqlError> {
        match self.entries.iter().find(|entry| entry.key != key && did_you_mean(&entry.key, [key]).is_some()) {
            Some(entry) if !self.known.contains(entry.key.as_str()) => Err(self.unknown(entry)),
            _ => Ok(()),
        }
    }

    /// `wanted` is for messages: `a number of rows from 1 on`.
    pub fn parsed<T: FromStr>(
        &mut self,
        key: &'static str,
        wanted: &str,
        valid: impl FnOnce(&T) -> bool,
    ) -> Result<Option<T>, SqlError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        match entry.value.trim().parse() {
            Ok(value) if valid(&value) => Ok(Some(value)),
            _ => Err(self.wrong(entry, wanted)),
        }
    }

    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, SqlError> {
        self.parsed(key, "'true' or 'false'", |_| true)
    }

    /// A length of time as Flink writes it, in microseconds, longer than nothing: `30 s`, `500 ms`, `1 h`.
    pub fn duration(&mut self, key: &'static str) -> Result<Option<i64>, SqlError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        match crate::parser::microseconds(&entry.value).filter(|length| *length > 0) {
            Some(length) => Ok(Some(length)),
            None => Err(self.wrong(entry, "a length of time, for example '30 s', '500 ms' or '1 h'")),
        }
    }

    /// One of a few words, each with its value.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, SqlError> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == entry.value) {
            return Ok(Some(*value));
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("'{word}'")).collect();
        let near = did_you_mean(&entry.value, choices.iter().map(|(word, _)| *word));
        let mut wanted = words.join(", ");
        if let Some(near) = near {
            wanted = format!("{wanted}; did you mean '{near}'?");
        }
        Err(self.wrong(entry, &wanted))
    }

    /// All entries under `prefix`, which is cut off.
    pub fn under(&mut self, prefix: &'static str) -> impl Iterator<Item = (&'a str, &'a OptionEntry)> + use<'a> {
        self.prefixes.push(prefix);
        self.entries.iter().filter_map(move |entry| Some((entry.key.strip_prefix(prefix)?, entry)))
    }

    pub fn wrong(&self, entry: &OptionEntry, wanted: &str) -> SqlError {
        let shown = if crate::redact::is_secret(&entry.key) { crate::redact::HIDDEN } else { &entry.value };
        SqlError::invalid_at(entry.at, format!("option '{}' of {} is '{shown}'; it takes {wanted}", entry.key, self.object))
    }

    fn unknown(&self, entry: &OptionEntry) -> SqlError {
        let known: Vec<&str> = self.known.iter().copied().collect();
        let hint = match did_you_mean(&entry.key, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known are {}", known.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(", ")),
        };
        SqlError::invalid_at(entry.at, format!("unknown option '{}' of {}; {hint}", entry.key, self.object))
    }

    /// That every option was asked for.
    pub fn finish(self) -> Result<(), SqlError> {
        let asked = |entry: &&OptionEntry| {
            self.known.contains(entry.key.as_str()) || self.prefixes.iter().any(|prefix| entry.key.starts_with(prefix))
        };
        match self.entries.iter().find(|entry| !asked(entry)) {
            Some(entry) => Err(self.unknown(entry)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::duration_ms;

    #[test]
    fn lengths_of_time_are_read_as_flink_writes_them() {
        assert_eq!(duration_ms("30 s"), Some(30_000));
        assert_eq!(duration_ms("5min"), Some(300_000));
        assert_eq!(duration_ms(" 7 days "), Some(604_800_000));
        for wrong in ["", "7", "s", "-1 s", "1 fortnight", "1.5 h"] {
            assert_eq!(duration_ms(wrong), None, "{wrong}");
        }
    }
}
