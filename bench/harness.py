"""What every benchmark needs: CPU and memory of a process tree, a platform of ours, a table of figures, a JSON file.

CPU-seconds are the fair figure on a machine that does other work too; wall time and latency are worse there for everybody."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
BINARY = os.environ.get("POLYBOLOS", str(TARGET / "debug/polybolos"))
PORTS = (7400, 7410, 7432, 7433, 7490, 9092)
TICKS = os.sysconf("SC_CLK_TCK")
# Reading a process's memory map costs it something: not often.
WATCH_S = 0.5


def server(variable: str) -> str:
    if not os.environ.get(variable):
        raise SystemExit(f"{variable} names no server; run this through make, which starts real ones")
    return os.environ[variable]


def cassandra():
    """A session with the Cassandra of this run."""
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import Cluster

    host, port = server("POLYBOLOS_TEST_CASSANDRA").rsplit(":", 1)
    login = PlainTextAuthProvider("cassandra", "cassandra")
    return Cluster([host], port=int(port), auth_provider=login, protocol_version=5).connect()


class Tree:
    """CPU-seconds and resident bytes of a process and all below it. A child that ended and was waited for counts with its parent; pages
    that several processes share count once (PSS)."""

    def __init__(self, root: int):
        self.root = root
        self.peak_bytes = 0
        self.stopping = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def members(self) -> dict[int, float]:
        """CPU-seconds by process id."""
        parents, cpu = {}, {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue  # it ended while we looked
            fields = stat.rpartition(")")[2].split()
            parents[int(entry)] = int(fields[1])
            cpu[int(entry)] = sum(map(int, fields[11:15])) / TICKS
        members = {self.root}
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in members} - members
            members |= more
            grown = bool(more)
        return {pid: cpu[pid] for pid in members if pid in cpu}

    def cpu_seconds(self) -> float:
        return sum(self.members().values())

    def resident_bytes(self) -> int:
        total = 0
        for pid in self.members():
            try:
                rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
        return total

    def _watch(self):
        while not self.stopping.wait(WATCH_S):
            self.peak_bytes = max(self.peak_bytes, self.resident_bytes())

    def close(self):
        self.stopping.set()
        self.watcher.join()


def free_offset(ports: Sequence[int] = PORTS) -> int:
    """A --port-offset at which every port of the platform is free."""
    for offset in range(2_000, 50_000, 137):
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
            return offset
        except OSError:
            continue
    raise SystemExit("no free ports for a platform; end other platforms on this machine")


class Platform:
    """`polybolos cluster` or `polybolos up` in a folder of its own; ended, with all it started, at the end of the `with`."""

    def __init__(self, *arguments: str, environment: dict | None = None):
        self.arguments = arguments
        self.environment = os.environ | (environment or {})
        if arguments[0] == "cluster":
            self.environment["POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS"] = server("POLYBOLOS_TEST_KAFKA")
            self.environment["POLYBOLOS_CASSANDRA_CONTACT_POINTS"] = server("POLYBOLOS_TEST_CASSANDRA")

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory(prefix="polybolos-bench-")
        home = pathlib.Path(self.home.name)
        self.data = home / "data"
        command = [BINARY, *self.arguments, "--data-dir", str(self.data), "--port-offset", str(free_offset())]
        with open(home / "out", "w") as out, open(home / "err", "w") as err:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        self.tree = Tree(self.process.pid)
        deadline = time.monotonic() + 120
        while not (home / "out").read_text().startswith("ready "):
            if self.process.poll() is not None or time.monotonic() > deadline:
                message = (home / "err").read_text()[-2000:]
                self.__exit__()
                raise SystemExit(f"the platform was not ready: {message}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.tree.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        self.home.cleanup()

    def sql(self, statement: str) -> list[dict]:
        command = [BINARY, "sql", "-c", statement, "--output", "json", "--data-dir", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise SystemExit(f"{statement[:80]}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def table(self, name: str):
        """All rows of a table, as Arrow has them."""
        import adbc_driver_flightsql.dbapi as flight_sql
        from adbc_driver_flightsql import DatabaseOptions

        address = json.loads((self.data / "endpoints.json").read_text())["flight_sql"]
        token = (self.data / "token").read_text().strip()
        login = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"}
        with flight_sql.connect(f"grpc://{address}", db_kwargs=login, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {name}")
            return cursor.fetch_arrow_table()

    def job(self) -> dict:
        """The only job, as `polybolos.jobs` has it; an error as soon as it has failed."""
        [job] = self.sql("SELECT * FROM polybolos.jobs")
        if job["error"]:
            raise SystemExit(f"job {job['name']} is {job['state']}: {job['error']}")
        return job

    def status(self) -> dict:
        """The only job, as `/api/v1/status` has it: asking costs the platform no query."""
        address = json.loads((self.data / "endpoints.json").read_text())["http"]
        token = (self.data / "token").read_text().strip()
        request = urllib.request.Request(f"http://{address}/api/v1/status", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            [job] = json.load(answer)["jobs"]
        if job["error"]:
            raise SystemExit(f"job {job['name']} is {job['state']}: {job['error']}")
        return job

    def wait_until_published(self, records: int, poll_s: float):
        while True:
            job = self.status()
            if job["records_in"] >= records and job["lag_records"] == 0 and job["unpublished_epochs"] == 0:
                return
            time.sleep(poll_s)

    def start_users(self, table: str):
        """The pipeline jobs/users, into a table of this name."""
        text = (REPOSITORY / "jobs/users/users.sql").read_text()
        self.sql(text.replace("'table' = 'created_users'", f"'table' = '{table}'"))


def example(name: str, *arguments: str) -> dict:
    """What one of the programs in `examples/` of our crates answers."""
    done = subprocess.run([str(TARGET / "debug/examples" / name), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def numbers(text: str) -> list[int]:
    """An argument such as 0,4,7."""
    return [int(number) for number in text.split(",")]


def conditions() -> dict:
    load = os.getloadavg()[0]
    return {"cores": os.cpu_count(), "load_before": round(load, 2), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def show(name: str, rows: list[dict], bars: list[tuple[str, float, str, float]], began: dict):
    """Prints a table and the bars, and writes target/bench/<name>.json. A bar is (what, figure, "<=" or ">=", limit)."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns] + [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    print("CPU time is the fair figure: wall time and latency also tell what else the machine did.")
    judged = []
    for what, figure, relation, limit in bars:
        met = figure <= limit if relation == "<=" else figure >= limit
        judged.append({"what": what, "figure": round(figure, 3), "bar": f"{relation} {limit}", "met": met})
        print(f"{'met   ' if met else 'MISSED'} {what}: {figure:.3g} (bar {relation} {limit})")
    began["load_after"] = round(os.getloadavg()[0], 2)
    folder = TARGET / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "conditions": began, "rows": rows, "bars": judged}, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {path}")
