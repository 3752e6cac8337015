"""Jobs that write files, into a folder and into a bucket, while executors and the scheduler are killed at seeded moments: every row of the ledger is in one file,
once, and whoever reads meanwhile finds only whole files. What files cannot hold is refused by name."""

import io
import json
import os
import pathlib
import random
import threading
import time
from collections import Counter
from datetime import datetime, timedelta

import pyarrow
import pyarrow.parquet as parquet
import pytest
from conftest import create_topics, hit, wait_for
from load import Load

SEED = int(os.environ.get("POLYBOLOS_KILL_SEED", 20261125))
PARTITIONS = 3
BEGINNING = datetime(2026, 1, 1)
TOPIC = "files_ledger"

READINGS = f"""
CREATE TABLE readings (id BIGINT, sensor STRING, celsius DOUBLE, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND)
  WITH ('connector' = 'kafka', 'topic' = '{TOPIC}', 'format' = 'json', 'scan.watermark.idle-timeout' = '5 s');
"""


def statements(folder: pathlib.Path) -> str:
    return (
        READINGS
        + f"""
CREATE TABLE lines (id BIGINT, sensor STRING, celsius DOUBLE) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/lines', 'format' = 'json');
CREATE TABLE columns (id BIGINT, sensor STRING, celsius DOUBLE, ts TIMESTAMP(3))
  WITH ('connector' = 'filesystem', 'path' = 's3://shaky/out/columns', 'format' = 'parquet');
CREATE TABLE seconds (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/seconds', 'format' = 'parquet');
CREATE JOB lines_job AS INSERT INTO lines SELECT id, sensor, celsius FROM readings;
CREATE JOB columns_job AS INSERT INTO columns SELECT id, sensor, celsius, ts FROM readings WHERE id % 2 = 0;
CREATE JOB seconds_job AS INSERT INTO seconds SELECT window_start, count(*)
  FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end EMIT ON WINDOW CLOSE;
"""
    )


class Readings(Load):
    """Readings, which it keeps."""

    def __init__(self, servers: str):
        super().__init__(servers, SEED)
        self.rows: list[dict] = []

    def send_some(self) -> None:
        for _ in range(10):
            ts = BEGINNING + timedelta(milliseconds=2 * len(self.rows))
            row = {
                "id": len(self.rows),
                "sensor": self.random.choice(["Ρόδος", "line\nfeed", None]),
                "celsius": round(self.random.uniform(-20, 40), 3),
                "ts": ts.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            }
            self.rows.append(row)
            self.send(TOPIC, json.dumps(row).encode(), self.random.randrange(PARTITIONS))


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []


def lines(path: pathlib.Path) -> list[dict]:
    text = path.read_text()
    assert text.endswith("\n"), path
    return [json.loads(line) for line in text.splitlines()]


