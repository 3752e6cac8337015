"""A cluster whose store is on S3, on a server that loses answers, refuses and falls silent, and is stopped altogether for a while; executors and the scheduler
are killed at seeded moments. In the end every table of jobs with state holds what SQLite answers. Servers that cannot be a store are refused in one line."""

import os
import random
import signal
import subprocess

import pytest
from conftest import BINARY, REPOSITORY, hit, wait_for
from test_stateful import SEED, begun, check

# Longer than a lease, a publisher's grant and a request's patience together.
AWAY_S = 8


def test_jobs_with_state_on_a_shaky_s3_under_kills_answer_as_sqlite_does(fresh_cluster, servers, s3):
    cluster = fresh_cluster(servers=servers, environment=s3.environment | {"POLYBOLOS_STORAGE_URL": "s3://shaky/polybolos"})
    load = begun(cluster, 2)
    kills = pauses = 0
    for part in range(2):
        more = hit(cluster, random.Random(SEED + part), 4, (0.5, 2.0), 5)
        kills, pauses = kills + more[0], pauses + more[1]
        s3.sleep(AWAY_S)
    load.stop()
    assert kills >= 4 and pauses >= 2
    check(cluster, load, 240)
    keys = s3.keys("shaky")
    assert {"polybolos/catalog", "polybolos/lease"} <= set(keys) and sum(key.endswith("/manifest") for key in keys) == 7, keys
    assert not (cluster.folder / "store").exists()
    logs = "".join(path.read_text() for path in (cluster.folder / "log").iterdir())
    assert "hush-hush" not in logs


@pytest.mark.parametrize(
    "url, why",
    [
        ("s3://forgetful/x", "s3://forgetful/x cannot be used: it creates an object that exists"),
        ("s3://closed/x", "403 AccessDenied"),
        ("s3://nowhere/x", "404 NoSuchBucket"),
        ("s3:///x", "it names no bucket"),
        ("gs://lake/x", "it does not begin with s3://"),
    ],
)
def test_a_server_that_cannot_be_a_store_is_refused_in_one_line(s3, tmp_path, url, why):
    own = {"POLYBOLOS_STORAGE_URL": url, "POLYBOLOS_SCHEDULER_DATA_DIR": str(tmp_path)}
    done = subprocess.run([BINARY, "scheduler"], cwd=REPOSITORY, env=os.environ | s3.environment | own, capture_output=True, text=True, timeout=60)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(errors) == 1 and why in errors[0], done.stderr
    assert "hush-hush" not in done.stderr + done.stdout


def test_a_scheduler_waits_for_a_store_that_is_away(s3, tmp_path):
    s3.process.send_signal(signal.SIGSTOP)
    own = {"POLYBOLOS_STORAGE_URL": "s3://sound/waiting", "POLYBOLOS_SCHEDULER_DATA_DIR": str(tmp_path), "POLYBOLOS_CASSANDRA_CONTACT_POINTS": "127.0.0.1:1"}
    log = tmp_path / "log.txt"
    process = subprocess.Popen([BINARY, "scheduler"], cwd=REPOSITORY, env=os.environ | s3.environment | own, stderr=open(log, "w"), stdout=subprocess.DEVNULL)
    try:
        wait_for("the scheduler waiting", lambda: "waiting for the store" in log.read_text())
        assert process.poll() is None
        s3.process.send_signal(signal.SIGCONT)
        wait_for("the scheduler going on", lambda: "waiting for Cassandra" in log.read_text())
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
