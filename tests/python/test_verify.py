"""`polybolos job verify` of windows: what a closed one must have in the table, and an open one must not."""

import json
import uuid

import pytest
from confluent_kafka import Producer
from conftest import create_topics, wait_for

WINDOWS = "DESCRIPTOR(ts), INTERVAL '10' SECOND"
BY_WINDOW = "GROUP BY city, window_start, window_end"
COUNTED = "SELECT city, window_start, count(*) AS n FROM TABLE"


@pytest.fixture
def stem():
    return f"verify_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def producer(system):
    return Producer({"bootstrap.servers": system.endpoints["kafka"]})


def declare(system, producer, records: list[tuple[str, int]], stem: str, *others: str) -> None:
    """Topics of one partition, so that no other holds the watermark back. Records are in order, so that none is late."""
    create_topics(system.endpoints["kafka"], stem, *others)
    for city, second in records:
        producer.produce(stem, json.dumps({"city": city, "ts": f"2026-01-01 00:00:{second:02}"}))
    producer.flush(60)
    system.sql(
        f"CREATE TABLE {stem} (city STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )


def verify(system, job: str, code: int = 0) -> tuple[set, str]:
    done = system.run("job", "verify", job, "--output", "json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert code or [row["equal"] for row in rows] == [True], rows
    return {(row["difference"], row["key"]) for row in rows if code}, done.stderr


def test_a_closed_window_that_is_gone_is_missing_and_an_open_one_that_is_there_is_extra(system, producer, stem):
    # The window of c is open, and rows do not say of which windows they are.
    declare(system, producer, [("a", 1), ("a", 3), ("b", 12), ("c", 31)], stem, f"{stem}_out")
    system.sql(
        f"CREATE TABLE {stem}_out (city STRING, n BIGINT, PRIMARY KEY (city) NOT ENFORCED) WITH ('connector' = 'upsert-kafka', "
        f"'topic' = '{stem}_out', 'key.format' = 'json', 'value.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY')"
    )
    system.sql(
        f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT city, count(*) "
        f"FROM TABLE(TUMBLE(TABLE {stem}, {WINDOWS})) {BY_WINDOW} EMIT ON WINDOW CLOSE"
    )
    rows = lambda: {row["city"]: row["n"] for row in system.sql(f"SELECT * FROM {stem}_out")}  # noqa: E731
    wait_for("the closed windows", rows, {"a": 2, "b": 1})
    differences, told = verify(system, f"{stem}_job")
    assert not differences and "2 rows compared with 4 records: 0 differences" in told and "open windows" not in told, told
    # Somebody else writes there.
    for city, value in (("a", None), ("c", {"n": 1})):
        producer.produce(f"{stem}_out", key=json.dumps({"city": city}), value=value and json.dumps(value))
    producer.flush(60)
    differences, told = verify(system, f"{stem}_job", 4)
    assert differences == {("missing", "city=a"), ("extra", "city=c")}, told


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        (COUNTED + "(HOP(TABLE {stem}, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND)) " + BY_WINDOW, 8),
        ("SELECT city, window_end, count(*) FROM TABLE(CUMULATE(TABLE {stem}, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND)) " + BY_WINDOW, 8),
        (COUNTED + "(SESSION(TABLE {stem} PARTITION BY (city), DESCRIPTOR(ts), INTERVAL '5' SECOND)) " + BY_WINDOW, 4),
        # The first city of each window.
        (
            "SELECT city, window_start, n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start ORDER BY n DESC, city) AS place "
            f"FROM ({COUNTED}(TUMBLE(TABLE {{stem}}, {WINDOWS})) {BY_WINDOW})) WHERE place = 1",
            2,
        ),
        # Windows of `a` beside those of `b` where there is one.
        (
            f"SELECT x.city, x.window_start, y.n FROM ({COUNTED}(TUMBLE(TABLE {{stem}}, {WINDOWS})) {BY_WINDOW}) x LEFT JOIN "
            f"({COUNTED}(TUMBLE(TABLE {{stem}}, {WINDOWS})) {BY_WINDOW}) y ON x.window_start = y.window_start AND y.city = 'b' AND x.city = 'a'",
            4,
        ),
    ],
    ids=["hop", "cumulate", "session", "first", "join"],
)
def test_windows_of_every_kind_are_verified(system, producer, stem, query, rows):
    # Through 33 s.
    declare(system, producer, [("a", 1), ("a", 3), ("b", 4), ("b", 12), ("a", 14), ("c", 31), ("b", 33)], stem)
    system.sql(
        f"CREATE TABLE {stem}_out (city STRING, at TIMESTAMP(3), n BIGINT, PRIMARY KEY (city, at) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'verified', 'table.create' = 'true')"
    )
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out {query.format(stem=stem)} EMIT ON WINDOW CLOSE")
    wait_for("the closed windows", lambda: len(system.sql(f"SELECT * FROM {stem}_out")), rows)
    differences, told = verify(system, f"{stem}_job")
    assert not differences and f"{rows} rows compared with" in told and ": 0 differences" in told and "open windows" not in told, told
