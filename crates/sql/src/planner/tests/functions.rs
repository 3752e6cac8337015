//! Functions of Flink, and JSON in text.
use datafusion::{arrow::array::AsArray, prelude::SessionContext};

use super::*;

/// The text of an expression over nothing.
async fn answer(planner: &Planner, expression: &str) -> Option<String> {
    let mut statements = parse(&format!("SELECT CAST({expression} AS STRING)")).unwrap();
    let StatementKind::Query(query) = statements.remove(0).kind else { panic!("not a query: {expression}") };
    let plan = planner.plan_query(&query).await.unwrap_or_else(|error| panic!("{expression}: {error}"));
    let rows = SessionContext::new().execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
    rows[0].column(0).as_string_view().iter().next().unwrap().map(str::to_owned)
}

#[tokio::test]
async fn functions_of_flink_answer_as_there() {
    let planner = planner(declared(TABLES));
    let at = "TIMESTAMP '2026-01-31 10:40:30.5'";
    for (expression, expected) in [
        ("IF(1 > 2, 'a', 'b')".to_owned(), Some("b")),
        (format!("TIMESTAMPDIFF(MINUTE, {at}, TIMESTAMP '2026-01-31 10:42:30')"), Some("1")),
        (format!("TIMESTAMPADD(MONTH, 1, {at})"), Some("2026-02-28T10:40:30.500")),
        (format!("TIMESTAMPADD(DAY, -31, CAST({at} AS TIMESTAMP(0)))"), Some("2025-12-31T10:40:30")),
        (
            "TIMESTAMPADD(HOUR, 1, arrow_cast('2026-01-01T00:00:00.000000001', 'Timestamp(Nanosecond, None)'))".to_owned(),
            Some("2026-01-01T01:00:00.000000001"),
        ),
        (
            "TIMESTAMPADD(HOUR, 1, arrow_cast('1969-12-31T23:00:00.000000001', 'Timestamp(Nanosecond, None)'))".to_owned(),
            Some("1970-01-01T00:00:00.000000001"),
        ),
        ("TIMESTAMPADD(DAY, NULL, now())".to_owned(), None),
        ("TO_TIMESTAMP_LTZ(1500, 3)".to_owned(), Some("1970-01-01T00:00:01.500Z")),
        (format!("UNIX_TIMESTAMP({at})"), Some("1769856030")),
        ("UNIX_TIMESTAMP('31.01.2026', 'dd.MM.yyyy')".to_owned(), Some("1769817600")),
        ("TO_TIMESTAMP('Jan 31 2026 01:02 PM', 'MMM dd yyyy hh:mm a')".to_owned(), Some("2026-01-31T13:02:00")),
        ("TO_DATE('31/01/26', 'dd/MM/yy')".to_owned(), Some("2026-01-31")),
        (format!("DATE_FORMAT({at}, 'EEE d MMMM')"), Some("Sat 31 January")),
        (format!("FLOOR({at} TO HOUR)"), Some("2026-01-31T10:00:00")),
        ("JSON_ARRAY(1, 'a', 2.5, NULL, JSON_OBJECT())".to_owned(), Some(r#"[1,"a",2.5,null,{}]"#)),
        ("JSON_ARRAYAGG(JSON_OBJECT('a' VALUE 1))".to_owned(), Some(r#"[{"a":1}]"#)),
        ("JSON_OBJECT('a' VALUE ('[' || 'x' || ']'))".to_owned(), Some(r#"{"a":"[x]"}"#)),
        ("TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'UTC'".to_owned(), Some("2024-07-01T12:00:00Z")),
        (
            "CAST(TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'Europe/Paris' < TIMESTAMP '2024-07-01 10:30:00' AS STRING)"
                .to_owned(),
            Some("true"),
        ),
        ("TIMESTAMPTZ '2024-01-01 00:00:00+02'".to_owned(), Some("2023-12-31T22:00:00Z")),
        ("TIMESTAMPTZ '2024-01-01 00:00:00+02' AT TIME ZONE 'UTC'".to_owned(), Some("2023-12-31T22:00:00")),
        ("'2024-07-01 12:00:00+02'::timestamptz AT TIME ZONE 'America/New_York'".to_owned(), Some("2024-07-01T06:00:00")),
        ("sign(-3)".to_owned(), Some("-1.0")),
        // New York's summer time began at 07:00 UTC on that day.
        ("TO_TIMESTAMP_LTZ(1710030600500, 3) AT TIME ZONE 'America/New_York'".to_owned(), Some("2024-03-09T19:30:00.500")),
        ("date_format(TO_TIMESTAMP_LTZ(1710054000, 0) AT TIME ZONE 'America/New_York', 'HH:mm')".to_owned(), Some("03:00")),
        ("TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'Europe/Paris'".to_owned(), Some("2024-07-01T10:00:00Z")),
        ("date_trunc('day', TO_TIMESTAMP_LTZ(1710030600500, 3) AT TIME ZONE '+09:00')".to_owned(), Some("2024-03-10T00:00:00")),
        ("(named_struct('a', make_array(named_struct('sku', 'x')))).a[1].sku".to_owned(), Some("x")),
        (
            format!(
                "JSON_OBJECT('n' VALUE 1, KEY 't' VALUE {at}, 'x' VALUE NULL, 'a' VALUE JSON_ARRAY('q\"', 'z'), 'd' VALUE CAST(1.50 AS DECIMAL(5, 2)))"
            ),
            Some(r#"{"n":1,"t":"2026-01-31 10:40:30.500","x":null,"a":["q\"","z"],"d":1.50}"#),
        ),
        ("to_json(CAST(NULL AS INT))".to_owned(), None),
    ] {
        assert_eq!(answer(&planner, &expression).await.as_deref(), expected, "{expression}");
    }
}

#[tokio::test]
async fn json_in_text_is_read() {
    let planner = planner(declared(TABLES));
    let json = r#"'{"a": {"b": [1, "x", {"c": null}]}, "t": "42", "f": true}'"#;
    let cases = [
        (format!("json_value({json}, '$.a.b[0]')"), Some("1")),
        (format!("json_value({json}, '$.a.b[1]')"), Some("x")),
        (format!("json_value({json}, '$.a.b')"), None),
        (format!("json_value({json}, '$.a.b[2].c')"), None),
        (format!("json_value({json}, '$.f')"), Some("true")),
        (r#"json_value('{"a": "x\u00e9\n\"y"}', '$.a')"#.to_owned(), Some("xé\n\"y")),
        (format!("json_query({json}, '$.a.b[2]')"), Some(r#"{"c": null}"#)),
        (format!("json_query({json}, '$.t')"), None),
        (format!("get_json_object({json}, '$.a.b')"), Some(r#"[1, "x", {"c": null}]"#)),
        (format!("CAST(json_exists({json}, '$.a.b[2].c') AS STRING)"), Some("true")),
        (format!("CAST(json_exists({json}, '$.z') AS STRING)"), Some("false")),
        (format!("{json} -> 'a' -> 'b' ->> 1"), Some("x")),
        (format!("{json} -> 't'"), Some("\"42\"")),
        (format!("CAST(CAST({json} ->> 't' AS INT) + 1 AS STRING)"), Some("43")),
        ("json_value('no JSON', '$.a')".to_owned(), None),
        ("CAST(json_exists('no JSON', '$') AS STRING)".to_owned(), Some("false")),
        (format!("CAST(json_exists({json}, '$') AS STRING)"), Some("true")),
        (format!("CAST(json_length({json}, 'a', 'b') - CAST(1 AS INT) AS STRING)"), Some("2")),
        (format!("json_get({json} -> 'a', 'b', CAST(1 AS INT))"), Some("\"x\"")),
        (format!("'t:' || {json} ->> 't' || '!'"), Some("t:42!")),
        (format!("CAST({json} ->> 't' = '42' AS STRING)"), Some("true")),
        ("json_value(CAST(NULL AS STRING), '$.a')".to_owned(), None),
        (format!("CAST({json} IS JSON AS STRING)"), Some("true")),
        (format!("CAST({json} IS JSON OBJECT AS STRING)"), Some("true")),
        (format!("CAST({json} IS NOT JSON ARRAY AS STRING)"), Some("true")),
        ("CAST(' [1, {}]' IS JSON ARRAY AS STRING)".to_owned(), Some("true")),
        ("CAST('\"x\"' IS JSON SCALAR AS STRING)".to_owned(), Some("true")),
        ("CAST('null' IS JSON VALUE AS STRING)".to_owned(), Some("true")),
        ("CAST('{\"a\": 1' IS JSON AS STRING)".to_owned(), Some("false")),
        ("CAST('1 2' IS JSON AS STRING)".to_owned(), Some("false")),
        ("CAST('' IS JSON AS STRING)".to_owned(), Some("false")),
        ("CAST('x' IS NOT JSON AS STRING)".to_owned(), Some("true")),
        ("CAST(CAST(NULL AS STRING) IS JSON AS STRING)".to_owned(), None),
        ("CAST(2 BETWEEN SYMMETRIC 3 AND 1 AS STRING)".to_owned(), Some("true")),
        ("CAST(2 NOT BETWEEN SYMMETRIC 3 AND 1 AS STRING)".to_owned(), Some("false")),
        ("CAST(4 BETWEEN SYMMETRIC 3 AND NULL AS STRING)".to_owned(), None),
        ("CAST(MAP['a', 1, 'b', 2]['b'] AS STRING)".to_owned(), Some("2")),
    ];
    for (expression, expected) in cases {
        assert_eq!(answer(&planner, &expression).await.as_deref(), expected, "{expression}");
    }
    let error = refused("other SELECT json_value(k, '$..a'), v FROM t").await;
    assert!(error.contains("for example $.a.b[0]"), "{error}");
    let error = refused("other SELECT json_value(k, k), v FROM t").await;
    assert!(error.contains("json_value takes the same path for all rows"), "{error}");
    let error = refused("other SELECT k -> 1.5, v FROM t").await;
    assert!(error.contains("steps: names as text"), "{error}");
}
