"""Records with a known ledger are produced while kill -9 hits the whole platform at seeded moments. In the end the table holds exactly the
ledger's rows, and the dead letters are exactly the bad records."""

import json
import os
import pathlib
import random
import signal
import time

import pytest
from confluent_kafka import Consumer, TopicPartition

from conftest import Platform, wait_for
from load import Load

KILLS = int(os.environ.get("POLYBOLOS_KILLS", 20))
SEED = int(os.environ.get("POLYBOLOS_KILL_SEED", 20261124))
PARTITIONS = 4

TABLES = """
CREATE TABLE events (id STRING, n BIGINT, name STRING, price STRING) WITH ('connector' = 'kafka', 'topic' = 'ledger', 'format' = 'json');
CREATE TABLE ledger (id STRING, n BIGINT, name STRING, price DOUBLE, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'test', 'table' = 'ledger', 'table.create' = 'true');
CREATE JOB ledger_job AS INSERT INTO ledger SELECT id, n, name, CAST(price AS DOUBLE) FROM events;
"""


def bad_record(random_: random.Random) -> bytes:
    """Each of them must become a dead letter."""
    return random_.choice(
        [
            b"{broken",
            b'{"id": 7}',
            b'{"n": 1}',
            b'{"id": "", "n": 1}',
            b'{"id": "x", "n": 99999999999999999999}',
            b'{"id": "x", "n": 1, "price": "not a number"}',
            b'{"id": "\xff\xfe"}',
            b"[1, 2]",
            b"[" * 300,
            b'{"id": "a"}{"id": "b"}',
        ]
    )


class Ledger(Load):
    """Rows of keys that come again, a bad record among them now and then."""

    topic = "ledger"

    def __init__(self, servers: str):
        super().__init__(servers, SEED)
        self.latest: dict[str, dict] = {}

    def send_some(self) -> None:
        for _ in range(20):
            key = f"key-{self.random.randrange(2_000)}"
            partition = hash_of(key) % PARTITIONS
            if self.random.random() < 0.02:
                self.send(self.topic, bad_record(self.random), partition)
                continue
            number = self.sent + 1
            row = {"id": key, "n": number, "name": self.random.choice(["Zoé", "علی", "李雷", "O'Brien", None])}
            row["price"] = None if self.random.random() < 0.1 else str(number / 4)
            self.latest[key] = row
            self.send(self.topic, json.dumps(row).encode(), partition)


def hash_of(text: str) -> int:
    return sum(text.encode()) * 31 + len(text)


def bad_coordinates(platform, topic: str = "ledger") -> set[tuple[int, int]]:
    """Of all records in the topic, those that are not rows: by the same rules, in another language."""
    consumer = Consumer({"bootstrap.servers": platform.endpoints["kafka"], "group.id": "oracle", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    bad, finished = set(), set()
    while len(finished) < PARTITIONS:
        message = consumer.poll(10)
        assert message is not None, "the topic cannot be read"
        if message.error():
            finished.add(message.partition())
            continue
        try:
            row = json.loads(message.value())
            price = row.get("price")
            good = isinstance(row["id"], str) and row["id"] and abs(row.get("n") or 0) < 2**63 and (price is None or float(price) is not None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            good = False
        if not good:
            bad.add((message.partition(), message.offset()))
    consumer.close()
    return bad


def test_kills_lose_double_and_change_nothing(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    platform.run("sql", "-c", TABLES)
    load = Ledger(platform.endpoints["kafka"])
    load.start()
    moments = random.Random(SEED + 1)
    print(f"{KILLS} kills, POLYBOLOS_KILL_SEED={SEED}")
    killed = 0
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.3, 1.5))
        assert platform.process.poll() is None, f"the platform ended by itself: {platform.errors()}"
        platform.kill()
        killed += 1
        platform.start()
    time.sleep(1)
    load.stop()
    assert killed == KILLS
    assert load.acknowledged == load.sent > 2_000

    def caught_up():
        jobs = platform.sql("SELECT state, records_in, lag_records, unpublished_epochs FROM polybolos.jobs")
        return jobs and jobs[0]["lag_records"] == 0 and jobs[0]["unpublished_epochs"] == 0 and jobs[0]["records_in"] >= load.acknowledged

    wait_for("the job catching up", caught_up)
    rows = {row["id"]: row for row in platform.sql("SELECT * FROM ledger")}
    expected = {
        key: row | {"price": None if row["price"] is None else float(row["price"])} for key, row in load.latest.items()
    }
    assert rows == expected

    letters = platform.sql("SELECT id, topic_partition, topic_offset FROM polybolos.dead_letters")
    coordinates = [(letter["topic_partition"], letter["topic_offset"]) for letter in letters]
    assert len(coordinates) == len(set(coordinates))
    expected_bad = bad_coordinates(platform)
    assert expected_bad and set(coordinates) == expected_bad

    def lost() -> int:
        log = pathlib.Path(platform.err.name).read_text()
        assert "executor joined" in log
        return log.count("executor lost")

    before = lost()
    assert platform.stop() == 0
    assert lost() == before, "nobody is missed who stops in order"


def test_a_platform_that_was_paused_goes_on_and_keeps_its_folder_meanwhile(fresh_platform):
    platform = fresh_platform()
    platform.start()
    users = lambda: platform.sql("SELECT count(*) AS n FROM created_users")[0]["n"]  # noqa: E731
    wait_for("users", lambda: users() > 0)
    platform.process.send_signal(signal.SIGSTOP)
    time.sleep(6)  # The pause is the fault: longer than a cluster's lease of four seconds.
    second = Platform(platform.folder, "--no-pipelines")
    with pytest.raises(AssertionError, match="in use by another polybolos"):
        second.start()
    assert second.process.returncode == 1
    platform.process.send_signal(signal.SIGCONT)
    before = users()
    wait_for("more users", lambda: users() > before)
    assert platform.stop() == 0
