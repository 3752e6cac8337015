//! Everything that can be wrong with a statement, in one line that names the object and what to write instead.
use std::fmt;

use datafusion::{
    common::{Column, SchemaError},
    error::DataFusionError,
};
use polybolos_tables::{
    Blame,
    plain::{BROUGHT, CORRELATED, NOT_JOINED, of_outer_query, plain},
};
use thiserror::Error;

use crate::{elsewhere::ELSEWHERE, location::Location};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    Table,
    View,
    Function,
    Job,
    Savepoint,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::View => "view",
            Self::Function => "function",
            Self::Job => "job",
            Self::Savepoint => "savepoint",
        })
    }
}

/// Displays as `message; hint`, without the place: [`SqlError::location`] has it, and [`SqlError::placed`] writes both.
#[derive(Debug, Error)]
pub enum SqlError {
    /// The statement cannot be read.
    #[error("{message}{}", Hint(hint))]
    Syntax { at: Location, message: String, hint: Option<String> },
    /// Too long, or nested too deeply, to be planned safely.
    #[error("{message}")]
    TooLarge { at: Location, message: String },
    /// Understood, and not to be had. `message` says what to write instead.
    #[error("{message}")]
    Unsupported { at: Option<Location>, message: String },
    /// Well-formed and wrong: an option, a type, a name, a missing key.
    #[error("{message}")]
    Invalid { at: Option<Location>, message: String },
    #[error("{kind} {name} does not exist{}", Hint(hint))]
    NoSuch { kind: ObjectKind, name: String, hint: Option<String> },
    #[error("{kind} {name} exists already; drop it first, or write IF NOT EXISTS")]
    Exists { kind: ObjectKind, name: String },
    /// A table, view or function that others depend on.
    #[error("{kind} {name} is used by {user_kind} {user}; drop the {user_kind} first: DROP {} {user}", user_kind.to_string().to_uppercase())]
    InUse { kind: ObjectKind, name: String, user_kind: ObjectKind, user: String },
    /// DataFusion refuses the query.
    #[error("{message}")]
    Plan {
        at: Option<Location>,
        message: String,
        #[source]
        source: Box<DataFusionError>,
    },
    /// A file of a pipeline folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

struct Hint<'a>(&'a Option<String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl SqlError {
    pub(crate) fn syntax(at: Location, message: impl Into<String>) -> Self {
        Self::Syntax { at, message: message.into(), hint: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { at: None, message: message.into() }
    }

    pub(crate) fn invalid_at(at: Location, message: impl Into<String>) -> Self {
        Self::Invalid { at: Some(at), message: message.into() }
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported { at: None, message: message.into() }
    }

    pub(crate) fn unsupported_at(at: Location, message: impl Into<String>) -> Self {
        Self::Unsupported { at: Some(at), message: message.into() }
    }

    /// Where in the script, if known.
    pub fn location(&self) -> Option<Location> {
        match self {
            Self::Syntax { at, .. } | Self::TooLarge { at, .. } => Some(*at),
            Self::Unsupported { at, .. } | Self::Invalid { at, .. } | Self::Plan { at, .. } => *at,
            Self::NoSuch { .. } | Self::Exists { .. } | Self::InUse { .. } | Self::Read { .. } => None,
        }
    }

    /// The message with its place in front: `line 3, column 5: expected a type, found ","`.
    pub fn placed(&self) -> String {
        match self.location() {
            Some(at) => format!("{at}: {self}"),
            None => self.to_string(),
        }
    }

    pub fn is_retryable(&self) -> bool {
        self.blame() == Blame::Environment
    }

    pub fn blame(&self) -> Blame {
        match self {
            Self::Plan { source, .. } => blame(source),
            Self::Read { .. } => Blame::Environment,
            _ => Blame::User,
        }
    }

    /// The five-letter code that PostgreSQL clients expect.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "42601",
            Self::TooLarge { .. } => "54001",
            Self::Unsupported { .. } => "0A000",
            Self::Invalid { .. } => "42P16",
            Self::NoSuch { kind: ObjectKind::Table, .. } => "42P01",
            Self::NoSuch { kind: ObjectKind::Function, .. } => "42883",
            Self::NoSuch { .. } => "42704",
            Self::Exists { kind: ObjectKind::Table, .. } => "42P07",
            Self::Exists { kind: ObjectKind::Function, .. } => "42723",
            Self::Exists { .. } => "42710",
            Self::InUse { .. } => "2BP01",
            Self::Read { .. } => "58030",
            Self::Plan { source, .. } => match blame(source) {
                Blame::User => "42000",
                Blame::Environment => "58000",
                Blame::Bug => "XX000",
            },
        }
    }
}

