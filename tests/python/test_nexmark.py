"""Nexmark's 23 queries, as jobs/nexmark has them, from a real Kafka, all at once on one platform: every table holds what plain DataFusion, the one from PyPI, answers over the same events."""

import os
import pathlib
import subprocess
import sys
import tempfile

import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from adbc_driver_flightsql import DatabaseOptions
from confluent_kafka import Producer
from conftest import BINARY, REPOSITORY, Platform, create_topics, wait_for

sys.path.append(str(REPOSITORY / "bench"))
from nexmark_reference import Reference, side_input  # noqa: E402

GENERATOR = pathlib.Path(BINARY).with_name("polybolos-nexmark-events")
QUERIES = [f"q{number}" for number in range(23)]
EVENTS = 20_000
# So that they reach over hundreds of windows, and over midnight.
EVENTS_PER_SECOND = 3
PARTITIONS = 4
# Other tests use the published name in the same Kafka.
TOPIC = "nexmark_all"


def statements(name: str) -> str:
    return (REPOSITORY / "jobs/nexmark" / f"{name}.sql").read_text()


def produce(servers: str, events: list[bytes], start: int) -> None:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    for number, event in enumerate(events, start):
        producer.produce(TOPIC, event, partition=number % PARTITIONS)
        producer.poll(0)
    assert producer.flush(60) == 0


def all_written(platform) -> bool:
    jobs = platform.sql("SELECT name, state, records_in, lag_records, unpublished_epochs, dead_letters, late_rows, error FROM polybolos.jobs")
    assert len(jobs) == len(QUERIES), jobs
    broken = [job for job in jobs if job["state"] == "failed" or job["dead_letters"] or job["late_rows"]]
    if broken:
        pytest.fail(f"jobs that lose rows: {broken}")
    behind = [job for job in jobs if job["records_in"] < EVENTS or job["lag_records"] != 0 or job["unpublished_epochs"]]
    assert not behind, behind
    return True


def query(platform, sql: str):
    host, port = platform.address("flight_sql")
    header = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {platform.token}"}
    with flight_sql.connect(f"grpc://{host}:{port}", db_kwargs=header, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


@pytest.fixture(scope="module")
def nexmark():
    """A platform whose jobs have read all events, and the reference over them."""
    servers = os.environ.get("POLYBOLOS_TEST_KAFKA")
    assert servers, "run these tests under polybolos-local-servers, as `make end-to-end` does"
    with tempfile.TemporaryDirectory(prefix="polybolos-test-") as folder:
        folder = pathlib.Path(folder)
        path = folder / "events.json"
        with path.open("wb") as file:
            subprocess.run([GENERATOR, str(EVENTS), str(EVENTS_PER_SECOND)], stdout=file, check=True)
        events = path.read_bytes().splitlines()
        assert len(events) == EVENTS
        create_topics(servers, TOPIC, partitions=PARTITIONS)
        # Jobs begin with a backlog; the rest comes while they run.
        produce(servers, events[: EVENTS // 2], 0)
        topic = f"'topic' = '{TOPIC}', 'properties.bootstrap.servers' = '{servers}'"
        tables, jobs = statements("00_tables").replace("'topic' = 'nexmark'", topic), ""
        for name in QUERIES:
            of_query, job = statements(name).split("CREATE JOB")
            tables += of_query
            jobs += "CREATE JOB" + job
        script = folder / "nexmark.sql"
        script.write_text(f"{tables};\nINSERT INTO side_input VALUES {', '.join(map(str, side_input()))};\n{jobs}")
        platform = Platform(folder / "data", "--no-pipelines")
        platform.start()
        try:
            platform.run("sql", str(script))
            for start in range(EVENTS // 2, EVENTS, EVENTS // 10):
                produce(servers, events[start : start + EVENTS // 10], start)
            reference = Reference(path)
            wait_for("all jobs", lambda: all_written(platform), patience_s=120)
            yield platform, reference
        finally:
            code = platform.stop()
        assert code == 0, platform.errors()


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_as_plain_datafusion_does(nexmark, name):
    platform, reference = nexmark
    differences = reference.differences(name, query(platform, f"SELECT * FROM nexmark_{name}"))
    assert not differences, "\n".join([name, *differences])
