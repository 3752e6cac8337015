"""Two schedulers over one store: the second waits; when the leader is stopped for longer than its lease, the standby takes over and output goes on;
the leader that wakes up has lost, and rows and dead letters are exactly the ledger's."""

import json
import os
import signal
import subprocess
import time
import urllib.request

import pytest
from conftest import BINARY, REPOSITORY, create_topics, free_offset, wait_for
from test_exactly_once import PARTITIONS, TABLES, Ledger, bad_coordinates

TAKEOVER_S = 30
# Names of this test alone: it shares Kafka and Cassandra with others.
TOPIC = "standby_ledger"
OWN_TABLES = TABLES.replace("'ledger'", f"'{TOPIC}'").replace("ledger_job", "standby_job")


class Services:
    """A scheduler that leads, one that waits, and two executors that know both."""

    def __init__(self, folder, kafka: str, cassandra: str, offset: int):
        self.folder, self.kafka = folder, kafka
        self.endpoints = {"kafka": kafka}
        self.ports = [[base + offset + 20 * number for base in (7410, 7400, 7432, 7433)] for number in range(2)]
        self.environment = os.environ | {
            "POLYBOLOS_STORAGE_PATH": str(folder / "store"),
            "POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS": kafka,
            "POLYBOLOS_CASSANDRA_CONTACT_POINTS": cassandra,
            "POLYBOLOS_CASSANDRA_USERNAME": "cassandra",
            "POLYBOLOS_CASSANDRA_PASSWORD": "cassandra",
            "POLYBOLOS_SCHEDULER_DATA_DIR": str(folder),
            "POLYBOLOS_EXECUTOR_SCHEDULERS": ",".join(f"127.0.0.1:{ports[0]}" for ports in self.ports),
            "POLYBOLOS_EXECUTOR_WORK_DIR": str(folder / "work"),
        }
        self.processes = []

    def start(self, verb: str, number: int) -> subprocess.Popen:
        names = ("INTERNAL_PORT", "HTTP_PORT", "POSTGRES_PORT", "FLIGHT_SQL_PORT")
        ports = {f"POLYBOLOS_SCHEDULER_{name}": str(port) for name, port in zip(names, self.ports[number])} if verb == "scheduler" else {}
        log = open(self.folder / f"{verb}-{number}.log", "w")
        self.processes.append(subprocess.Popen([BINARY, verb], env=self.environment | ports, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return self.processes[-1]

    def run(self, *arguments: str, at: int = 0) -> subprocess.CompletedProcess:
        command = [BINARY, *arguments, "--data-dir", str(self.folder), "--http", f"127.0.0.1:{self.ports[at][1]}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def sql(self, statement: str, at: int = 0) -> list[dict]:
        done = self.run("sql", "-c", statement, "--output", "json", "--limit", "10000", at=at)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def leader(self, at: int) -> dict:
        """Who leads, as a scheduler's status has it."""
        login = {"Authorization": f"Bearer {(self.folder / 'token').read_text().strip()}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[at][1]}/api/v1/status", headers=login)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["leader"]

    def end(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def services(tmp_path):
    kafka, cassandra = os.environ.get("POLYBOLOS_TEST_KAFKA"), os.environ.get("POLYBOLOS_TEST_CASSANDRA")
    assert kafka and cassandra, "run these tests under polybolos-local-servers, as `make end-to-end` does"
    services = Services(tmp_path, kafka, cassandra, free_offset())
    yield services
    services.end()


class OwnLedger(Ledger):
    topic = TOPIC


def test_a_standby_takes_over_from_a_leader_that_sleeps_and_it_loses(services):
    create_topics(services.kafka, TOPIC, partitions=PARTITIONS)
    leader = services.start("scheduler", 0)
    wait_for("the leader", lambda: services.sql("SELECT count(*) AS n FROM polybolos.executors")[0]["n"] == 0 and services.sql("SELECT 1"))
    # The command line on the scheduler's machine needs no addresses.
    own = subprocess.run([BINARY, "sql", "-c", "SELECT 1", "--data-dir", str(services.folder)], capture_output=True, text=True, timeout=60)
    assert own.returncode == 0, own.stderr
    services.start("executor", 0)
    services.start("executor", 1)
    wait_for("the executors", lambda: services.sql("SELECT count(*) AS n FROM polybolos.executors")[0]["n"], 2)
    services.sql(OWN_TABLES)
    standby = services.start("scheduler", 1)
    load = OwnLedger(services.kafka)
    load.start()
    records = lambda at: services.sql("SELECT records_in FROM polybolos.jobs", at)[0]["records_in"]  # noqa: E731
    wait_for("records", lambda: records(0) > 500)
    # The second one waits, longer than a lease, and the first goes on.
    time.sleep(5)
    assert standby.poll() is None and leader.poll() is None
    named = lambda: json.loads((services.folder / "endpoints.json").read_text())["http"]  # noqa: E731
    assert named() == f"127.0.0.1:{services.ports[0][1]}", "the standby shares the folder, and the leader is told of"
    log = (services.folder / "scheduler-1.log").read_text()
    [stands_by] = [line for line in log.splitlines() if "this scheduler stands by" in line]
    assert f"leader=127.0.0.1:{services.ports[0][0]} " in stands_by, stands_by
    for statement in ("SHOW JOBS", "SELECT name FROM polybolos.jobs", "SELECT (SELECT count(*) FROM polybolos.jobs) AS n"):
        notice = "this scheduler stands by; the leader's doors show the jobs"
        assert notice in services.run("sql", "-c", statement, at=1).stderr, statement
        assert notice not in services.run("sql", "-c", statement, at=0).stderr, statement
    assert f", at http://127.0.0.1:{services.ports[0][1]}" in services.run("sql", "-c", "SHOW JOBS", at=1).stderr
    assert "stands by" not in services.run("sql", "-c", "SHOW TABLES", at=1).stderr
    leads, waits = services.leader(0), services.leader(1)
    assert leads["is_me"] and leads["id"] and leads["door"] is None, leads
    assert (waits["is_me"], waits["id"], waits["door"]) == (False, "", f"http://127.0.0.1:{services.ports[0][1]}"), waits
    hidden = services.run("job", "show", "standby_job", at=1)
    assert hidden.returncode == 1 and "job standby_job is not shown here: this scheduler stands by" in hidden.stderr, hidden.stderr
    before = records(0)
    wait_for("the leader going on", lambda: records(0) > before)

    leader.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    acknowledged = load.acknowledged
    wait_for("the standby's output", lambda: records(1) > acknowledged)
    took = time.monotonic() - stopped
    leader.send_signal(signal.SIGCONT)
    assert took < TAKEOVER_S, f"{took:.1f} s"
    wait_for("the command line going to the new leader", named, f"127.0.0.1:{services.ports[1][1]}")
    # The sleeper does not lead: whoever leads does so undisturbed.
    assert "this scheduler leads" in (services.folder / "scheduler-1.log").read_text()
    before = records(1)
    wait_for("the sleeper waking up", lambda: "starting anew" in (services.folder / "scheduler-0.log").read_text() or leader.poll() is not None)
    wait_for("the new leader going on", lambda: records(1) > before)
    # Executors follow the new leader with what they hold.
    for executor in range(2):
        assert "starting anew" not in (services.folder / f"executor-{executor}.log").read_text()

    load.stop()
    settled = {"lag_records": 0, "unpublished_epochs": 0, "records_in": load.sent}
    columns = ", ".join(settled)
    wait_for("the job catching up", lambda: services.sql(f"SELECT {columns} FROM polybolos.jobs", 1)[0], settled)
    rows = {row["id"]: row for row in services.sql("SELECT * FROM ledger", 1)}
    assert rows == {key: row | {"price": None if row["price"] is None else float(row["price"])} for key, row in load.latest.items()}
    letters = services.sql("SELECT topic_partition, topic_offset FROM polybolos.dead_letters WHERE job = 'standby_job'", 1)
    coordinates = [(letter["topic_partition"], letter["topic_offset"]) for letter in letters]
    assert len(coordinates) == len(set(coordinates))
    assert set(coordinates) == bad_coordinates(services, TOPIC)


def test_a_leader_that_is_stopped_lets_its_executors_go(services):
    log = lambda number: (services.folder / f"scheduler-{number}.log").read_text()  # noqa: E731
    joined = lambda at: services.sql("SELECT count(*) AS n FROM polybolos.executors", at)[0]["n"] == 1  # noqa: E731
    leader = services.start("scheduler", 0)
    wait_for("the leader", lambda: services.sql("SELECT 1"))
    services.start("executor", 0)
    wait_for("the executor", lambda: joined(0))
    services.start("scheduler", 1)
    wait_for("the standby", lambda: "this scheduler stands by" in log(1))
    leader.terminate()
    assert leader.wait(timeout=30) == 0, log(0)
    # While its streams last, executors have its grants and follow nobody else.
    assert "did not end in time" not in log(0), log(0)
    wait_for("the executor at the next leader", lambda: joined(1))


def test_a_scheduler_leads_though_its_file_for_the_command_line_cannot_be_written(services):
    (services.folder / "endpoints.json").mkdir()
    leader = services.start("scheduler", 0)
    log = lambda: (services.folder / "scheduler-0.log").read_text()  # noqa: E731
    wait_for("the warning", lambda: "endpoints.json cannot be written in scheduler.data_dir" in log())
    wait_for("an answer", lambda: services.sql("SELECT 1"))
    assert leader.poll() is None and "this scheduler leads" in log()
