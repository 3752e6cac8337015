"""A damaged manifest, a full disk: a clear error, and never a silent restart from zero."""

import json
import pathlib
import subprocess
import tempfile
import time

import pytest
from confluent_kafka import Producer
from conftest import Platform, wait_for

TABLES = """
CREATE TABLE kept (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'kept', 'format' = 'json');
CREATE TABLE kept_rows (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'disk', 'table' = 'kept_rows', 'table.create' = 'true');
CREATE JOB kept_job AS INSERT INTO kept_rows SELECT id, n FROM kept;
"""


def produce(platform, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints["kafka"], "message.timeout.ms": 60_000})
    for number in numbers:
        producer.produce("kept", json.dumps({"id": f"row-{number}", "n": number}).encode())
    assert producer.flush(60) == 0


def shown(platform) -> dict:
    return platform.sql("SELECT * FROM polybolos.jobs")[0]


def count(platform) -> int:
    return platform.sql("SELECT count(*) AS n FROM kept_rows")[0]["n"]


def filled(platform) -> None:
    platform.start()
    platform.run("topic", "produce", "kept", stdin='{"id": "row-0", "n": 0}\n')
    platform.run("sql", "-c", TABLES)
    produce(platform, range(1, 100))
    wait_for("the rows", lambda: count(platform) == 100 and shown(platform)["unpublished_epochs"] == 0)


def damage(file: pathlib.Path) -> bytes:
    """One bit of its middle; answers what was there."""
    sound = file.read_bytes()
    damaged = bytearray(sound)
    damaged[len(sound) // 2] ^= 1
    file.write_bytes(damaged)
    return sound


@pytest.mark.parametrize("how", ["damaged", "cut short", "empty"])
def test_a_damaged_manifest_is_an_error_and_no_new_beginning(fresh_platform, how):
    platform = fresh_platform("--no-pipelines")
    filled(platform)
    assert platform.stop() == 0
    manifest, = (platform.folder / "store").glob("jobs/*/manifest")
    sound = damage(manifest)
    if how != "damaged":
        manifest.write_bytes(sound[: len(sound) // 2] if how == "cut short" else b"")
    found = manifest.read_bytes()
    platform.start()
    job = wait_for("the error", lambda: (job := shown(platform))["error"] and job)
    assert "manifest" in job["error"] and "\n" not in job["error"], job
    produce(platform, range(100, 110))
    time.sleep(3)  # It is tried again meanwhile, and must not begin anew.
    assert count(platform) == 100 and manifest.read_bytes() == found
    assert "manifest" in shown(platform)["error"]

    # Brought back from a copy, it goes on where it was.
    manifest.write_bytes(sound)
    wait_for("the rows since", lambda: count(platform) == 110)
    assert shown(platform)["records_in"] == 110
    assert platform.stop() == 0


def test_a_full_disk_is_said_and_loses_nothing_that_was_acknowledged():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], capture_output=True, text=True)
    assert mounted.returncode == 0, f"a small file system is needed, which root may mount: {mounted.stderr}"
    platform = Platform(folder / "data", "--no-pipelines")
    try:
        filled(platform)
        epoch = shown(platform)["epoch"]
        with open(folder / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(b"f" * 4096):
                    pass
            except OSError:
                pass
        producer = Producer({"bootstrap.servers": platform.endpoints["kafka"], "message.timeout.ms": 90_000, "log_level": 0})
        for number in range(100, 200):
            producer.produce("kept", json.dumps({"id": f"row-{number}", "n": number}).encode())
        producer.poll(0)
        wait_for("the error", lambda: "No space left on device" in pathlib.Path(platform.err.name).read_text(), 20)
        producer.purge()
        (folder / "filler").unlink()
        # The store under the broker takes nothing more after a failed write, so the platform has to be started again.
        platform.kill()
        platform.start()
        assert shown(platform)["epoch"] >= epoch
        produce(platform, range(100, 200))
        wait_for("the rows since", lambda: count(platform) == 200)
        assert shown(platform)["epoch"] > epoch and shown(platform)["records_in"] >= 200
        assert platform.stop() == 0
    finally:
        if platform.process and platform.process.poll() is None:
            platform.kill()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
