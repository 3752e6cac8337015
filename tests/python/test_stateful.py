"""Jobs with state while processes are killed and stopped at seeded moments: in the end every table holds what SQLite answers to the same
question over everything that was produced."""

import json
import os
import random
import sqlite3
import time
from datetime import datetime, timedelta

from conftest import create_topics, hit, wait_for
from load import Load

SEED = int(os.environ.get("POLYBOLOS_KILL_SEED", 20261125))
PARTITIONS = 3
BEGINNING = datetime(2026, 1, 1)
KILLS = int(os.environ.get("POLYBOLOS_KILLS", 20))

TABLES = """
CREATE TABLE orders (id BIGINT, customer STRING, amount BIGINT, kind STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND)
  WITH ('connector' = 'kafka', 'topic' = 'orders', 'format' = 'json', 'scan.watermark.idle-timeout' = '5 s');
CREATE TABLE customers (id STRING, city STRING) WITH ('connector' = 'kafka', 'topic' = 'customers', 'format' = 'json');
"""

# Name -> (columns, key, query). The queries are read by Polybolos and by SQLite.
JOBS = {
    "per_customer": (
        "customer STRING, n BIGINT, total BIGINT, low BIGINT, high BIGINT, mean DOUBLE, kinds BIGINT",
        "customer",
        "SELECT customer, count(*), sum(amount), min(amount), max(amount), avg(amount), count(DISTINCT kind) FROM orders GROUP BY customer",
    ),
    # Rows come and go.
    "sometimes": (
        "customer STRING, total BIGINT",
        "customer",
        "SELECT customer, sum(amount) FROM orders GROUP BY customer HAVING sum(amount) % 7 < 3",
    ),
    "per_city": (
        "city STRING, n BIGINT, total BIGINT",
        "city",
        "SELECT c.city, count(*), sum(o.amount) FROM orders o JOIN customers c ON o.customer = c.id GROUP BY c.city",
    ),
    "everybody": (
        "id STRING, city STRING, n BIGINT, high BIGINT",
        "id",
        "SELECT c.id, c.city, count(o.id), max(o.amount) FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY c.id, c.city",
    ),
    "largest": (
        "customer STRING, place BIGINT, id BIGINT, amount BIGINT",
        "customer, place",
        "SELECT customer, place, id, amount FROM (SELECT customer, id, amount, "
        "ROW_NUMBER() OVER (PARTITION BY customer ORDER BY amount DESC NULLS LAST, id) AS place FROM orders) AS numbered WHERE place <= 3",
    ),
    # An aggregate over rows that change.
    "mean_high": (
        "city STRING, mean DOUBLE, high BIGINT",
        "city",
        "SELECT c.city, avg(m.high), max(m.high) FROM (SELECT customer, max(amount) AS high FROM orders GROUP BY customer) AS m "
        "JOIN customers c ON m.customer = c.id GROUP BY c.city",
    ),
}


# Windows come out once, when the watermark has closed them.
CLOSED = """
CREATE TABLE closed (window_start TIMESTAMP(3), n BIGINT, total BIGINT, PRIMARY KEY (window_start) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'test', 'table' = 'closed', 'table.create' = 'true');
CREATE JOB closed_job AS INSERT INTO closed SELECT window_start, count(*), sum(amount)
  FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end EMIT ON WINDOW CLOSE;
"""


def statements(parallelism: int = 1) -> str:
    spread = f"WITH ('parallelism' = '{parallelism}')"
    text = TABLES + CLOSED.replace("closed_job AS", f"closed_job {spread} AS")
    for name, (columns, key, query) in JOBS.items():
        text += (
            f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}) NOT ENFORCED) "
            f"WITH ('connector' = 'cassandra', 'keyspace' = 'test', 'table' = '{name}', 'table.create' = 'true');\n"
            f"CREATE JOB {name}_job {spread} AS INSERT INTO {name} {query};\n"
        )
    return text


class Shop(Load):
    """Orders and customers, which it keeps."""

    def __init__(self, servers: str):
        super().__init__(servers, SEED)
        self.orders, self.customers = [], []

    def send_some(self) -> None:
        for _ in range(10):
            order = {
                "id": len(self.orders),
                "customer": f"c{self.random.randrange(60)}" if self.random.random() < 0.97 else None,
                "amount": self.random.randrange(1000) if self.random.random() < 0.95 else None,
                "kind": self.random.choice(["cash", "card", "girò", None]),
                # Every partition's times ascend.
                "ts": (BEGINNING + timedelta(milliseconds=2 * len(self.orders))).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            }
            self.orders.append(order)
            self.send("orders", json.dumps(order).encode(), self.random.randrange(PARTITIONS))
        if len(self.customers) < 50 and self.random.random() < 0.2:
            customer = {"id": f"c{len(self.customers)}", "city": self.random.choice(["Rhodes", "Syracuse", "Αλεξάνδρεια"])}
            self.customers.append(customer)
            self.send("customers", json.dumps(customer).encode(), 0)

    def answers(self) -> dict[str, list[tuple]]:
        oracle = sqlite3.connect(":memory:")
        oracle.execute("CREATE TABLE orders (id INTEGER, customer TEXT, amount INTEGER, kind TEXT)")
        oracle.execute("CREATE TABLE customers (id TEXT, city TEXT)")
        oracle.executemany("INSERT INTO orders VALUES (:id, :customer, :amount, :kind)", self.orders)
        oracle.executemany("INSERT INTO customers VALUES (:id, :city)", self.customers)
        answers = {}
        for name, (columns, key, query) in JOBS.items():
            keys = len(key.split(","))
            rows = oracle.execute(query).fetchall()
            # A NULL key is no key of a table: such rows are dead letters.
            answers[name] = sorted(row for row in rows if all(value is not None for value in row[:keys]))
        return answers


    def windows(self) -> dict[str, tuple]:
        """What the watermark has closed once every partition is idle."""
        end = BEGINNING + timedelta(milliseconds=2 * (len(self.orders) - 1)) - timedelta(seconds=2)
        found: dict[str, list] = {}
        for order in self.orders:
            start = datetime.fromisoformat(order["ts"]).replace(microsecond=0)
            if start + timedelta(seconds=1) <= end:
                found.setdefault(start.strftime("%Y-%m-%dT%H:%M:%SZ"), []).append(order["amount"])
        total = lambda amounts: sum(amount for amount in amounts if amount is not None)  # noqa: E731
        return {start: (len(amounts), total(amounts)) for start, amounts in found.items()}


