"""Records that are no rows, one of every kind, between good ones: each becomes exactly one dead letter with its coordinates and error, the good
ones all arrive, and the job goes on. The same list on the embedded platform, and on a cluster with a real Kafka and a real Cassandra."""

import json

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from conftest import wait_for

PARTITIONS = 3
TOPIC_BYTES_MAX = 16_000_000

TABLES = """
CREATE TABLE bad_input (
  id STRING, kind STRING, n BIGINT, small INT, ratio DOUBLE, flag BOOLEAN, at TIMESTAMP(3), price STRING,
  address ROW<city STRING, lines ARRAY<STRING>>
) WITH ('connector' = 'kafka', 'topic' = 'bad_input', 'format' = 'json');
CREATE TABLE survivors (
  id STRING, kind STRING, n BIGINT, small INT, ratio DOUBLE, flag BOOLEAN, at TIMESTAMP(3), price DOUBLE, city STRING,
  PRIMARY KEY (id) NOT ENFORCED
) WITH ('connector' = 'cassandra', 'keyspace' = 'bad_input', 'table' = 'survivors', 'table.create' = 'true');
CREATE TABLE pairs (id STRING, kind STRING, n BIGINT, PRIMARY KEY ((id, kind)) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'bad_input', 'table' = 'pairs', 'table.create' = 'true');
"""
JOB = """
CREATE JOB survivors_job AS
INSERT INTO survivors SELECT id, kind, n, small, ratio, flag, at, CAST(price AS DOUBLE), address.city FROM bad_input
WHERE cardinality(address.lines) IS NULL OR cardinality(address.lines) < 9
"""
# Its key has two parts, each short enough; only the store knows that both together are too long.
PAIRS_JOB = "CREATE JOB pairs_job AS INSERT INTO pairs SELECT id, kind, n FROM bad_input WHERE kind IS NOT NULL"

