"""Verbs and statements that nothing else runs to their end: a job that is stopped and goes on, what is listed of it, what its consumer group shows to other tools, rows
that it prints, and rows that end. On the embedded platform and on a cluster."""

import json
import pathlib
import re
import subprocess
import uuid

import pytest
from confluent_kafka import Consumer, TopicPartition
from conftest import BINARY, Cluster, wait_for


class Job:
    """A job of a test's own, over a topic of its own, into a table of its own."""

    def __init__(self, system):
        self.system, self.stem = system, f"verbs_{uuid.uuid4().hex[:8]}"
        self.name = f"{self.stem}_job"
        self.produce(range(3))
        system.sql(f"CREATE TABLE {self.stem}_source (id STRING, v INT) WITH ('connector' = 'kafka', 'topic' = '{self.stem}', 'format' = 'json')")
        self.table(self.stem, "")

    def produce(self, numbers: range) -> None:
        records = "".join(json.dumps({"id": f"k{number}", "v": number}) + "\n" for number in numbers)
        self.system.run("topic", "produce", self.stem, stdin=records)

    def table(self, name: str, options: str) -> None:
        self.system.sql(
            f"CREATE TABLE {name} (id STRING, v INT, PRIMARY KEY (id) NOT ENFORCED) "
            f"WITH ('connector' = 'cassandra', 'keyspace' = 'verbs', 'table.create' = 'true'{options})"
        )

    def create(self, target: str = "") -> None:
        """Begins it; with another table, another one that fills that."""
        target = target or self.stem
        self.system.sql(f"CREATE JOB {target}_job AS INSERT INTO {target} SELECT id, v FROM {self.stem}_source")

    def count(self, table: str = "") -> int:
        return self.system.sql(f"SELECT count(*) AS n FROM {table or self.stem}")[0]["n"]

    def listed(self, *verb: str) -> list[dict]:
        """What a verb answers about the job."""
        rows = [json.loads(line) for line in self.system.run(*verb, "--output", "json").stdout.splitlines()]
        return [row for row in rows if self.name in (row.get("name"), row.get("job"))]


@pytest.fixture
def job(system) -> Job:
    return Job(system)


def test_a_job_is_stopped_listed_and_goes_on(job):
    job.create()
    wait_for("the rows", job.count, 3)
    for number, stop in enumerate((lambda: job.system.sql(f"STOP JOB {job.name}"), lambda: job.system.run("job", "stop", job.name)), 1):
        stop()
        wait_for("the job being stopped", lambda: [row["state"] for row in job.listed("job", "list")], ["stopped"])
        job.produce(range(3 * number, 3 * number + 3))
        assert job.count() == 3 * number, "a job that is stopped reads nothing"
        job.system.run("job", "resume", job.name)
        wait_for("the rows that came meanwhile", job.count, 3 * number + 3)
    assert job.listed("job", "list")[0]["state"] != "stopped"
    unknown = job.system.run("job", "stop", f"{job.name}_none", check=False)
    assert unknown.returncode == 1 and f"{job.name}_none" in unknown.stderr


def test_other_tools_see_how_far_a_job_is(job):
    job.create()
    consumer = Consumer({"bootstrap.servers": job.system.endpoints["kafka"], "group.id": f"polybolos.{job.name}"})

    def committed() -> int:
        partitions = consumer.list_topics(job.stem, 10).topics[job.stem].partitions
        offsets = consumer.committed([TopicPartition(job.stem, partition) for partition in partitions], timeout=10)
        return sum(max(partition.offset, 0) for partition in offsets)

    def lag() -> tuple[int, int, int]:
        rows = job.listed("topic", "lag")
        assert rows and {row["topic"] for row in rows} == {job.stem}, rows
        return tuple(sum(row[column] for row in rows) for column in ("next_offset", "end_offset", "lag"))

    for sent in (3, 6):
        wait_for("the offsets of its consumer group", committed, sent)
        wait_for("no lag", lag, (sent, sent, 0))
        job.produce(range(sent, sent + 3))
    consumer.close()


def test_rows_are_printed(job):
    shown = f"{job.stem}_shown"
    job.system.sql(f"CREATE TABLE {shown} (id STRING, v INT) WITH ('connector' = 'print', 'print-identifier' = 'of {shown}')")
    job.create(shown)

    def log() -> str:
        system = job.system
        files = (system.folder / "log").glob("executor-*.log") if isinstance(system, Cluster) else [pathlib.Path(system.err.name)]
        return "".join(file.read_text() for file in files)

    rows = lambda: {match.groups() for match in re.finditer(r"\| \+ \| (k\d) +\| (\d) +\|", log())}  # noqa: E731
    wait_for("the rows in the log", rows, {("k0", "0"), ("k1", "1"), ("k2", "2")})
    assert f"of {shown}" in log()


def test_rows_of_a_job_end(job):
    short, long = f"{job.stem}_short", f"{job.stem}_long"
    for table, ttl in ((short, "1 s"), (long, "7 days")):
        job.table(table, f", 'sink.ttl' = '{ttl}'")
        job.create(table)
    for table in (short, long):
        published = f"SELECT name FROM polybolos.jobs WHERE name = '{table}_job' AND rows_out = 3 AND unpublished_epochs = 0"
        wait_for("the rows being written", lambda: job.system.sql(published))
    wait_for("the rows having ended", lambda: job.count(short), 0)
    assert job.count(long) == 3


def test_the_version_names_the_protocol():
    version, flag = (subprocess.run([BINARY, argument], capture_output=True, text=True, timeout=60) for argument in ("version", "--version"))
    assert version.returncode == flag.returncode == 0 and version.stdout == flag.stdout
    assert re.fullmatch(r"polybolos \S.* \(protocol .+\)\n", version.stdout), version.stdout
