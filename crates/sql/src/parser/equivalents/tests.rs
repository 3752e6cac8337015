//! What is written elsewhere, and what it means here.
use super::rewritten;

#[test]
fn what_others_call_otherwise_is_what_it_means() {
    for (written, meant) in [
        ("IF(a > 1, 'x', b)", "CASE WHEN a > 1 THEN 'x' ELSE b END"),
        ("count_if(a > 1)", "count(*) FILTER (WHERE (a > 1))"),
        (
            "COUNT_IF(a) FILTER (WHERE b OR c) OVER (PARTITION BY d)",
            "count(*) FILTER (WHERE (b OR c) AND (a)) OVER (PARTITION BY d)",
        ),
        ("LISTAGG(DISTINCT name)", "string_agg(DISTINCT name, ',')"),
        ("listagg(name, ';') WITHIN GROUP (ORDER BY ts DESC)", "string_agg(name, ';' ORDER BY ts DESC)"),
        ("max_by(a, b)", "last_value(a ORDER BY b ASC) FILTER (WHERE (b IS NOT NULL))"),
        ("argmax(a, 2)", "last_value(a ORDER BY (2) ASC) FILTER (WHERE ((2) IS NOT NULL))"),
        ("TIMESTAMPDIFF(MINUTE, a, b)", "timestampdiff('minute', a, b)"),
        ("timestampadd(SQL_TSI_DAY, -1, ts)", "timestampadd('day', -1, ts)"),
        ("to_timestamp_ltz(n)", "arrow_cast(to_timestamp_millis(n), 'Timestamp(Millisecond, Some(\"UTC\"))')"),
        ("TO_TIMESTAMP_LTZ(n, 0)", "arrow_cast(to_timestamp_seconds(n), 'Timestamp(Second, Some(\"UTC\"))')"),
        ("UNIX_TIMESTAMP(ts)", "timestampdiff('second', '1970-01-01 00:00:00', ts)"),
        ("TO_TIMESTAMP(t, 'yyyy-MM-dd''T''HH:mm:ss')", "to_timestamp(t, '%Y-%m-%dT%H:%M:%S')"),
        ("to_date(t, '%d.%m.%Y')", "to_date(t, '%d.%m.%Y')"),
        ("FLOOR(ts TO HOUR)", "date_trunc('hour', ts)"),
        ("FLOOR(a)", "FLOOR(a)"),
        ("EXTRACT(EPOCH FROM b - a)", "date_part('EPOCH', b - a)"),
        ("a NOT RLIKE '^x'", "(NOT regexp_like(a, '^x'))"),
        ("current_timestamp(3)", "now()"),
        ("LOCALTIME", "current_time()"),
        ("localtime(0)", "current_time()"),
        ("CURRENT_TIME(3)", "current_time()"),
        ("GETDATE()", "now()"),
        ("ts AT TIME ZONE 'Europe/Paris'", "at_time_zone(ts, 'Europe/Paris')"),
        ("o.items[1].sku", "o.items[1]['sku']"),
        ("(r).a.\"B\"", "(r)['a']['B']"),
        (
            "JSON_OBJECT('a' VALUE x, KEY 'b' VALUE IF(y, 1, 2), 'c' VALUE TO_JSON(z))",
            "json_of('{', '=a', x, '=b', CASE WHEN y THEN 1 ELSE 2 END, '~c', to_json(z))",
        ),
        ("json_object('a', JSON_ARRAY(1, 'x'))", "json_of('{', '~a', json_of('[', '=', 1, '=', 'x'))"),
        ("JSON_OBJECT()", "json_of('{')"),
        ("json_array(a NULL ON NULL)", "json_of('[', '=', a)"),
        ("json_arrayagg(a)", "json_of('[]', '=', array_agg(a))"),
        ("json_arrayagg(a ABSENT ON NULL)", "json_of('[]', '=', array_agg(a))"),
        ("json_arrayagg(a NULL ON NULL)", "json_of('[null]', '=', array_agg(a))"),
        ("JSON_AGG(a ORDER BY b)", "json_of('[null]', '=', array_agg(a ORDER BY b))"),
        (
            "json_object_agg(a, json_array(b) ORDER BY c) FILTER (WHERE d)",
            "json_of('{null}', '~', array_agg(named_struct('name', a, 'value', json_of('[', '=', b)) ORDER BY c) FILTER (WHERE d))",
        ),
        ("JSON_ARRAYAGG(DISTINCT a ORDER BY a)", "json_of('[]', '=', array_agg(DISTINCT a ORDER BY a))"),
        ("JSON_ARRAYAGG(JSON_OBJECT('a' VALUE x))", "json_of('[]', '~', array_agg(json_of('{', '=a', x)))"),
        ("JSON_ARRAY((a || ']'), (to_json(b)))", "json_of('[', '=', (a || ']'), '~', (to_json(b)))"),
        ("to_char(ts, 'YYYY-MM-DD HH24:MI:SS.MS')", "to_char(ts, '%Y-%m-%d %H:%M:%S.%3f')"),
        ("to_char(ts, '\"am\" Day, DD Mon')", "to_char(ts, 'am %A, %d %b')"),
        ("to_char(ts, '%H')", "to_char(ts, '%H')"),
        ("to_char(b - a, 'ISO8601')", "to_char(b - a, 'ISO8601')"),
        ("APPROX_COUNT_DISTINCT(a) FILTER (WHERE b)", "approx_distinct(a) FILTER (WHERE b)"),
        (
            "COUNT(DISTINCT a, b + 1)",
            "COUNT(DISTINCT named_struct('c0', a, 'c1', b + 1)) FILTER (WHERE ((a) IS NOT NULL AND (b + 1) IS NOT NULL))",
        ),
        ("count(DISTINCT a)", "count(DISTINCT a)"),
        ("TRUNCATE(a, 2)", "trunc(a, 2)"),
        (
            "percentile_disc(0.5) WITHIN GROUP (ORDER BY a DESC) FILTER (WHERE b)",
            "array_element(array_agg(a ORDER BY a DESC) FILTER (WHERE (b) AND ((a) IS NOT NULL)), \
             arrow_cast(greatest(ceil(0.5 * count(a) FILTER (WHERE b)), 1), 'Int64'))",
        ),
        (
            "mode() WITHIN GROUP (ORDER BY a DESC) FILTER (WHERE b)",
            "longest_run(array_agg(a ORDER BY a DESC) FILTER (WHERE (b) AND ((a) IS NOT NULL)))",
        ),
        ("NTH_VALUE(a, 2 ORDER BY b DESC) FILTER (WHERE c)", "array_element(array_agg(a ORDER BY b DESC) FILTER (WHERE c), 2)"),
        ("nth_value(a, 2) OVER (ORDER BY b)", "nth_value(a, 2) OVER (ORDER BY b)"),
        ("TIMESTAMP '2262-04-11 00:00:00'", "TIMESTAMP '2262-04-11 00:00:00'"),
        ("TIMESTAMP '9999-12-31 00:00:00'", "TIMESTAMP(6) '9999-12-31 00:00:00'"),
        ("CAST('1677-01-01' AS TIMESTAMP)", "CAST('1677-01-01' AS TIMESTAMP(6))"),
        ("'9999-12-31'::timestamp(3)", "'9999-12-31'::TIMESTAMP(3)"),
        ("TIMESTAMP 'never, ever'", "TIMESTAMP 'never, ever'"),
        ("REGEXP(a, '^x')", "regexp_like(a, '^x')"),
        ("CEILING(a)", "CEIL(a)"),
        ("TO_BASE64(a)", "encode(a, 'base64pad')"),
        ("from_base64(a)", "arrow_cast(decode(a, 'base64'), 'Utf8')"),
        ("SHA2(a, 256)", "encode(sha256(a), 'hex')"),
        ("GROUPING_ID(a, b)", "grouping(a, b)"),
        ("array_agg(a ORDER BY b)[1]", "array_element(array_agg(a ORDER BY b), 1)"),
        ("array_agg(a)[n + 1].x", "array_element(array_agg(a), n + 1)['x']"),
        ("array_agg(a)[1:2]", "array_agg(a)[1:2]"),
        (
            "bool_or(a) FILTER (WHERE b) OVER (ORDER BY c ROWS 1 PRECEDING)",
            "max((a) AND true) FILTER (WHERE b) OVER (ORDER BY c ROWS 1 PRECEDING)",
        ),
        (
            "BOOL_AND(a) OVER (ORDER BY b ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)",
            "min((a) AND true) OVER (ORDER BY b ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)",
        ),
        ("bool_or(a) OVER (ORDER BY b)", "bool_or(a) OVER (ORDER BY b)"),
        ("bool_or(a)", "bool_or(a)"),
        ("EVERY(a)", "bool_and(a)"),
        ("every(a) OVER (ORDER BY b ROWS 1 PRECEDING)", "min((a) AND true) OVER (ORDER BY b ROWS 1 PRECEDING)"),
        ("VARIANCE(a)", "var(a)"),
        ("ELT(n, a, 'b')", "CASE n WHEN 1 THEN a WHEN 2 THEN 'b' END"),
        ("RAND_INTEGER(n + 1)", "arrow_cast(floor(random() * (n + 1)), 'Int32')"),
        ("E()", "exp(1)"),
        ("ENCODE(a, 'UTF-8')", "arrow_cast(arrow_cast(a, 'Utf8'), 'Binary')"),
        ("decode(a, 'utf8')", "arrow_cast(a, 'Utf8')"),
        ("decode(a, 'hex')", "decode(a, 'hex')"),
        ("EXTRACT(DECADE FROM a)", "arrow_cast(floor(date_part('year', a) / 10e0), 'Int64')"),
        (
            "date_part('century', a)",
            "arrow_cast(CASE WHEN date_part('year', a) > 0 THEN ceil(date_part('year', a) / 100e0) ELSE ceil(date_part('year', a) / 100e0) - 1 END, 'Int64')",
        ),
        ("isnull(a)", "((a) IS NULL)"),
        (r"U&'caf\00e9' || N'x'", "'café' || 'x'"),
        ("a BETWEEN SYMMETRIC 5 AND b + 1 OR c", "(a BETWEEN 5 AND b + 1 OR a BETWEEN b + 1 AND 5) OR c"),
        ("a NOT BETWEEN SYMMETRIC 5 AND 1", "(NOT (a BETWEEN 5 AND 1 OR a BETWEEN 1 AND 5))"),
        ("a BETWEEN symmetric AND 5", "a BETWEEN symmetric AND 5"),
        ("a NOT BETWEEN ASYMMETRIC 1 AND b + 1 OR c", "a NOT BETWEEN 1 AND b + 1 OR c"),
        ("a BETWEEN asymmetric AND 5", "a BETWEEN asymmetric AND 5"),
        (
            "sum(a) OVER (ORDER BY b RANGE INTERVAL 90 MINUTE PRECEDING)",
            "sum(a) OVER (ORDER BY b RANGE INTERVAL '90' MINUTE PRECEDING)",
        ),
        ("sum(a) GROUP BY ()", "sum(a) GROUP BY GROUPING SETS (())"),
        ("to_jsonb(a)", "to_json(a)"),
        ("\"if\"(a, b, c)", "\"if\"(a, b, c)"),
    ] {
        assert_eq!(rewritten(written).unwrap(), meant, "{written}");
    }
}