def table(platform, name: str) -> list[tuple]:
    columns = [column.split()[0] for column in JOBS[name][0].split(", ")]
    return sorted(tuple(row[column] for column in columns) for row in platform.sql(f"SELECT * FROM {name}"))


def same(found: list[tuple], wanted: list[tuple]) -> bool:
    def near(a, b):
        return abs(a - b) <= 1e-9 * max(1.0, abs(a), abs(b)) if isinstance(a, float) and isinstance(b, float) else a == b

    return len(found) == len(wanted) and all(all(map(near, a, b)) for a, b in zip(found, wanted))


def check(platform, load: Shop, patience_s: float = 120) -> None:
    reads_customers = {"per_city", "everybody", "mean_high"}
    wanted = {name: len(load.orders) + (len(load.customers) if name in reads_customers else 0) for name in JOBS}

    def caught_up():
        jobs = {job["name"]: job for job in platform.sql("SELECT name, state, records_in, lag_records, unpublished_epochs, error FROM polybolos.jobs")}
        mine = [jobs[f"{name}_job"] for name in JOBS]
        assert not any(job["error"] for job in mine), mine
        behind = [
            job
            for job in mine
            if job["lag_records"] or job["unpublished_epochs"] or job["records_in"] < wanted[job["name"].removesuffix("_job")]
        ]
        assert not behind, behind
        return True

    wait_for("the jobs catching up", caught_up, patience_s=patience_s)
    # Others that share the Cassandra have late rows of their own.
    mine = {"closed_job", *(f"{name}_job" for name in JOBS)}
    late = [row for row in platform.sql("SELECT * FROM polybolos.late_rows") if row["job"] in mine]
    assert not late, late[:20]
    windows = load.windows()
    closed = lambda: {row["window_start"]: (row["n"], row["total"]) for row in platform.sql("SELECT * FROM closed")}  # noqa: E731
    assert len(windows) > 3
    wait_for("the windows closing", closed, windows)
    for name, rows in load.answers().items():
        assert rows, name
        found = table(platform, name)
        assert same(found, rows), (name, [row for row in found if row not in rows][:5], [row for row in rows if row not in found][:5])


def test_a_platform_with_stateful_jobs_killed_twenty_times_answers_as_sqlite_does(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    platform.run("sql", "-c", statements())
    load = Shop(platform.endpoints["kafka"])
    load.start()
    moments = random.Random(SEED + 1)
    print(f"{KILLS} kills, POLYBOLOS_KILL_SEED={SEED}")
    killed = 0
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.3, 1.2))
        assert platform.process.poll() is None, f"the platform ended by itself: {platform.errors()}"
        platform.kill()
        killed += 1
        platform.start()
    load.stop()
    assert killed == KILLS and len(load.orders) > 1_000 and len(load.customers) > 20
    check(platform, load)
    assert platform.stop() == 0


def begun(cluster, parallelism: int) -> Shop:
    """The jobs run, each on so many executors, and what they read comes."""
    create_topics(cluster.kafka, "orders", partitions=PARTITIONS)
    create_topics(cluster.kafka, "customers")
    cluster.run("sql", "-c", statements(parallelism))
    load = Shop(cluster.kafka)
    load.start()
    return load


def test_a_cluster_with_jobs_spread_over_executors_under_kills_and_pauses_answers_as_sqlite_does(fresh_cluster):
    cluster = fresh_cluster()
    load = begun(cluster, 3)
    readers = lambda: {row["executor"] for row in cluster.sql("SELECT topic, executor FROM polybolos.partitions WHERE job = 'per_customer_job'")}  # noqa: E731
    wait_for("three executors sharing the job", lambda: len(readers()), 3)
    # A pause is longer than the lease and the publisher's grant.
    kills, pauses = hit(cluster, random.Random(SEED + 2), 8, (0.5, 2.0), 5)
    load.stop()
    assert kills >= 4 and pauses >= 2
    check(cluster, load, 180)
