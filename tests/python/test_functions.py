"""Functions that users create: an expression with a name, wherever an expression stands."""

import json
import uuid

import pytest
from conftest import running, wait_for

OPTIONS = "'connector' = 'cassandra', 'keyspace' = 'functions', 'table.create' = 'true'"


def test_a_function_answers_alike_in_queries_views_computed_columns_and_jobs(system):
    stem = f"f{uuid.uuid4().hex[:8]}"
    people = [(1, "ada", "lovelace", 2), (2, "alan", "turing", None), (3, "ada", "lovelace", 5)]
    records = [json.dumps({"id": id, "first": first, "last": last, "n": n}) + "\n" for id, first, last, n in people]
    system.run("topic", "produce", stem, stdin="".join(records))
    system.sql(
        f"CREATE FUNCTION {stem}_name(first STRING, last STRING) RETURNS STRING RETURN initcap(first) || ' ' || upper(last); "
        f"CREATE FUNCTION {stem}_twice(n BIGINT) RETURNS BIGINT LANGUAGE SQL AS $$ SELECT n * 2 $$; "
        f"CREATE FUNCTION {stem}_four(n BIGINT) RETURNS BIGINT RETURN {stem}_twice({stem}_twice(coalesce(n, 1)))"
    )
    system.sql(
        f"CREATE TABLE {stem} (id BIGINT, first STRING, last STRING, n BIGINT, four AS {stem}_four(n)) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    system.sql(f"CREATE VIEW {stem}_view AS SELECT id, {stem}_name(first, last) AS name, {stem}_four(n) AS m FROM {stem}")
    by_id = lambda sql: sorted((row["id"], row["name"], row["m"]) for row in system.sql(sql))  # noqa: E731
    expected = [(1, "Ada LOVELACE", 8), (2, "Alan TURING", 4), (3, "Ada LOVELACE", 20)]
    direct = f"SELECT id, {stem}_name(first, last) AS name, four AS m FROM {stem}"
    for name, query in {"direct": direct, "viewed": f"SELECT id, name, m FROM {stem}_view"}.items():
        wait_for("the query's answer", lambda: by_id(query), expected)
        system.sql(f"CREATE TABLE {stem}_{name} (id BIGINT, name STRING, m BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
        system.sql(f"CREATE JOB {stem}_{name}_job AS INSERT INTO {stem}_{name} {query}")
        wait_for("the job's answer", lambda: by_id(f"SELECT * FROM {stem}_{name}"), expected)
    grouped = f"SELECT {stem}_name(first, last) AS name, sum({stem}_twice(n)) AS m FROM {stem} GROUP BY {stem}_name(first, last)"
    system.sql(f"CREATE TABLE {stem}_sums (name STRING, m BIGINT, PRIMARY KEY (name) NOT ENFORCED) WITH ({OPTIONS})")
    system.sql(f"CREATE JOB {stem}_sums_job AS INSERT INTO {stem}_sums {grouped}")
    found = lambda sql: {row["name"]: row.get("m") for row in system.sql(sql)}  # noqa: E731
    wait_for("the sums", lambda: found(f"SELECT * FROM {stem}_sums"), {"Ada LOVELACE": 14, "Alan TURING": None})
    assert found(grouped) == {"Ada LOVELACE": 14, "Alan TURING": None}
    [heading] = system.sql(f"SELECT {stem}_twice(21)")
    assert heading == {f"{stem}_twice(21)": 42}


def test_an_aggregate_answers_alike_in_queries_views_windows_and_jobs(system):
    stem = f"f{uuid.uuid4().hex[:8]}"
    readings = [("a", 2, 1, 1), ("a", -3, 2, 3), ("b", 5, 3, 2), ("b", None, 4, 2), ("a", 8, 12, 1)]
    records = [json.dumps({"k": k, "n": n, "w": w, "ts": f"2026-01-01 00:00:{second:02d}"}) + "\n" for k, n, second, w in readings]
    system.run("topic", "produce", stem, stdin="".join(records))
    system.sql(
        f"CREATE AGGREGATE {stem}_spread(x DOUBLE) RETURNS DOUBLE RETURN max(x) - min(x); "
        f"CREATE FUNCTION {stem}_mean(x DOUBLE, w DOUBLE) RETURNS DOUBLE AS $$ SELECT sum(x * w) / sum(w) FILTER (WHERE x IS NOT NULL) $$; "
        f"CREATE FUNCTION {stem}_wide(x DOUBLE) RETURNS BOOLEAN AS {stem}_spread(x) > 4"
    )
    system.sql(
        f"CREATE TABLE {stem} (k STRING, n BIGINT, w BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '1' MINUTE) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    columns = f"{stem}_spread(n) AS spread, max(n) AS most, {stem}_mean(n, w) FILTER (WHERE n > 0) AS mean, {stem}_wide(n) AS wide"
    grouped = f"SELECT k, {columns} FROM {stem} GROUP BY k HAVING {stem}_spread(n) >= 0"
    system.sql(f"CREATE VIEW {stem}_view AS {grouped}")
    windows = f"TABLE(TUMBLE(TABLE {stem}, DESCRIPTOR(ts), INTERVAL '10' SECOND))"
    windowed = f"SELECT k, window_start, {columns} FROM {windows} GROUP BY k, window_start, window_end"
    figures = ("k", "spread", "most", "mean", "wide")
    found = lambda sql: sorted(tuple(row.get(figure) for figure in figures) for row in system.sql(sql))  # noqa: E731
    by_key = [("a", 11.0, 8, 5.0, True), ("b", 0.0, 5, 5.0, False)]
    by_window = [("a", 0.0, 8, 8.0, False), ("a", 5.0, 2, 2.0, True), ("b", 0.0, 5, 5.0, False)]
    declared = "spread DOUBLE, most BIGINT, mean DOUBLE, wide BOOLEAN"
    for name, head, key, query, expected in [
        ("direct", "k STRING", "k", grouped, by_key),
        ("viewed", "k STRING", "k", f"SELECT * FROM {stem}_view", by_key),
        ("windowed", "k STRING, window_start TIMESTAMP(3)", "k, window_start", windowed, by_window),
    ]:
        wait_for(f"the answer of the query {name}", lambda query=query: found(query), expected)
        system.sql(f"CREATE TABLE {stem}_{name} ({head}, {declared}, PRIMARY KEY ({key}) NOT ENFORCED) WITH ({OPTIONS})")
        system.sql(f"CREATE JOB {stem}_{name}_job AS INSERT INTO {stem}_{name} {query}")
        wait_for(f"the answer of the job {name}", lambda name=name: found(f"SELECT * FROM {stem}_{name}"), expected)
    assert system.sql(f"SELECT {stem}_spread(DISTINCT n) AS spread FROM {stem}") == [{"spread": 11.0}]
    over = f"SELECT n, {stem}_spread(n) OVER (PARTITION BY k) AS spread FROM {stem} WHERE k = 'a' ORDER BY n"
    assert system.sql(over) == [{"n": n, "spread": 11.0} for n in (-3, 2, 8)]
    answer = system.run("sql", "-c", f"DROP FUNCTION {stem}_spread", check=False)
    assert answer.returncode != 0 and "is used by " in answer.stderr, answer.stdout + answer.stderr


def test_a_function_in_use_stays_what_it_is(system):
    stem = f"f{uuid.uuid4().hex[:8]}"
    refused = lambda sql: system.run("sql", "-c", sql, check=False)  # noqa: E731
    head = f"FUNCTION {stem}(n BIGINT) RETURNS BIGINT RETURN"
    system.sql(f"CREATE {head} n + 1")
    assert [row for row in system.sql("SHOW FUNCTIONS") if row["function_name"] == stem] == [
        {"function_name": stem, "parameters": "n BIGINT", "returns": "BIGINT", "expression": "n + 1"}
    ]
    assert system.sql(f"SHOW CREATE FUNCTION {stem}") == [{"create_statement": f"CREATE {head} n + 1"}]
    system.sql(f"CREATE OR REPLACE {head} n + 2")
    assert system.sql(f"SELECT {stem}(1) AS n") == [{"n": 3}]
    table = "WITH ('connector' = 'kafka', 'topic' = '{0}', 'format' = 'json')".format(stem)
    system.sql(f"CREATE TABLE {stem}_in (k BIGINT) {table}")
    system.sql(f"CREATE TABLE {stem}_out (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({OPTIONS})")
    users = [
        (f"JOB {stem}_job", f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT k, {stem}(k) FROM {stem}_in"),
        (f"VIEW {stem}_view", f"CREATE VIEW {stem}_view AS SELECT {stem}(k) AS n FROM {stem}_in"),
        (f"TABLE {stem}_more", f"CREATE TABLE {stem}_more (k BIGINT, n AS {stem}(k)) {table}"),
        (f"FUNCTION {stem}_of", f"CREATE FUNCTION {stem}_of(n BIGINT) RETURNS BIGINT RETURN {stem}(n)"),
    ]
    for user, created in users:
        system.sql(created)
        for statement in (f"DROP FUNCTION {stem}", f"CREATE OR REPLACE {head} n"):
            answer = refused(statement)
            kind, name = user.split()
            assert answer.returncode != 0 and f"is used by {kind.lower()} {name}" in answer.stderr, answer.stdout + answer.stderr
        system.sql(f"CREATE OR REPLACE {head} n + 2")
        system.sql(f"DROP {user}")
    system.sql(f"DROP FUNCTION {stem}")
    answer = refused(f"SELECT {stem}(1)")
    assert answer.returncode != 0 and f"there is no function {stem}" in answer.stderr, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    "sql, said",
    [
        ("CREATE FUNCTION upper(a STRING) RETURNS STRING RETURN a", "upper is a built-in function"),
        ("CREATE FUNCTION f_bad(a BIGINT) RETURNS BIGINT RETURN a - min(a)", "has a by itself beside the aggregate min"),
        ("CREATE FUNCTION f_bad(a BIGINT) RETURNS BIGINT RETURN sum(max(a))", "has the aggregate max in the aggregate sum"),
        ("CREATE AGGREGATE f_bad(a BIGINT) RETURNS BIGINT RETURN a", "is to be an AGGREGATE, and there is none"),
        ("CREATE FUNCTION f_bad(a BIGINT) RETURNS BIGINT RETURN f_bad(a)", "calls itself"),
        ("CREATE FUNCTION f_bad(a BIGINT) RETURNS BIGINT RETURN a + nothing", "there is no column nothing"),
        ("CREATE FUNCTION f_bad(a BIGINT) RETURNS BIGINT LANGUAGE PYTHON AS $$ return a $$", "another language than SQL"),
        ("DROP FUNCTION f_bad", "function f_bad does not exist"),
    ],
)
def test_what_is_no_function_is_refused_by_name(platform, sql, said):
    answer = platform.run("sql", "-c", sql, check=False)
    assert answer.returncode != 0 and said in answer.stderr, answer.stdout + answer.stderr


def test_functions_and_who_calls_them_are_there_after_a_restart(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    with running(platform):
        platform.sql("CREATE FUNCTION half(n DOUBLE) RETURNS DOUBLE RETURN n / 2; CREATE VIEW halves AS SELECT half(3) AS n")
    with running(platform):
        assert platform.sql("SELECT n, half(n) AS m FROM halves") == [{"n": 1.5, "m": 0.75}]
        answer = platform.run("sql", "-c", "DROP FUNCTION half", check=False)
        assert answer.returncode != 0 and "is used by view halves" in answer.stderr, answer.stdout + answer.stderr