/// Errors of planning, with DataFusion's place in the script where it tells one.
impl From<DataFusionError> for SqlError {
    fn from(source: DataFusionError) -> Self {
        let at = source
            .diagnostic()
            .and_then(|diagnostic| diagnostic.span)
            .map(|span| Location::new(span.start.line, span.start.column))
            .filter(|at| at.line > 0);
        let message = plain_message(&source);
        Self::Plan { at, message, source: Box::new(source) }
    }
}

/// What DataFusion says, in our words where we have better ones.
fn plain_message(error: &DataFusionError) -> String {
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema, _) = root
        && let SchemaError::FieldNotFound { field, valid_fields } = schema.as_ref()
    {
        return no_column(field, valid_fields);
    }
    let text = plain(&root.to_string());
    if text.contains("a call to 'date_bin' function") {
        return DATE_BIN.to_owned();
    }
    if let Some((before, _)) = text.split_once("' failed to match any signature")
        && let Some((_, function)) = before.rsplit_once('\'')
    {
        return takes_others(function);
    }
    if text.starts_with("There is only support Literal types for field at idx: ") {
        return "how far lag, lead and nth_value go, their default, and how many ntile makes are constants, the same for all rows"
            .to_owned();
    }
    if text.starts_with("unnest() can only be applied to ") {
        return "unnest takes an array or a ROW; of a MAP write FROM t CROSS JOIN UNNEST(map) AS x (k, v)".to_owned();
    }
    if text.starts_with("Aggregate ORDER BY is not implemented for window functions") {
        return "an aggregate OVER has no order of its own, as max_by(x, y) and array_agg(x ORDER BY y) have; write last_value(x) OVER (ORDER BY y …), or aggregate in a subquery".to_owned();
    }
    if let Some(calls) = text.strip_prefix("Aggregate function calls cannot be nested: ") {
        return format!("an aggregate of an aggregate takes two steps; compute the inner one in a subquery of FROM: {calls}");
    }
    if let Some((said, _)) = text.split_once(" No function matches the given name and argument types ") {
        return not_taken(said);
    }
    let of_times = text.strip_prefix("Cannot get result type for temporal operation ").and_then(|rest| rest.split_once(": "));
    let of_others = text.strip_prefix("Cannot coerce arithmetic expression ").and_then(|rest| rest.strip_suffix(" to valid types"));
    if let Some(types) = of_times.map(|(types, _)| types).or(of_others) {
        let types = TYPES.iter().fold(types.to_owned(), |types, (arrow, ours)| types.replace(arrow, ours));
        return format!("{types} cannot be computed; CAST one side to a type that goes with the other's");
    }
    if let Some(name) = text.strip_prefix("Invalid function '").and_then(|rest| rest.split_once('\'')).map(|(name, _)| name)
        && let Some((_, remedy)) = ELSEWHERE.iter().find(|(names, _)| names.contains(&name.to_ascii_lowercase().as_str()))
    {
        return format!("there is no function {name}; {remedy}");
    }
    if let Some((name, guess)) = text.strip_prefix("Invalid function '").and_then(|rest| rest.split_once("'.")) {
        let guess = guess.split('\'').nth(1);
        return match guess.and_then(|guess| did_you_mean(name, [guess])) {
            Some(near) => format!("there is no function {name}; did you mean {near}?"),
            None => format!("there is no function {name}; SELECT DISTINCT routine_name FROM information_schema.routines lists all"),
        };
    }
    if let Some(name) = text.strip_prefix("table function '").and_then(|rest| rest.strip_suffix("' not found")) {
        let remedy = match name.to_ascii_lowercase().as_str() {
            "flatten" | "explode" => "write FROM t CROSS JOIN UNNEST(array) AS x (item)",
            _ => "FROM takes UNNEST(array), generate_series(a, b), and windows: TUMBLE, HOP, CUMULATE and SESSION",
        };
        return format!("there is no table function {name}; {remedy}");
    }
    if text.starts_with("Schema contains qualified field name ")
        && let Some(name) =
            text.split_once(" and unqualified field name ").and_then(|(_, rest)| rest.strip_suffix(" which would be ambiguous"))
    {
        return format!(
            "there are two columns {name}; give the one that is computed or unnested another name, as in UNNEST(…) AS x (item)"
        );
    }
    if text.ends_with("ANY in LIKE expression") {
        return "LIKE ANY is not supported; write a LIKE 'x%' OR a LIKE 'y%', or a ~ '^(x|y)'".to_owned();
    }
    if let Some((clause, rest)) = text.strip_prefix("Column in ").and_then(|rest| rest.split_once(" must be in GROUP BY"))
        && let Some(column) = rest.split('"').nth(1)
    {
        let name = column.rsplit('.').next().unwrap_or(column);
        return format!(
            "column {column} in {clause} is neither grouped nor aggregated; add it to GROUP BY, or write for example first_value({name})"
        );
    }
    if let Some(rest) = text.strip_prefix("For SELECT DISTINCT, ORDER BY expressions ")
        && let Some((column, _)) = rest.split_once(" must appear in select list")
    {
        return format!(
            "rows of SELECT DISTINCT, UNION, EXCEPT and INTERSECT are ordered by what is selected, and {column} is not; select it too, or write ORDER BY 1"
        );
    }
    if let Some(node) = text.strip_prefix("Unsupported ast node in sqltorel: ") {
        let kind: String = node.chars().take_while(|letter| letter.is_ascii_alphanumeric()).collect();
        return format!("{kind} is not supported; write it by functions and operators of PostgreSQL");
    }
    text
}

