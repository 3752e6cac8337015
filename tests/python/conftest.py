"""A running platform for the tests: one shared by all that only look, and fresh ones for those that kill."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref

import pytest
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster as CassandraCluster
from confluent_kafka.admin import AdminClient, NewTopic
from load import Load

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("POLYBOLOS", str(REPOSITORY / "target/debug/polybolos"))
SERVERS = str(pathlib.Path(BINARY).with_name("polybolos-local-servers"))
PORTS = (7400, 7410, 7432, 7433, 7490, 9092)


WORKERS, WORKER = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def free_offset() -> int:
    """A --port-offset at which every port of the platform is free, and that no other process of this test run tries."""
    for offset in range(10_000 + 137 * WORKER, 50_000, 137 * WORKERS):
        try:
            for port in PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
            return offset
        except OSError:
            continue
    raise RuntimeError("no free ports")


class Platform:
    """`polybolos up` as a process of its own."""

    everyone: "weakref.WeakSet[Platform]" = weakref.WeakSet()

    def __init__(self, folder: pathlib.Path, *arguments: str):
        self.everyone.add(self)
        self.folder = folder
        self.arguments = arguments
        self.offset = free_offset()
        self.process = None
        self.starts = 0
        # What its command line begins with: a tracer, say, which leaves the process itself to us.
        self.before: list[str] = []

    def start(self, deadline: float = 60.0) -> None:
        self.starts += 1
        self.out = open(self.folder.parent / f"out-{self.starts}.txt", "w+")
        self.err = open(self.folder.parent / f"err-{self.starts}.txt", "w+")
        command = [*self.before, BINARY, "up", "--data-dir", str(self.folder), "--port-offset", str(self.offset), *self.arguments]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=self.out, stderr=self.err, stdin=subprocess.DEVNULL)
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if pathlib.Path(self.out.name).read_text().startswith("ready "):
                return
            if self.process.poll() is not None:
                raise AssertionError(f"the platform ended with {self.process.returncode}: {self.errors()}")
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the platform was not ready in {deadline} s: {self.errors()}")

    def errors(self) -> str:
        return pathlib.Path(self.err.name).read_text()[-3000:]

    def account(self) -> str:
        """What it says of its jobs, and the end of its log: for failures that cannot be had again."""
        jobs = self.run("sql", "-c", "SELECT * FROM polybolos.jobs", "--output", "json", check=False)
        return f"{jobs.stdout}{jobs.stderr}\n{self.errors()}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def address(self, door: str) -> tuple[str, int]:
        host, port = self.endpoints[door].rsplit(":", 1)
        return host, int(port)

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text().strip()

    @property
    def endpoints(self) -> dict:
        return json.loads((self.folder / "endpoints.json").read_text())

    def run(self, *arguments: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess:
        command = [BINARY, *arguments, "--data-dir", str(self.folder)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, input=stdin)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done

    def sql(self, statement: str) -> list[dict]:
        done = self.run("sql", "-c", statement, "--output", "json", "--limit", "10000")
        return [json.loads(line) for line in done.stdout.splitlines()]


class Cluster(Platform):
    """`polybolos cluster`: the supervisor starts again what dies."""

    def __init__(self, folder: pathlib.Path, *arguments: str, servers: "Servers | None" = None, environment: dict | None = None):
        super().__init__(folder, *(arguments or ("--no-pipelines",)))
        self.environment = os.environ | (environment or {})
        self.kafka = servers.kafka if servers else os.environ.get("POLYBOLOS_TEST_KAFKA")
        self.cassandra = servers.cassandra if servers else os.environ.get("POLYBOLOS_TEST_CASSANDRA")
        assert self.kafka and self.cassandra, "run these tests under polybolos-local-servers, as `make end-to-end` does"

    def start(self, deadline: float = 90.0) -> None:
        self.offset = free_offset()
        self.out = open(self.folder.parent / "out.txt", "w+")
        self.err = open(self.folder.parent / "err.txt", "w+")
        command = [BINARY, "cluster", "--data-dir", str(self.folder), "--port-offset", str(self.offset)]
        command += ["--kafka", self.kafka, "--cassandra", self.cassandra, *self.arguments]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=self.out, stderr=self.err, stdin=subprocess.DEVNULL)
        try:
            wait_for("the cluster", lambda: pathlib.Path(self.out.name).read_text().startswith("ready "), patience_s=deadline)
        except BaseException:
            self.kill()
            raise

    def pid(self, service: str) -> int:
        return int((self.folder / f"{service}.pid").read_text())


@contextlib.contextmanager
def running(platform: Platform):
    """Started, and ended in order; after a failure, anyhow."""
    platform.start()
    try:
        yield platform
        assert platform.stop() == 0, platform.errors()
    finally:
        if platform.process.poll() is None:
            platform.kill()


def is_alive(pid: int) -> bool:
    """One that nobody has collected yet has ended, too: it has no command line any more."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def hit(cluster: Cluster, moments, faults: int, between_s: tuple[float, float], pause_s: float, others: tuple[str, ...] = ()) -> tuple[int, int]:
    """So many faults at seeded moments: every fourth kills the scheduler or, every other time, one of the `others`; every third of the rest stops an executor for
    `pause_s` and lets it wake up, the others kill an executor. Answers how many kills and pauses there were."""
    kills = pauses = 0
    for number in range(faults):
        time.sleep(moments.uniform(*between_s))
        service = moments.choice(others) if others and number % 8 == 7 else "scheduler" if number % 4 == 3 else f"executor-{moments.randrange(1, 4)}"
        if number % 3 == 2 and service.startswith("executor"):
            pid = signalled(cluster, service, signal.SIGSTOP)
            time.sleep(pause_s)
            os.kill(pid, signal.SIGCONT)
            pauses += 1
        else:
            pid = signalled(cluster, service, signal.SIGKILL)
            kills += 1
            wait_for(f"{service} starting again", lambda: cluster.pid(service) != pid)
    return kills, pauses


