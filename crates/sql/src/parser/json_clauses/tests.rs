//! What is written in brackets, and what it means.
use crate::parser::equivalents::rewritten;

#[test]
fn clauses_are_functions_and_casts() {
    for (written, meant) in [
        ("JSON_VALUE(j, '$.a')", "JSON_VALUE(j, '$.a')"),
        ("json_value(j, '$.a' RETURNING INT)", "TRY_CAST(json_value(j, '$.a') AS INT)"),
        ("json_value(j, '$.a' NULL ON EMPTY NULL ON ERROR)", "json_value(j, '$.a')"),
        (
            "json_value(j, '$.a' RETURNING INT DEFAULT -1 ON EMPTY DEFAULT 0 ON ERROR)",
            "CASE WHEN (j) IS NULL THEN NULL WHEN json_exists(j, '$') IS FALSE THEN CAST(0 AS INT) \
             WHEN (json_value(j, '$.a')) IS NULL THEN CAST(-1 AS INT) \
             ELSE coalesce(TRY_CAST(json_value(j, '$.a') AS INT), CAST(0 AS INT)) END",
        ),
        (
            "json_value(j, '$.a' DEFAULT 'x' ON EMPTY)",
            "CASE WHEN (j) IS NULL THEN NULL WHEN json_exists(j, '$') IS FALSE THEN NULL \
             WHEN (json_value(j, '$.a')) IS NULL THEN CAST('x' AS VARCHAR) ELSE json_value(j, '$.a') END",
        ),
        ("json_query(j, '$.a' WITHOUT WRAPPER)", "json_query(j, '$.a')"),
        ("json_query(j, '$.a' RETURNING STRING WITH ARRAY WRAPPER)", "json_query(j, '$.a', 'unconditional')"),
        ("json_query(j, '$.a' WITH CONDITIONAL ARRAY WRAPPER)", "json_query(j, '$.a', 'conditional')"),
        ("json_exists(j, '$.a')", "json_exists(j, '$.a')"),
        ("json_exists(j, '$.a' FALSE ON ERROR)", "json_exists(j, '$.a')"),
        (
            "JSON_EXISTS(j, '$.a' TRUE ON ERROR)",
            "CASE WHEN (j) IS NOT NULL AND json_exists(j, '$') IS FALSE THEN true ELSE JSON_EXISTS(j, '$.a') END",
        ),
        (
            "json_exists(j, '$.a' UNKNOWN ON ERROR)",
            "CASE WHEN (j) IS NOT NULL AND json_exists(j, '$') IS FALSE THEN NULL ELSE json_exists(j, '$.a') END",
        ),
        ("json_objectagg(KEY a VALUE b)", "json_of('{null}', '=', array_agg(named_struct('name', a, 'value', b)))"),
        (
            "json_objectagg(key VALUE b ABSENT ON NULL WITHOUT UNIQUE KEYS) FILTER (WHERE c) OVER (PARTITION BY d)",
            "json_of('{}', '=', array_agg(named_struct('name', key, 'value', b)) FILTER (WHERE c) OVER (PARTITION BY d))",
        ),
        ("json_objectagg(KEY t.a VALUE b + 1)", "json_of('{null}', '=', array_agg(named_struct('name', t.a, 'value', b + 1)))"),
        ("j IS JSON", "(is_json(j, 'value'))"),
        ("NOT j IS NOT JSON object", "NOT (NOT (is_json(j, 'object')))"),
        ("a || b IS JSON SCALAR AND c", "(is_json(a || b, 'scalar')) AND c"),
        ("MAP['a', 1, b, c + 1]['a']", "map(make_array('a', b), make_array(1, c + 1))['a']"),
        ("map['a']", "map['a']"),
        ("map[f(1, 2)][1:2] || MAP['a', map[1]]", "map[f(1, 2)][1:2] || map(make_array('a'), make_array(map[1]))"),
        (
            "json_query(j, '$.a' EMPTY ARRAY ON ERROR)",
            "CASE WHEN (j) IS NULL THEN NULL WHEN json_exists(j, '$') IS FALSE THEN CAST('[]' AS VARCHAR) \
             WHEN (json_query(j, '$.a')) IS NULL THEN NULL ELSE json_query(j, '$.a') END",
        ),
    ] {
        assert_eq!(rewritten(written).unwrap(), meant, "{written}");
    }
}

#[test]
fn clauses_that_cannot_be_meant_are_said() {
    for (written, reason) in [
        ("json_value(j, '$.a' ERROR ON ERROR)", "write NULL ON"),
        ("json_value(j DEFAULT 0 ON EMPTY)", "takes a text that holds JSON and a path"),
        ("json_query(j, '$.a' RETURNING INT)", "gives JSON as a text and not as INT"),
        ("json_query(j, '$.a' WITH ARRAY)", "WRAPPER"),
        ("json_object('a' VALUE x ABSENT ON NULL)", "NULLs are members of JSON here"),
        ("json_exists(j, '$.a' ERROR ON ERROR)", "write TRUE, FALSE or UNKNOWN ON ERROR"),
        ("json_exists(j TRUE ON ERROR)", "takes a text that holds JSON and a path"),
        ("json_objectagg(KEY a VALUE b WITH UNIQUE KEYS)", "a name that comes twice is there twice"),
        ("json_objectagg(a)", "expected ,"),
        ("MAP['a', 1, 'b']", "the last key has no value"),
        ("MAP['a', 1 'b', 2]", "expected ], found"),
    ] {
        let error = rewritten(written).unwrap_err().to_string();
        assert!(error.contains(reason), "{written}: {error}");
    }
}
