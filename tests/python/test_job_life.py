"""What a job's life knows beside running: begun anew, and INSERTs that end and so are no jobs."""
import datetime
import json
import subprocess
import time
import uuid

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from conftest import BINARY, create_topics, wait_for


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
    wait_for("ten rows", lambda: count(system, names["table"]), 10)
    wait_for("the records", lambda: job(system, names)["records_in"], 10)
    refused = system.run("job", "restart", names["job"], "--from", "earliest", check=False)
    assert refused.returncode == 2 and "--keep" in refused.stderr
    system.run("job", "restart", names["job"], "--from", "earliest", "--keep")
    wait_for("the same records again", lambda: job(system, names)["records_in"] == 10 and job(system, names)["unpublished_epochs"] == 0)
    assert count(system, names["table"]) == 10
    system.run("job", "restart", names["job"], "--from", "latest", "--keep", "--discard")
    system.run("topic", "produce", names["topic"], stdin=lines([("k3", 33), ("new", 1)]))
    wait_for("only the new records", lambda: job(system, names)["records_in"], 2)
    wait_for("the newest value", lambda: system.sql(f"SELECT v FROM {names['table']} WHERE id = 'k3'"), [{"v": 33}])
    assert count(system, names["table"]) == 11


def test_a_restart_from_a_time_reads_the_records_since_then(system, names):
    producer = Producer({"bootstrap.servers": system.endpoints["kafka"]})
    create_topics(system.endpoints["kafka"], names["topic"])
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    hours_ago = lambda hours: now - datetime.timedelta(hours=hours)  # noqa: E731
    for number, hours in enumerate([3, 2, 2, 0.5]):
        record = json.dumps({"id": f"k{number}", "v": number})
        producer.produce(names["topic"], record, timestamp=int(hours_ago(hours).timestamp() * 1000))
    producer.flush(60)
    columns = "id STRING, v INT"
    system.sql(
        f"CREATE TABLE {names['source']} ({columns}) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {names['table']} ({columns}, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']}")
    wait_for("all rows", lambda: count(system, names["table"]), 4)
    wait_for("the records", lambda: job(system, names)["records_in"], 4)
    # A record of that very time is read; what is older is not, and its row stays.
    for since, earlier in ((hours_ago(2), {"k0"}), (hours_ago(1), {"k0", "k1", "k2"})):
        text = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        system.run("job", "restart", names["job"], "--from", text, "--keep")
        wait_for(f"the records since {text}", lambda: job(system, names)["records_in"], 4 - len(earlier))
        differences, _ = verify(system, names, 4)
        assert {(line["difference"], line["key"]) for line in differences} == {("extra", f"id={key}") for key in earlier}
    refused = system.run("job", "restart", names["job"], "--from", "noon", "--keep", check=False)
    assert refused.returncode != 0 and "is no time" in refused.stderr, refused.stderr


def test_a_restart_goes_on_when_its_client_waits_no_longer(system, names):
    declare(system, names)
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']}")
    wait_for("ten rows", lambda: count(system, names["table"]), 10)
    before = job(system, names)["incarnation"]
    host, port = system.address("postgres")
    login = {"host": host, "port": port, "user": "admin", "password": system.token, "dbname": "polybolos", "autocommit": True}
    with psycopg.connect(**login) as connection:
        connection.execute("SET statement_timeout = '1ms'")
        with pytest.raises(psycopg.errors.QueryCanceled) as cancelled:
            connection.execute(f"RESTART JOB {names['job']} FROM EARLIEST KEEP")
    assert "SHOW JOBS" in cancelled.value.diag.message_hint
    wait_for("another run", lambda: job(system, names)["incarnation"] != before)
    wait_for("the records again", lambda: job(system, names)["records_in"], 10)


def test_a_job_over_a_table_with_rows_says_that_they_stay(system, names):
    declare(system, names)
    create = f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']} WHERE v"
    first = system.run("sql", "-c", f"{create} < 10")
    assert "has rows already" not in first.stderr, first.stderr
    wait_for("ten rows", lambda: count(system, names["table"]), 10)
    system.sql(f"DROP JOB {names['job']}")
    second = system.run("sql", "-c", f"{create} < 4")
    for words in (f"{names['table']} has rows already", f"VERIFY JOB {names['job']}", f"RESTART JOB {names['job']} FROM EARLIEST REPLACE"):
        assert words in second.stderr, second.stderr
    wait_for("the records", lambda: job(system, names)["records_in"], 10)
    assert count(system, names["table"]) == 10
    system.sql(f"RESTART JOB {names['job']} FROM EARLIEST REPLACE")
    wait_for("only the job's rows", lambda: count(system, names["table"]), 4)


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
    wait_for("all rows", lambda: count(system, names["table"]), 12)
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
    wait_for("one dead letter", lambda: job(system, names)["dead_letters"], 1)
    [letter] = wait_for("the letter", lambda: system.sql(f"SELECT error FROM polybolos.dead_letters WHERE job = '{names['job']}'"))
    assert "missing" in letter["error"]


