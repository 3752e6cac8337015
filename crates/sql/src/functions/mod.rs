//! Functions that DataFusion lacks, with Flink's names and meaning, and those that windows are lowered to. All are pure: what they give
//! depends on their arguments alone. Scheduler and executors register the same ones.
//!
//! | function | gives |
//! |---|---|
//! | `date_format(time, 'yyyy-MM-dd HH:mm')` | text, by Java's pattern letters; a pattern with `%` is read as DataFusion's `to_char` reads it |
//! | `regexp_extract(text, regex [, group])` | the group of the first match (0, the whole, when left out), NULL where none matches |
//! | `regexp_extract_all(text, regex [, group])` | an array of the group of all matches (1 when left out), NULL where there is no such group |
//! | `split_index(text, separator, index)` | the part at the index, from 0 on, NULL outside |
//! | `count_char(text, character)` | how often the character's first byte is in the text |
//! | `hex(value)`, `unhex(text)`, `bin(number)` | hexadecimal digits in capitals; the bytes that they are, NULL where they are none; binary digits |
//! | `locate(part, text [, from])` | where the part begins, counted from 1 on; 0 where it is not |
//! | `split(text, separator)`, `str_to_map(text [, ',' [, '=']])` | an array of the parts; a map of the entries |
//! | `parse_url(url, part [, key])` | a part of a URL, or the value of a key of its query |
//! | `url_encode(text)`, `url_decode(text)` | a value as in forms; the text that it stands for, NULL where it is no such value |
//! | `last_day(date)` | the last day of its month |
//! | `typeof(value)` | its type, as columns are declared |
//! | `hour`, `minute`, `second`, `year`, `quarter`, `month`, `week`, `dayofyear`, `dayofmonth`, `dayofweek` | BIGINT; Sunday is 1 |
//! | `timestampdiff('hour', a, b)`, `timestampadd('day', n, time)` | whole units from `a` to `b`; so many units later |
//! | `time AT TIME ZONE 'zone'` | of an instant, the time on clocks there; of a time on clocks there, the instant |
//! | `to_json(value)` | the value as a text of JSON |
//! | `mod(a, b)` | `a % b` |
//! | `as_uuid(text)` | the UUID in small letters; an error where it is none |
//! | `json_value`, `json_query`, `json_exists`, `get_json_object`, `json_get`, `->`, `->>` and others | what is at a place in a text of JSON |
//! | `is_json(text, 'object')` | `text IS JSON OBJECT`; also `'value'`, `'array'`, `'scalar'` |
//! | `proctime()` | `now()` |
//! | `hop_starts`, `cumulate_ends`, `session_start`, `session_end`, `event_time` | made by the lowering of windows and of watermarks |
//! | `entries_of(map, 'k', 'v')`, `with_places(array)` | made of UNNEST: the entries of a MAP, or the array, and the items with their places |
//! | `items_or_null(array)` | the array; one NULL where it is empty or NULL, as outer joins with UNNEST have it |
//! | `longest_run(array)` | of items in order the most frequent one, for `mode()` |
//! | `required(value, 'message')` | the value; the message, as an error of the row, where it is NULL |
//! | `or_null(value)` | the value, of a subquery that may have no row |
//! | `last_record(gone, 'table') OVER (…)` | `row_number()` of a key's records, the last first |
//! | `lag_ignore_nulls` and its like | `lag(…) IGNORE NULLS`, as jobs have it |
//! | `date_part`, `date_trunc`, `to_timestamp_seconds` and its like, `to_unixtime`, `nullif` | DataFusion's, right where those are not |
//! | `round` | DataFusion's, of one type before and after a query is optimised |
//! | `whole_units`, `negative` | made of casts of times to fewer digits, and of `-x` of what counts |
//! | `min`, `max`, `sum`, `avg`, `corr`, `percentile_cont` | DataFusion's, whatever the order and the size of what comes |
mod aggregates;
mod at_time_zone;
mod corrected;
mod date_format;
mod date_intervals;
mod decimal_average;
mod decimal_sum;
mod entries;
mod hex;
mod json;
mod kept_items;
mod last_day;
mod last_record;
mod longest_run;
mod nulls;
mod numeric;
mod percentile;
mod required;
mod round;
mod session;
mod sliding;
mod splitting;
mod text;
mod time_units;
mod to_json;
mod type_name;
mod unchanged;
mod url;
mod whole_numbers;
mod windows;

use std::sync::Arc;

use datafusion::{
    common::Result,
    execution::FunctionRegistry,
    functions::math::signum,
    logical_expr::{ScalarUDF, WindowUDF},
};

pub(crate) use self::nulls::ignoring;
pub(crate) use self::{
    corrected::{WHOLE_UNITS, whole_units},
    date_format::strptime,
    entries::{ENTRIES_OF, ITEM, PLACE, WITH_PLACES},
    last_record::LAST_RECORD,
    numeric::{NAMED_CAST, NEGATIVE},
    time_units::is_unit,
    to_json::{JSON_OF, LIST, LIST_WITH_NULLS, OBJECT, OBJECT_WITH_NULLS, RAW, VALUE},
    unchanged::OR_NULL,
};
pub use self::{session::SessionBound, unchanged::EVENT_TIME, windows::MultipleWindows};

