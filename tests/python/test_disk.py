"""A damaged manifest, a full disk: a clear error, and never a silent restart from zero."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import zlib

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from conftest import BINARY, REPOSITORY, Cluster, Platform, create_topics, wait_for

TABLES = """
CREATE TABLE kept (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'kept', 'format' = 'json');
CREATE TABLE kept_rows (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'disk', 'table' = 'kept_rows', 'table.create' = 'true');
CREATE JOB kept_job AS INSERT INTO kept_rows SELECT id, n FROM kept;
"""

COUNTING = "CREATE JOB counting WITH ('state.unbounded' = 'allow') AS INSERT INTO counts SELECT k, count(*) AS n FROM counted GROUP BY k"


def produce(platform, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": platform.endpoints["kafka"], "message.timeout.ms": 60_000})
    for number in numbers:
        producer.produce("kept", json.dumps({"id": f"row-{number}", "n": number}).encode())
    assert producer.flush(60) == 0


def shown(platform) -> dict:
    return platform.sql("SELECT * FROM polybolos.jobs")[0]


def tries(platform) -> int:
    return pathlib.Path(platform.err.name).read_text().count("job cannot be started yet; trying again")


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
    tried = tries(platform)
    produce(platform, range(100, 110))
    wait_for("another try, which must not begin anew", lambda: tries(platform) > tried)
    assert count(platform) == 100 and manifest.read_bytes() == found
    assert "manifest" in shown(platform)["error"]

    # Brought back from a copy, it goes on where it was.
    manifest.write_bytes(sound)
    wait_for("the rows since", lambda: count(platform), 110)
    assert shown(platform)["records_in"] == 110
    assert platform.stop() == 0


def begin_counting(platform) -> None:
    """Leaves the platform stopped, with what was counted in the job's state."""
    platform.start()
    platform.run("topic", "produce", "counted", stdin='{"k": "a"}\n{"k": "b"}\n{"k": "a"}\n')
    platform.run(
        "sql",
        "-c",
        f"""
        CREATE TABLE counted (k STRING) WITH ('connector' = 'kafka', 'topic' = 'counted', 'format' = 'json');
        CREATE TABLE counts (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED)
          WITH ('connector' = 'cassandra', 'keyspace' = 'disk', 'table' = 'counts', 'table.create' = 'true');
        {COUNTING};
        """,
    )
    wait_for("the counts", lambda: counts(platform) == {"a": 2, "b": 1} and shown(platform)["unpublished_epochs"] == 0)
    assert platform.stop() == 0


def counts(platform) -> dict:
    return {row["k"]: row["n"] for row in platform.sql("SELECT * FROM counts")}


def read_manifest(platform) -> dict:
    path, = (platform.folder / "store").glob("jobs/*/manifest")
    # The store's counter, then a header line with a checksum over what follows but its last line end.
    return json.loads(path.read_bytes()[8:].split(b"\n", 1)[1])


def write_manifest(platform, written: dict) -> None:
    path, = (platform.folder / "store").glob("jobs/*/manifest")
    counter, text = path.read_bytes()[:8], path.read_bytes()[8:]
    header = text.split(b"\n", 1)[0].decode().split(" ")
    body = json.dumps(written).encode()
    header[2] = f"{zlib.crc32(body):08x}"
    path.write_bytes(counter + " ".join(header).encode() + b"\n" + body + b"\n")


