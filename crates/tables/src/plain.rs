//! Errors of DataFusion and Arrow in words for whoever wrote the statement. Both put the kind of an error in front of it, once for each
//! layer that it went through, and DataFusion the steps of its own planning; neither tells what to change.
use std::error::Error;

/// Kinds that say nothing. Those that say something stay, as `Resources exhausted: …`.
const KINDS: [&str; 18] = [
    "Arrow error: ",
    "Cast error: ",
    "Compute error: ",
    "Error during planning: ",
    "Execution error: ",
    "ExecutionJoin error: ",
    "External error: ",
    "FFI error: ",
    "Internal error: ",
    "Invalid argument error: ",
    "Invalid or Unsupported Configuration: ",
    "Not yet implemented: ",
    "Parquet argument error: ",
    "Parquet error: ",
    "Parser error: ",
    "SQL error: ",
    "Schema error: ",
    "This feature is not implemented: ",
];

/// How DataFusion calls the steps of its planning, beside names of one word such as `type_coercion`.
const STEPS: [&str; 6] = [
    "Optimizer rule ",
    "PhysicalOptimizer rule ",
    "Check optimizer-specific invariants ",
    "Invalid (non-executable) plan ",
    "Invalid input plan ",
    "Invariant for ExecutionPlan node ",
];

/// What DataFusion adds to each of its internal errors.
const BEGGING: &str = "This issue was likely caused by a bug in DataFusion's code. Please help us to resolve this by filing a bug report in our issue tracker: https://github.com/apache/datafusion/issues";

/// What DataFusion says of an average of DECIMALs that is too large for its type, of a division by zero, of a text that is no date and of a subquery that
/// may have several rows, and what we say.
const SAID: [(&str, &str); 4] = [
    (
        "Arithmetic Overflow in AvgAccumulator",
        "an average does not fit into its DECIMAL, which has 38 digits; write avg(CAST(x AS DOUBLE))",
    ),
    ("Divide by zero error", "division by zero; write a / NULLIF(b, 0), which is NULL there"),
    (
        "Unable to cast to Date32 for converting from i64 to i32 failed",
        "to_date takes texts such as '2024-12-31', and this is none; write to_date(text, 'dd.MM.yyyy') with the pattern that it has",
    ),
    (
        "Correlated scalar subquery must be aggregated to return at most one row",
        "a scalar subquery that compares columns of the outer query may have several rows for one of these; write max(c) or first_value(c ORDER BY d) for its column c, or a LEFT JOIN",
    ),
];

/// Begins the name that DataFusion gives a subquery that it makes a join of. Only columns of the query right around it are told apart then.
pub const CORRELATED: &str = "__correlated_sq_";

/// Begins the name of a table that the planner brings into a query between, of columns of a query further out.
pub const BROUGHT: &str = "__outer_";

/// What there is to say of what was brought there and cannot be joined.
pub const NOT_JOINED: &str = "a subquery compares a column of a query further out than the one right around it, and cannot be written as a join there; join that table in the query between, too, by its key";

/// A text in one line, of at most 60 characters and an ellipsis.
pub fn shortened(text: &str) -> String {
    up_to(text, 60)
}

/// A text in one line, of at most so many characters and an ellipsis.
pub fn up_to(text: &str, characters: usize) -> String {
    let text = text.replace('\n', " ");
    if text.chars().count() <= characters { text } else { text.chars().take(characters).chain(['…']).collect() }
}