class Reader(threading.Thread):
    """Reads every file as soon as it is there; one that is not whole is an error."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(daemon=True)
        self.folder = folder
        self.stopping = threading.Event()
        self.seen: dict[pathlib.Path, int] = {}
        self.errors = []

    def run(self):
        while not self.stopping.is_set():
            for path in files(self.folder / "lines") + files(self.folder / "seconds"):
                if path not in self.seen:
                    try:
                        self.seen[path] = len(lines(path)) if path.suffix == ".json" else parquet.read_table(path).num_rows
                    except Exception as error:  # noqa: BLE001 - the test shows it
                        self.errors.append((path, error))
                        return
            time.sleep(0.005)


def test_every_row_is_in_one_file_once_whatever_is_killed_and_readers_see_whole_files(fresh_cluster, s3, tmp_path):
    allowed = {"POLYBOLOS_SQL_ALLOWED_LOCATIONS": f"{tmp_path},s3://shaky/out"}
    cluster = fresh_cluster(environment=s3.environment | allowed)
    create_topics(cluster.kafka, TOPIC, partitions=PARTITIONS)
    cluster.run("sql", "-c", statements(tmp_path))
    load, reader = Readings(cluster.kafka), Reader(tmp_path)
    load.start()
    reader.start()
    kills, pauses = hit(cluster, random.Random(SEED + 3), 8, (0.5, 2.0), 5)
    load.stop()
    assert kills >= 4 and pauses >= 2 and len(load.rows) > 1_000

    def caught_up():
        jobs = cluster.sql("SELECT name, records_in, lag_records, unpublished_epochs, error FROM polybolos.jobs WHERE name LIKE '%s_job'")
        jobs = [job for job in jobs if job["name"] in ("lines_job", "columns_job", "seconds_job")]
        assert len(jobs) == 3 and not any(job["error"] for job in jobs), jobs
        assert all(job["records_in"] >= len(load.rows) and not job["lag_records"] and not job["unpublished_epochs"] for job in jobs), jobs
        return True

    wait_for("the jobs catching up", caught_up)
    last = BEGINNING + timedelta(milliseconds=2 * (len(load.rows) - 1)) - timedelta(seconds=2)
    wanted = Counter(datetime.fromisoformat(row["ts"]).replace(microsecond=0) for row in load.rows)
    wanted = {start: n for start, n in wanted.items() if start + timedelta(seconds=1) <= last}
    assert len(wanted) > 3

    def closed():
        rows = [row for path in files(tmp_path / "seconds") for row in parquet.read_table(path).to_pylist()]
        assert len(rows) == len({row["window_start"] for row in rows}), rows
        return {row["window_start"]: row["n"] for row in rows} == wanted

    wait_for("the windows closing", closed)
    reader.stopping.set()
    reader.join()
    assert not reader.errors and len(reader.seen) > 20

    found = sorted((row for path in files(tmp_path / "lines") for row in lines(path)), key=lambda row: row["id"])
    assert found == [{name: row[name] for name in ("id", "sensor", "celsius")} for row in load.rows]

    stored = []
    for key in s3.keys("shaky"):
        assert key.startswith("out/columns/") and key.endswith(".parquet"), key
        body = wait_for("an answer", lambda: s3.client.get_object(Bucket="shaky", Key=key)["Body"].read())
        stored += parquet.read_table(io.BytesIO(body)).to_pylist()
    ledger = [row | {"ts": datetime.fromisoformat(row["ts"])} for row in load.rows if row["id"] % 2 == 0]
    assert sorted(stored, key=lambda row: row["id"]) == ledger

    # The same by SQL, from the folder and from the bucket.
    [counted] = cluster.sql("SELECT count(*) AS n, count(sensor) AS named, sum(id) AS ids FROM lines")
    named = sum(row["sensor"] is not None for row in load.rows)
    assert counted == {"n": len(load.rows), "named": named, "ids": sum(row["id"] for row in load.rows)}
    [counted] = cluster.sql("SELECT count(*) AS n, max(ts) AS newest, sum(id) AS ids FROM columns WHERE id >= 10")
    late = [row for row in ledger if row["id"] >= 10]
    assert (counted["n"], counted["ids"]) == (len(late), sum(row["id"] for row in late))
    assert datetime.fromisoformat(counted["newest"]) == late[-1]["ts"]


@pytest.fixture
def platform_with_files(fresh_platform, tmp_path):
    platform = fresh_platform("--no-pipelines", "--allow-location", str(tmp_path / "allowed"))
    platform.start()
    platform.run("sql", "-c", READINGS)
    return platform


def test_files_survive_a_killed_platform_and_a_restarted_job_writes_beside_the_earlier(platform_with_files, tmp_path):
    platform, folder = platform_with_files, tmp_path / "allowed/lines"
    table = f"CREATE TABLE lines (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}', 'format' = 'json')"
    platform.run("sql", "-c", f"{table}; CREATE JOB lines_job AS INSERT INTO lines SELECT id FROM readings;")
    ids = lambda: sorted(row["id"] for path in files(folder) for row in lines(path))  # noqa: E731
    platform.run("topic", "produce", TOPIC, stdin="".join(json.dumps({"id": number}) + "\n" for number in range(100)))
    wait_for("the files", ids, list(range(100)))
    platform.kill()
    platform.start()
    platform.run("topic", "produce", TOPIC, stdin="".join(json.dumps({"id": number}) + "\n" for number in range(100, 200)))
    wait_for("the files", ids, list(range(200)))
    replace = platform.run("sql", "-c", "RESTART JOB lines_job FROM EARLIEST REPLACE", check=False)
    assert replace.returncode and "REPLACE cannot take back files of table" in replace.stderr and "write KEEP" in replace.stderr
    platform.run("sql", "-c", "RESTART JOB lines_job FROM EARLIEST KEEP")
    wait_for("both runs' files", ids, sorted([*range(200), *range(200)]))
    assert len({path.name.rsplit("-", 3)[0] for path in files(folder)}) == 2


@pytest.mark.parametrize(
    "statement, why",
    [
        ("CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = '{folder}/../x', 'format' = 'json')", "without '..'"),
        ("CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}', 'format' = 'csv')", "'json', 'parquet'"),
        (
            "CREATE TABLE t (id BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}', 'format' = 'json')",
            "leave PRIMARY KEY out",
        ),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file:///elsewhere', 'format' = 'json')",
            "have an administrator add the place to sql.allowed_locations",
        ),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://lake/out', 'format' = 'json')",
            "have an administrator add the place to sql.allowed_locations",
        ),
        (
            "CREATE TABLE t (sensor STRING, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}', 'format' = 'parquet'); "
            "CREATE JOB j AS INSERT INTO t SELECT sensor, count(*) FROM readings GROUP BY sensor",
            "takes rows back that it wrote, and files of table t only take rows; write to a Cassandra or upsert-kafka table",
        ),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}', 'format' = 'json'); INSERT INTO t VALUES (1)",
            "are written by jobs only; write CREATE JOB",
        ),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/t', 'format' = 'json'); "
            "CREATE TABLE b (id BIGINT) WITH ('connector' = 'blackhole'); "
            "CREATE JOB j AS INSERT INTO b SELECT id FROM readings WHERE id NOT IN (SELECT id FROM t)",
            "table t has no file in file://{folder}/t; put them there first, as job j reads them once, when it starts",
        ),
        (
            "CREATE TABLE t (ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}', 'format' = 'json')",
            "leave WATERMARK out",
        ),
    ],
)
def test_what_files_cannot_be_is_refused_by_name(platform_with_files, tmp_path, statement, why):
    done = platform_with_files.run("sql", "-c", statement.replace("{folder}", str(tmp_path / "allowed")), check=False)
    assert done.returncode and why.replace("{folder}", str(tmp_path / "allowed")) in done.stderr, done.stderr
    assert not (tmp_path / "allowed").exists()


def test_a_job_reads_files_once_when_it_starts(platform_with_files, tmp_path):
    platform, folder = platform_with_files, tmp_path / "allowed"
    (folder / "rooms").mkdir(parents=True)
    (folder / "banned").mkdir()
    rooms = {"sensor": ["a", "b", "b"], "room": ["hall", "Küche", "attic"], "floor": [0, 1, 2]}
    parquet.write_table(pyarrow.table(rooms), folder / "rooms/first.parquet")
    (folder / "banned/list.json").write_text('{"id": 2}\n{"id": 5}\n')
    platform.run(
        "sql",
        "-c",
        f"""
