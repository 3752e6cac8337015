"""Processes of a cluster die at named moments: after something is durable, before somebody is told. Each moment is armed, seen to have fired, and in the end every count is
exact."""

import os
import random
import re
import uuid

from conftest import REPOSITORY, wait_for
from test_upgrade import KEYS, Orders, declare, declare_plain, rows

# Of a job with state and of one without; the last two lie in an upgrade.
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
    assert "HAVING" in cluster.sql(f"SHOW CREATE JOB {stem}_job")[0]["create_statement"]