@pytest.mark.parametrize(
    ("way_out", "lines", "other"),
    [
        ("RESTART JOB counting FROM EARLIEST KEEP", "layout", "state in format 0"),
        (f"DROP JOB counting; {COUNTING}", "kept_columns", "Aggregate (merging): key k Int64"),
    ],
)
def test_state_of_another_version_is_an_error_and_never_wrong_rows(fresh_platform, way_out, lines, other):
    platform = fresh_platform("--no-pipelines")
    begin_counting(platform)
    written = read_manifest(platform)
    assert written["state"] and written["layout"][0].startswith("state in format ") and "Aggregate" in written["layout"][1], written
    assert written["kept_columns"][0] == "Aggregate (merging): key k Utf8", written
    now, written[lines][0] = written[lines][0], other
    write_manifest(platform, written)

    platform.start()
    job = wait_for("the error", lambda: (job := shown(platform))["error"] and job)
    assert "another version" in job["error"] and other in job["error"] and now in job["error"], job
    assert "RESTART JOB counting FROM EARLIEST KEEP" in job["error"] and "\n" not in job["error"], job
    resumed = platform.run("sql", "-c", "RESUME JOB counting", check=False)
    assert resumed.returncode == 1 and "another version" in resumed.stderr, resumed.stderr
    platform.run("topic", "produce", "counted", stdin='{"k": "b"}\n')
    time.sleep(3)
    assert counts(platform) == {"a": 2, "b": 1}
    # Also after another start.
    assert platform.stop() == 0
    platform.start()
    assert wait_for("the error", lambda: shown(platform)["error"]) == job["error"]
    assert counts(platform) == {"a": 2, "b": 1}
    platform.run("sql", "-c", way_out)
    wait_for("the counts", lambda: counts(platform) == {"a": 2, "b": 2} and not shown(platform)["error"])
    assert platform.stop() == 0