CREATE TABLE rooms (sensor STRING, room STRING, floor BIGINT, area DOUBLE) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/rooms', 'format' = 'parquet');
CREATE TABLE banned (id BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/banned', 'format' = 'json');
CREATE TABLE placed (id BIGINT, room STRING, area DOUBLE, PRIMARY KEY (id, room) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'files', 'table' = 'placed', 'table.create' = 'true');
CREATE TABLE allowed (id BIGINT) WITH ('connector' = 'kafka', 'topic' = 'allowed', 'format' = 'json');
""",
    )
    assert platform.sql("SELECT * FROM rooms WHERE floor > 0 ORDER BY floor DESC") == [
        {"sensor": "b", "room": "attic", "floor": 2, "area": None},
        {"sensor": "b", "room": "Küche", "floor": 1, "area": None},
    ]
    placed = "INSERT INTO placed SELECT r.id, coalesce(o.room, '?'), o.area FROM readings AS r LEFT JOIN rooms AS o ON r.sensor = o.sensor"
    plan = platform.run("sql", "-c", f"EXPLAIN {placed}").stdout
    assert "all at once when the job starts" in plan and "keeps rows of the right (all there are)]" in plan, plan
    created = platform.run("sql", "-c", f"CREATE JOB placed_job AS {placed}")
    assert "grows" not in created.stderr, "what is joined with files is not kept"
    # Nothing of it is ever taken back, so a topic can have it.
    platform.run("sql", "-c", "CREATE JOB allowed_job AS INSERT INTO allowed SELECT id FROM readings WHERE id NOT IN (SELECT id FROM banned)")

    def produce(*readings: tuple[int, str]):
        platform.run("topic", "produce", TOPIC, stdin="".join(json.dumps({"id": id, "sensor": sensor}) + "\n" for id, sensor in readings))

    def found() -> tuple[list, list]:
        placed = sorted((row["id"], row["room"]) for row in platform.sql("SELECT id, room FROM placed"))
        return placed, sorted(row["id"] for row in platform.sql("SELECT id FROM allowed"))

    produce((1, "a"), (2, "b"))
    wait_for("both jobs", found, ([(1, "hall"), (2, "Küche"), (2, "attic")], [1]))
    verified = platform.run("job", "verify", "placed_job")
    assert "3 rows compared with 2 records" in verified.stderr and ": 0 differences" in verified.stderr, verified.stderr

    # What is read is the job's own: neither a crash nor other files change it.
    parquet.write_table(pyarrow.table({"sensor": ["a"], "room": ["cellar"]}), folder / "rooms/first.parquet")
    (folder / "banned/list.json").write_text('{"id": 2}\nnot an object\n')
    platform.kill()
    platform.start()
    produce((4, "a"), (5, "b"))
    now = [(1, "hall"), (2, "Küche"), (2, "attic"), (4, "hall"), (5, "Küche"), (5, "attic")]
    wait_for("both jobs", found, (now, [1, 4]))

    # A new run reads them anew.
    platform.run("sql", "-c", "RESTART JOB placed_job FROM EARLIEST REPLACE")
    wait_for("the new run", lambda: found()[0], [(1, "cellar"), (2, "?"), (4, "cellar"), (5, "?")])
    broken = platform.run("sql", "-c", "SELECT count(*) FROM banned", check=False)
    assert broken.returncode and "file list.json of table banned" in broken.stderr and "line 2" in broken.stderr, broken.stderr
