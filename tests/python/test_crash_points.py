"""Processes of a cluster die at named moments: after something is durable, before somebody is told. Each moment is armed, seen to have fired, and in the end every count is
exact."""

import os
import random
import re
import uuid

from conftest import REPOSITORY, wait_for
from test_upgrade import KEYS, STEP_MS, Orders, declare, declare_plain, rows

# Of jobs with state and of one without; the last two lie in an upgrade.
POINTS = [
    "state-part-synced",
    "part-synced",
    "manifest-before-swap",
    "manifest-after-swap",
    "publishing-before",
    "publishing-written",
    "compaction-read",
    "compaction-written",
]
UPGRADE_POINTS = ["upgrade-ended", "upgrade-changed"]
ROUNDS = -(-int(os.environ.get("POLYBOLOS_KILLS", 20)) // len(POINTS))
SEED = int(os.environ.get("POLYBOLOS_KILL_SEED", 20261130))

# By event time: a window has so many orders, and each order comes so many after the one before it of its key.
IN_A_WINDOW, APART = 60_000 // STEP_MS, len(KEYS)
DELAY_MS = 1_000
TIMED = """
CREATE TABLE {stem}_timed (k STRING, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '1' SECOND)
  WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json');
CREATE TABLE {stem}_minutes (least_v BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (least_v) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'upgrade', 'table' = '{stem}_minutes', 'table.create' = 'true');
CREATE TABLE {stem}_pairs (k STRING, seen BIGINT, n BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'upgrade', 'table' = '{stem}_pairs', 'table.create' = 'true');
CREATE JOB {stem}_minutes_job AS INSERT INTO {stem}_minutes SELECT min(v), count(*), sum(v)
  FROM TABLE(TUMBLE(TABLE {stem}_timed, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end EMIT ON WINDOW CLOSE;
CREATE JOB {stem}_pairs_job WITH ('state.unbounded' = 'allow') AS INSERT INTO {stem}_pairs SELECT a.k, count(*), count(b.v), sum(a.v - b.v)
  FROM {stem}_timed AS a LEFT JOIN {stem}_timed AS b
  ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '3' SECOND AND a.ts - INTERVAL '1' SECOND GROUP BY a.k;
"""


def minutes(cluster, stem: str) -> dict:
    return {row["least_v"]: (row["n"], row["total"]) for row in cluster.sql(f"SELECT * FROM {stem}_minutes")}


def closed_minutes(sent: int) -> dict:
    """Each partition's newest order is among the last three."""
    watermark_ms = (sent - 3) * STEP_MS - DELAY_MS
    firsts = [first for first in range(0, sent, IN_A_WINDOW) if (first + IN_A_WINDOW) * STEP_MS <= watermark_ms]
    return {first: (IN_A_WINDOW, sum(range(first, first + IN_A_WINDOW))) for first in firsts}


def pairs(cluster, stem: str) -> dict:
    return {row["k"]: (row["seen"], row["n"], row["total"]) for row in cluster.sql(f"SELECT * FROM {stem}_pairs")}


def test_every_crash_point_is_tested():
    found = set()
    for folder in ("crates", "scheduler", "executor"):
        for file in (REPOSITORY / folder).rglob("src/**/*.rs"):
            found |= set(re.findall(r'crash::point\("([a-z-]+)"\)', file.read_text()))
    assert found == set(POINTS + UPGRADE_POINTS)


def test_processes_that_die_at_named_moments_change_nothing(fresh_cluster, tmp_path, monkeypatch):
    armed = tmp_path / "points"
    armed.mkdir()
    monkeypatch.setenv("POLYBOLOS_CRASH_POINTS", str(armed))
    cluster = fresh_cluster()
    stem = f"crash_{uuid.uuid4().hex[:8]}"
    orders = Orders(cluster.kafka, stem)
    query = f"(k, n, total) SELECT k, count(*), sum(v) FROM {stem}_orders GROUP BY k"
    declare(cluster, stem, f"CREATE JOB {stem}_job AS INSERT INTO {stem} {query}")
    declare_plain(cluster, stem)
    cluster.run("sql", "-c", TIMED.format(stem=stem))

    def fire(point: str, meanwhile=lambda: None) -> None:
        (armed / f"{point}.fired").unlink(missing_ok=True)
        (armed / point).touch()
        meanwhile()
        wait_for(f"crash point {point}", lambda: (armed / f"{point}.fired").exists())
        assert not (armed / point).exists(), "it fires once"

    upgraded = f"{query} HAVING count(*) > 5"

    def upgrade():
        # Whether it is done, the one who asks is not told.
        pid = cluster.pid("scheduler")
        cluster.run("sql", "-c", f"UPGRADE JOB {stem}_job AS INSERT INTO {stem} {upgraded}", check=False)
        wait_for("another scheduler", lambda: cluster.pid("scheduler") != pid)

    print(f"{ROUNDS} rounds of {len(POINTS)} points, POLYBOLOS_KILL_SEED={SEED}")
    moments = random.Random(SEED)
    with orders.flowing():
        for _ in range(ROUNDS):
            for point in moments.sample(POINTS, len(POINTS)):
                fire(point)
        for point in UPGRADE_POINTS:
            wait_for("the job", lambda: cluster.sql(f"SELECT state FROM polybolos.jobs WHERE name = '{stem}_job'"))
            # The job goes on though the statement that held it is gone.
            fire(point, upgrade)
    assert sorted(file.name for file in armed.iterdir()) == sorted(f"{point}.fired" for point in POINTS + UPGRADE_POINTS)
    assert all(orders.sums[key][0] > 5 for key in KEYS)
    wait_for("exact counts", lambda: rows(cluster, stem), orders.sums)
    plain = lambda: cluster.sql(f"SELECT count(*) AS n, sum(v) AS total FROM {stem}_plain")  # noqa: E731
    wait_for("every row", plain, [{"n": orders.sent, "total": sum(range(orders.sent))}])
    closed = closed_minutes(orders.sent)
    assert len(closed) > 3, orders.sent
    wait_for("every window that closed, once", lambda: minutes(cluster, stem), closed)
    paired = {key: (n, n - 1, (n - 1) * APART) for key, (n, _) in orders.sums.items()}
    wait_for("every order beside the one before it of its key", lambda: pairs(cluster, stem), paired)
    assert "HAVING" in cluster.sql(f"SHOW CREATE JOB {stem}_job")[0]["create_statement"]