# What is wrong, the payload, the step that finds it, and a part of the error.
BAD = [
    ("broken JSON", b'{"id": "x", ', "decode", "end"),
    ("not JSON", b"hello", "decode", ""),
    ("an empty payload", b"", "decode", ""),
    ("no object", b"[1, 2]", "decode", "object"),
    ("two objects", b'{"id": "x"}{"id": "y"}', "decode", ""),
    ("a number for text", b'{"id": 7}', "decode", "id"),
    ("text for a number", b'{"id": "x", "n": "many"}', "decode", "n"),
    ("an object for a flag", b'{"id": "x", "flag": {}}', "decode", "flag"),
    ("no time", b'{"id": "x", "at": "yesterday"}', "decode", "at"),
    ("text for an object", b'{"id": "x", "address": "Main Street"}', "decode", "address"),
    ("a number inside an array of texts", b'{"id": "x", "address": {"lines": ["a", 1]}}', "decode", "lines"),
    ("a missing key", b'{"n": 1}', "compute", 'key column "id" is null'),
    ("a null key", b'{"id": null}', "compute", 'key column "id" is null'),
    ("an empty id", b'{"id": ""}', "compute", 'key column "id" is empty'),
    ("a null payload", None, "decode", "null"),
    ("invalid UTF-8", b'{"id": "\xff\xfe"}', "decode", "UTF-8"),
    ("half a surrogate pair", b'{"id": "\\ud800"}', "decode", ""),
    ("overflow of a BIGINT", b'{"id": "x", "n": 9223372036854775808}', "decode", "n"),
    ("overflow of an INT", b'{"id": "x", "small": 2147483648}', "decode", "small"),
    ("overflow of a DOUBLE", b'{"id": "x", "ratio": 1e999}', "decode", "ratio"),
    ("deep arrays", b'{"id": "x", "n": ' + b"[" * 100_000, "decode", "nested"),
    ("deep objects in what no column reads", b'{"id": "x", "other": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "decode", "nested"),
    ("a CAST that fails", b'{"id": "x", "price": "free"}', "compute", "free"),
    ("a key longer than 64 KiB", json.dumps({"id": "k" * 65_536}).encode(), "compute", "longer than"),
    ("10 MB of nothing", b"z" * 10_000_000, "decode", ""),
    ("a sound row of 10 MB", json.dumps({"id": "large", "kind": "y" * 10_000_000}).encode(), "decode", "bytes"),
]


def good(number: int) -> dict:
    return {"id": f"good-{number}", "n": number, "small": -number, "ratio": number / 8, "flag": number % 2 == 0,
            "at": "2026-11-24 05:00:00.123", "price": str(number / 4), "address": {"city": "Тбилиси", "lines": ["a", None]}}


def row_of(number: int) -> dict:
    row = good(number)
    address = row.pop("address")
    return row | {"kind": None, "price": number / 4, "city": address["city"], "at": "2026-11-24"}


class Topic:
    """Produces, and remembers where each record went."""

    def __init__(self, kafka: str):
        admin = AdminClient({"bootstrap.servers": kafka})
        topic = NewTopic("bad_input", PARTITIONS, 1, config={"max.message.bytes": str(TOPIC_BYTES_MAX)})
        for future in admin.create_topics([topic]).values():
            future.result()
        self.producer = Producer({"bootstrap.servers": kafka, "message.max.bytes": TOPIC_BYTES_MAX, "linger.ms": 20})
        self.sent = 0

    def send(self, payload: bytes | None, coordinates: dict, name: str) -> None:
        def delivered(error, message):
            assert error is None, f"{name}: {error}"
            coordinates[name] = (message.partition(), message.offset())

        self.producer.produce("bad_input", payload, key=name.encode(), partition=self.sent % PARTITIONS, on_delivery=delivered)
        self.sent += 1

    def flush(self) -> None:
        assert self.producer.flush(60) == 0


def test_each_bad_record_is_one_dead_letter_and_the_rest_arrives(system):
    topic = Topic(system.endpoints["kafka"])
    system.run("sql", "-c", TABLES + JOB)
    bad, ignored = {}, {}
    for number, (name, payload, _, _) in enumerate(BAD):
        topic.send(json.dumps(good(number)).encode(), ignored, f"good {number}")
        topic.send(payload, bad, name)
    # Large, but good: what is large is in nobody's column.
    topic.send(json.dumps(good(len(BAD)) | {"padding": "p" * 7_000_000}).encode(), ignored, "a large good one")
    topic.flush()
    wait_for("all records", lambda: all_read(system, "survivors_job", topic.sent))

    # The job goes on.
    for number in range(len(BAD) + 1, len(BAD) + 10):
        topic.send(json.dumps(good(number)).encode(), ignored, f"good {number}")
    topic.flush()
    wait_for("the records after", lambda: all_read(system, "survivors_job", topic.sent))
    rows = {row["id"]: row | {"at": row["at"][:10]} for row in system.sql("SELECT * FROM survivors")}
    assert rows == {row["id"]: row for row in map(row_of, range(len(BAD) + 10))}

    letters = system.sql("SELECT * FROM polybolos.dead_letters WHERE job = 'survivors_job'")
    of_record = {(letter["topic_partition"], letter["topic_offset"]): letter for letter in letters}
    assert len(of_record) == len(letters) == len(BAD)
    wrong = []
    for name, payload, step, error in BAD:
        letter = of_record.get(bad[name])
        if letter is None or letter["step"] != step or error not in letter["error"]:
            wrong.append((name, letter and (letter["step"], letter["error"])))
            continue
        assert "\n" not in letter["error"] and letter["error"].strip() and len(letter["error"]) < 1_000, (name, letter["error"])
        assert letter["raw_bytes"] == len(payload or b""), name
        assert letter["topic"] == "bad_input" and letter["record_time"], name
    assert not wrong
    jobs = system.sql("SELECT state, dead_letters FROM polybolos.jobs WHERE name = 'survivors_job'")
    assert jobs[0]["dead_letters"] == len(BAD) and jobs[0]["state"] in ("idle", "running")

    # A second job over the same records, whose table refuses a row that no check of ours foresees.
    both = {"id": "l" * 40_000, "kind": "r" * 40_000, "n": 1}
    topic.send(json.dumps(both).encode(), ignored, "a pair too long")
    topic.send(json.dumps(both | {"id": "l", "n": 2}).encode(), ignored, "a pair")
    topic.flush()
    system.run("sql", "-c", PAIRS_JOB)
    wait_for("the pairs", lambda: all_read(system, "pairs_job", topic.sent))
    assert [row["n"] for row in system.sql("SELECT n FROM pairs")] == [2]
    letters = system.sql("SELECT error, raw, raw_bytes FROM polybolos.dead_letters WHERE job = 'pairs_job' AND step = 'publish'")
    assert len(letters) == 1 and "refused the row" in letters[0]["error"] and letters[0]["raw_bytes"] > 80_000, letters
    system.run("sql", "-c", "DROP JOB survivors_job; DROP JOB pairs_job")


def all_read(system, job: str, records: int) -> bool:
    jobs = system.sql(f"SELECT state, error, records_in, unpublished_epochs FROM polybolos.jobs WHERE name = '{job}'")
    assert jobs and jobs[0]["state"] != "failed", jobs
    return jobs[0]["records_in"] >= records and jobs[0]["unpublished_epochs"] == 0 or None