#[test]
fn what_is_nested_does_not_grow_without_bound() {
    let nested = |start: &str, end: &str| format!("{}1{}", start.repeat(60), end.repeat(60));
    assert!(rewritten(&nested("max_by(1, ", ")")).unwrap_err().to_string().contains("in a subquery"));
    assert!(rewritten(&nested("json_arrayagg(", ")")).unwrap().len() < 10_000);
    assert!(rewritten(&nested("json_array(", ")")).unwrap().len() < 10_000);
    assert_eq!(rewritten(&nested("map[", "]")).unwrap(), nested("map[", "]"));
}

#[test]
fn what_cannot_be_meant_is_said() {
    for (written, reason) in [
        ("TIMESTAMPDIFF(FORTNIGHT, a, b)", "begins with a unit"),
        ("to_timestamp_ltz(n, 4)", "takes 0, 3, 6 or 9"),
        ("to_timestamp(t, 'yyyy QQ')", "QQ"),
        ("json_object('a', 1, 'b')", "pairs"),
        ("json_object(a, 1)", "names in quotes"),
        ("IF(a, b, c) FILTER (WHERE d)", "if is computed row by row and takes no FILTER; leave it out, or write CASE WHEN"),
        ("to_timestamp_ltz(DISTINCT n)", "takes no DISTINCT"),
        ("json_array(a ABSENT ON NULL)", "NULLs are members of JSON here"),
        ("json_array(a RETURNING STRING)", "takes no RETURNING"),
        ("trunc(ts, 'MM')", "write date_trunc('month', time)"),
        ("instr(a, 'b', 5)", "write locate(part, text, from)"),
        ("mode(a) WITHIN GROUP (ORDER BY a)", "mode takes one order"),
        ("mode() OVER (ORDER BY a)", "mode takes one order"),
        ("rand(5)", "rand takes no seed"),
        ("RAND_INTEGER(5, n)", "rand_integer takes no seed"),
        ("(a, b) OVERLAPS (c, d)", "write a < d AND c < b"),
        ("sha2(a, 1)", "sha2 takes 224, 256, 384 or 512 bits"),
        ("to_timestamp(t, 'yyyy-MM-dd HH')", "minutes"),
    ] {
        let error = rewritten(written).unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains("Error during"), "{written}: {error}");
    }
}
