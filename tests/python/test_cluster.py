"""The same ledger on a cluster of processes with a real Kafka and a real Cassandra: executors, the scheduler and the ingestor are killed and
stopped at seeded moments, Cassandra then holds exactly the ledger's rows and what the ingestor's API told. Servers come from the launcher around the tests."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import urllib.request

import pytest
from confluent_kafka import Producer
from conftest import BINARY, REPOSITORY, Cluster, create_topics, free_offset, hit, is_alive, wait_for
from test_exactly_once import KILLS, PARTITIONS, SEED, TABLES, Ledger, bad_coordinates
from test_ingest import Api, check

# Of every twelve, two or three are pauses: so many that KILLS are left.
FAULTS = KILLS * 4 // 3 + 2
FEED = """
[[feed]]
name = "metered"
topic = "metered"
[feed.http]
url = "${USERS_API_URL}?results=5"
interval = "200ms"
allow_private = true
[feed.record]
items = "/results"
[feed.record.fields]
id = "/login/uuid"
"""
METERED = """
CREATE TABLE metered (id STRING) WITH ('connector' = 'kafka', 'topic' = 'metered', 'format' = 'json');
CREATE TABLE metered_rows (id STRING, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'metered', 'table' = 'metered_rows', 'table.create' = 'true');
CREATE JOB metered_job AS INSERT INTO metered_rows SELECT id FROM metered;
"""


def test_kills_and_pauses_of_services_change_nothing(fresh_cluster, tmp_path):
    api = Api("told_beside_kills", 20)
    cluster = fresh_cluster("--pipelines", api.pipeline(tmp_path))
    create_topics(cluster.kafka, "ledger", partitions=PARTITIONS)
    cluster.run("sql", "-c", TABLES)
    load = Ledger(cluster.kafka)
    load.start()
    # A pause is longer than the lease and the publisher's grant.
    print(f"{FAULTS} faults, POLYBOLOS_KILL_SEED={SEED}")
    kills, pauses = hit(cluster, random.Random(SEED + 2), FAULTS, (0.5, 2.0), 5, others=("ingest",))
    load.stop()
    assert kills >= KILLS and pauses >= KILLS // 5
    asked = api.asked
    wait_for("the ingestor asking", lambda: api.asked > asked + 1)
    api.end()
    told = api.ledger()
    assert load.acknowledged == load.sent > 1_000

    def caught_up():
        jobs = cluster.sql("SELECT state, records_in, lag_records, unpublished_epochs FROM polybolos.jobs WHERE name = 'ledger_job'")
        return jobs and jobs[0]["lag_records"] == 0 and jobs[0]["unpublished_epochs"] == 0 and jobs[0]["records_in"] >= load.acknowledged

    wait_for("the job catching up", caught_up)
    rows = {row["id"]: row for row in cluster.sql("SELECT * FROM ledger")}
    expected = {key: row | {"price": None if row["price"] is None else float(row["price"])} for key, row in load.latest.items()}
    assert rows == expected, json.dumps([(rows.get(key), row) for key, row in expected.items() if rows.get(key) != row][:3])
    letters = cluster.sql("SELECT topic_partition, topic_offset FROM polybolos.dead_letters WHERE job = 'ledger_job'")
    coordinates = [(letter["topic_partition"], letter["topic_offset"]) for letter in letters]
    assert len(coordinates) == len(set(coordinates))
    assert set(coordinates) == bad_coordinates(cluster)
    wait_for("what the API told", lambda: cluster.sql("SELECT count(*) AS n FROM changed")[0]["n"] >= len(told))
    check(cluster, api, told)


def test_records_that_come_while_nobody_leads_are_read_by_the_next_leader(fresh_cluster):
    """None follow them that would wake anybody up, and the only executor has them already."""
    cluster = fresh_cluster("--no-pipelines", "--executors", "1")
    create_topics(cluster.kafka, "unled", partitions=PARTITIONS)
    cluster.run("sql", "-c", TABLES.replace("ledger", "unled"))
    producer = Producer({"bootstrap.servers": cluster.kafka})

    def send(numbers):
        for number in numbers:
            producer.produce("unled", json.dumps({"id": f"key-{number}", "n": number}).encode(), partition=number % PARTITIONS)
        assert producer.flush(60) == 0

    count = lambda: cluster.sql("SELECT count(*) AS n FROM unled")[0]["n"]  # noqa: E731
    send(range(20))
    wait_for("the first rows", count, 20)
    pid = cluster.pid("scheduler")
    os.kill(pid, signal.SIGKILL)
    # The next one leads once the lease has run out, seconds from now.
    send(range(20, 40))
    wait_for("another scheduler", lambda: cluster.pid("scheduler") != pid)
    wait_for("all rows", count, 40)


def test_what_happened_to_a_job_is_known_to_the_next_leader(fresh_cluster):
    cluster = fresh_cluster("--no-pipelines", "--executors", "1")
    create_topics(cluster.kafka, "remembered", partitions=PARTITIONS)
    cluster.run("sql", "-c", METERED.replace("metered", "remembered"))
    cluster.run("job", "pause", "remembered_job")
    cluster.run("job", "resume", "remembered_job")
    histories = lambda: (cluster.folder / "store").glob("jobs/*/history")  # noqa: E731
    wait_for("the history on the store", lambda: any(b'"resumed"' in path.read_bytes() for path in histories()))
    pid = cluster.pid("scheduler")
    os.kill(pid, signal.SIGKILL)
    wait_for("another scheduler", lambda: cluster.pid("scheduler") != pid)

    def events():
        told = cluster.run("job", "logs", "remembered_job", "--events", "--output", "json").stdout
        events = [json.loads(line) for line in told.splitlines()][::-1]
        # The only executor may be some seconds late.
        return [event for event in events if not event["event"].startswith("trouble")]

    wait_for("what happened", lambda: [event["event"] for event in events()], ["created", "paused", "resumed", "taken_over"])
    assert len({event["generation"] for event in events()[:3]}) == 1
    assert events()[3]["generation"] > events()[2]["generation"]


def test_executors_and_the_ingestor_show_what_they_count(fresh_cluster, tmp_path):
    (tmp_path / "ingest.toml").write_text(FEED)
    (tmp_path / "metered.sql").write_text(METERED)
    cluster = fresh_cluster("--pipelines", str(tmp_path), "--executors", "2")
    get = lambda address, path: urllib.request.urlopen(f"http://{address}{path}", timeout=10).read().decode()  # noqa: E731
    addresses = cluster.endpoints["metrics"].split(",")
    executors, ingestor = addresses[:2], addresses[2]
    assert len(set(addresses)) == len(addresses) == 3

    def counted(address: str, metric: str) -> float:
        found = re.search(rf"^{re.escape(metric)} (\S+)$", get(address, "/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    wait_for("rows", lambda: cluster.sql("SELECT count(*) AS n FROM metered_rows")[0]["n"] > 0)
    wait_for("records of the feed", lambda: counted(ingestor, 'polybolos_ingest_records_total{feed="metered"}') > 0)
    assert sum(counted(address, "polybolos_kafka_fetched_records_total") for address in executors) > 0
    for address in addresses:
        assert counted(address, "polybolos_process_resident_bytes") > 0 and get(address, "/healthz") == "ok\n"

    # An executor that is started again is found where it was.
    pid = cluster.pid("executor-1")
    os.kill(pid, signal.SIGKILL)
    wait_for("another executor", lambda: cluster.pid("executor-1") != pid)

    def healthy() -> bool:
        try:
            return get(executors[0], "/healthz") == "ok\n"
        except OSError:
            return False

    wait_for("its metrics", healthy)
    # One that is stopped in order says so.
    log = cluster.folder / "log/scheduler.log"
    assert "executor left" not in log.read_text()
    os.kill(cluster.pid("executor-2"), signal.SIGTERM)
    wait_for("its farewell", lambda: "executor left" in log.read_text())
    assert cluster.stop() == 0, cluster.errors()
    for address in addresses:
        with pytest.raises(OSError):
            get(address, "/healthz")


def test_services_end_with_a_cluster_that_is_killed(tmp_path):
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "ingest.toml").write_text(FEED.replace("metered", "unattended"))
    cluster = Cluster(tmp_path / "data", "--pipelines", str(feed), "--executors", "2")
    cluster.start()
    pids = {service: cluster.pid(service) for service in ("scheduler", "executor-1", "executor-2", "ingest")}
    running = [service for service, pid in pids.items() if is_alive(pid)]
    cluster.kill()
    assert running == list(pids)
    wait_for("the end of all services", lambda: not any(map(is_alive, pids.values())))
    for service in pids:
        assert "the process that started this one is gone" in (cluster.folder / "log" / f"{service}.log").read_text(), service


def start_in_vain(data, *arguments: str, offset: int | None = None) -> str:
    """What a cluster says that does not start."""
    command = [BINARY, "cluster", "--data-dir", str(data), "--port-offset", str(free_offset() if offset is None else offset), "--no-pipelines"]
    command += ["--executors", "1", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stdout == "", (done.returncode, done.stdout, done.stderr)
    return done.stderr


@pytest.mark.parametrize("port", [7400, 7410, 7432, 7433, 7490])
def test_a_cluster_with_a_taken_port_says_which_and_starts_nothing(tmp_path, port):
    offset = free_offset()
    with socket.create_server(("127.0.0.1", port + offset)):
        told = start_in_vain(tmp_path / "data", "--kafka", "127.0.0.1:1", "--cassandra", "127.0.0.1:1", offset=offset)
    assert told.startswith(f"error: port {port + offset} for ") and "choose another with --port-offset" in told and told.count("\n") == 1, told
    assert list((tmp_path / "data/log").iterdir()) == []


@pytest.mark.parametrize("wrong, why", [
    (["--storage-url", "bucket/prefix"], "it does not begin with s3://"),
    (["--cassandra-password", "wrong"], 'refuses user "cassandra"'),
])
def test_a_cluster_whose_services_cannot_start_ends_with_what_they_said(tmp_path, wrong, why):
    kafka, cassandra = os.environ.get("POLYBOLOS_TEST_KAFKA"), os.environ.get("POLYBOLOS_TEST_CASSANDRA")
    assert kafka and cassandra, "run these tests under polybolos-local-servers, as `make end-to-end` does"
    data = tmp_path / "data"
    told = start_in_vain(data, "--kafka", kafka, "--cassandra", cassandra, *wrong)
    *warnings, error = told.splitlines()
    found = re.fullmatch(r"error: ([\w-]+) ended twice before the cluster was ready \(exit status: 1\): (.*); its log is (.*)", error)
    assert found and why in found[2] and found[3] == str(data / "log" / f"{found[1]}.log"), told
    assert any(why in warning and "service ended; starting it again" in warning for warning in warnings), told
    for service in ("scheduler", "executor-1"):
        assert not is_alive(int((data / f"{service}.pid").read_text())), service