/// So many of something: `1 row`, `2 rows`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A length of time as people say it, to a tenth of its unit and never more than it is: `250 ms`, `2.5 s`, `3 min`, `1.5 h`, `2 d`.
pub fn lasting(us: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms")];
    let Some((length, unit)) = UNITS.iter().find(|(length, _)| us >= *length) else { return format!("{us} µs") };
    let tenths = us / (length / 10);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// The verb that goes with so many: [`counted`] records `was` or `were`.
pub fn agreeing<'a>(count: u64, of_one: &'a str, of_several: &'a str) -> &'a str {
    if count == 1 { of_one } else { of_several }
}

/// What there is to say of a column that a subquery takes from further out than [`CORRELATED`] allows.
pub fn of_outer_query(column: &str) -> String {
    format!(
        "column {column} is of a query further out than the one right around its subquery, whose columns alone it may compare; join that table in the query between, too, by its key"
    )
}

/// The text of an error without kinds, steps and backtrace, in one line: what was being done, where that was said, and the cause.
///
/// ```
/// # use polybolos_tables::plain::plain;
/// let text = "Optimizer rule 'simplify_expressions' failed\ncaused by\nArrow error: Cast error: Cannot cast string 'x'";
/// assert_eq!(plain(text), "Cannot cast string 'x'");
/// ```
pub fn plain(text: &str) -> String {
    let text = text.split_once("\n\nbacktrace: ").map_or(text, |(before, _)| before);
    let mut parts: Vec<&str> = text.split("\ncaused by\n").map(without_kinds).collect();
    let cause = parts.pop().unwrap_or_default();
    parts.retain(|doing| doing.contains(' ') && !STEPS.iter().any(|step| doing.starts_with(*step)));
    parts.push(cause);
    let line = parts.join(": ");
    let line = line.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let line = KINDS.iter().fold(line, |line, kind| line.replace(&format!(": {kind}"), ": "));
    let line = SAID.iter().fold(line, |line, (theirs, ours)| line.replace(theirs, ours));
    if line.contains(CORRELATED)
        && let Some((column, _)) = line.strip_prefix("No field named ").and_then(|rest| rest.split_once(". "))
    {
        return of_outer_query(column);
    }
    if line.contains(BROUGHT) && line.starts_with("No field named ") {
        return NOT_JOINED.to_owned();
    }
    let shorter = line.replace(BEGGING, "");
    if shorter == line {
        return line;
    }
    format!("{}; this is likely caused by a bug in DataFusion: write it in another way", shorter.trim().trim_end_matches('.'))
}

/// The same of an error and of its sources that say more.
pub fn plain_chain(error: &(dyn Error + 'static)) -> String {
    let mut told = plain(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let text = plain(&cause.to_string());
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        source = cause.source();
    }
    told
}

fn without_kinds(text: &str) -> &str {
    let mut text = text.trim_start();
    while let Some(rest) = KINDS.iter().find_map(|kind| text.strip_prefix(kind)) {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[test]
    fn one_is_counted_as_one() {
        let told = |count| format!("{} {} lost", counted(count, "dead letter"), agreeing(count, "was", "were"));
        assert_eq!([0, 1, 2].map(told), ["0 dead letters were lost", "1 dead letter was lost", "2 dead letters were lost"]);
    }

    #[test]
    fn a_length_of_time_is_told_in_the_unit_that_fits() {
        for (us, told) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_250, "1.2 ms"),
            (2_500_000, "2.5 s"),
            (59_999_999, "59.9 s"),
            (180_000_000, "3 min"),
            (5_400_000_000, "1.5 h"),
            (172_800_000_000, "2 d"),
        ] {
            assert_eq!(lasting(us), told);
        }
    }

    #[test]
    fn kinds_and_steps_go_and_what_somebody_said_stays() {
        for (text, expected) in [
            ("Error during planning: table 'a' not found", "table 'a' not found"),
            ("Arrow error: External error: Execution error: file a: line 3: no JSON", "file a: line 3: no JSON"),
            ("Optimizer rule 'a' failed\ncaused by\ntype_coercion\ncaused by\nError during planning: no cast", "no cast"),
            ("looking up rows of t\ncaused by\nExternal error: cassandra is away", "looking up rows of t: cassandra is away"),
            ("file a of table t cannot be read: Arrow error: Cast error: no number", "file a of table t cannot be read: no number"),
            ("Arrow error: Divide by zero error", "division by zero; write a / NULLIF(b, 0), which is NULL there"),
            (
                "Execution error: Arithmetic Overflow in AvgAccumulator",
                "an average does not fit into its DECIMAL, which has 38 digits; write avg(CAST(x AS DOUBLE))",
            ),
            (
                "Arrow error: Parser error: Unable to cast to Date32 for converting from i64 to i32 failed",
                "to_date takes texts such as '2024-12-31', and this is none; write to_date(text, 'dd.MM.yyyy') with the pattern that it has",
            ),
            ("Execution error: a\n\nbacktrace:    0: std::backtrace", "a"),
            ("Schema error: No field named a.\n Valid fields are b.", "No field named a. Valid fields are b."),
            (
                "Schema error: No field named p.k. Did you mean '__correlated_sq_1.k'?\nValid fields are __correlated_sq_1.k.",
                "column p.k is of a query further out than the one right around its subquery, whose columns alone it may compare; join that table in the query between, too, by its key",
            ),
            ("Schema error: No field named __outer_1.id.\nValid fields are p.k.", NOT_JOINED),
            (
                "Error during planning: Correlated scalar subquery must be aggregated to return at most one row",
                "a scalar subquery that compares columns of the outer query may have several rows for one of these; write max(c) or first_value(c ORDER BY d) for its column c, or a LEFT JOIN",
            ),
            ("the words Cast error: in a text", "the words Cast error: in a text"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }

    #[test]
    fn an_internal_error_says_what_to_do() {
        let text = format!("Internal error: no such node.\n{BEGGING}");
        let expected = "no such node; this is likely caused by a bug in DataFusion: write it in another way";
        assert_eq!(plain(&text), expected);
    }

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as &(dyn Error + 'static))
        }
    }

    #[test]
    fn sources_are_told_once() {
        let root = Layer("Cast error: no number", None);
        let middle = Layer("Arrow error: Cast error: no number", Some(Box::new(root)));
        let outer = Layer("job j cannot start", Some(Box::new(middle)));
        assert_eq!(plain_chain(&outer), "job j cannot start: no number");
    }
}
