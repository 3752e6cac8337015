"""Columns of every type that a keyed table takes, written by a job and by INSERT, and read again, in both stores."""

import json
import uuid

from conftest import wait_for

ID = "123e4567-e89b-12d3-a456-426614174000"
COLUMNS = {
    "other": ("UUID", ID.upper(), ID),
    "ok": ("BOOLEAN", True, True),
    "tiny": ("TINYINT", -128, -128),
    "small": ("SMALLINT", -32768, -32768),
    "whole": ("INT", 7, 7),
    "big": ("BIGINT", -(2**53), -(2**53)),
    "real_": ("FLOAT", 1.5, 1.5),
    "ratio": ("DOUBLE", -0.1, -0.1),
    "price": ("DECIMAL(20, 4)", "-1234567890123456.7891", "-1234567890123456.7891"),
    "day": ("DATE", "1969-12-31", "1969-12-31"),
    "at_time": ("TIME(3)", "23:59:59.999", "23:59:59.999"),
    "seen": ("TIMESTAMP(3)", "1969-12-31 23:59:59.999", "1969-12-31T23:59:59.999Z"),
    "instant": ("TIMESTAMP_LTZ(3)", "2026-02-28T12:00:00.5Z", "2026-02-28T12:00:00.500Z"),
    "text": ("STRING", "ünï'q\"ue", "ünï'q\"ue"),
}
DECLARED = ", ".join(f"{name} {kind}" for name, (kind, _, _) in COLUMNS.items())


def test_every_type_comes_back_as_it_was_written(system):
    stem = f"t{uuid.uuid4().hex[:8]}"
    payload = {name: value for name, (_, value, _) in COLUMNS.items()}
    rows = [payload | {"id": ID}, {"id": ID.replace("1", "2", 1)}, payload | {"id": "nonsense"}]
    system.run("topic", "produce", stem, stdin="".join(json.dumps(row) + "\n" for row in rows))
    system.sql(f"CREATE TABLE {stem}_in (id STRING, {DECLARED}) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    system.sql(
        f"CREATE TABLE {stem}_out (id UUID, {DECLARED}, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'all_types', 'table.create' = 'true')"
    )
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT * FROM {stem}_in")
    wait_for("both rows", lambda: len(system.sql(f"SELECT id FROM {stem}_out")), 2)
    [row] = system.sql(f"SELECT * FROM {stem}_out WHERE id = '{ID}'")
    wanted = {name: shown for name, (_, _, shown) in COLUMNS.items()}
    assert {name: row[name] for name in wanted} == wanted
    [empty] = system.sql(f"SELECT * FROM {stem}_out WHERE id = '{rows[1]['id']}'")
    assert {value for name, value in empty.items() if name != "id"} == {None}
    assert system.sql(f"SELECT id FROM {stem}_out WHERE id = 'nonsense'") == []
    dead = f"SELECT error FROM polybolos.dead_letters WHERE job = '{stem}_job'"
    wait_for("the dead letter", lambda: len(system.sql(dead)), 1)
    assert '"nonsense" is no UUID' in system.sql(dead)[0]["error"]
    system.sql(f"DROP JOB {stem}_job")
    # A statement takes the same, and a row of it that does not fit is its error.
    system.sql(f"INSERT INTO {stem}_out (id, other, price) VALUES ('{uuid.UUID(int=5)}', '{ID}', 1.5)")
    [written] = system.sql(f"SELECT other, price FROM {stem}_out WHERE id = '{uuid.UUID(int=5)}'")
    assert written == {"other": ID, "price": "1.5000"}
    refused = system.run("sql", "-c", f"INSERT INTO {stem}_out (id) VALUES ('nope')", check=False)
    assert refused.returncode == 1 and "nope" in refused.stderr and "is no UUID" in refused.stderr


def test_functions_of_flink_and_spark_run_on_executors(system):
    stem = f"f{uuid.uuid4().hex[:8]}"
    rows = [
        {"id": "a-b", "seen": "2026-01-02 10:30:00.000", "tags": ["x", "y"], "payload": '{"n":"2","items":[{"c":1},{"c":2}]}'},
        {"id": "c-d", "seen": None, "tags": None, "payload": "no json"},
    ]
    system.run("topic", "produce", stem, stdin="".join(json.dumps(row) + "\n" for row in rows))
    system.sql(
        f"CREATE TABLE {stem}_in (id STRING, seen TIMESTAMP(3), tags STRING[], payload STRING) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    wanted = {
        "part": ("STRING", "split(id, '-')[1]", "a", "c"),
        "digits": ("STRING", "hex(id)", "612D62", "632D64"),
        "place": ("BIGINT", "locate('b', id)", 3, 0),
        "tag": ("STRING", "tags[2]", "y", None),
        "days": ("BIGINT", "datediff(seen, DATE '2026-01-01')", 1, None),
        "month_end": ("DATE", "last_day(seen)", "2026-01-31", None),
        "later": ("DATE", "date_add(seen, 30)", "2026-02-01", None),
        "hour_": ("BIGINT", "hour(ceil(seen TO HOUR))", 11, None),
        "moved": ("BIGINT", "day(seen + locate('b', id) * INTERVAL '1' DAY)", 5, None),
        "n": ("INT", "json_value(payload, '$.n' RETURNING INT DEFAULT 0 ON ERROR)", 2, 0),
        "items": ("STRING", "json_query(payload, '$.items[*].c')", "[1,2]", None),
        "pairs": ("STRING", "str_to_map(id, ',', '-')", '{"a":"b"}', '{"c":"d"}'),
    }
    declared = ", ".join(f"{name} {kind}" for name, (kind, _, _, _) in wanted.items())
    system.sql(
        f"CREATE TABLE {stem}_out (id STRING, {declared}, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'all_types', 'table.create' = 'true')"
    )
    selected = ", ".join(f"{expression} AS {name}" for name, (_, expression, _, _) in wanted.items())
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT id, {selected} FROM {stem}_in")
    wait_for("both rows", lambda: len(system.sql(f"SELECT id FROM {stem}_out")), 2)
    for place, row in enumerate(rows):
        [found] = system.sql(f"SELECT * FROM {stem}_out WHERE id = '{row['id']}'")
        assert {name: found[name] for name in wanted} == {name: values[2 + place] for name, values in wanted.items()}
    system.sql(f"DROP JOB {stem}_job")