/// Every scalar function.
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    let mut functions = vec![
        Arc::new(ScalarUDF::new_from_impl(date_format::DateFormat::new())),
        Arc::new(ScalarUDF::new_from_impl(text::RegexpExtract::new())),
        Arc::new(ScalarUDF::new_from_impl(text::RegexpExtractAll::new())),
        Arc::new(ScalarUDF::new_from_impl(text::SplitIndex::new())),
        Arc::new(ScalarUDF::new_from_impl(text::CountChar::new())),
        Arc::new(ScalarUDF::new_from_impl(hex::Hex::new())),
        Arc::new(ScalarUDF::new_from_impl(hex::Unhex::new())),
        Arc::new(ScalarUDF::new_from_impl(hex::Bin::new())),
        Arc::new(ScalarUDF::new_from_impl(last_day::LastDay::new())),
        Arc::new(ScalarUDF::new_from_impl(splitting::Locate::new())),
        Arc::new(ScalarUDF::new_from_impl(splitting::Split::new())),
        Arc::new(ScalarUDF::new_from_impl(splitting::StrToMap::new())),
        Arc::new(ScalarUDF::new_from_impl(kept_items::ItemsOrNull::new())),
        Arc::new(ScalarUDF::new_from_impl(entries::EntriesOf::new())),
        Arc::new(ScalarUDF::new_from_impl(entries::WithPlaces::new())),
        Arc::new(ScalarUDF::new_from_impl(longest_run::LongestRun::new())),
        Arc::new(ScalarUDF::new_from_impl(type_name::TypeOf::new())),
        Arc::new(ScalarUDF::new_from_impl(url::ParseUrl::new())),
        Arc::new(ScalarUDF::new_from_impl(url::UrlCode::new(false))),
        Arc::new(ScalarUDF::new_from_impl(url::UrlCode::new(true))),
        as_uuid(),
        Arc::new(ScalarUDF::new_from_impl(round::Round::new())),
        Arc::new(ScalarUDF::new_from_impl(numeric::Modulo::new())),
        Arc::new(ScalarUDF::new_from_impl(numeric::NamedCast::new())),
        Arc::new(ScalarUDF::new_from_impl(numeric::Negative::new())),
        Arc::new(ScalarUDF::new_from_impl(numeric::ProcTime::new())),
        Arc::new(ScalarUDF::new_from_impl(at_time_zone::AtTimeZone::new())),
        Arc::new(ScalarUDF::new_from_impl(time_units::Difference::new())),
        Arc::new(ScalarUDF::new_from_impl(time_units::Later::new())),
        to_json(),
        Arc::new(ScalarUDF::new_from_impl(to_json::JsonOf::new())),
        sign(),
        event_time(),
        required(),
        or_null(),
    ];
    functions.extend(numeric::date_parts());
    functions.extend(corrected::all());
    functions.extend(
        [MultipleWindows::HopStarts, MultipleWindows::CumulateEnds]
            .map(|kind| Arc::new(ScalarUDF::new_from_impl(windows::WindowsFunction::new(kind)))),
    );
    functions
}

/// Every window function.
pub fn windows() -> Vec<Arc<WindowUDF>> {
    let sessions = [SessionBound::Start, SessionBound::End];
    let sessions = sessions.map(|bound| Arc::new(WindowUDF::from(session::SessionFunction::new(bound))));
    sessions.into_iter().chain([last_record()]).chain(nulls::ignoring_nulls()).collect()
}

/// Numbers the records of a key.
pub(crate) fn last_record() -> Arc<WindowUDF> {
    Arc::new(WindowUDF::from(last_record::LastRecord::new()))
}

/// Any value as a text of JSON.
pub(crate) fn to_json() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(to_json::ToJson::new()))
}

/// `signum` by the name that it has elsewhere.
fn sign() -> Arc<ScalarUDF> {
    Arc::new(signum().as_ref().clone().with_aliases(["sign"]))
}

/// The mark of a computed column that is a table's event time.
pub(crate) fn event_time() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(unchanged::Unchanged::new(EVENT_TIME)))
}

/// What may not be NULL.
pub(crate) fn required() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(required::Required::new()))
}

/// What may be NULL whatever its type says.
pub(crate) fn or_null() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(unchanged::Unchanged::new(OR_NULL)))
}

/// What a column of UUIDs takes.
pub(crate) fn as_uuid() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(text::AsUuid::new()))
}

/// Registers all of them.
///
/// # Errors
/// When the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in scalars() {
        registry.register_udf(function)?;
    }
    for function in windows() {
        registry.register_udwf(function)?;
    }
    for function in aggregates::refined() {
        registry.register_udaf(function)?;
    }
    registry.register_expr_planner(Arc::new(date_intervals::DateIntervals))?;
    registry.register_expr_planner(Arc::new(whole_numbers::WholeNumbers))?;
    json::register(registry)
}

#[cfg(test)]
mod tests;
