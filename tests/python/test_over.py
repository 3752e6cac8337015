"""What is said of functions with OVER beside their arguments reaches the executors, and one row that an argument fails on stops nothing."""

import json
import uuid

from conftest import wait_for

OPTIONS = "'connector' = 'cassandra', 'keyspace' = 'over', 'table.create' = 'true'"


def test_filters_and_nulls_of_window_functions_count_in_jobs(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    rows = [(1, "a", 10), (2, "a", None), (3, "b", 30), (4, "b", 40), (5, "a", None), (6, "b", 0)]
    system.run("topic", "produce", stem, stdin="".join(json.dumps({"id": id, "k": k, "v": v}) + "\n" for id, k, v in rows))
    system.sql(f"CREATE TABLE {stem} (id BIGINT, k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    columns = ["total", "n", "last", "before", "second"]
    query = f"""SELECT id, sum(v) FILTER (WHERE k = 'a') OVER (ORDER BY id) AS total,
        count(*) FILTER (WHERE v > 5) OVER (PARTITION BY k) AS n,
        last_value(v) IGNORE NULLS OVER (ORDER BY id) AS last, lag(v, 1, -1) IGNORE NULLS OVER (ORDER BY id) AS before,
        nth_value(v, 2) IGNORE NULLS OVER (PARTITION BY k ORDER BY id) AS second FROM {stem}"""
    declared = ", ".join(f"{column} BIGINT" for column in columns)
    system.sql(f"CREATE TABLE {stem}_out (id BIGINT, {declared}, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out {query}")
    by_id = lambda sql: sorted(tuple(row[column] for column in ["id", *columns]) for row in system.sql(sql))  # noqa: E731
    expected = by_id(query)
    assert [row[1] for row in expected] == [10] * 6 and [row[3] for row in expected] == [10, 10, 30, 40, 40, 0], expected
    wait_for("the job answering as the query does", lambda: by_id(f"SELECT * FROM {stem}_out") == expected)


def test_a_row_that_an_argument_of_a_window_function_fails_on_is_a_dead_letter(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    rows = [(1, "a", 10), (2, "a", 0), (3, "b", 5), (4, "a", 2)]
    system.run("topic", "produce", stem, stdin="".join(json.dumps({"id": id, "k": k, "v": v}) + "\n" for id, k, v in rows))
    system.sql(f"CREATE TABLE {stem} (id BIGINT, k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    system.sql(f"CREATE TABLE {stem}_out (id BIGINT, x BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT id, sum(10 / v) OVER (PARTITION BY k ORDER BY id) FROM {stem}")
    rows = lambda: {row["id"]: row["x"] for row in system.sql(f"SELECT * FROM {stem}_out")}  # noqa: E731
    wait_for("the other rows", lambda: rows() == {1: 1, 3: 2, 4: 6})
    [letter] = system.sql(f"SELECT step, error FROM polybolos.dead_letters WHERE job = '{stem}_job'")
    assert letter["step"] == "compute" and "zero" in letter["error"].lower(), letter


def test_tables_without_anything_to_read_are_shown_among_all_tables(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    system.sql(f"CREATE TABLE {stem}_hole (id BIGINT, v STRING) WITH ('connector' = 'blackhole')")
    system.sql(
        f"CREATE TABLE {stem}_keyed (id BIGINT, PRIMARY KEY (id) NOT ENFORCED) "
        f"WITH ('connector' = 'upsert-kafka', 'topic' = '{stem}', 'key.format' = 'json', 'value.format' = 'json')"
    )
    shown = system.sql(f"SELECT table_name, column_name FROM information_schema.columns WHERE table_name LIKE '{stem}%'")
    assert sorted((row["table_name"], row["column_name"]) for row in shown) == [
        (f"{stem}_hole", "id"), (f"{stem}_hole", "v"), (f"{stem}_keyed", "id"),
    ]
    for table, says in [(f"{stem}_hole", "nothing to read"), (f"{stem}_keyed", "'connector' = 'kafka'")]:
        refused = system.run("sql", "-c", f"SELECT * FROM {table}", check=False)
        assert refused.returncode and says in refused.stderr, refused.stderr
