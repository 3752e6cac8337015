"""`polybolos job upgrade`: a job goes on with another definition and the state it has, under kills, or is refused and runs on untouched."""

import json
import os
import signal
import threading
import time
import uuid
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from conftest import create_topics, wait_for

PARTITIONS = 3
KEYS = [f"k{number}" for number in range(20)]
# Orders come so far apart by their own time, from the beginning of a minute on.
STEP_MS, BEGIN_MS = 100, 1_700_000_040_000


class Orders:
    """Produces orders of known sums."""

    def __init__(self, servers: str, topic: str):
        self.topic = topic
        create_topics(servers, topic, partitions=PARTITIONS)
        self.producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "linger.ms": 2, "log_level": 0})
        self.sums: dict[str, tuple[int, int]] = {}
        self.sent = 0

    def send(self, key: str) -> None:
        n, total = self.sums.get(key, (0, 0))
        self.sums[key] = (n + 1, total + self.sent)
        order = {"k": key, "v": self.sent, "ts": BEGIN_MS + self.sent * STEP_MS}
        self.producer.produce(self.topic, json.dumps(order).encode(), partition=self.sent % PARTITIONS)
        self.sent += 1

    def flush(self) -> None:
        assert self.producer.flush(60) == 0

    @contextmanager
    def flowing(self):
        """An order of every key, again and again, until the block ends."""
        stopping = threading.Event()

        def flow():
            while not stopping.is_set():
                for key in KEYS:
                    self.send(key)
                self.producer.poll(0)
                time.sleep(0.05)
            self.flush()

        flows = threading.Thread(target=flow, daemon=True)
        flows.start()
        try:
            yield
        finally:
            stopping.set()
            flows.join()


@pytest.fixture
def stem():
    return f"upgrade_{uuid.uuid4().hex[:8]}"


def declare(system, stem: str, job: str) -> None:
    system.sql(f"CREATE TABLE {stem}_orders (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    system.sql(
        f"CREATE TABLE {stem} (k STRING, n BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) "
        f"WITH ('connector' = 'cassandra', 'keyspace' = 'upgrade', 'table' = '{stem}', 'table.create' = 'true')"
    )
    system.sql(job)


def declare_plain(system, stem: str) -> None:
    """A job without state beside it."""
    system.sql(
        f"CREATE TABLE {stem}_plain (v BIGINT, k STRING, PRIMARY KEY (v) NOT ENFORCED) "
        f"WITH ('connector' = 'cassandra', 'keyspace' = 'upgrade', 'table' = '{stem}_plain', 'table.create' = 'true')"
    )
    system.sql(f"CREATE JOB {stem}_plain_job AS INSERT INTO {stem}_plain SELECT v, k FROM {stem}_orders")


def rows(system, stem: str) -> dict:
    return {row["k"]: (row["n"], row["total"]) for row in system.sql(f"SELECT * FROM {stem}")}


