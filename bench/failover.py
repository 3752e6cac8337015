"""`make bench-failover`: for how long a job writes nothing after `kill -9`: of an executor, of the leading scheduler while another stands by, and of the only
scheduler, which is started again a second later; and after an executor or the leading scheduler hangs: it is stopped (SIGSTOP) for longer than the lease, and wakes up.

Two schedulers and three executors over a real Kafka and a real Cassandra run two jobs of the same 100 records a second: one without a state, and one whose state all
executors share. Each topic-partition has a row of its own in each table. A pause is the longest time in which one of these rows did not change, from before the kill
until all of them have changed with records produced after it; the process that was killed is started again then, or the one that hangs wakes up, and the longest pause
until it takes part again and for some seconds more is shown beside it. At the end both tables must have every record exactly once."""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
import urllib.request

from harness import BINARY, REPOSITORY, cassandra, conditions, free_offset, server, show
from pulse import Feed, Watch
from records import PARTITIONS, create_topic

TOPIC = "pulses"
RATE = 100
EXECUTORS = 3
# Of two schedulers.
PORTS = [(7410, 7400, 7432, 7433), (7510, 7500, 7532, 7533)]
PATIENCE_S = 120
SETTLE_S = 4
# As `polybolos cluster`, or systemd, starts a service again.
RESTART_S = 1
# Longer than the lease, 4 s, by more than what a standby needs to look.
HUNG_S = 8
JOBS = f"""
CREATE TABLE pulses (pulse STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{TOPIC}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE stateless (pulse STRING, n BIGINT, PRIMARY KEY (pulse) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'failover', 'table' = 'stateless', 'table.create' = 'true');
CREATE TABLE stateful (pulse STRING, n BIGINT, records BIGINT, PRIMARY KEY (pulse) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'failover', 'table' = 'stateful', 'table.create' = 'true');
CREATE JOB stateless_job AS INSERT INTO stateless SELECT pulse, n FROM pulses;
CREATE JOB stateful_job WITH ('parallelism' = '{EXECUTORS}') AS INSERT INTO stateful SELECT pulse, max(n), count(*) FROM pulses GROUP BY pulse;
"""


def wait_for(what: str, probe):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.05)
    raise SystemExit(f"{what} did not happen within {PATIENCE_S} s")