def counting(system, names) -> None:
    """A job that counts the records of each key, and so has state."""
    system.run("topic", "produce", names["topic"], stdin=lines((f"k{number}", number) for number in range(10)))
    system.sql(
        f"CREATE TABLE {names['source']} (id STRING, v INT) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {names['table']} (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )
    system.sql(f"CREATE JOB {names['job']} AS {count_query(names)}")
    wait_for("ten counts", lambda: counts(system, names), {f"k{number}": 1 for number in range(10)})


def count_query(names, what: str = "count(*)") -> str:
    return f"INSERT INTO {names['table']} SELECT id, {what} FROM {names['source']} GROUP BY id"


def counts(system, names) -> dict:
    return {row["id"]: row["n"] for row in system.sql(f"SELECT id, n FROM {names['table']}")}


def test_a_job_begins_again_with_the_state_of_a_savepoint(system, names):
    counting(system, names)
    savepoint = f"{names['job']}_kept"
    done = system.run("job", "savepoint", names["job"], "--as", savepoint)
    assert f"savepoint {savepoint} has job {names['job']}" in done.stderr
    again = system.run("job", "savepoint", names["job"], "--as", savepoint, check=False)
    assert again.returncode == 1 and "exists already" in again.stderr
    [row] = system.sql(f"SELECT * FROM polybolos.savepoints WHERE name = '{savepoint}'")
    assert row["job"] == names["job"] and row["files"] >= 1 and row["bytes"] > 0
    assert savepoint in [line["name"] for line in system.sql("SHOW SAVEPOINTS")]

    system.run("topic", "produce", names["topic"], stdin=lines((f"k{number}", number) for number in range(5)))
    wanted = {f"k{number}": 2 if number < 5 else 1 for number in range(10)}
    wait_for("second counts", lambda: counts(system, names), wanted)
    system.run("job", "restart", names["job"], "--from", "savepoint", savepoint, "--keep")
    # Only what came after the savepoint is read again, on top of its state.
    wait_for("the five records again", lambda: job(system, names)["records_in"] == 5 and job(system, names)["unpublished_epochs"] == 0)
    assert counts(system, names) == wanted
    system.run("topic", "produce", names["topic"], stdin=lines([("k0", 0), ("k9", 9), ("new", 1)]))
    wait_for("third counts", lambda: counts(system, names), {**wanted, "k0": 3, "k9": 2, "new": 1})

    for arguments, reason in [
        (["--from", "savepoint", savepoint, "--replace"], "REPLACE would delete"),
        (["--from", "savepoint", savepoint, "--keep", "--discard"], "DISCARD would skip"),
        (["--from", "savepoint", "nobody", "--keep"], "nobody does not exist"),
    ]:
        refused = system.run("job", "restart", names["job"], *arguments, check=False)
        assert refused.returncode == 1 and reason in refused.stderr, refused.stderr
    # Dropping the job leaves the savepoint with its files; another query does not fit it, the same one does.
    system.sql(f"DROP JOB {names['job']}")
    system.sql(f"CREATE JOB {names['job']} AS {count_query(names, 'sum(v)')}")
    refused = system.run("job", "restart", names["job"], "--from", "savepoint", savepoint, "--keep", check=False)
    assert refused.returncode == 1 and "does not fit" in refused.stderr and "sum(" in refused.stderr, refused.stderr
    wait_for("the sums", lambda: job(system, names)["records_in"] == 18 and job(system, names)["unpublished_epochs"] == 0)
    system.sql(f"DROP JOB {names['job']}")
    system.sql(f"CREATE JOB {names['job']} WITH ('start' = 'latest-offset') AS {count_query(names)}")
    told = system.run("job", "restart", names["job"], "--from", "savepoint", savepoint, "--keep").stderr
    assert "another run" in told, told
    # What the job of sums wrote stays where nothing changes any more, as the notice says.
    sums = {f"k{number}": number for number in range(5, 9)}
    wait_for("counts from the savepoint on", lambda: counts(system, names), {**wanted, **sums, "k0": 3, "k9": 2, "new": 1})

    system.run("savepoint", "delete", savepoint)
    assert savepoint not in system.run("savepoint", "list", "--output", "json").stdout
    gone = system.run("savepoint", "delete", savepoint, check=False)
    assert gone.returncode == 1 and "does not exist" in gone.stderr
    system.sql(f"DROP SAVEPOINT IF EXISTS {savepoint}")
    # The job's state is made of files that the savepoint named.
    system.run("topic", "produce", names["topic"], stdin=lines([("k0", 0)]))
    wait_for("counting on", lambda: counts(system, names)["k0"], 4)


def test_a_restart_that_replaces_deletes_what_it_did_not_write_again(system, names):
    declare(system, names)
    system.sql(f"INSERT INTO {names['table']} VALUES ('old', 1), ('k1', 77)")
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v FROM {names['source']}")
    wait_for("all rows", lambda: count(system, names["table"]), 11)
    both = system.run("job", "restart", names["job"], "--keep", "--replace", check=False)
    assert both.returncode == 2
    system.run("job", "restart", names["job"], "--from", "earliest", "--replace")
    wait_for("the old row going", lambda: count(system, names["table"]), 10)
    rows = {row["id"]: row["v"] for row in system.sql(f"SELECT id, v FROM {names['table']}")}
    assert rows == {f"k{number}": number for number in range(10)}
    # Nothing is written again from the end on, so everything goes; what comes then stays.
    system.run("job", "restart", names["job"], "--from", "latest", "--replace")
    wait_for("all rows going", lambda: count(system, names["table"]), 0)
    system.run("topic", "produce", names["topic"], stdin=lines([("k3", 33)]))
    wait_for("the new row", lambda: system.sql(f"SELECT id, v FROM {names['table']}"), [{"id": "k3", "v": 33}])


def test_a_savepoint_is_carried_to_another_cluster(fresh_platform, tmp_path, names):
    here, there = fresh_platform("--no-pipelines"), fresh_platform("--no-pipelines")
    here.start()
    counting(here, names)
    here.run("job", "savepoint", names["job"], "--as", "kept")
    archive = tmp_path / "kept.archive"
    here.run("savepoint", "export", "kept", str(archive))
    taken = here.run("savepoint", "export", "kept", str(archive), check=False)
    assert taken.returncode == 1 and "exists already" in taken.stderr
    nowhere = here.run("savepoint", "export", "kept", str(tmp_path / "no/such"), check=False)
    assert nowhere.returncode == 1 and "no/such cannot be written: No such file" in nowhere.stderr, nowhere.stderr
    assert "name a file in a folder that exists" in nowhere.stderr, nowhere.stderr
    missing = here.run("savepoint", "export", "../kept ü?", str(tmp_path / "missing"), check=False)
    assert missing.returncode == 1 and "../kept ü?" in missing.stderr, missing.stderr
    here.run("topic", "produce", names["topic"], stdin=lines([("k3", 3), ("k4", 4)]))
    wait_for("second counts", lambda: counts(here, names)["k4"], 2)
    records = [json.loads(line) for line in here.run("topic", "tail", names["topic"], "--records", "100", "--output", "json").stdout.splitlines()]
    here.kill()

    # The other one has a mirror of the topic.
    there.start()
    partitions = len({record["partition"] for record in records} | set(range(4)))
    create_topics(there.endpoints["kafka"], names["topic"], partitions=partitions)
    producer = Producer({"bootstrap.servers": there.endpoints["kafka"]})
    undelivered = []
    delivered = lambda error, _: undelivered.append(error) if error else None  # noqa: E731
    for record in sorted(records, key=lambda record: (record["partition"], record["offset"])):
        producer.produce(names["topic"], record["payload"].encode(), partition=record["partition"], on_delivery=delivered)
    assert producer.flush(60) == 0 and not undelivered, undelivered
    there.sql(
        f"CREATE TABLE {names['source']} (id STRING, v INT) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json', "
        "'scan.startup.mode' = 'latest-offset')"
    )
    there.sql(
        f"CREATE TABLE {names['table']} (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )
    there.sql(f"CREATE JOB {names['job']} AS {count_query(names)}")
    damaged = bytearray(archive.read_bytes())
    # In the bytes of an object; in a length, another reason comes.
    damaged[-100] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    (tmp_path / "cut").write_bytes(archive.read_bytes()[:-10])
    for file, reason in [("damaged", "checksum"), ("cut", "cut short")]:
        refused = there.run("savepoint", "import", str(tmp_path / file), check=False)
        assert refused.returncode == 1 and reason in refused.stderr, refused.stderr
    assert there.sql("SHOW SAVEPOINTS") == []
    there.run("savepoint", "import", str(archive), "--as", "from_elsewhere")
    there.run("job", "restart", names["job"], "--from", "savepoint", "from_elsewhere", "--keep")
    # The state came along: what the mirror has after the savepoint counts on top of it.
    wait_for("counts that go on", lambda: counts(there, names), {"k3": 2, "k4": 2})


def test_dead_letters_are_sent_back_once(system, names):
    system.run("topic", "produce", names["topic"], stdin='{"id": "a", "v": "seven"}\n{"id": "b", "v": "8"}\n')
    system.sql(
        f"CREATE TABLE {names['source']} (id STRING, v STRING) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {names['table']} (id STRING, v INT, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )
    insert = f"INSERT INTO {names['table']} SELECT id, %s FROM {names['source']}"
    system.sql(f"CREATE JOB {names['job']} AS {insert % 'CAST(v AS INT)'}")
    [letter] = wait_for("the letter", lambda: system.sql(f"SELECT id, topic, topic_offset FROM polybolos.dead_letters WHERE job = '{names['job']}'"))
    assert letter["topic"] == names["topic"]
    system.sql(f"DROP JOB {names['job']}")
    better = "CASE WHEN v = 'seven' THEN 7 ELSE CAST(v AS INT) END"
    system.sql(f"CREATE JOB {names['job']} WITH ('start' = 'latest-offset') AS {insert % better}")
    done = system.run("dlq", "replay", "--job", names["job"])
    assert "1 dead letter sent back, 0 were before" in done.stderr, done.stderr
    wait_for("the row", lambda: system.sql(f"SELECT v FROM {names['table']} WHERE id = 'a'"), [{"v": 7}])
    [mark] = system.sql(f"SELECT topic, topic_offset FROM polybolos.replayed_letters WHERE id = '{letter['id']}'")
    assert mark["topic"] == letter["topic"] and mark["topic_offset"] > letter["topic_offset"], mark
    again = system.run("dlq", "replay", letter["id"])
    assert "0 dead letters sent back, 1 was before" in again.stderr, again.stderr
    partitions = [json.loads(line) for line in system.run("topic", "describe", names["topic"], "--output", "json").stdout.splitlines()]
    assert sum(partition["records"] for partition in partitions) == 3

    consumer = Consumer({"bootstrap.servers": system.endpoints["kafka"], "group.id": names["topic"], "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(names["topic"], partition["partition"], 0) for partition in partitions])
    records = []
    deadline = time.monotonic() + 60
    while len(records) < 3 and time.monotonic() < deadline:
        record = consumer.poll(1)
        if record is not None and record.error() is None:
            records.append(record)
    consumer.close()
    marks = [dict(record.headers() or []) for record in records]
    assert [mark for mark in marks if mark] == [{"polybolos-replayed": letter["id"].encode()}], marks
    missing = system.run("dlq", "replay", "nobody", check=False)
    assert missing.returncode == 1 and "nobody does not exist" in missing.stderr
    missing = system.run("dlq", "show", "nobody", check=False)
    assert missing.returncode == 1 and "nobody does not exist" in missing.stderr
    assert letter["id"] in system.run("dlq", "list", "-n", "9999").stdout, "only a terminal cuts a table"
    assert letter["id"] in system.run("dlq", "show", letter["id"]).stdout
    missing = system.run("job", "logs", "nobody", check=False)
    assert missing.returncode == 1 and "nobody does not exist" in missing.stderr
    for verb in ("list", "replay"):
        missing = system.run("dlq", verb, "--job", "nobody", check=False)
        assert missing.returncode == 1 and "job nobody does not exist" in missing.stderr, missing.stderr
    # What a job has left outlives it.
    system.sql(f"DROP JOB {names['job']}")
    assert letter["id"] in system.run("dlq", "list", "--job", names["job"]).stdout
    again = system.run("dlq", "replay", "--job", names["job"])
    assert "0 dead letters sent back, 1 was before" in again.stderr, again.stderr


def test_a_record_of_several_letters_is_sent_back_once(system, names):
    system.run("topic", "create", names["topic"], "--partitions", "1")
    system.run("topic", "produce", names["topic"], stdin="no json\n")
    system.sql(f"CREATE TABLE {names['source']} (id STRING) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')")
    system.sql(f"CREATE TABLE {names['table']} (id STRING) WITH ('connector' = 'blackhole')")
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id FROM {names['source']}")
    letters = lambda: len(system.sql(f"SELECT id FROM polybolos.dead_letters WHERE job = '{names['job']}'"))  # noqa: E731
    wait_for("the letter", letters, 1)
    system.run("job", "restart", names["job"], "--from", "earliest", "--keep")
    wait_for("that of the next run", letters, 2)
    done = system.run("dlq", "replay", "--job", names["job"])
    assert "1 dead letter sent back, 1 was before" in done.stderr, done.stderr
    wait_for("the letter of the copy", letters, 3)
    done = system.run("dlq", "replay", "--job", names["job"])
    assert "1 dead letter sent back, 2 were before" in done.stderr, done.stderr
    [partition] = [json.loads(line) for line in system.run("topic", "describe", names["topic"], "--output", "json").stdout.splitlines()]
    assert partition["records"] == 3, partition
    system.sql(f"DROP JOB {names['job']}")


def test_what_happened_to_a_job_is_known_after_a_restart(fresh_platform, names):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    platform.run("topic", "produce", names["topic"], stdin='{"id": "a", "v": "1"}\n')
    platform.sql(
        f"CREATE TABLE {names['source']} (id STRING, v STRING) WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')"
    )
    platform.sql(f"CREATE TABLE {names['table']} (id STRING, v INT) WITH ('connector' = 'blackhole')")
    platform.sql(
        f"CREATE JOB {names['job']} WITH ('on_error' = 'fail') AS INSERT INTO {names['table']} SELECT id, CAST(v AS INT) FROM {names['source']}"
    )
    epochs = lambda: platform.sql(f"SELECT epoch, generation FROM polybolos.epochs WHERE job = '{names['job']}'")  # noqa: E731
    [first] = wait_for("the first epoch", epochs)
    platform.run("job", "pause", names["job"])
    platform.run("job", "resume", names["job"])
    platform.run("topic", "produce", names["topic"], stdin='{"id": "b", "v": "seven"}\n')
    wait_for("the failure", lambda: job(platform, names)["state"], "failed")
    reason = job(platform, names)["error"]
    assert reason

    def events() -> list[dict]:
        told = platform.run("job", "logs", names["job"], "--events", "--output", "json").stdout
        events = [json.loads(line) for line in told.splitlines()][::-1]
        return [event for event in events if not event["event"].startswith("trouble")]

    kinds = lambda: [event["event"] for event in events()]  # noqa: E731
    lived = ["created", "paused", "resumed", "failed"]
    wait_for("what happened", kinds, lived)
    failed_at = events()[3]["happened_at"]
    histories = lambda: list((platform.folder / "store").glob("jobs/*/history"))  # noqa: E731
    wait_for("the history on the store", lambda: b'"failed"' in histories()[0].read_bytes())
    platform.kill()
    platform.start()
    wait_for("what happened before the crash", kinds, [*lived, "taken_over"])
    failed, taken_over = events()[3:]
    assert (failed["message"], failed["happened_at"]) == (reason, failed_at)
    assert taken_over["generation"] > failed["generation"] == first["generation"]
    assert epochs() == [first]
    shown = platform.run("job", "logs", names["job"]).stdout
    assert "taken_over" in shown and "records_in" in shown
    # A leader that ends in order tells all.
    assert platform.stop() == 0
    platform.start()
    wait_for("what happened before the stop", kinds, [*lived, "taken_over", "taken_over"])

    platform.run("job", "restart", names["job"], "--from", "latest", "--keep")
    wait_for("what happened before the restart", kinds, [*lived, "taken_over", "taken_over", "restarted"])
    assert events()[-1]["message"] == f'RESTART JOB "{names["job"]}" FROM latest KEEP'
    wait_for("the history of the run alone", lambda: len(histories()), 1)
    platform.sql(f"DROP JOB {names['job']}")
    wait_for("no history of what has gone", lambda: len(histories()), 0)
    assert platform.stop() == 0


def test_a_reader_that_has_seen_enough_ends_us_quietly(system):
    rows = "SELECT value FROM generate_series(1, 10000)"
    for command in [["sql", "-c", rows, "--limit", "10000", "--data-dir", str(system.folder)], ["completions", "bash"]]:
        with subprocess.Popen([BINARY, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            running.stdout.close()
            told = running.stderr.read()
            assert running.wait(60) == 141 and told == "", told


def verify(system, names, code: int = 0):
    done = system.run("job", "verify", names["job"], "--output", "json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert code or [row["equal"] for row in rows] == [True], rows
    return [row for row in rows if code], done.stderr


def test_a_job_is_verified_against_what_its_records_give(system, names):
    counting(system, names)
    differences, told = verify(system, names)
    assert differences == [] and "10 rows compared with 10 records: 0 differences" in told, told
    wait_for("the job going on", lambda: job(system, names)["state"], "idle")
    # A run that begins at the end leaves the earlier one's rows, which its own records do not give.
    system.run("job", "restart", names["job"], "--from", "latest", "--keep")
    system.run("topic", "produce", names["topic"], stdin=lines([("k0", 0), ("k1", 1), ("k1", 1)]))
    wait_for("the counts", lambda: job(system, names)["records_in"] == 3 and counts(system, names)["k1"] == 2)
    differences, told = verify(system, names, 4)
    assert {(line["difference"], line["key"]) for line in differences} == {("extra", f"id=k{number}") for number in range(2, 10)}
    assert differences[0]["table_name"] == f"life.{names['table']}" and "differ in 8 rows" in told
    system.run("job", "pause", names["job"])
    verify(system, names, 4)
    assert job(system, names)["state"] == "paused"


def test_a_job_that_draws_random_numbers_is_not_verified(system, names):
    declare(system, names, "id STRING, v DOUBLE")
    system.sql(f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, v + random() FROM {names['source']}")
    wait_for("ten rows", lambda: count(system, names["table"]), 10)
    differences, told = verify(system, names, 1)
    assert differences == [] and "calls random(), which answers otherwise each time" in told, told


def test_late_rows_and_dead_letters_are_left_out_of_a_verification(system, names):
    row = lambda id, second: json.dumps({"id": id, "v": second, "ts": f"2026-01-01 00:00:{second:02}"})  # noqa: E731
    # One partition: no other holds the watermark back.
    create_topics(system.endpoints["kafka"], names["topic"])
    system.run("topic", "produce", names["topic"], stdin="\n".join([row("a", 1), "no JSON", row("a", 2), row("b", 31)]) + "\n")
    system.sql(
        f"CREATE TABLE {names['source']} (id STRING, v INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) "
        f"WITH ('connector' = 'kafka', 'topic' = '{names['topic']}', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {names['table']} (id STRING, window_start TIMESTAMP(3), total BIGINT, PRIMARY KEY (id, window_start) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'life', 'table.create' = 'true')"
    )
    system.sql(
        f"CREATE JOB {names['job']} AS INSERT INTO {names['table']} SELECT id, window_start, sum(v) "
        f"FROM TABLE(TUMBLE(TABLE {names['source']}, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY id, window_start, window_end"
    )
    wait_for("two windows", lambda: count(system, names["table"]), 2)
    # Lateness is judged by what was recorded before.
    wait_for("a record at rest", lambda: job(system, names)["records_in"] == 4 and job(system, names)["state"] == "idle")
    system.run("topic", "produce", names["topic"], stdin="\n".join([row("a", 3), row("b", 32)]) + "\n")
    wait_for("the late row", lambda: job(system, names)["late_rows"] == 1 and job(system, names)["records_in"] == 6)
    wait_for("the window that is open", lambda: {r["total"] for r in system.sql(f"SELECT total FROM {names['table']}")}, {3, 63})
    differences, told = verify(system, names)
    assert differences == [] and "2 rows compared with 4 records: 0 differences" in told, told


def test_a_verification_says_what_retention_has_deleted(cluster, names):
    counting(cluster, names)
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    partitions = [json.loads(line) for line in cluster.run("topic", "describe", names["topic"], "--output", "json").stdout.splitlines()]
    full = max(partitions, key=lambda partition: partition["records"])
    for future in admin.delete_records([TopicPartition(names["topic"], full["partition"], full["end_offset"])]).values():
        future.result()
    differences, told = verify(cluster, names, 4)
    assert len(differences) == full["records"] and all(line["difference"] == "extra" for line in differences)
    assert "the input is no longer complete" in told and f"of {names['topic']}/{full['partition']} are deleted" in told
    assert "of an input that is no longer complete" in told


def test_jobs_at_rest_give_their_memory_back_and_state_without_room_goes_to_disk(fresh_platform):
    """Six thousand groups take less than a MiB, sixteen thousand more."""
    platform = fresh_platform("--no-pipelines", "--state-memory-mib", "1")
    platform.start()
    for name in ("resting", "growing"):
        platform.run(
            "sql",
            "-c",
            f"""
CREATE TABLE {name}_words (word STRING) WITH ('connector' = 'kafka', 'topic' = '{name}', 'format' = 'json');
CREATE TABLE {name}_counts (word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'memory', 'table' = '{name}', 'table.create' = 'true');
CREATE JOB {name}_job WITH ('state.unbounded' = 'allow') AS INSERT INTO {name}_counts SELECT word, count(*) FROM {name}_words GROUP BY word;
""",
        )

    def produce(topic: str, words: range):
        platform.run("topic", "produce", topic, stdin="".join(json.dumps({"word": f"word {number}"}) + "\n" for number in words))

    def counted(name: str) -> dict:
        [row] = platform.sql(f"SELECT count(*) AS words, coalesce(sum(n), 0) AS records FROM {name}_counts")
        return row

    produce("resting", range(6_000))
    wait_for("the first job", lambda: counted("resting"), {"words": 6_000, "records": 6_000})
    time.sleep(11)
    # Both have no room together, and the first has rested.
    produce("growing", range(6_000))
    wait_for("the second job", lambda: counted("growing"), {"words": 6_000, "records": 6_000})
    produce("growing", range(6_000))
    wait_for("the second job's next epoch", lambda: counted("growing"), {"words": 6_000, "records": 12_000})
    time.sleep(11)
    produce("resting", range(5_000, 6_100))
    wait_for("the first job again", lambda: counted("resting"), {"words": 6_100, "records": 7_100})

    produce("growing", range(6_000, 40_000))
    produce("growing", range(40_000))
    wait_for("forty thousand groups, most of them on disk", lambda: counted("growing"), {"words": 40_000, "records": 86_000})
    assert any((platform.folder / "spill").iterdir())
    platform.kill()
    platform.start()
    produce("growing", range(0, 40_000, 7))
    wait_for("the second job, after a crash", lambda: counted("growing"), {"words": 40_000, "records": 86_000 + 5_715})
    produce("resting", range(1))
    wait_for("the first job once more", lambda: counted("resting"), {"words": 6_100, "records": 7_101})
    platform.stop()
    assert not any((platform.folder / "spill").iterdir())


def test_a_total_without_room_stands_still_and_says_so(fresh_platform):
    platform = fresh_platform("--no-pipelines", "--state-memory-mib", "1")
    platform.start()
    platform.run(
        "sql",
        "-c",
        """
CREATE TABLE words (word STRING) WITH ('connector' = 'kafka', 'topic' = 'words', 'format' = 'json');
CREATE TABLE totals (one STRING, n BIGINT, m BIGINT, PRIMARY KEY (one) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'memory', 'table' = 'totals', 'table.create' = 'true');
CREATE JOB total WITH ('state.unbounded' = 'allow') AS INSERT INTO totals SELECT 'one', count(DISTINCT word), count(DISTINCT reverse(word)) FROM words;
""",
    )

    def produce(words: range):
        platform.run("topic", "produce", "words", stdin="".join(json.dumps({"word": f"word {number}"}) + "\n" for number in words))

    def state() -> str:
        [row] = platform.sql("SELECT limiting, error FROM polybolos.jobs")
        return f"{row['limiting']} {row['error']}"

    produce(range(20_000))
    wait_for("the total", lambda: platform.sql("SELECT n FROM totals"), [{"n": 20_000}])
    produce(range(20_001))
    wait_for("the word", lambda: "executor.state_memory_mib" in state())
    platform.stop()
    platform.arguments = [*platform.arguments[:-1], "64"]
    platform.start()
    wait_for("the total, with room", lambda: platform.sql("SELECT n FROM totals"), [{"n": 20_001}])