def test_damaged_state_is_an_error_and_never_wrong_rows(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    begin_counting(platform)
    kept = [file for file in (platform.folder / "store").glob("jobs/*/parts/*") if file.is_file()]
    assert kept
    sound = {file: damage(file) for file in kept}
    platform.start()
    platform.run("topic", "produce", "counted", stdin='{"k": "b"}\n')
    job = wait_for("the error", lambda: (job := shown(platform))["error"] and job)
    assert any(file.name in job["error"] for file in kept) and "\n" not in job["error"], job
    time.sleep(3)  # It is tried again meanwhile, and must not count anew.
    assert counts(platform) == {"a": 2, "b": 1}
    assert platform.stop() == 0
    for file, bytes_ in sound.items():
        file.write_bytes(bytes_)
    platform.start()
    wait_for("the counts", lambda: counts(platform) == {"a": 2, "b": 2} and not shown(platform)["error"])
    assert platform.stop() == 0


def test_state_of_a_version_that_did_not_tell_its_types_goes_on(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    begin_counting(platform)
    written = read_manifest(platform)
    told = written.pop("kept_columns")
    write_manifest(platform, written)
    platform.start()
    platform.run("topic", "produce", "counted", stdin='{"k": "b"}\n')
    wait_for("the counts", lambda: counts(platform), {"a": 2, "b": 2})
    assert platform.stop() == 0
    assert read_manifest(platform)["kept_columns"] == told


def test_a_damaged_part_is_an_error_until_it_is_brought_back(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    platform.run("topic", "produce", "kept", stdin='{"id": "row-0", "n": 0}\n')
    platform.run("sql", "-c", """
        CREATE TABLE kept (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'kept', 'format' = 'json');
        CREATE TABLE passed (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'passed', 'format' = 'json');
        CREATE JOB kept_job AS INSERT INTO passed SELECT id, n FROM kept;""")
    numbers = lambda: sorted(row["n"] for row in platform.sql("SELECT n FROM passed"))  # noqa: E731
    wait_for("the first row", numbers, [0])
    # With its topic gone, what is recorded waits.
    admin = AdminClient({"bootstrap.servers": platform.endpoints["kafka"]})
    for future in admin.delete_topics(["passed"]).values():
        future.result()
    wait_for("the topic's end", lambda: "passed" not in admin.list_topics(timeout=5).topics)
    produce(platform, range(1, 50))
    wait_for("what waits", lambda: shown(platform)["records_in"] == 50 and shown(platform)["unpublished_epochs"] > 0)
    assert platform.stop() == 0
    parts = [file for file in (platform.folder / "store").glob("jobs/*/parts/*") if file.stat().st_size]
    sound = {file: damage(file) for file in parts}
    assert sound
    platform.start()
    create_topics(platform.endpoints["kafka"], "passed")
    job = wait_for("the error", lambda: (job := shown(platform))["error"] and "checksum" in job["error"] and job)
    assert any(file.name in job["error"] for file in parts) and "\n" not in job["error"], job
    assert numbers() == []
    for file, bytes_ in sound.items():
        file.write_bytes(bytes_)
    wait_for("what waited", lambda: numbers() == list(range(1, 50)) and not shown(platform)["error"])
    assert platform.stop() == 0


def mount_small(folder: pathlib.Path, megabytes: int) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True)
    assert mounted.returncode == 0, f"a small file system is needed, which root may mount: {mounted.stderr}"


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Leaves no room; answers what to delete to have some again."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(b"f" * 4096):
                pass
        except OSError:
            pass
    return filler


def test_a_full_disk_is_said_and_loses_nothing_that_was_acknowledged():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-"))
    mount_small(folder, 96)
    platform = Platform(folder / "data", "--no-pipelines")
    try:
        filled(platform)
        epoch = shown(platform)["epoch"]
        filler = fill(folder)
        producer = Producer({"bootstrap.servers": platform.endpoints["kafka"], "message.timeout.ms": 90_000, "log_level": 0})
        for number in range(100, 200):
            producer.produce("kept", json.dumps({"id": f"row-{number}", "n": number}).encode())
        producer.poll(0)
        wait_for("the error", lambda: "No space left on device" in pathlib.Path(platform.err.name).read_text())
        producer.purge()
        filler.unlink()
        # The store under the broker takes nothing more after a failed write, so the platform has to be started again.
        platform.kill()
        platform.start()
        assert shown(platform)["epoch"] >= epoch
        produce(platform, range(100, 200))
        wait_for("the rows since", lambda: count(platform), 200)
        assert shown(platform)["epoch"] > epoch and shown(platform)["records_in"] >= 200
        assert platform.stop() == 0
    finally:
        if platform.process and platform.process.poll() is None:
            platform.kill()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("wrong, remedy", [("full", "free some space"), ("read-only", "make its file system writable")])
def test_a_platform_does_not_begin_in_a_folder_that_takes_no_writes(wrong, remedy):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-"))
    mount_small(folder, 2)
    platform = Platform(folder / "data", "--no-pipelines")
    platform.folder.mkdir()
    errors = pathlib.Path(tempfile.mkdtemp(prefix="polybolos-test-")) / "errors.txt"
    try:
        if wrong == "full":
            fill(folder)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        command = [BINARY, "up", "--data-dir", str(platform.folder), "--port-offset", str(platform.offset), "--no-pipelines"]
        with open(errors, "w") as file:
            assert subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=file, timeout=60).returncode == 1
        told = errors.read_text()
        assert told.startswith(f"error: the data folder {platform.folder} cannot be written: ") and told.count("\n") == 1, told
        assert remedy in told and "--data-dir" in told, told
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def test_a_cluster_whose_store_is_full_goes_on_by_itself_once_there_is_room(tmp_path):
    cluster = Cluster(tmp_path / "data", "--no-pipelines", "--executors", "1")
    store = cluster.folder / "store"
    store.mkdir(parents=True)
    mount_small(store, 16)
    try:
        filled(cluster)
        epoch = shown(cluster)["epoch"]
        filler = fill(store)
        produce(cluster, range(100, 200))
        told = wait_for("the error", lambda: "No space left on device" in ((job := shown(cluster))["error"] or "") and job)
        assert "free some space" in told["error"] and "\n" not in told["error"] and told["state"] == "waiting", told
        # Longer than a lease: who leads still does, and goes on telling.
        time.sleep(8)
        assert wait_for("the error", lambda: shown(cluster)["error"])
        assert (cluster.folder / "log" / "scheduler.log").read_text().count("this scheduler leads") == 1
        filler.unlink()
        wait_for("the rows since", lambda: count(cluster), 200)
        assert shown(cluster)["epoch"] > epoch and shown(cluster)["records_in"] == 200
        assert cluster.sql("SELECT count(*) AS n FROM polybolos.dead_letters WHERE job = 'kept_job'")[0]["n"] == 0
        assert cluster.stop() == 0
    finally:
        if cluster.process and cluster.process.poll() is None:
            cluster.kill()
        subprocess.run(["umount", "--lazy", str(store)], check=True)


def test_a_scheduler_that_starts_on_a_full_disk_says_what_it_waits_for(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log.txt"
    store.mkdir()
    mount_small(store, 1)
    filler = fill(store)
    own = {"POLYBOLOS_STORAGE_PATH": str(store), "POLYBOLOS_SCHEDULER_DATA_DIR": str(tmp_path), "POLYBOLOS_CASSANDRA_CONTACT_POINTS": "127.0.0.1:1"}
    process = subprocess.Popen([BINARY, "scheduler"], cwd=REPOSITORY, env=os.environ | own, stderr=open(log, "w"), stdout=subprocess.DEVNULL)
    try:
        told = wait_for("the scheduler waiting", lambda: [line for line in log.read_text().splitlines() if "waiting for the store" in line])
        assert len(told) == 1 and "No space left on device" in told[0] and "free some space" in told[0], told
        assert process.poll() is None
        filler.unlink()
        wait_for("the scheduler going on", lambda: "waiting for Cassandra" in log.read_text())
    finally:
        process.terminate()
        ended = process.wait(timeout=60)
        subprocess.run(["umount", "--lazy", str(store)], check=True)
    assert ended == 0


def test_a_full_disk_under_the_state_stops_the_job_until_there_is_room(fresh_platform):
    """A MiB has room for less than sixteen thousand groups; the others go to disk."""
    platform = fresh_platform("--no-pipelines", "--state-memory-mib", "1")
    spill = platform.folder / "spill"
    spill.mkdir(parents=True)
    mount_small(spill, 128)
    try:
        platform.start()
        platform.run(
            "sql",
            "-c",
            """
            CREATE TABLE words (word STRING) WITH ('connector' = 'kafka', 'topic' = 'words', 'format' = 'json');
            CREATE TABLE word_counts (word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED)
              WITH ('connector' = 'cassandra', 'keyspace' = 'disk', 'table' = 'word_counts', 'table.create' = 'true');
            CREATE JOB counting_words WITH ('state.unbounded' = 'allow') AS INSERT INTO word_counts SELECT word, count(*) FROM words GROUP BY word;
            """,
        )

        def produce_words(words: range) -> None:
            platform.run("topic", "produce", "words", stdin="".join(json.dumps({"word": f"word {number}"}) + "\n" for number in words))

        def counted() -> dict:
            return platform.sql("SELECT count(*) AS words, coalesce(sum(n), 0) AS records FROM word_counts")[0]

        def told() -> str:
            """What the job says, while it stands still."""
            job = shown(platform)
            return job["error"] if job["state"] == "waiting" and job["error"] in job["limiting"] else ""

        produce_words(range(5_000))
        wait_for("groups in memory", counted, {"words": 5_000, "records": 5_000})
        filler = fill(spill)
        # What an epoch adds goes to disk when the next one begins.
        for words, records in ((range(20_000), 25_000), (range(20_000, 40_000), 45_000), (range(1), 45_001)):
            produce_words(words)
            wait_for("an epoch, or the error", lambda records=records: told() or shown(platform)["records_in"] == records)
        error = wait_for("the error", lambda: "executor.work_dir" in (said := told()) and said)
        assert "\n" not in error and str(spill) in error and "Job failed" not in error and "Error(" not in error, error
        filler.unlink()
        wait_for("all groups", counted, {"words": 40_000, "records": 45_001})
        assert shown(platform)["records_in"] == 45_001
        assert platform.stop() == 0
    finally:
        if platform.process and platform.process.poll() is None:
            platform.kill()
        subprocess.run(["umount", "--lazy", str(spill)], check=True)