class Services:
    """Schedulers and executors that know each other, by name; all end with the `with`."""

    def __init__(self):
        self.home = tempfile.TemporaryDirectory(prefix="polybolos-bench-")
        self.folder = pathlib.Path(self.home.name)
        offset = free_offset([port for ports in PORTS for port in ports])
        self.ports = [[port + offset for port in ports] for ports in PORTS]
        self.environment = os.environ | {
            "POLYBOLOS_STORAGE_PATH": str(self.folder / "store"),
            "POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS": server("POLYBOLOS_TEST_KAFKA"),
            "POLYBOLOS_CASSANDRA_CONTACT_POINTS": server("POLYBOLOS_TEST_CASSANDRA"),
            "POLYBOLOS_CASSANDRA_USERNAME": "cassandra",
            "POLYBOLOS_CASSANDRA_PASSWORD": "cassandra",
            "POLYBOLOS_SCHEDULER_DATA_DIR": str(self.folder),
            "POLYBOLOS_EXECUTOR_SCHEDULERS": ",".join(f"127.0.0.1:{ports[0]}" for ports in self.ports),
            "POLYBOLOS_EXECUTOR_WORK_DIR": str(self.folder / "work"),
        }
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.home.cleanup()

    def start(self, name: str):
        verb, _, number = name.partition("-")
        environment = self.environment
        if verb == "scheduler":
            names = ("INTERNAL_PORT", "HTTP_PORT", "POSTGRES_PORT", "FLIGHT_SQL_PORT")
            environment = environment | {f"POLYBOLOS_SCHEDULER_{name}": str(port) for name, port in zip(names, self.ports[int(number)])}
        with open(self.folder / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen([BINARY, verb], env=environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, name: str) -> float:
        self.processes[name].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        self.processes[name].wait()
        return killed

    def hang(self, name: str) -> float:
        self.processes[name].send_signal(signal.SIGSTOP)
        return time.monotonic()

    def wake(self, name: str):
        self.processes[name].send_signal(signal.SIGCONT)

    def status(self, number: int) -> dict | None:
        """As a scheduler has it, if there is one."""
        try:
            login = {"Authorization": f"Bearer {(self.folder / 'token').read_text().strip()}"}
            request = urllib.request.Request(f"http://127.0.0.1:{self.ports[number][1]}/api/v1/status", headers=login)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def leader(self) -> int:
        """The number of the scheduler that leads, once one does."""

        def found() -> list[int]:
            return [number for number in range(len(PORTS)) if (status := self.status(number)) and status["leader"]["is_me"]]

        return wait_for("a scheduler leading", found)[0]

    def is_whole(self) -> bool:
        """Whether all services are there, and all executors known to the leader; whoever has ended, as one may that lost the lease in its sleep, is started."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.start(name)
        answers = [self.status(number) for number in range(len(PORTS))]
        return all(answers) and max(len(answer["executors"]) for answer in answers) == EXECUTORS

    def sql(self, statement: str):
        command = [BINARY, "sql", "-c", statement, "--data-dir", str(self.folder), "--http", f"127.0.0.1:{self.ports[self.leader()][1]}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise SystemExit(f"{statement.strip()[:80]}: {done.stderr.strip()}")


class Run:
    def __init__(self, services: Services, session, seed: int):
        self.services, self.session = services, session
        self.moments = random.Random(seed)
        self.feed = Feed(TOPIC, RATE, lambda number: (f'{{"pulse":"pulse-{number % PARTITIONS}","n":{number}}}'.encode(), number % PARTITIONS))
        statements = {table: session.prepare(f"SELECT pulse, n FROM failover.{table}") for table in ("stateless", "stateful")}
        self.feed.start()
        self.watch = Watch(session, statements, 0.01)
        self.wait_for_rows_after(time.monotonic())

    def wait_for_rows_after(self, moment: float):
        """Every row has a record that was sent later."""

        def is_there():
            self.watch.check()
            newest = list(self.watch.newest.items())
            return len(newest) == 2 * PARTITIONS and all(self.feed.sent_at(number) > moment for _, (number, _) in newest)

        wait_for("every row changing", is_there)

    def longest(self, table: str, since: float) -> float:
        """Of the pauses that ended since then, and of those that last."""
        ended = [change.pause for change in list(self.watch.changes) if change.table == table and change.at > since]
        last = [time.monotonic() - at for (of, _), (_, at) in list(self.watch.newest.items()) if of == table]
        return max(ended + last)

    def fault(self, what: str) -> dict:
        services = self.services
        time.sleep(self.moments.uniform(1, 4))
        leader = services.leader()
        other = f"scheduler-{1 - leader}"
        name = f"executor-{self.moments.randrange(EXECUTORS)}" if what.startswith("executor") else f"scheduler-{leader}"
        if what == "only scheduler killed":
            services.kill(other)
        hangs = what.endswith("hung")
        gone_at = services.hang(name) if hangs else services.kill(name)
        if what == "only scheduler killed":
            time.sleep(RESTART_S)
            services.start(name)
        self.wait_for_rows_after(gone_at)
        gone = {table: self.longest(table, gone_at) for table in self.watch.statements}
        if hangs:
            time.sleep(max(0, gone_at + HUNG_S - time.monotonic()))
            # Until here it hung, and what was written came without it.
            gone = {table: self.longest(table, gone_at) for table in self.watch.statements}
        back = time.monotonic()
        if hangs:
            services.wake(name)
        wait_for("all services being there again", services.is_whole)
        time.sleep(SETTLE_S)
        # Whoever was deposed in its sleep may have ended meanwhile.
        wait_for("all services staying there", services.is_whole)
        self.wait_for_rows_after(time.monotonic())
        returned = {table: self.longest(table, back) for table in self.watch.statements}
        row = {"fault": what, "who": name}
        row |= {f"pause s, {table}": round(pause, 2) for table, pause in gone.items()}
        return row | {f"afterwards, {table}": round(pause, 2) for table, pause in returned.items()}

    def check(self):
        """All that was sent is there, once."""
        self.feed.stop()
        sent = len(self.feed.sent)
        counts = {f"pulse-{partition}": len(range(partition, sent, PARTITIONS)) for partition in range(PARTITIONS)}
        last = {f"pulse-{number % PARTITIONS}": number for number in range(sent - PARTITIONS, sent)}

        def is_exact():
            stateless = dict(tuple(row) for row in self.session.execute("SELECT pulse, n FROM failover.stateless"))
            stateful = {row.pulse: (row.n, row.records) for row in self.session.execute("SELECT pulse, n, records FROM failover.stateful")}
            return stateless == last and stateful == {pulse: (last[pulse], counts[pulse]) for pulse in last}

        wait_for(f"both tables having all of {sent} records exactly once", is_exact)
        self.watch.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="faults of each kind")
    parser.add_argument("--seed", type=int, default=20_261_130)
    arguments = parser.parse_args()
    began = conditions() | {"seed": arguments.seed}
    create_topic(TOPIC)
    limits = {"executor killed": 5, "leading scheduler killed": 10, "only scheduler killed": 10, "executor hung": 5, "leader hung": 10}
    rows = []
    with Services() as services:
        services.start("scheduler-0")
        services.leader()
        for name in ["scheduler-1", *(f"executor-{number}" for number in range(EXECUTORS))]:
            services.start(name)
        wait_for("all services being there", services.is_whole)
        services.sql(JOBS)
        run = Run(services, cassandra(), arguments.seed)
        for _ in range(arguments.rounds):
            for what in limits:
                rows.append(run.fault(what))
                print(rows[-1], flush=True)
        run.check()
    bars = []
    for what, limit in limits.items():
        longest = max(row[column] for row in rows if row["fault"] == what for column in row if column.startswith("pause s"))
        bars.append((f"{what}: longest pause, s", longest, "<=", limit))
    show("failover", rows, bars, began)


main()
