//! What functions give, against what the documentation of Flink, Spark and PostgreSQL says that they give.
use std::sync::Arc;

use datafusion::{
    arrow::util::display::array_value_to_string,
    execution::SessionStateBuilder,
    prelude::SessionContext,
    sql::{parser::Statement, sqlparser::ast},
};

use super::register;
use crate::{cast_types::CastTypes, parser::parse, statement::StatementKind};

/// Of a query of one row and one column; NULL is empty.
async fn value(selected: &str) -> String {
    let StatementKind::Query(query) = parse(&format!("SELECT {selected}")).unwrap().remove(0).kind else {
        panic!("{selected} is selected")
    };
    let mut state = SessionStateBuilder::new().with_default_features().with_type_planner(Arc::new(CastTypes)).build();
    register(&mut state).unwrap();
    let statement = Statement::Statement(Box::new(ast::Statement::Query(query.ast)));
    let plan = state.statement_to_plan(statement).await.unwrap_or_else(|error| panic!("{selected}: {error}"));
    let frame = SessionContext::new_with_state(state).execute_logical_plan(plan).await.unwrap();
    let batches = frame.collect().await.unwrap_or_else(|error| panic!("{selected}: {error}"));
    array_value_to_string(batches[0].column(0), 0).unwrap()
}