/// What a function says of arguments that it does not take, or which it is.
fn not_taken(said: &str) -> String {
    let said = said.trim_end_matches('.');
    let of_signature =
        said.strip_prefix("Failed to coerce arguments to satisfy a call to '").and_then(|rest| rest.split_once('\''));
    match (of_signature, said.split_once(" coercion failed with: ")) {
        (Some((function, _)), _) => takes_others(function),
        (None, Some((_, reason))) => reason.to_owned(),
        (None, None) => said.to_owned(),
    }
}

fn takes_others(function: &str) -> String {
    format!("function {function} takes no arguments of these types; CAST them to what it takes")
}

fn no_column(field: &Column, known: &[Column]) -> String {
    let names: Vec<String> = known.iter().map(Column::flat_name).collect();
    let near = did_you_mean(&field.name, known.iter().map(|column| column.name.as_str()));
    let is_other_case = |near: &str| near.eq_ignore_ascii_case(&field.name);
    let name = field.quoted_flat_name();
    let is_of =
        |column: &Column, prefix: &str| column.relation.as_ref().is_some_and(|relation| relation.table().starts_with(prefix));
    if is_of(field, BROUGHT) || known.iter().any(|column| is_of(column, BROUGHT)) {
        return NOT_JOINED.to_owned();
    }
    if known.iter().any(|column| is_of(column, CORRELATED)) {
        return of_outer_query(&name);
    }
    match near {
        Some(near) if is_other_case(near) && near != field.name => {
            format!("there is no column {name}; did you mean {near}? A name in double quotes keeps its case")
        }
        Some(near) if near != field.name => format!("there is no column {name}; did you mean {near}?"),
        _ if names.is_empty() => format!("there is no column {name} (a text takes single quotes), as nothing is read; add FROM"),
        _ => {
            let shown = names.iter().take(SHOWN_COLUMNS).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = if names.len() > SHOWN_COLUMNS { ", …" } else { "" };
            format!("there is no column {name} (a text takes single quotes); there are {shown}{more}")
        }
    }
}

