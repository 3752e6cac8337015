"""Look-up joins: rows of a stream beside what a keyed table says when they come, in both stores."""

import json
import pathlib
import random
import threading
import time
import uuid

import pytest
from confluent_kafka import Producer
from conftest import hit, wait_for

SEED = 20261130
NEXMARK = pathlib.Path(__file__).parents[2] / "jobs" / "nexmark"
OPTIONS = "'connector' = 'cassandra', 'keyspace' = 'lookups', 'table.create' = 'true'"


@pytest.fixture
def stem():
    return f"l{uuid.uuid4().hex[:8]}"


def produce(system, topic: str, rows: list[dict]) -> None:
    system.run("topic", "produce", topic, stdin="".join(json.dumps(row) + "\n" for row in rows))


def declare(system, stem: str, cache: str = "") -> None:
    produce(system, stem, [{"id": 0, "customer": None, "region": "eu", "amount": 0}])
    system.sql(
        f"CREATE TABLE {stem}_orders (id BIGINT, customer INT, region STRING, amount BIGINT, proctime AS PROCTIME()) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {stem}_customers (region STRING, id BIGINT, name STRING, credit BIGINT, PRIMARY KEY ((region, id)) NOT ENFORCED) "
        f"WITH ({OPTIONS}{cache})"
    )
    customers = ", ".join(f"('eu', {number}, 'name {number}', {number * 10})" for number in range(1, 21))
    system.sql(f"INSERT INTO {stem}_customers VALUES {customers}, ('us', 1, 'another', 5)")
    system.sql(f"CREATE TABLE {stem}_out (id BIGINT, name STRING, PRIMARY KEY (id) NOT ENFORCED) WITH ({OPTIONS})")


def found(system, stem: str) -> dict:
    return {row["id"]: row["name"] for row in system.sql(f"SELECT id, name FROM {stem}_out")}


def error_of(system, stem: str) -> str:
    [job] = system.sql(f"SELECT error FROM polybolos.jobs WHERE name = '{stem}_job'")
    return job["error"]


@pytest.mark.parametrize("kind", ["JOIN", "LEFT JOIN"])
def test_rows_go_on_with_what_the_table_says_when_they_come(system, stem, kind):
    declare(system, stem)
    system.sql(
        f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT o.id, c.name FROM {stem}_orders AS o "
        f"{kind} {stem}_customers FOR SYSTEM_TIME AS OF o.proctime AS c ON o.customer = c.id AND o.region = c.region AND o.amount <= c.credit"
    )
    orders = [{"id": number, "customer": number % 30, "region": "eu", "amount": 100} for number in range(1, 61)]
    produce(system, stem, orders)
    # Of customers 1 to 20, those of credit.
    wanted = {order["id"]: f"name {order['customer']}" for order in orders if 10 <= order["customer"] <= 20}
    if kind == "LEFT JOIN":
        wanted = {order["id"]: wanted.get(order["id"]) for order in orders} | {0: None}
    wait_for("the first rows", lambda: found(system, stem), wanted)
    # What was written stays; what comes is beside what is there then.
    system.sql(f"INSERT INTO {stem}_customers VALUES ('eu', 10, 'renamed', 1000), ('eu', 25, 'new', 1000)")
    produce(system, stem, [{"id": 100, "customer": 10, "region": "eu", "amount": 1}, {"id": 101, "customer": 25, "region": "eu", "amount": 1}])
    wanted |= {100: "renamed", 101: "new"}
    wait_for("rows beside the changed table", lambda: found(system, stem), wanted)
    assert not error_of(system, stem)


