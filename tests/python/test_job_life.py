"""What a job's life knows beside running: begun anew, and INSERTs that end and so are no jobs."""
import json
import uuid

import pytest
from conftest import wait_for


@pytest.fixture
def names():
    stem = f"life_{uuid.uuid4().hex[:8]}"
    return {"topic": stem, "table": stem, "job": f"{stem}_job", "source": f"{stem}_source"}


def declare(system, names, columns="id STRING, v INT"):
    system.run("topic", "produce", names["topic"], stdin=lines((f"k{number}", number) for number in range(10)))
    system.sql(
        f"CREATE TABLE {names['source']} ({columns}) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {names['table']} ({columns}, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )


def lines(rows) -> str:
    return "".join(json.dumps({"id": key, "v": value}) + "\n" for key, value in rows)


def job(system, names) -> dict:
    [row] = system.sql(f"SELECT * FROM polybolos.jobs WHERE name = '{names['job']}'")
    return row


def count(system, table: str) -> int:
    return system.sql(f"SELECT count(*) AS n FROM {table}")[0]["n"]


def test_a_restarted_job_is_a_new_incarnation_that_reads_again(system, names):
    declare(system, names)
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']}")
    wait_for("ten rows", lambda: count(system, names["table"]) == 10)
    wait_for("the records", lambda: job(system, names)["records_in"] == 10)
    refused = system.run("job", "restart", names["job"], "--from", "earliest", check=False)
    assert refused.returncode == 2 and "--keep" in refused.stderr
    system.run("job", "restart", names["job"], "--from", "earliest", "--keep")
    wait_for("the same records again", lambda: job(system, names)["records_in"] == 10 and job(system, names)["unpublished_epochs"] == 0)
    assert count(system, names["table"]) == 10
    system.run("job", "restart", names["job"], "--from", "latest", "--keep", "--discard")
    system.run("topic", "produce", names["topic"], stdin=lines([("k3", 33), ("new", 1)]))
    wait_for("only the new records", lambda: job(system, names)["records_in"] == 2)
    wait_for("the newest value", lambda: system.sql(f"SELECT v FROM {names['table']} WHERE id = 'k3'") == [{"v": 33}])
    assert count(system, names["table"]) == 11


def test_an_insert_over_what_ends_runs_to_its_end(system, names):
    declare(system, names)
    copy = f"{names['table']}_copy"
    system.sql(
        f"CREATE TABLE {copy} (id STRING, v INT, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )
    values = f"INSERT INTO {names['table']} VALUES ('a', 1), ('b', 2), ('a', 3)"
    assert system.run("sql", "-c", values).stdout.strip() == "INSERT 0 2"
    assert system.sql(f"SELECT v FROM {names['table']} WHERE id = 'a'") == [{"v": 3}], "the later row of a key stays"
    insert = f"INSERT INTO {copy} SELECT id, v * 10 FROM {names['table']} WHERE v > 1"
    assert system.run("sql", "-c", insert).stdout.strip() == "INSERT 0 2"
    rows = system.sql(f"SELECT id, v FROM {copy} ORDER BY id")
    assert rows == [{"id": "a", "v": 30}, {"id": "b", "v": 20}]
    without_key = system.run("sql", "-c", f"INSERT INTO {copy} VALUES (NULL, 1)", check=False)
    assert without_key.returncode == 1 and "primary key" in without_key.stderr
    # A job's table is the job's alone; what it writes later is seen over what the INSERT wrote.
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']}")
    wait_for("all rows", lambda: count(system, names["table"]) == 12)
    owned = system.run("sql", "-c", f"INSERT INTO {names['table']} VALUES ('z', 1)", check=False)
    assert owned.returncode == 1 and names["job"] in owned.stderr


def test_a_missing_field_fails_when_asked_for(system, names):
    system.run("topic", "produce", names["topic"], stdin='{"id":"a","v":1}\n{"id":"b"}\n')
    system.sql(
        f"CREATE TABLE {names['source']} (id STRING, v INT) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', "
        "'format' = 'json', 'json.fail-on-missing-field' = 'true')"
    )
    system.sql(f"CREATE TABLE {names['table']} (id STRING, v INT) WITH ('connector' = 'blackhole')")
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']}")
    wait_for("one dead letter", lambda: job(system, names)["dead_letters"] == 1)
    [letter] = wait_for("the letter", lambda: system.sql(f"SELECT error FROM polybolos.dead_letters WHERE job = '{names['job']}'"))
    assert "missing" in letter["error"]
