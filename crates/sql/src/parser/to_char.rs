//! Patterns of PostgreSQL's `to_char`, `'YYYY-MM-DD'`, as those with `%` that DataFusion reads.

/// PostgreSQL's patterns of times, and what they are in those that DataFusion reads, the longer first.
const CHARS: [(&str, &str); 21] = [
    ("YYYY", "%Y"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("MONTH", "%B"),
    ("DDD", "%j"),
    ("MON", "%b"),
    ("DAY", "%A"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("HH", "%I"),
    ("MI", "%M"),
    ("SS", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("DY", "%a"),
    ("IW", "%V"),
    ("TZ", "%Z"),
    ("OF", "%:z"),
];

/// How `to_char` writes durations.
pub(super) const OF_DURATIONS: [&str; 2] = ["ISO8601", "pretty"];

/// Begins what is read otherwise than its first letters say: seconds of the day, the hours of an offset.
const OTHERWISE: [&str; 2] = ["SSSS", "TZH"];

/// A pattern of PostgreSQL's `to_char` as DataFusion has it.
pub(super) fn chars(pattern: &str) -> Result<String, String> {
    let (mut read, mut rest) = (String::new(), pattern);
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (words, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            read.push_str(words);
            rest = after;
        } else if let Some((letters, here)) = CHARS.iter().find(|(letters, _)| starts_with(rest, letters))
            && !OTHERWISE.iter().any(|letters| starts_with(rest, letters))
        {
            read.push_str(here);
            rest = &rest[letters.len()..];
        } else if first.is_ascii_alphabetic() {
            return Err(format!(
                "to_char does not know what {first:?} is in the pattern '{pattern}'; write date_format(time, 'yyyy-MM-dd HH:mm:ss'), or put words in double quotes"
            ));
        } else {
            read.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(read)
}

fn starts_with(text: &str, letters: &str) -> bool {
    text.get(..letters.len()).is_some_and(|start| start.eq_ignore_ascii_case(letters))
}