#[tokio::test]
async fn functions_give_what_others_give() {
    for (selected, expected) in [
        ("hex('hello,world')", "68656C6C6F2C776F726C64"),
        ("hex(20)", "14"),
        ("hex(-1)", "FFFFFFFFFFFFFFFF"),
        ("hex(unhex('146'))", "0046"),
        ("hex(CAST(NULL AS STRING))", ""),
        ("bin(12)", "1100"),
        ("bin(-1)", "1111111111111111111111111111111111111111111111111111111111111111"),
        ("bin(NULL)", ""),
        ("url_decode(url_encode('a b/ü'))", "a b/ü"),
        ("url_decode('%zz')", ""),
        ("regexp_extract_all('ab12c3', '[a-z]([0-9]+)')", "[12, 3]"),
        ("regexp_extract_all('ab12c3', '[a-z]([0-9]+)', 0)", "[b12, c3]"),
        ("regexp_extract_all('x', '([0-9])')", "[]"),
        ("regexp_extract_all('x', 'x', 1)", ""),
        ("regexp_extract_all(CAST(NULL AS STRING), 'x', 0)", ""),
        ("decode(encode('abc', 'utf-8'), 'UTF-8')", "abc"),
        ("hex(encode(15, 'utf-8'))", "3135"),
        ("bitand(5, 3)", "1"),
        ("bitor(5, 3)", "7"),
        ("bitxor(5, 3)", "6"),
        ("bitnot(5)", "-6"),
        ("~CAST(NULL AS INT)", ""),
        ("decode(2, 1, 'a', 2, 'b')", "b"),
        ("decode(3, 1, 'a', 2, 'b', 'c')", "c"),
        ("decode(CAST(NULL AS INT), 1, 'a', NULL, 'b')", "b"),
        ("json_exists('{', '$.a' TRUE ON ERROR)", "true"),
        ("json_exists('{}', '$.a' TRUE ON ERROR)", "false"),
        ("json_exists('{', '$.a' UNKNOWN ON ERROR)", ""),
        ("json_objectagg(KEY k VALUE v) FROM (VALUES ('a', 1), ('b', NULL)) AS t (k, v)", r#"{"a":1,"b":null}"#),
        ("json_objectagg(k VALUE v ABSENT ON NULL) FROM (VALUES ('a', 1), ('b', NULL)) AS t (k, v)", r#"{"a":1}"#),
        ("json_objectagg(KEY v VALUE json_array(k)) FROM (VALUES ('a', 1)) AS t (k, v)", r#"{"1":["a"]}"#),
        ("json_arrayagg(v) FROM (VALUES (1), (NULL), (2)) AS t (v)", "[1,2]"),
        ("json_arrayagg(v NULL ON NULL) FROM (VALUES (1), (NULL), (2)) AS t (v)", "[1,null,2]"),
        ("json_agg(v ORDER BY v DESC) FROM (VALUES (1), (NULL), (2)) AS t (v)", "[null,2,1]"),
        ("elt(2, 'a', 'b')", "b"),
        ("elt(3, 'a', 'b')", ""),
        ("rand_integer(1)", "0"),
        ("rand_integer(5) BETWEEN 0 AND 4", "true"),
        ("variance(a) FROM (VALUES (1), (3)) AS t (a)", "2.0"),
        ("every(a > 1) FROM (VALUES (1), (3)) AS t (a)", "false"),
        ("startswith('abc', 'a') AND endswith('abc', 'c')", "true"),
        ("json_quote('a\"b')", "\"a\\\"b\""),
        ("map_keys(map_from_arrays(make_array('a'), make_array(1)))", "[a]"),
        ("e()", "2.718281828459045"),
        ("locate('bar', 'foobarbar', 5)", "7"),
        ("locate('bar', CAST(NULL AS STRING))", ""),
        ("split('a,b,,c', ',')", "[a, b, , c]"),
        ("map_values(str_to_map('b:2;a:1', ';', ':'))", "[1, 2]"),
        ("last_day('2024-02-10')", "2024-02-29"),
        ("last_day(TIMESTAMP '2023-12-31 23:59:59')", "2023-12-31"),
        ("typeof(1)", "BIGINT"),
        ("typeof(CAST('1.5' AS DECIMAL(10, 2)))", "DECIMAL(10, 2)"),
        ("to_base64('hello world')", "aGVsbG8gd29ybGQ="),
        ("from_base64('aGVsbG8gd29ybGQ=')", "hello world"),
        ("sha2('abc', 256)", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("regexp('abc', '^a')", "true"),
        ("truncate(42.345, 2)", "42.34"),
        ("ceiling(1.5)", "2.0"),
        ("round(a, 1) FROM (VALUES (CAST('1.25' AS DECIMAL(12, 2)))) AS t (a)", "1.3"),
        ("round(a, 1) = b FROM (VALUES (CAST('1.25' AS DECIMAL(12, 2)), CAST('1.30' AS DECIMAL(13, 2)))) AS t (a, b)", "true"),
        ("round(1.25e0, a) FROM (VALUES (1)) AS t (a)", "1.3"),
        ("round(149, -1)", "150"),
        ("isnull(NULL) AND isnotnull(1)", "true"),
        ("nullif(round(-0.4), 0e0)", ""),
        ("nullif(a, round(-0.4)) FROM (VALUES (0e0)) AS t (a)", ""),
        ("nullif(a, 1e0) FROM (VALUES (round(-0.4))) AS t (a)", "-0.0"),
        ("nullif('a', 'a')", ""),
        ("approx_count_distinct(a) FROM (VALUES (1), (2), (2)) AS t (a)", "2"),
        ("count(DISTINCT a, b) FROM (VALUES (1, 2), (1, 2), (1, NULL), (2, 2)) AS t (a, b)", "2"),
        ("CAST(make_array(1, 2) AS DOUBLE[])", "[1.0, 2.0]"),
        ("percentile_disc(0.5) WITHIN GROUP (ORDER BY a) FROM (VALUES (20), (1), (NULL), (10), (2)) AS t (a)", "2"),
        ("percentile_disc(0.51) WITHIN GROUP (ORDER BY a) FROM (VALUES (20), (1), (NULL), (10), (2)) AS t (a)", "10"),
        ("percentile_disc(0) WITHIN GROUP (ORDER BY a DESC) FROM (VALUES ('x'), ('y'), ('z')) AS t (a)", "z"),
        ("percentile_disc(1) WITHIN GROUP (ORDER BY a) FILTER (WHERE a < 5) FROM (VALUES (1), (3), (9)) AS t (a)", "3"),
        ("percentile_disc(0.5) WITHIN GROUP (ORDER BY a) FILTER (WHERE a > 9) FROM (VALUES (1)) AS t (a)", ""),
        ("mode() WITHIN GROUP (ORDER BY a) FROM (VALUES (2), (NULL), (1), (NULL), (2), (NULL), (1), (3)) AS t (a)", "1"),
        ("mode() WITHIN GROUP (ORDER BY a DESC) FROM (VALUES ('x'), ('y'), ('x'), ('y'), ('a')) AS t (a)", "y"),
        ("mode() WITHIN GROUP (ORDER BY a) FILTER (WHERE a > 1) FROM (VALUES (1), (1), (9)) AS t (a)", "9"),
        ("mode() WITHIN GROUP (ORDER BY a) FILTER (WHERE a > 9) FROM (VALUES (1)) AS t (a)", ""),
        ("TIMESTAMP '9999-12-31 23:59:59.999'", "9999-12-31T23:59:59.999"),
        ("CAST('0001-01-01 00:00:00' AS TIMESTAMP)", "0001-01-01T00:00:00"),
        ("coalesce(CAST(NULL AS TIMESTAMP(3)), TIMESTAMP '9999-12-31 00:00:00')", "9999-12-31T00:00:00"),
    ] {
        assert_eq!(value(selected).await, expected, "{selected}");
    }
}

#[tokio::test]
async fn dates_are_reckoned_as_others_reckon_them() {
    for (selected, expected) in [
        ("datediff('2009-07-31', '2009-07-30')", "1"),
        ("datediff(TIMESTAMP '2009-07-31 00:01:00', '2009-07-30 23:59:00')", "1"),
        ("datediff(MONTH, TIMESTAMP '2021-02-28 12:00:00', TIMESTAMP '2021-03-28 11:59:59')", "0"),
        ("date_add('2016-07-30', 1)", "2016-07-31"),
        ("date_sub(DATE '2016-07-30', 1)", "2016-07-29"),
        ("date_add(TIMESTAMP '2026-01-01 00:00:00', INTERVAL '1' HOUR)", "2026-01-01T01:00:00"),
        ("add_months('2016-08-31', 1)", "2016-09-30"),
        ("CEIL(TIMESTAMP '2026-01-31 12:00:00' TO MONTH)", "2026-02-01T00:00:00"),
        ("CEIL(TIMESTAMP '2026-01-01 00:00:00' TO HOUR)", "2026-01-01T00:00:00"),
        ("CEILING(TIMESTAMP '2026-11-15 00:00:00' TO QUARTER)", "2027-01-01T00:00:00"),
        ("convert_tz('1970-01-01 00:00:00', 'UTC', 'America/Los_Angeles')", "1969-12-31 16:00:00"),
        ("from_unixtime(0, 'yyyy-MM-dd')", "1970-01-01"),
        ("day(DATE '2026-03-04')", "4"),
        ("TIMESTAMP '2026-01-01 00:00:00' + INTERVAL '1' HOUR * 2", "2026-01-01T02:00:00"),
        ("TIMESTAMP '2026-01-01 00:00:00' + (INTERVAL '1' DAY * 2 + INTERVAL '3' HOUR)", "2026-01-03T03:00:00"),
        ("TIMESTAMP '2026-01-01 00:00:00' + INTERVAL '1 day 2 hours' * 3", "2026-01-04T06:00:00"),
        ("DATE '2026-01-01' + INTERVAL '5' HOUR", "2026-01-01T05:00:00"),
        ("EXTRACT(EPOCH FROM TIMESTAMP '2026-01-02 00:00:03.25' - TIMESTAMP '2026-01-01 00:00:00')", "86403.25"),
        ("EXTRACT(EPOCH FROM TIMESTAMP '2026-01-01 00:00:00.5' - TIMESTAMP '1926-01-01 00:00:00')", "3155760000.5"),
        (
            "EXTRACT(EPOCH FROM a - b) FROM (VALUES (TIMESTAMP '2026-01-01 00:00:00', TIMESTAMP '2026-01-01 00:00:02.75')) AS t (a, b)",
            "-2.75",
        ),
        ("date_part('epoch', CAST(a AS TIMESTAMP(3)) - a) FROM (VALUES (CAST(NULL AS TIMESTAMP(3)))) AS t (a)", ""),
        ("EXTRACT(EPOCH FROM INTERVAL '1' DAY)", "86400.0"),
        (
            "date_part('nanosecond', CAST('2024-01-01 00:01:01.5' AS TIMESTAMP(3)) - CAST('2024-01-01' AS TIMESTAMP(3)))",
            "1500000000",
        ),
        (
            "date_part('hour', a - b) FROM (VALUES (TIMESTAMP '2024-01-01 01:00:00', TIMESTAMP '2024-01-03 05:06:07')) AS t (a, b)",
            "-4",
        ),
        ("EXTRACT(HOUR FROM a - a) FROM (VALUES (CAST(NULL AS TIMESTAMP(3)))) AS t (a)", ""),
        ("EXTRACT(HOUR FROM INTERVAL '50' HOUR)", "50"),
        ("EXTRACT(MILLISECOND FROM INTERVAL '7.25' SECOND)", "7250"),
        ("EXTRACT(MICROSECOND FROM INTERVAL '61.000001' SECOND)", "1000001"),
        ("date_trunc('quarter', TIMESTAMP '1600-05-17 08:00:00')", "1600-04-01T00:00:00"),
        (
            "date_trunc('WEEK', a) FROM (VALUES (TIMESTAMP '9999-12-31 08:00:00'), (NULL)) AS t (a) WHERE a IS NOT NULL",
            "9999-12-27T00:00:00",
        ),
        ("date_trunc('month', CAST('0001-02-03 08:00:00' AS TIMESTAMP(3)))", "0001-02-01T00:00:00"),
        ("date_trunc('year', to_timestamp_seconds(-50000000000))", "0385-01-01T00:00:00"),
        ("to_timestamp_seconds(TIMESTAMP '1969-12-31 23:59:58.5')", "1969-12-31T23:59:58"),
        ("to_timestamp_millis(a) FROM (VALUES (TIMESTAMP '1969-12-31 23:59:58.0005')) AS t (a)", "1969-12-31T23:59:58"),
        ("to_timestamp_seconds('1969-12-31 23:59:58.5')", "1969-12-31T23:59:58"),
        ("to_timestamp_micros('1969-12-31 23:59:58.0000015')", "1969-12-31T23:59:58.000001"),
        ("to_timestamp_seconds(-2)", "1969-12-31T23:59:58"),
        ("to_unixtime(TIMESTAMP '1969-12-31 23:59:58.5')", "-2"),
        ("to_unixtime('2020-09-08 12:00:00.5+00:00')", "1599566400"),
        ("EXTRACT(YEAR FROM TIMESTAMP '2026-01-02 00:00:00')", "2026"),
        ("date_trunc('millisecond', TIMESTAMP '1969-12-31 23:59:59.9999')", "1969-12-31T23:59:59.999"),
        ("date_trunc('week', TIMESTAMP '1969-12-31 23:59:59.9999')", "1969-12-29T00:00:00"),
        ("DATE '2026-01-01' - INTERVAL '1' HOUR", "2025-12-31T23:00:00"),
        ("INTERVAL '1 day 30 minutes' + DATE '2026-01-01'", "2026-01-02T00:30:00"),
        ("d - INTERVAL '90' MINUTE FROM (VALUES (DATE '2026-01-01')) AS t (d)", "2025-12-31T22:30:00"),
        ("DATE '2026-01-31' + INTERVAL '1' MONTH", "2026-02-28"),
        ("DATE '2026-01-01' + (INTERVAL '1' MONTH + INTERVAL '1' DAY)", "2026-02-02"),
        ("DATE '2026-01-01' - INTERVAL '1' DAY * 2", "2025-12-30"),
        ("TIMESTAMP '2026-03-31 00:00:00' - n * INTERVAL '1' MONTH FROM (VALUES (1)) AS t (n)", "2026-02-28T00:00:00"),
    ] {
        assert_eq!(value(selected).await, expected, "{selected}");
    }
}

#[tokio::test]
async fn a_length_of_time_has_days_and_hours_below_24() {
    for (part, expected) in [
        ("DAY", "2"),
        ("HOUR", "4"),
        ("MINUTE", "6"),
        ("SECOND", "7"),
        ("MILLISECONDS", "7250"),
        ("MICROSECOND", "7250000"),
        ("EPOCH", "187567.25"),
    ] {
        let selected = format!("EXTRACT({part} FROM TIMESTAMP '2024-01-03 05:06:07.25' - TIMESTAMP '2024-01-01 01:00:00')");
        assert_eq!(value(&selected).await, expected, "{part}");
    }
}

#[tokio::test]
async fn what_counts_is_a_whole_number_wherever_it_is_reckoned_with() {
    for (selected, expected) in [
        ("(row_number() OVER (ORDER BY a) + 2) / 2 FROM (VALUES (1)) AS t (a)", "1"),
        ("(4 - rank() OVER (ORDER BY a)) / 2 FROM (VALUES (1)) AS t (a)", "1"),
        ("dense_rank() OVER (ORDER BY a) / 2 FROM (VALUES (1)) AS t (a)", "0"),
        ("5 / ntile(2) OVER (ORDER BY a) / 2 FROM (VALUES (1)) AS t (a)", "2"),
        ("n * 3 / 2 FROM (SELECT row_number() OVER (ORDER BY a) AS n FROM (VALUES (1)) AS t (a))", "1"),
        ("(sum(n) + 2) / 2 FROM (SELECT row_number() OVER (ORDER BY a) AS n FROM (VALUES (1)) AS t (a))", "1"),
        ("cardinality(make_array(1, 2, 3)) / 2", "1"),
        ("array_length(make_array(1, 2, a)) / 2 FROM (VALUES (1)) AS t (a)", "1"),
        ("approx_count_distinct(a) / 2 FROM (VALUES (1), (2), (3)) AS t (a)", "1"),
        ("coalesce(cardinality(make_array(1, 2, a)), 0) / 2 FROM (VALUES (1)) AS t (a)", "1"),
        ("CASE WHEN a > 9 THEN 0 ELSE cardinality(make_array(1, 2, a)) END / 2 FROM (VALUES (1)) AS t (a)", "1"),
        ("9223372036854775808 + 1", "9223372036854775809"),
    ] {
        assert_eq!(value(selected).await, expected, "{selected}");
    }
}

#[tokio::test]
async fn json_is_read_by_the_clauses_of_sql() {
    for (selected, expected) in [
        (r#"json_value('{"a":"7"}', '$.a' RETURNING INT) + 1"#, "8"),
        (r#"json_value('{"a":"x"}', '$.a' RETURNING INT)"#, ""),
        (r#"json_value('{"b":1}', '$.a' RETURNING INT DEFAULT -1 ON EMPTY DEFAULT 0 ON ERROR)"#, "-1"),
        (r#"json_value('{"a":"x"}', '$.a' RETURNING INT DEFAULT -1 ON EMPTY DEFAULT 0 ON ERROR)"#, "0"),
        ("json_value('no json', '$.a' DEFAULT 'e' ON EMPTY DEFAULT 'r' ON ERROR)", "r"),
        ("json_value(CAST(NULL AS STRING), '$.a' DEFAULT 'e' ON EMPTY DEFAULT 'r' ON ERROR)", ""),
        (r#"json_query('{"a":[{"c":"c1"},{"c":"c2"}]}', 'lax $.a[*].c')"#, r#"["c1","c2"]"#),
        ("json_query('{}', '$' WITH CONDITIONAL ARRAY WRAPPER)", "[{}]"),
        ("json_query('[1, 2]', '$' WITH CONDITIONAL ARRAY WRAPPER)", "[1, 2]"),
        ("json_query('[1, 2]', '$' WITH UNCONDITIONAL ARRAY WRAPPER)", "[[1, 2]]"),
        ("json_query('1', '$' EMPTY OBJECT ON EMPTY)", "{}"),
    ] {
        assert_eq!(value(selected).await, expected, "{selected}");
    }
}
