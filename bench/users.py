"""`make bench-users`: the same user records from the same Kafka into the same Cassandra, by us and by Spark Structured Streaming with its
Cassandra connector, in turns. Both clocks start when the service is up and idle, and stop when the last row is in the table."""

import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from harness import REPOSITORY, Platform, Tree, cassandra, conditions, show
from records import fill

TOPIC = "users_created"
KEYSPACE = "spark_streams"
CACHE = pathlib.Path.home() / ".cache/polybolos"


def figures(who: str, records: int, wall: float, cpu: float, peak: int) -> dict:
    return {
        "who": who,
        "rows": records,
        "CPU-s": round(cpu, 1),
        "rows/CPU-s": round(records / cpu),
        "peak MB": round(peak / 2**20),
        "seconds": round(wall, 1),
        "rows/s": round(records / wall),
    }


def ours(records: int, table: str) -> dict:
    """A cluster of a scheduler and one executor; CPU and memory of both, and of the process that watches over them."""
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        platform.start_users(table)
        platform.wait_until_published(records, 1)
        return figures("polybolos", records, time.monotonic() - wall, platform.tree.cpu_seconds() - cpu, platform.tree.peak_bytes)


def spark(records: int, table: str) -> dict:
    """Its driver's two processes, from when its session is up until its query has ended."""
    jars = ",".join(str(jar) for jar in sorted((CACHE / "spark-jars").glob("*.jar")))
    with tempfile.TemporaryDirectory(prefix="polybolos-spark-") as home:
        environment = os.environ | {"BENCH_JARS": jars, "BENCH_TOPIC": TOPIC, "BENCH_TABLE": table, "BENCH_CHECKPOINT": f"{home}/checkpoint"}
        command = [str(CACHE / "spark-venv/bin/python"), str(REPOSITORY / "bench/spark/users.py")]
        with open(f"{home}/err", "w") as err:
            process = subprocess.Popen(
                command, cwd=home, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=err, text=True
            )
        tree = Tree(process.pid)

        def wait_for(word: str):
            for line in process.stdout:
                if line.strip() == word:
                    return
            raise SystemExit(f"Spark ended before {word!r}: {pathlib.Path(home, 'err').read_text()[-2000:]}")

        # It says when its session is up and when the query has ended, and waits each time for us to read the clocks.
        wait_for("session")
        cpu, wall = tree.cpu_seconds(), time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        wait_for("done")
        row = figures("spark", records, time.monotonic() - wall, tree.cpu_seconds() - cpu, tree.peak_bytes)
        tree.close()
        process.stdin.close()
        process.wait(timeout=60)
    return row


def check(session, table: str, records: int):
    """Counted by pages: one aggregate over all of the table would time out."""
    found = sum(1 for _ in session.execute(f"SELECT age FROM {KEYSPACE}.{table}", timeout=120))
    if found != records:
        raise SystemExit(f"table {table} has {found} rows, not {records}: the figures are worth nothing")


def create_like(session, table: str, model: str):
    columns = session.execute(
        "SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s", (KEYSPACE, model)
    )
    columns = ", ".join(f"{row.column_name} {row.type}" for row in columns)
    session.execute(f"CREATE TABLE {KEYSPACE}.{table} ({columns}, PRIMARY KEY (id))")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-spark", action="store_true")
    arguments = parser.parse_args()
    began = conditions()
    size = fill(TOPIC, arguments.records)
    print(f"{arguments.records} records of {size:.0f} bytes in Kafka")
    session = cassandra()
    rows = []
    for number in range(arguments.rounds):
        table = f"by_us_{number}"
        rows.append(ours(arguments.records, table))
        print(rows[-1], flush=True)
        check(session, table, arguments.records)
        if arguments.without_spark:
            continue
        other = f"by_spark_{number}"
        create_like(session, other, table)
        rows.append(spark(arguments.records, other))
        print(rows[-1], flush=True)
        check(session, other, arguments.records)
        for done in (table, other):
            session.execute(f"DROP TABLE {KEYSPACE}.{done}", timeout=120)
    bars = []
    if not arguments.without_spark:

        def middle(who: str, column: str) -> float:
            return statistics.median(row[column] for row in rows if row["who"] == who)

        def ratio(column: str) -> float:
            return middle("polybolos", column) / middle("spark", column)

        bars.append(("rows per CPU-second, times Spark's", ratio("rows/CPU-s"), ">=", 20))
        bars.append(("peak memory, share of Spark's", ratio("peak MB"), "<=", 0.1))
    show("users", rows, bars, began)


main()