def test_what_is_looked_up_is_verified_as_the_table_is_now(system, stem):
    declare(system, stem)
    system.sql(
        f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT o.id, c.name FROM {stem}_orders AS o "
        f"LEFT JOIN {stem}_customers FOR SYSTEM_TIME AS OF o.proctime AS c ON o.customer = c.id AND o.region = c.region"
    )
    produce(system, stem, [{"id": number, "customer": number, "region": "eu", "amount": 1} for number in range(1, 31)])
    wanted = {number: f"name {number}" if 1 <= number <= 20 else None for number in range(31)}
    wait_for("the rows", lambda: found(system, stem), wanted)
    told = system.run("job", "verify", f"{stem}_job").stderr
    assert "31 rows compared with 31 records: 0 differences" in told, told
    system.sql(f"INSERT INTO {stem}_customers VALUES ('eu', 10, 'renamed', 1000)")
    verified = system.run("job", "verify", f"{stem}_job", "--output", "json", check=False)
    assert verified.returncode == 4 and f"what the job looks up in {stem}_customers was taken as it is now" in verified.stderr, verified.stderr
    [difference] = [json.loads(line) for line in verified.stdout.splitlines()]
    assert (difference["difference"], difference["key"]) == ("changed", "id=10"), difference


def test_a_column_of_the_key_may_be_a_literal_and_what_is_looked_up_is_counted_and_kept(system, stem):
    declare(system, stem, ", 'lookup.cache.ttl' = '1 h', 'lookup.cache.max-rows' = '100'")
    system.sql(f"CREATE TABLE {stem}_totals (name STRING, n BIGINT, total BIGINT, PRIMARY KEY (name) NOT ENFORCED) WITH ({OPTIONS})")
    job = (
        f"CREATE JOB {stem}_job AS INSERT INTO {stem}_totals SELECT c.name, count(*), sum(o.amount) FROM {stem}_orders AS o "
        f"JOIN {stem}_customers FOR SYSTEM_TIME AS OF o.proctime AS c ON o.customer = c.id AND c.region = 'eu' GROUP BY c.name"
    )
    plan = "\n".join(row["plan"] for row in system.sql("EXPLAIN " + job))
    assert f"looks up lookups.{stem}_customers (inner) by [region, id], kept for 3600000 ms" in plan, plan
    system.sql(job)
    totals = lambda: {row["name"]: (row["n"], row["total"]) for row in system.sql(f"SELECT * FROM {stem}_totals")}  # noqa: E731
    orders = [{"id": number, "customer": number % 25, "region": "us", "amount": number} for number in range(200)]
    wanted: dict = {}
    for order in orders:
        if 1 <= order["customer"] <= 20:
            n, total = wanted.get(f"name {order['customer']}", (0, 0))
            wanted[f"name {order['customer']}"] = (n + 1, total + order["amount"])
    produce(system, stem, orders)
    wait_for("the totals", totals, wanted)
    # It is still taken for what it was.
    system.sql(f"INSERT INTO {stem}_customers VALUES ('eu', 1, 'renamed', 1)")
    produce(system, stem, [{"id": 1000, "customer": 1, "region": "eu", "amount": 7}])
    n, total = wanted["name 1"]
    wanted["name 1"] = (n + 1, total + 7)
    wait_for("the total of a customer that is kept", totals, wanted)


