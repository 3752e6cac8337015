"""Rows on which an expression fails above an aggregate: each is a dead letter, and the job goes on."""

import json
import uuid

from conftest import wait_for

OPTIONS = "'connector' = 'cassandra', 'keyspace' = 'failing', 'table.create' = 'true'"


def test_a_division_by_zero_above_an_aggregate_takes_away_its_row_alone(system):
    stem = f"f{uuid.uuid4().hex[:8]}"

    def produce(keys: str) -> None:
        system.run("topic", "produce", stem, stdin="".join(json.dumps({"k": key}) + "\n" for key in keys))

    produce("aab")
    system.sql(f"CREATE TABLE {stem}_in (k STRING) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    system.sql(f"CREATE TABLE {stem}_out (k STRING, x BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({OPTIONS})")
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT k, 100 / (count(*) - 3) FROM {stem}_in GROUP BY k")
    rows = lambda: {row["k"]: row["x"] for row in system.sql(f"SELECT * FROM {stem}_out")}  # noqa: E731
    wait_for("the first rows", rows, {"a": -100, "b": -50})
    produce("a")
    wait_for("the row that fails going", rows, {"b": -50})
    [letter] = wait_for("the letter", lambda: system.sql(f"SELECT id, step, error FROM polybolos.dead_letters WHERE job = '{stem}_job'"))
    assert letter["step"] == "compute" and "/operator-" in letter["id"] and "zero" in letter["error"].lower(), letter
    produce("ab")
    wait_for("its coming back", rows, {"a": 100, "b": -100})
    [job] = system.sql(f"SELECT dead_letters, error FROM polybolos.jobs WHERE name = '{stem}_job'")
    assert job["dead_letters"] == 1 and not job["error"], job


def test_a_key_that_is_null_is_one_letter_with_its_newest_row(system):
    stem = f"f{uuid.uuid4().hex[:8]}"

    def produce(count: int) -> None:
        system.run("topic", "produce", stem, stdin='{"k": null}\n' * count)

    produce(1)
    system.sql(f"CREATE TABLE {stem}_in (k STRING) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    system.sql(f"CREATE TABLE {stem}_out (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({OPTIONS})")
    system.sql(f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT k, count(*) FROM {stem}_in GROUP BY k")
    letters = lambda: system.sql(f"SELECT id, error, raw_bytes FROM polybolos.dead_letters WHERE job = '{stem}_job'")  # noqa: E731
    wait_for("the letter", lambda: len(letters()), 1)
    [first] = letters()
    assert "/sink-0/key-" in first["id"] and "is null" in first["error"], first
    produce(9)
    # A count of ten takes one byte more.
    wait_for("the newest row", lambda: [letter["raw_bytes"] for letter in letters()] == [first["raw_bytes"] + 1])
    assert [letter["id"] for letter in letters()] == [first["id"]]
