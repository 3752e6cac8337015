"""Joins with conditions beside equality, what comes and goes within an epoch, and what may not be computed once for two."""

import json
import uuid

from conftest import wait_for

OPTIONS = "'connector' = 'cassandra', 'keyspace' = 'joins', 'table.create' = 'true'"
UNBOUNDED = "WITH ('state.unbounded' = 'allow')"


def declare(system, records: list[dict], columns: str) -> str:
    """A topic of two partitions with these records, and its table."""
    stem = f"j{uuid.uuid4().hex[:8]}"
    system.run("topic", "produce", stem, stdin="".join(json.dumps(record) + "\n" for record in records))
    system.sql(f"CREATE TABLE {stem} ({columns}) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    return stem


def letters(system, job: str) -> list[dict]:
    return system.sql(f"SELECT error FROM polybolos.dead_letters WHERE job = '{job}'")


def test_rows_meet_by_comparison_and_a_batch_query_answers_alike(system):
    stem = declare(system, [{"id": str(number), "v": number % 7, "k": number % 2} for number in range(40)], "id STRING, v BIGINT, k INT")
    system.sql(f"CREATE TABLE {stem}_out (a STRING, b STRING, PRIMARY KEY (a, b) NOT ENFORCED) WITH ({OPTIONS})")
    query = f"SELECT a.id AS a, b.id AS b FROM {stem} a JOIN {stem} b ON a.v < b.v AND b.v <= 5"
    system.sql(f"CREATE JOB {stem}_job {UNBOUNDED} AS INSERT INTO {stem}_out {query}")
    pairs = lambda sql: sorted((row["a"], row["b"]) for row in system.sql(sql))  # noqa: E731
    expected = pairs(query)
    assert len(expected) > 400
    wait_for("the pairs", lambda: pairs(f"SELECT * FROM {stem}_out"), expected)
    [verified] = [json.loads(line) for line in system.run("job", "verify", f"{stem}_job", "--output", "json").stdout.splitlines()]
    assert verified["equal"] is True and verified["rows"] == len(expected), verified


def test_rows_that_come_and_go_within_an_epoch_are_no_dead_letters(system):
    # One topic, so that both sides of a match come in one epoch.
    stem = declare(system, [{"id": str(number), "v": 1} for number in range(20)], "id STRING, v BIGINT")
    system.sql(f"CREATE TABLE {stem}_out (k STRING, k2 STRING, PRIMARY KEY (k, k2) NOT ENFORCED) WITH ({OPTIONS})")
    job, matches = f"{stem}_job", "a.id = b.id AND b.v = 1"
    system.sql(
        f"CREATE JOB {job} {UNBOUNDED} AS INSERT INTO {stem}_out SELECT a.id, b.id FROM {stem} a LEFT JOIN {stem} b ON {matches}"
    )
    wait_for("all matches", lambda: len(system.sql(f"SELECT * FROM {stem}_out")), 20)
    # A row that has no match after all cannot be written.
    system.run("topic", "produce", stem, stdin='{"id": "alone", "v": 0}\n')
    wait_for("the row without a match", lambda: letters(system, job))
    [letter] = letters(system, job)
    assert "k2" in letter["error"]


def test_a_condition_that_fails_on_a_pair_stops_nothing(system):
    left = declare(system, [{"id": "a", "v": 8}, {"id": "b", "v": 8}, {"id": "c", "v": 1}], "id STRING, v BIGINT")
    right = declare(system, [{"id": "a", "v": 2}, {"id": "b", "v": 0}, {"id": "c", "v": 4}], "id STRING, v BIGINT")
    system.sql(f"CREATE TABLE {left}_out (id STRING, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    job = f"{left}_job"
    condition = "a.id = b.id AND a.v / b.v > 1"
    system.sql(f"CREATE JOB {job} {UNBOUNDED} AS INSERT INTO {left}_out SELECT a.id FROM {left} a JOIN {right} b ON {condition}")
    wait_for("the match", lambda: system.sql(f"SELECT * FROM {left}_out"), [{"id": "a"}])
    wait_for("the pair that fails", lambda: len(letters(system, job)), 1)
    assert "zero" in letters(system, job)[0]["error"].lower()


def test_random_numbers_are_drawn_for_each_who_asks(system):
    stem = declare(system, [{"id": str(number)} for number in range(30)], "id STRING")
    for place in "xy":
        system.sql(f"CREATE TABLE {stem}_{place} (id STRING, r DOUBLE, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    inserts = "".join(f"INSERT INTO {stem}_{place} SELECT id, random() FROM {stem}; " for place in "xy")
    system.sql(f"CREATE JOB {stem}_job AS BEGIN {inserts} END")
    rows = lambda place: {row["id"]: row["r"] for row in system.sql(f"SELECT * FROM {stem}_{place}")}  # noqa: E731
    wait_for("all rows", lambda: len(rows("x")) == len(rows("y")) == 30)
    assert not set(rows("x").values()) & set(rows("y").values())


def test_what_two_inserts_say_alike_goes_to_both(system):
    stem = declare(system, [{"id": str(number % 5), "v": number} for number in range(50)], "id STRING, v BIGINT")
    for place in "xy":
        system.sql(f"CREATE TABLE {stem}_{place} (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")
    inserts = "".join(f"INSERT INTO {stem}_{place} SELECT id, sum(v) FROM {stem} GROUP BY id; " for place in "xy")
    system.sql(f"CREATE JOB {stem}_job {UNBOUNDED} AS BEGIN {inserts} END")
    rows = lambda place: sorted((row["id"], row["n"]) for row in system.sql(f"SELECT * FROM {stem}_{place}"))  # noqa: E731
    expected = [(str(key), sum(range(key, 50, 5))) for key in range(5)]
    wait_for("both tables", lambda: rows("x") == expected and rows("y") == expected)