def test_what_is_looked_up_while_executors_and_schedulers_die_counts_once(fresh_cluster, stem):
    """Names change meanwhile, so a repeated look-up finds others: each order counts under one name of its customer."""
    cluster = fresh_cluster()
    declare(cluster, stem)
    cluster.sql(f"CREATE TABLE {stem}_totals (name STRING, n BIGINT, total BIGINT, PRIMARY KEY (name) NOT ENFORCED) WITH ({OPTIONS})")
    cluster.sql(
        f"CREATE JOB {stem}_job WITH ('state.unbounded' = 'allow') AS INSERT INTO {stem}_totals SELECT c.name, count(*), sum(o.amount) "
        f"FROM {stem}_orders AS o JOIN {stem}_customers FOR SYSTEM_TIME AS OF o.proctime AS c ON o.customer = c.id AND o.region = c.region GROUP BY c.name"
    )
    moments, sent, stopping = random.Random(SEED), [], threading.Event()

    def order():
        producer = Producer({"bootstrap.servers": cluster.kafka, "enable.idempotence": True, "log_level": 0})
        while not stopping.is_set():
            for customer in range(1, 21):
                sent.append(len(sent) + 1)
                producer.produce(stem, json.dumps({"id": sent[-1], "customer": customer, "region": "eu", "amount": sent[-1]}).encode())
            producer.poll(0)
            time.sleep(0.05)
        assert producer.flush(60) == 0

    orders = threading.Thread(target=order, daemon=True)
    orders.start()
    for version in range(3):
        renamed = ", ".join(f"('eu', {number}, 'name {number}, {version}', {number * 10})" for number in range(1, 21))
        wait_for("a scheduler", lambda renamed=renamed: cluster.run("sql", "-c", f"INSERT INTO {stem}_customers VALUES {renamed}", check=False).returncode == 0)
        # Of every four faults the last kills the scheduler, and the one before is a pause.
        assert hit(cluster, moments, 4, (0.3, 1.5), 5) == (3, 1)
    stopping.set()
    orders.join()
    totals = lambda: cluster.sql(f"SELECT sum(n) AS n, sum(total) AS total, count(*) AS names FROM {stem}_totals")[0]  # noqa: E731
    wait_for("every order", lambda: (found := totals())["n"] == len(sent) and found["total"] == sum(sent) and found["names"] > 20)
    # And every customer has what was ordered, under whichever names.
    per_customer: dict = {}
    for row in cluster.sql(f"SELECT name, n FROM {stem}_totals"):
        number = row["name"].split(",")[0].removeprefix("name ")
        per_customer[number] = per_customer.get(number, 0) + row["n"]
    assert per_customer == {str(number): len(sent) // 20 for number in range(1, 21)}


def test_what_is_looked_up_for_a_union_is_looked_up_for_its_branches_and_their_items(system, stem):
    declare(system, stem)
    produce(system, stem, [{"id": 1, "customer": 1, "region": "eu", "amount": 1}])
    produce(system, f"{stem}_b", [{"ids": [101, 102], "customer": 3, "region": "eu"}, {"ids": [103], "customer": 25, "region": "eu"}])
    system.sql(
        f"CREATE TABLE {stem}_baskets (ids ARRAY<BIGINT>, customer INT, region STRING) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}_b', 'format' = 'json')"
    )
    system.sql(
        f"CREATE VIEW {stem}_all AS SELECT id, customer, region FROM {stem}_orders "
        f"UNION ALL SELECT i.id, customer, region FROM {stem}_baskets AS b CROSS JOIN UNNEST(b.ids) AS i (id)"
    )
    job = (
        f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out SELECT a.id, c.name FROM {stem}_all AS a "
        f"LEFT JOIN {stem}_customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON a.customer = c.id AND a.region = c.region"
    )
    plan = "\n".join(row["plan"] for row in system.sql("EXPLAIN " + job))
    looks_up = f"looks up lookups.{stem}_customers (left) by [region, id]"
    assert plan.count(looks_up) == 2 and f"unnests; {looks_up}" in plan, plan
    system.sql(job)
    wanted = {0: None, 1: "name 1", 101: "name 3", 102: "name 3", 103: None}
    wait_for("the rows of both topics", lambda: found(system, stem), wanted)
    told = system.run("job", "verify", f"{stem}_job").stderr
    assert ": 0 differences" in told, told


def test_rows_in_several_windows_are_looked_up_for_and_their_groups_close(system, stem):
    declare(system, stem)
    times = {1: "2026-01-01 00:00:07.000", 2: "2026-01-01 00:00:11.000", 25: "2026-01-01 00:00:12.000"}
    produce(system, f"{stem}_t", [{"customer": customer, "ts": ts} for customer, ts in times.items()])
    system.sql(
        f"CREATE TABLE {stem}_timed (customer INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '1' SECOND) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}_t', 'format' = 'json')"
    )
    system.sql(
        f"CREATE TABLE {stem}_windows (name STRING, window_start TIMESTAMP(3), n BIGINT, PRIMARY KEY (name, window_start) NOT ENFORCED) WITH ({OPTIONS})"
    )
    job = (
        f"CREATE JOB {stem}_job AS INSERT INTO {stem}_windows SELECT c.name, w.window_start, count(*) "
        f"FROM TABLE(HOP(TABLE {stem}_timed, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND)) AS w "
        f"JOIN {stem}_customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON w.customer = c.id AND c.region = 'eu' "
        f"GROUP BY c.name, w.window_start, w.window_end"
    )
    plan = "\n".join(row["plan"] for row in system.sql("EXPLAIN " + job))
    assert f"unnests; looks up lookups.{stem}_customers (inner)" in plan and "dropped once the watermark passes" in plan, plan
    system.sql(job)
    counted = lambda: sorted((row["name"], row["n"]) for row in system.sql(f"SELECT name, n FROM {stem}_windows"))  # noqa: E731
    wait_for("two windows of each", counted, [("name 1", 1), ("name 1", 1), ("name 2", 1), ("name 2", 1)])


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (
            "SELECT o.id, c.name FROM {0}_orders AS o JOIN {0}_customers FOR SYSTEM_TIME AS OF o.proctime AS c ON o.customer = c.id",
            "without column region of its partition key (region, id)",
        ),
        (
            "SELECT o.n, c.name FROM (SELECT customer, region, count(*) AS n FROM {0}_orders GROUP BY customer, region) AS o "
            "JOIN {0}_customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON o.customer = c.id AND o.region = c.region",
            "groups of rows (GROUP BY, DISTINCT or UNION), and look-ups are made before, for each record by itself; look it up first",
        ),
        (
            "SELECT o.id, c.name FROM (SELECT a.id, b.customer, b.region FROM {0}_orders AS a JOIN {0}_orders AS b ON a.id = b.amount) AS o "
            "JOIN {0}_customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON o.customer = c.id AND o.region = c.region",
            "rows of a join, and look-ups are made before",
        ),
    ],
)
def test_what_cannot_be_looked_up_is_refused_by_name(system, stem, query, wanted):
    declare(system, stem)
    refused = system.run("sql", "-c", f"CREATE JOB {stem}_job AS INSERT INTO {stem}_out {query.format(stem)}", check=False)
    assert refused.returncode != 0 and wanted in refused.stderr, refused.stderr