def signalled(cluster: Cluster, service: str, number: int) -> int:
    """The process that took the signal; one that has ended by itself is started again a moment later."""

    def take() -> int:
        pid = cluster.pid(service)
        os.kill(pid, number)
        return pid

    return wait_for(f"{service} to be there", take)


class Servers:
    """A real Kafka and a real Cassandra of a test's own, which it may kill."""

    def __init__(self, log: pathlib.Path, *arguments: str):
        self.log = log
        # By default a Cassandra that is killed forgets what it acknowledged in the last moment; one node has nobody to ask.
        settings = ["--cassandra-setting", "commitlog_sync=batch", "--cassandra-setting", "commitlog_sync_period=0ms"]
        self.process = subprocess.Popen([SERVERS, "--control", *settings, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "w"), text=True)
        ready = self.process.stdout.readline().split()
        assert ready and ready[0] == "ready", log.read_text()[-3000:]
        addresses = dict(word.split("=") for word in ready[1:])
        self.kafka, self.cassandra = addresses.get("kafka"), addresses.get("cassandra")
        self.kafka_login = addresses.get("kafka-login")

    def order(self, order: str) -> None:
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer == f"done {order}\n", (answer, self.log.read_text()[-3000:])

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0, self.log.read_text()[-3000:]


class S3:
    """An S3 server of a test's own, which it may stop for a while; `s3_server.py` says how its buckets behave."""

    def __init__(self):
        script = pathlib.Path(__file__).with_name("s3_server.py")
        self.process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline()
        assert ready.startswith("ready s3="), ready
        self.endpoint = ready.strip().removeprefix("ready s3=")
        self.environment = {"AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush-hush"}

    @property
    def client(self):
        import boto3

        login = {"aws_access_key_id": "key", "aws_secret_access_key": "hush-hush", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, **login)

    def keys(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def sleep(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)


def create_topics(kafka: str, *names: str, partitions: int = 1) -> None:
    # Clients that are let go of answer nothing.
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
        future.result()


@contextlib.contextmanager
def cassandra(address: str):
    """A session of Cassandra's own driver."""
    host, port = address.rsplit(":", 1)
    login = PlainTextAuthProvider("cassandra", "cassandra")
    with CassandraCluster([host], port=int(port), auth_provider=login, protocol_version=5) as driver:
        yield driver.connect()


def wait_for(what: str, probe, wanted=None, patience_s: float = 120.0):
    """Asks until the probe answers with what is wanted, or with something true; the last answer or error stands in the failure."""
    deadline = time.monotonic() + patience_s
    last = None
    while time.monotonic() < deadline:
        try:
            last = probe()
            if last if wanted is None else last == wanted:
                return last
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown below
            last = error
        time.sleep(0.25)
    raise AssertionError(f"{what} did not happen within {patience_s} s; last: {last!r}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        for platform in list(Platform.everyone):
            if platform.process and platform.process.poll() is None:
                report.sections.append((f"platform in {platform.folder}", platform.account()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown():
    """A test that failed has not stopped what it sends, which ends here: before the fixtures, and with them what takes it."""
    for load in list(Load.everyone):
        load.give_up()


@pytest.fixture(scope="session")
def artefacts() -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("POLYBOLOS_ARTEFACTS", REPOSITORY / "target/console"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def fresh_platform():
    """Makes platforms with folders of their own; all are ended and removed after the test."""
    folders, platforms = [], []

    def make(*arguments: str) -> Platform:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-"))
        folders.append(folder)
        platforms.append(Platform(folder / "data", *arguments))
        return platforms[-1]

    yield make
    for platform in platforms:
        if platform.process and platform.process.poll() is None:
            platform.process.kill()
            platform.process.wait()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def platform():
    """One platform with the demo pipeline, for tests that only look."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-"))
    with running(Platform(folder / "data")) as shared:
        wait_for("twenty users", lambda: shared.sql("SELECT count(*) AS n FROM created_users")[0]["n"] >= 20)
        yield shared
    assert not (shared.folder / "endpoints.json").exists()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def servers(tmp_path):
    servers = Servers(tmp_path / "servers.log")
    yield servers
    servers.end()


@pytest.fixture
def s3():
    server = S3()
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.process.terminate()
    server.process.wait(timeout=60)


@pytest.fixture
def fresh_cluster():
    """Makes clusters of their own, for tests that do them harm."""
    folders, clusters = [], []

    def make(*arguments: str, servers: "Servers | None" = None, environment: dict | None = None) -> Cluster:
        folders.append(pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-")))
        clusters.append(Cluster(folders[-1] / "data", *arguments, servers=servers, environment=environment))
        clusters[-1].start()
        return clusters[-1]

    yield make
    ended = [(cluster.stop(), cluster.errors()) for cluster in clusters if cluster.process]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    assert all(code == 0 for code, _ in ended), ended


@pytest.fixture(scope="session")
def cluster():
    """One cluster, for tests that leave its processes alone."""
    with tempfile.TemporaryDirectory(prefix="polybolos-test-") as folder, running(Cluster(pathlib.Path(folder) / "data")) as shared:
        yield shared


@pytest.fixture(params=["embedded", "cluster"])
def system(request, fresh_platform):
    """For tests that hold in both: the embedded platform, and the shared cluster."""
    if request.param == "cluster":
        return request.getfixturevalue("cluster")
    platform = fresh_platform("--no-pipelines")
    platform.start()
    return platform


def openssl(*arguments: str):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path) -> pathlib.Path:
    """An authority, and a certificate of this machine that it signed; with its key, the keystore of a server."""
    ca, key, request, certificate = (str(tmp_path / name) for name in ("ca.pem", "key.pem", "request.pem", "certificate.pem"))
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test authority",
            "-keyout", str(tmp_path / "ca-key.pem"), "-out", ca, "-days", "2")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost",
            "-keyout", key, "-out", request)
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", str(tmp_path / "ca-key.pem"), "-CAcreateserial",
            "-extfile", str(tmp_path / "names"), "-out", certificate, "-days", "2")
    (tmp_path / "keystore.pem").write_text((tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
    return tmp_path