def same(system, stem: str, expected: dict) -> bool:
    found = rows(system, stem)
    wrong = {key: (found.get(key), expected.get(key)) for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert not wrong, (wrong, system.sql("SELECT name, state, limiting, epoch, records_in, lag_records, unpublished_epochs, error FROM polybolos.jobs"))
    return True


def job(system, name: str) -> dict:
    [found] = system.sql(f"SELECT * FROM polybolos.jobs WHERE name = '{name}'")
    return found


def kafka(system) -> str:
    return getattr(system, "kafka", None) or system.endpoints["kafka"]


def test_an_upgraded_job_goes_on_counting_while_executors_are_killed(fresh_cluster, stem, tmp_path):
    cluster = fresh_cluster()
    orders = Orders(cluster.kafka, stem)
    declare(cluster, stem, f"CREATE JOB {stem}_job AS INSERT INTO {stem} (k, n) SELECT k, count(*) FROM {stem}_orders GROUP BY k HAVING sum(v) >= 0")
    for key in KEYS + KEYS + ["quiet"]:
        orders.send(key)
    orders.flush()
    wait_for("the first counts", lambda: rows(cluster, stem), {key: (n, None) for key, (n, _) in orders.sums.items()})

    file = tmp_path / "jobs.sql"
    file.write_text(
        f"CREATE TABLE another (id STRING) WITH ('connector' = 'blackhole');\n"
        f"CREATE JOB {stem}_job AS INSERT INTO {stem} (k, n, total) SELECT k, count(*), sum(v) FROM {stem}_orders GROUP BY k\n"
        f"  HAVING sum(v) >= 0 AND count(*) > 5;\n"
    )
    kills = 0
    with orders.flowing():
        time.sleep(0.5)
        os.kill(cluster.pid("executor-1"), signal.SIGKILL)
        kills += 1
        epoch = job(cluster, f"{stem}_job")["epoch"]
        cluster.run("job", "upgrade", f"{stem}_job", str(file))
        assert job(cluster, f"{stem}_job")["epoch"] >= epoch > 0, "it goes on, and does not begin again"
        for executor in ("executor-2", "executor-3"):
            time.sleep(1)
            os.kill(cluster.pid(executor), signal.SIGKILL)
            kills += 1
        time.sleep(2)
    assert kills == 3 and all(orders.sums[key][0] > 20 for key in KEYS)
    # What did not change is not written again.
    expected = orders.sums | {"quiet": (1, None)}
    wait_for("exact counts", lambda: same(cluster, stem, expected))
    assert "count(*) > 5" in cluster.sql(f"SHOW CREATE JOB {stem}_job")[-1]["create_statement"]
    # A leader that takes over runs the new definition.
    pid = cluster.pid("scheduler")
    os.kill(pid, signal.SIGKILL)
    wait_for("another scheduler", lambda: cluster.pid("scheduler") != pid)
    for key in [*KEYS, "late"]:
        orders.send(key)
    orders.flush()
    expected = {key: row for key, row in orders.sums.items() if row[0] > 5} | {"quiet": (1, None)}
    wait_for("exact counts after a takeover", lambda: same(cluster, stem, expected))


def test_other_numbers_of_state_partitions_and_executors_count_on(fresh_cluster, stem):
    cluster = fresh_cluster("--no-pipelines", "--executors", "1")
    orders = Orders(cluster.kafka, stem)
    query = f"INSERT INTO {stem} (k, n, total) SELECT k, count(*), sum(v) FROM {stem}_orders GROUP BY k"
    declare(cluster, stem, f"CREATE JOB {stem}_job WITH ('state.partitions' = '1') AS {query}")
    executors = lambda: {row["executor"] for row in cluster.sql(f"SELECT executor FROM polybolos.partitions WHERE job = '{stem}_job'")}  # noqa: E731
    sharing = [1]
    for partitions, parallelism, running in [(7, 3, 4), (2, 2, 2), (5, 1, 2)]:
        with orders.flowing():
            time.sleep(0.5)
            if f"{running}" != cluster.arguments[-1]:
                assert cluster.stop() == 0, cluster.errors()
                cluster.arguments = ("--no-pipelines", "--executors", f"{running}")
                cluster.start()
            options = f"'state.partitions' = '{partitions}', 'parallelism' = '{parallelism}', 'state.unbounded' = 'allow'"
            wait_for("the job", lambda: cluster.sql(f"SELECT state FROM polybolos.jobs WHERE name = '{stem}_job'"))
            # Some executors know the job as it was, and others do not know it yet.
            read = job(cluster, f"{stem}_job")["records_in"]
            wait_for("an epoch before the upgrade", lambda: job(cluster, f"{stem}_job")["records_in"] > read)
            cluster.sql(f"UPGRADE JOB {stem}_job WITH ({options}) AS {query}")
            time.sleep(0.5)
        wait_for("exact counts", lambda: same(cluster, stem, orders.sums), patience_s=120)
        sharing.append(len(executors()))
    assert sharing == [1, 3, 2, 1] and orders.sent > 300, sharing
    assert job(cluster, f"{stem}_job")["records_in"] == orders.sent


def test_what_cannot_keep_its_state_is_refused_and_runs_on(system, stem, tmp_path):
    orders = Orders(kafka(system), stem)
    declare(system, stem, f"CREATE JOB {stem}_job AS INSERT INTO {stem} (k, n, total) SELECT k, count(*), sum(v) FROM {stem}_orders GROUP BY k")
    for key in KEYS:
        orders.send(key)
    orders.flush()
    wait_for("the first counts", lambda: rows(system, stem), orders.sums)
    file = tmp_path / "job.sql"

    def refused(query: str) -> str:
        file.write_text(f"CREATE JOB {stem}_job AS INSERT INTO {stem} {query};")
        done = system.run("job", "upgrade", f"{stem}_job", str(file), check=False)
        assert done.returncode != 0, done.stdout
        assert "it runs on as it was" in done.stderr and "DROP JOB" in done.stderr and "savepoint" in done.stderr, done.stderr
        return done.stderr

    aggregate = refused(f"(k, n, total) SELECT k, count(*), max(v) FROM {stem}_orders GROUP BY k")
    assert "sum(" in aggregate and "max(" in aggregate and "would be" in aggregate, aggregate
    assert "would read other rows" in refused(f"(k, n, total) SELECT k, count(*), sum(v) FROM {stem}_orders WHERE v > 3 GROUP BY k")
    assert "would be gone" in refused(f"(k, n) SELECT k, v FROM {stem}_orders")
    missing = system.run("job", "upgrade", f"{stem}_other", str(file), check=False)
    assert missing.returncode == 2 and "no CREATE JOB" in missing.stderr
    before = job(system, f"{stem}_job")
    assert before["state"] in ("running", "idle") and not before["error"], before
    for key in KEYS:
        orders.send(key)
    orders.flush()
    wait_for("the same counts going on", lambda: rows(system, stem), orders.sums)
    # One without state may change as it likes.
    declare_plain(system, stem)
    plain = lambda: {row["v"]: row["k"] for row in system.sql(f"SELECT * FROM {stem}_plain")}  # noqa: E731
    wait_for("all orders", lambda: len(plain()), orders.sent)
    first = orders.sent
    system.sql(f"UPGRADE JOB {stem}_plain_job AS INSERT INTO {stem}_plain SELECT v, upper(k) FROM {stem}_orders WHERE k <> 'k1'")
    for key in KEYS:
        orders.send(key)
    orders.flush()
    expected = {first + number: key.upper() for number, key in enumerate(KEYS) if key != "k1"}
    wait_for("orders in the new way", lambda: {v: k for v, k in plain().items() if v >= first}, expected)
    assert all(k == k.lower() for v, k in plain().items() if v < first), "what is written stays"
    verified = system.run("job", "verify", f"{stem}_plain_job", check=False)
    assert verified.returncode == 4 and "was upgraded" in verified.stderr, verified.stdout + verified.stderr