def test_nexmark_q13(system):
    for file in ["00_tables.sql", "q13.sql"]:
        text = (NEXMARK / file).read_text()
        if file == "q13.sql":
            # The side input is there before the job.
            tables, job = text.split("CREATE JOB")
            system.run("sql", "-c", tables)
            rows = ", ".join(f"({key}, 'value {key}')" for key in range(0, 10_000, 3))
            system.sql(f"INSERT INTO side_input VALUES {rows}")
            text = "CREATE JOB" + job
        else:
            produce(system, "nexmark", [])
        system.run("sql", "-c", text)
    bids = [
        {"auction": 1000 + 37 * number, "bidder": number, "price": number * 100, "channel": "c", "url": "u",
         "dateTime": f"2026-01-01 00:00:{number % 60:02}.{number:03}", "extra": "x"}
        for number in range(500)
    ]
    produce(system, "nexmark", [{"event_type": 2, "bid": bid} for bid in bids])
    wanted = sorted((bid["bidder"], f"value {bid['auction'] % 10_000}") for bid in bids if bid["auction"] % 10_000 % 3 == 0)
    assert wanted
    wait_for(
        "every bid beside its side input",
        lambda: sorted((row["bidder"], row["value"]) for row in system.sql("SELECT bidder, value FROM nexmark_q13")) == wanted,
    )
