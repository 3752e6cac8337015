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
    wait_for("the job answering as the query does", lambda: by_id(f"SELECT * FROM {stem}_out"), expected)


def test_a_row_that_an_argument_of_a_window_function_fails_on_is_a_dead_letter(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    rows = [(1, "a", 10), (2, "a", 0), (3, "b", 5), (4, "a", 2)]
    system.run("topic", "produce", stem, stdin="".join(json.dumps({"id": id, "k": k, "v": v}) + "\n" for id, k, v in rows))
    system.sql(f"CREATE TABLE {stem} (id BIGINT, k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    system.sql(f"CREATE TABLE {stem}_out (id BIGINT, x BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT id, sum(10 / v) OVER (PARTITION BY k ORDER BY id) FROM {stem}")
    rows = lambda: {row["id"]: row["x"] for row in system.sql(f"SELECT * FROM {stem}_out")}  # noqa: E731
    wait_for("the other rows", rows, {1: 1, 3: 2, 4: 6})
    [letter] = wait_for("the letter", lambda: system.sql(f"SELECT step, error FROM polybolos.dead_letters WHERE job = '{stem}_job'"))
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
    for table, says in [(f"{stem}_hole", "nothing to read"), (f"{stem}_keyed", "does not exist")]:
        refused = system.run("sql", "-c", f"SELECT * FROM {table}", check=False)
        assert refused.returncode and says in refused.stderr, refused.stderr


def test_arrays_of_a_row_are_joined_with_it(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    rows = [
        {"id": 1, "tags": ["a", "b"], "items": [{"name": "nut", "qty": 2}, {"name": "bolt", "qty": 3}]},
        {"id": 2, "tags": ["b"], "items": []},
        {"id": 3, "tags": None, "items": [{"name": "nut", "qty": 5}]},
    ]
    system.run("topic", "produce", stem, stdin="".join(json.dumps(row) + "\n" for row in rows))
    system.sql(
        f"CREATE TABLE {stem} (id BIGINT, tags ARRAY<STRING>, items ARRAY<ROW<name STRING, qty BIGINT>>) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    tags = f"SELECT t.tag, count(*) AS n FROM {stem} AS r CROSS JOIN UNNEST(r.tags) AS t (tag) GROUP BY t.tag"
    items = f"SELECT name, sum(qty) AS n FROM {stem}, UNNEST(items) AS i (name, qty) WHERE {stem}.id < 9 GROUP BY name"
    kept = f"SELECT coalesce(t.tag, 'none') AS label, count(*) AS n FROM {stem} AS r LEFT JOIN UNNEST(r.tags) AS t (tag) ON TRUE GROUP BY 1"
    parts = f"SELECT coalesce(i.name, 'none') AS label, count(*) AS n FROM {stem} LEFT JOIN UNNEST(items) AS i (name, qty) ON TRUE GROUP BY 1"
    middle = f"SELECT name, percentile_disc(0.5) WITHIN GROUP (ORDER BY qty) AS n FROM {stem}, UNNEST(items) AS i (name, qty) GROUP BY name"
    most = f"SELECT name, max(qty) FROM {stem}, UNNEST(items) AS i (name, qty) GROUP BY name"
    less = f"SELECT name, qty AS n FROM {stem}, UNNEST(items) AS i (name, qty) WHERE (name, qty) NOT IN ({most})"
    answers = {
        "tags": (tags, {"a": 1, "b": 2}),
        "items": (items, {"nut": 7, "bolt": 3}),
        "kept": (kept, {"a": 1, "b": 2, "none": 1}),
        "parts": (parts, {"nut": 2, "bolt": 1, "none": 1}),
        "middle": (middle, {"nut": 2, "bolt": 3}),
        "less": (less, {"nut": 2}),
    }
    for name, (query, expected) in answers.items():
        assert {row[key]: row["n"] for row in system.sql(query) for key in row if key != "n"} == expected
        system.sql(f"CREATE TABLE {stem}_{name} (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({OPTIONS})")
        system.sql(f"CREATE JOB {stem}_{name}_job AS INSERT INTO {stem}_{name} {query}")
        found = lambda table: {row["k"]: row["n"] for row in system.sql(f"SELECT * FROM {table}")}  # noqa: E731
        wait_for("the job's answer", lambda: found(f"{stem}_{name}"), expected)


def test_entries_of_maps_and_places_of_items_are_rows_of_jobs(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    rows = [
        {"id": 1, "tags": ["a", "b"], "counts": {"nut": 2, "bolt": 3}},
        {"id": 2, "tags": ["b"], "counts": {}},
        {"id": 3, "tags": None, "counts": {"nut": 5}},
    ]
    system.run("topic", "produce", stem, stdin="".join(json.dumps(row) + "\n" for row in rows))
    system.sql(
        f"CREATE TABLE {stem} (id BIGINT, tags ARRAY<STRING>, counts MAP<STRING, BIGINT>) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    entries = f"SELECT c.name, sum(c.part) AS n FROM {stem} CROSS JOIN UNNEST(counts) AS c (name, part) GROUP BY c.name"
    kept = f"SELECT coalesce(c.name, 'none') AS name, count(*) AS n FROM {stem} LEFT JOIN UNNEST(counts) AS c (name, part) ON TRUE GROUP BY 1"
    places = f"SELECT t.tag AS name, sum(t.place) AS n FROM {stem}, UNNEST(tags) WITH ORDINALITY AS t (tag, place) GROUP BY t.tag"
    system.sql(f"CREATE VIEW {stem}_view AS {places}")
    answers = {
        "entries": (entries, {"nut": 7, "bolt": 3}),
        "kept": (kept, {"nut": 2, "bolt": 1, "none": 1}),
        "places": (f"SELECT name, n FROM {stem}_view", {"a": 1, "b": 3}),
    }
    for name, (query, expected) in answers.items():
        found = lambda source: {row["name"]: row["n"] for row in system.sql(source)}  # noqa: E731
        assert found(query) == expected
        system.sql(f"CREATE TABLE {stem}_{name} (name STRING, n BIGINT, PRIMARY KEY (name) NOT ENFORCED) WITH ({OPTIONS})")
        system.sql(f"CREATE JOB {stem}_{name}_job AS INSERT INTO {stem}_{name} {query}")
        wait_for("the job's answer", lambda: found(f"SELECT * FROM {stem}_{name}"), expected)


def test_grouping_sets_with_the_window_in_each_close_with_it(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    rows = [("a", 1), ("b", 2), ("a", 59), ("a", 61), ("c", 200)]
    records = "".join(json.dumps({"k": k, "ts": f"2026-01-01 00:{s // 60:02}:{s % 60:02}"}) + "\n" for k, s in rows)
    system.sql(
        f"CREATE TABLE {stem} (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    system.sql(f"CREATE TABLE {stem}_out (k STRING, ws TIMESTAMP(3), n BIGINT, PRIMARY KEY (k, ws) NOT ENFORCED) WITH ({OPTIONS})")
    system.run("topic", "produce", stem, stdin=records)
    query = f"""SELECT coalesce(k, 'all'), window_start, count(*) FROM TABLE(TUMBLE(TABLE {stem}, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
        GROUP BY GROUPING SETS ((window_start, window_end, k), (window_start, window_end)) EMIT ON WINDOW CLOSE"""
    created = system.run("sql", "-c", f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out {query}")
    assert "never dropped" not in created.stderr + created.stdout
    found = lambda: {(row["k"], row["ws"][14:16]): row["n"] for row in system.sql(f"SELECT * FROM {stem}_out")}  # noqa: E731
    expected = {("a", "00"): 2, ("b", "00"): 1, ("all", "00"): 3, ("a", "01"): 1, ("all", "01"): 1}
    wait_for("the windows closing", found, expected)


def test_a_grouping_set_that_is_written_twice_gives_its_rows_twice(system):
    stem = f"o{uuid.uuid4().hex[:8]}"
    system.run("topic", "produce", stem, stdin="".join(json.dumps({"k": k, "v": v}) + "\n" for k, v in [("a", 1), ("b", 2), ("a", 4)]))
    system.sql(f"CREATE TABLE {stem} (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    # As long as nothing was read the group of all is there, and its sum is not.
    sets = f"SELECT coalesce(k, 'all') AS label, coalesce(sum(v), 0) AS total FROM {stem} GROUP BY GROUPING SETS ((k), (), (k), ())"
    alone = f"SELECT 'all' AS label, coalesce(sum(v), 0) AS total FROM {stem} GROUP BY GROUPING SETS ((), (), ())"
    answers = {"sets": (sets, {("a", 5): 2, ("b", 2): 2, ("all", 7): 2}), "alone": (alone, {("all", 7): 3})}
    for name, (rows, expected) in answers.items():
        query = f"SELECT label, total, count(*) AS n FROM ({rows}) GROUP BY label, total"
        system.sql(f"CREATE TABLE {stem}_{name} (label STRING, total BIGINT, n BIGINT, PRIMARY KEY (label, total) NOT ENFORCED) WITH ({OPTIONS})")
        system.sql(f"CREATE JOB {stem}_{name}_job AS INSERT INTO {stem}_{name} {query}")
        found = lambda source: {(row["label"], row["total"]): row["n"] for row in system.sql(source)}  # noqa: E731
        assert found(query) == expected
        wait_for("the job's answer", lambda: found(f"SELECT * FROM {stem}_{name}"), expected)


def test_a_table_that_a_job_will_make_is_empty_until_then(system):
    name = f"o{uuid.uuid4().hex[:8]}"
    system.sql(f"CREATE TABLE {name} (id BIGINT, v STRING, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    assert system.sql(f"SELECT * FROM {name}") == []
    assert system.sql(f"SELECT count(*) AS n FROM {name} WHERE id = 3") == [{"n": 0}]
    assert system.sql(f"SELECT * FROM polybolos.dead_letters WHERE job = '{name}'") == []


def test_a_topic_with_nothing_to_read_is_sorted_and_numbered(system):
    name = f"o{uuid.uuid4().hex[:8]}"
    system.run("topic", "produce", name, stdin='{"a": 1}\n')
    system.sql(f"CREATE TABLE {name} (a BIGINT) WITH ('connector' = 'kafka', 'topic' = '{name}', 'format' = 'json')")
    nothing = f"{name} /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */"
    assert system.sql(f"SELECT a FROM {nothing} ORDER BY a LIMIT 3") == []
    assert system.sql(f"SELECT a, row_number() OVER () AS n FROM {nothing}") == []
    assert system.sql(f"SELECT a FROM {nothing} UNION ALL SELECT a FROM {name} ORDER BY a") == [{"a": 1}]