/// So many are listed where a name is near to none.
const SHOWN_COLUMNS: usize = 16;

/// Types as arrow writes them, the longer first, and as columns are declared.
const TYPES: [(&str, &str); 8] = [
    ("Interval(MonthDayNano)", "INTERVAL"),
    ("Utf8View", "STRING"),
    ("Utf8", "STRING"),
    ("Float64", "DOUBLE"),
    ("Int64", "BIGINT"),
    ("Int32", "INT"),
    ("Date32", "DATE"),
    ("Boolean", "BOOLEAN"),
];

/// Of a call that most do not write: TUMBLE is made of it.
const DATE_BIN: &str = "windows of TUMBLE, and date_bin, are of an INTERVAL over a TIMESTAMP or TIMESTAMP_LTZ column; CAST what is of another type in a subquery, or declare a computed column: at AS to_timestamp_ltz(millis, 3)";

fn blame(error: &DataFusionError) -> Blame {
    match error.find_root() {
        DataFusionError::Internal(_) => Blame::Bug,
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) | DataFusionError::ResourcesExhausted(_) => {
            Blame::Environment
        }
        DataFusionError::External(source) => {
            source.downcast_ref::<polybolos_tables::TableError>().map_or(Blame::Environment, |error| error.blame())
        }
        _ => Blame::User,
    }
}

/// `; did you mean 'topic'?`, if one of `known` is near.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["topic", "format", "properties.bootstrap.servers"];
        assert_eq!(did_you_mean("topik", known), Some("topic"));
        assert_eq!(did_you_mean("Topic", known), Some("topic"));
        assert_eq!(did_you_mean("properties.bootstrap.server", known), Some("properties.bootstrap.servers"));
        assert_eq!(did_you_mean("colour", known), None);
    }

    #[test]
    fn a_column_of_nothing_is_told_from_one_that_a_table_lacks() {
        let column = |name: &str| Column::new_unqualified(name);
        assert!(no_column(&column("colour"), &[column("topic")]).ends_with("there are topic"));
        assert!(no_column(&column("colour"), &[]).ends_with("nothing is read; add FROM"));
    }

    #[test]
    fn what_cannot_be_computed_is_said_by_its_types() {
        for (said, expected) in [
            ("Cannot coerce arithmetic expression Date32 + Utf8 to valid types", "DATE + STRING cannot be computed"),
            (
                "Cannot get result type for temporal operation Interval(MonthDayNano) / Float64: Invalid interval arithmetic operation: Interval(MonthDayNano) / Interval(MonthDayNano)",
                "INTERVAL / DOUBLE cannot be computed",
            ),
        ] {
            let message = plain_message(&DataFusionError::Plan(said.to_owned()));
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn what_a_function_takes_is_said_in_its_own_words() {
        let ending =
            " No function matches the given name and argument types 'f(Int64)'. You might need to add explicit type casts.";
        for (said, expected) in [
            ("Function 'bin' user-defined coercion failed with: bin takes a whole number.", "bin takes a whole number"),
            (
                "Failed to coerce arguments to satisfy a call to 'from_unixtime' function: coercion from Utf8 to the signature Exact(Int64) failed.",
                "function from_unixtime takes no arguments of these types; CAST them to what it takes",
            ),
            (
                "Function 'upper' requires String, but received Int32 (DataType: Int32)..",
                "Function 'upper' requires String, but received Int32 (DataType: Int32)",
            ),
        ] {
            let error = DataFusionError::Plan(format!("{said}{ending}"));
            assert_eq!(plain_message(&error), expected);
        }
    }

    #[test]
    fn the_place_is_told_apart_from_the_message() {
        let error = SqlError::Syntax {
            at: Location::new(3, 5),
            message: "expected a type, found \",\"".into(),
            hint: Some("write for example STRING".into()),
        };
        assert_eq!(error.to_string(), "expected a type, found \",\"; write for example STRING");
        assert_eq!(error.placed(), "line 3, column 5: expected a type, found \",\"; write for example STRING");
        assert_eq!(error.sqlstate(), "42601");
        assert!(!error.is_retryable());
    }
}
