"""Jobs that write to Kafka while kill -9 hits the processes: a job fills a topic, another reads it and fills a table, a third keeps one
record per key in a topic, and a fourth follows that topic's rows as they change and go. In the end readers of committed records find every row once, and every column right."""

import json
import os
import random
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from conftest import create_topics, hit, wait_for
from load import Load

SEED = int(os.environ.get("POLYBOLOS_KILL_SEED", 20261126))
PARTITIONS = 3

TABLES = """
CREATE TABLE chain_in (id BIGINT, customer STRING, amount BIGINT, price STRING, ts TIMESTAMP(3))
  WITH ('connector' = 'kafka', 'topic' = 'chain_in', 'format' = 'json');
CREATE TABLE chain_mid (id BIGINT, customer STRING, price DECIMAL(12, 2), raw BYTES, ts TIMESTAMP(3))
  WITH ('connector' = 'kafka', 'topic' = 'chain_mid', 'format' = 'json');
CREATE TABLE chain_out (id BIGINT, customer STRING, price DOUBLE, ts TIMESTAMP(3), PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'test', 'table' = 'chain_out', 'table.create' = 'true');
CREATE TABLE chain_latest (customer STRING, n BIGINT, total BIGINT, PRIMARY KEY (customer) NOT ENFORCED)
  WITH ('connector' = 'upsert-kafka', 'topic' = 'chain_latest', 'key.format' = 'json', 'value.format' = 'json');
CREATE JOB chain_first AS INSERT INTO chain_mid
  SELECT id, customer, CAST(price AS DECIMAL(12, 2)), CAST(customer AS BYTEA) AS raw, ts FROM chain_in WHERE id % 3 <> 0;
CREATE JOB chain_second AS INSERT INTO chain_out SELECT id, customer, price, ts FROM chain_mid;
CREATE JOB chain_third WITH ('parallelism' = '2') AS INSERT INTO chain_latest
  SELECT customer, count(*), sum(amount) FROM chain_in GROUP BY customer HAVING sum(amount) % 5 < 3;
CREATE TABLE chain_by_rest (rest BIGINT, customers BIGINT, total BIGINT, PRIMARY KEY (rest) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'test', 'table' = 'chain_by_rest', 'table.create' = 'true');
CREATE JOB chain_fourth WITH ('state.unbounded' = 'allow') AS INSERT INTO chain_by_rest
  SELECT n % 7, count(*), sum(total) FROM chain_latest GROUP BY n % 7;
"""
JOBS = ("chain_first", "chain_second", "chain_third", "chain_fourth")


class Chain(Load):
    """What the first job reads; it keeps it."""

    def __init__(self, servers: str):
        super().__init__(servers, SEED)
        self.rows: list[dict] = []

    def send_some(self) -> None:
        for _ in range(10):
            number = len(self.rows)
            row = {
                "id": number,
                "customer": self.random.choice(["Zoé", "علی", "李雷", "O'Brien", 'quo"te']) + str(self.random.randrange(8)),
                "amount": self.random.randrange(100),
                "price": None if self.random.random() < 0.1 else f"{number}.{number % 100:02}",
                "ts": f"2026-01-01 00:{number // 60_000 % 60:02}:{number // 1000 % 60:02}.{number % 1000:03}",
            }
            self.rows.append(row)
            self.send("chain_in", json.dumps(row).encode(), number % PARTITIONS)


def read_committed(servers: str, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values in the order of their partitions' offsets, up to the last stable offset."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "oracle", "enable.partition.eof": True, "isolation.level": "read_committed"}
    )
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    records, finished = [], set()
    while len(finished) < len(partitions):
        message = consumer.poll(10)
        assert message is not None, f"topic {topic} cannot be read"
        if message.error():
            finished.add(message.partition())
            continue
        records.append((message.key(), message.value()))
    consumer.close()
    return records


def kept(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["id"] % 3]


def per_customer(rows: list[dict]) -> dict[str, tuple[int, int]]:
    answer: dict[str, list[int]] = {}
    for row in rows:
        answer.setdefault(row["customer"], []).append(row["amount"])
    totals = {customer: (len(amounts), sum(amounts)) for customer, amounts in answer.items()}
    return {customer: answer for customer, answer in totals.items() if answer[1] % 5 < 3}


def latest(servers: str) -> tuple[dict[str, tuple[int, int]], int]:
    """What last records and tombstones leave, and how many tombstones there are."""
    rows: dict[str, tuple[int, int]] = {}
    tombstones = 0
    for key, value in read_committed(servers, "chain_latest"):
        customer = json.loads(key)["customer"]
        if value is None:
            tombstones += 1
            assert rows.pop(customer, None), f"{customer} is deleted and was not there"
        else:
            row = json.loads(value)
            assert row["customer"] == customer
            rows[customer] = (row["n"], row["total"])
    return rows, tombstones


def check(platform, servers: str, load: Chain, patience_s: float) -> None:
    rows = load.rows
    wanted = {"chain_first": len(rows), "chain_second": len(kept(rows)), "chain_third": len(rows), "chain_fourth": 0}

    def caught_up():
        jobs = {job["name"]: job for job in platform.sql("SELECT name, records_in, lag_records, unpublished_epochs, error FROM polybolos.jobs")}
        assert not any(jobs[name]["error"] for name in JOBS), jobs
        behind = [
            jobs[name]
            for name in JOBS
            if jobs[name]["records_in"] < wanted[name] or jobs[name]["lag_records"] or jobs[name]["unpublished_epochs"]
        ]
        assert not behind, (behind, wanted)
        return jobs

    jobs = wait_for("the jobs catching up", caught_up, patience_s=patience_s)
    assert {name: jobs[name]["records_in"] for name in JOBS[:3]} == {name: wanted[name] for name in JOBS[:3]}

    # The topic: every row once, as Flink would write it.
    found = Counter(value for _, value in read_committed(servers, "chain_mid"))
    assert max(found.values()) == 1, found.most_common(3)
    texts = {json.loads(value)["id"]: json.loads(value, parse_float=str) for value in found}
    assert sorted(texts) == [row["id"] for row in kept(rows)]
    for row in kept(rows):
        text = texts[row["id"]]
        assert (text["customer"], text["price"], text["ts"]) == (row["customer"], row["price"], row["ts"]), (row, text)

    # What the next job made of it.
    table = {row["id"]: row for row in platform.sql("SELECT id, customer, price, ts FROM chain_out LIMIT 1000000")}
    count = platform.sql("SELECT count(*) AS n, sum(id) AS total FROM chain_out")[0]
    assert (count["n"], count["total"]) == (len(kept(rows)), sum(row["id"] for row in kept(rows)))
    for row in kept(rows):
        if row["id"] in table:
            other = table[row["id"]]
            assert other["customer"] == row["customer"], (row, other)
            assert (other["price"] is None) == (row["price"] is None), (row, other)
            assert row["price"] is None or float(other["price"]) == float(row["price"]), (row, other)

    # The topic of one record per key. Kafka answers a commit before its markers are where readers look.
    wait_for("the last transaction", lambda: latest(servers)[0], per_customer(rows))
    assert latest(servers)[1] > 0

    # Who follows it: rows that changed are counted once, rows that are gone not at all.
    by_rest: dict[int, list[int]] = {}
    for n, total in per_customer(rows).values():
        by_rest.setdefault(n % 7, []).append(total)
    wanted_rows = {rest: (len(totals), sum(totals)) for rest, totals in by_rest.items()}
    followed = lambda: {row["rest"]: (row["customers"], row["total"]) for row in platform.sql("SELECT * FROM chain_by_rest")}  # noqa: E731
    wait_for("the job that follows it", followed, wanted_rows)
    kept_rows = platform.sql("SELECT customer, n, total FROM chain_latest")
    assert {row["customer"]: (row["n"], row["total"]) for row in kept_rows} == per_customer(rows)

    assert platform.sql("SELECT count(*) AS n FROM polybolos.dead_letters WHERE job LIKE 'chain_%'")[0]["n"] == 0


def test_embedded_topics_hold_every_row_once_under_kills(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    platform.run("sql", "-c", TABLES)
    servers = platform.endpoints["kafka"]
    load = Chain(servers)
    load.start()
    moments = random.Random(SEED + 1)
    kills = 0
    for _ in range(8):
        time.sleep(moments.uniform(0.5, 2.0))
        assert platform.process.poll() is None, f"the platform ended by itself: {platform.errors()}"
        platform.kill()
        kills += 1
        platform.start()
    time.sleep(1)
    load.stop()
    assert kills == 8 and load.acknowledged == len(load.rows) > 1_000
    check(platform, servers, load, 120)
    assert platform.stop() == 0


def test_real_topics_hold_every_row_once_under_kills_and_pauses(fresh_cluster):
    cluster = fresh_cluster()
    create_topics(cluster.kafka, "chain_in", partitions=PARTITIONS)
    cluster.run("sql", "-c", TABLES)
    load = Chain(cluster.kafka)
    load.start()
    # A pause is longer than a publisher's grant: it wakes up with its transaction open, and is fenced.
    kills, pauses = hit(cluster, random.Random(SEED + 2), 8, (1.0, 2.5), 4)
    load.stop()
    assert kills >= 4 and pauses >= 2
    check(cluster, cluster.kafka, load, 180)


REFUSED = [
    (
        "CREATE JOB refused AS INSERT INTO appended SELECT customer, count(*) FROM feed GROUP BY customer",
        ["takes rows back", "appended", "'upsert-kafka'", "EMIT ON WINDOW CLOSE"],
    ),
    ("CREATE JOB refused AS INSERT INTO stamped SELECT customer, now() FROM feed", ["at_time", "METADATA VIRTUAL"]),
    ("CREATE JOB refused AS INSERT INTO keyed_by_number SELECT MAP([1], ['a']) FROM feed", ["text keys"]),
    (
        "CREATE TABLE t (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts, PRIMARY KEY (k) NOT ENFORCED)"
        " WITH ('connector' = 'upsert-kafka', 'topic' = 't', 'key.format' = 'json', 'value.format' = 'json')",
        ["changes rows", "WATERMARK", "'connector' = 'kafka'"],
    ),
    (
        "CREATE TABLE t (k STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'upsert-kafka', 'topic' = 't', 'key.format' = 'json',"
        " 'value.format' = 'json', 'scan.startup.mode' = 'latest-offset')",
        ["scan.startup.mode", "earliest"],
    ),
    (
        "CREATE TABLE t (k STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'debezium-json',"
        " 'scan.startup.mode' = 'latest-offset')",
        ["scan.startup.mode", "earliest"],
    ),
    (
        "CREATE JOB refused WITH ('start' = 'latest-offset', 'state.unbounded' = 'allow') AS INSERT INTO latest_too SELECT customer, n + 1 FROM latest",
        ["latest", "all records of their keys", "earliest"],
    ),
    (
        "CREATE TABLE t (k INT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'upsert-kafka', 'topic' = 't', 'key.format' = 'raw', 'value.format' = 'json')",
        ["'raw'", "STRING or BYTES", "'json'"],
    ),
    ("CREATE JOB refused AS INSERT INTO copy SELECT * FROM latest", ["takes rows back", "copy", "'upsert-kafka'"]),
    ("CREATE TABLE t (k STRING) WITH ('connector' = 'upsert-kafka', 'topic' = 't', 'key.format' = 'json', 'value.format' = 'json')", ["PRIMARY KEY"]),
    ("CREATE TABLE t (k STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json')", ["'upsert-kafka'"]),
]


@pytest.fixture(scope="module")
def declared():
    """A platform with tables to be refused on."""
    import pathlib
    import tempfile

    from conftest import Platform, running

    with tempfile.TemporaryDirectory(prefix="polybolos-test-") as folder, running(Platform(pathlib.Path(folder) / "data", "--no-pipelines")) as platform:
        kafka = "WITH ('connector' = 'kafka', 'topic' = '{}', 'format' = 'json')"
        platform.run(
            "sql",
            "-c",
            f"CREATE TABLE feed (customer STRING, amount BIGINT) {kafka.format('feed')};"
            f"CREATE TABLE appended (customer STRING, n BIGINT) {kafka.format('appended')};"
            f"CREATE TABLE copy (customer STRING, n BIGINT) {kafka.format('copy')};"
            f"CREATE TABLE stamped (customer STRING, at_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp') {kafka.format('stamped')};"
            f"CREATE TABLE keyed_by_number (m MAP<INT, STRING>) {kafka.format('keyed')};"
            "CREATE TABLE latest (customer STRING, n BIGINT, PRIMARY KEY (customer) NOT ENFORCED) WITH ('connector' = 'upsert-kafka',"
            " 'topic' = 'latest', 'key.format' = 'json', 'value.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY');"
            "CREATE TABLE latest_too (customer STRING, n BIGINT, PRIMARY KEY (customer) NOT ENFORCED) WITH ('connector' = 'upsert-kafka',"
            " 'topic' = 'latest_too', 'key.format' = 'json', 'value.format' = 'json');",
        )
        yield platform


@pytest.mark.parametrize(("statement", "words"), REFUSED)
def test_what_a_topic_cannot_take_is_refused_by_name(declared, statement, words):
    done = declared.run("sql", "-c", statement, check=False)
    assert done.returncode != 0, done.stdout
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def test_rows_of_a_statement_go_to_a_topic_together(declared):
    servers = declared.endpoints["kafka"]
    declared.run("sql", "-c", "INSERT INTO appended VALUES ('Ada', 1), ('Zoé', 2), (NULL, 3)")
    found = [json.loads(value) for _, value in read_committed(servers, "appended")]
    assert sorted(found, key=lambda row: row["n"]) == [
        {"customer": "Ada", "n": 1},
        {"customer": "Zoé", "n": 2},
        {"customer": None, "n": 3},
    ]
    declared.run("sql", "-c", "INSERT INTO latest VALUES ('Ada', 1), ('Ada', 2)")
    assert read_committed(servers, "latest") == [(b'{"customer":"Ada"}', b'{"n":1}'), (b'{"customer":"Ada"}', b'{"n":2}')]
    refused = declared.run("sql", "-c", "INSERT INTO latest VALUES ('Bob', 1), (NULL, 2)", check=False)
    assert refused.returncode != 0 and "customer" in refused.stderr, refused.stderr
    assert len(read_committed(servers, "latest")) == 2, "all rows or none"
    assert declared.sql("SELECT customer, n FROM latest") == [{"customer": "Ada", "n": 2}]
    assert declared.sql("SELECT customer, n FROM appended WHERE n = 2") == [{"customer": "Zoé", "n": 2}]


def test_a_dropped_job_leaves_no_positions_behind(declared):
    servers = declared.endpoints["kafka"]
    internal = lambda: [name for name in AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics if name.startswith("__polybolos")]  # noqa: E731
    declared.run("sql", "-c", "CREATE JOB copying AS INSERT INTO copy SELECT customer, amount FROM feed")
    assert len(internal()) == 1
    declared.run("sql", "-c", "INSERT INTO feed VALUES ('Ada', 7)")
    wait_for("the copy", lambda: declared.sql("SELECT * FROM copy"), [{"customer": "Ada", "n": 7}])
    beside = declared.run("sql", "-c", "INSERT INTO copy VALUES ('Bob', 1)", check=False)
    assert beside.returncode != 0 and "filled by job copying" in beside.stderr, beside.stderr
    declared.run("sql", "-c", "DROP JOB copying")
    assert internal() == []


def test_letters_also_go_to_the_topics_that_a_job_names(declared):
    servers = declared.endpoints["kafka"]
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    # One partition: no other holds the watermark back.
    create_topics(servers, "timed")
    declared.run(
        "sql",
        "-c",
        "CREATE TABLE timed (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 'timed', 'format' = 'json');"
        "CREATE TABLE nowhere (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'blackhole');"
        "CREATE JOB letters WITH ('dead_letters.topic' = 'letters_dead', 'late_rows.topic' = 'letters_late') AS INSERT INTO nowhere"
        " SELECT window_start, count(*) FROM TABLE(TUMBLE(TABLE timed, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end;",
    )
    sent = 0

    def send(payload: bytes) -> None:
        nonlocal sent
        producer.produce("timed", payload, partition=0)
        assert producer.flush(60) == 0
        sent += 1
        records_in = lambda: declared.sql("SELECT records_in FROM polybolos.jobs WHERE name = 'letters'")[0]["records_in"]  # noqa: E731
        wait_for("the record", records_in, sent)

    send(b'{"k": "a", "ts": "2026-01-01 00:00:10.000"}')
    send(b"{broken")
    send(b'{"k": "b", "ts": "2026-01-01 00:02:10.000"}')
    # Lateness is judged by what was recorded before.
    send(b'{"k": "late", "ts": "2026-01-01 00:00:20.000"}')
    for topic, table in (("letters_dead", "dead_letters"), ("letters_late", "late_rows")):
        [row] = wait_for(table, lambda table=table: declared.sql(f"SELECT id, error, raw_bytes FROM polybolos.{table} WHERE job = 'letters'"))
        [(key, value)] = wait_for(topic, lambda topic=topic: read_committed(servers, topic))
        letter = json.loads(value)
        assert json.loads(key) == {"id": row["id"]}
        assert (letter["id"], letter["error"], letter["raw_bytes"]) == (row["id"], row["error"], row["raw_bytes"])
        assert (letter["job"], letter["topic"], letter["topic_partition"]) == ("letters", "timed", 0)


def test_earlier_rows_of_a_topic_are_kept_by_a_restart(declared):
    declared.run(
        "sql",
        "-c",
        "CREATE TABLE keeping_in (k STRING) WITH ('connector' = 'kafka', 'topic' = 'keeping_in', 'format' = 'json');"
        "CREATE TABLE keeping (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'upsert-kafka', 'topic' = 'keeping',"
        " 'key.format' = 'json', 'value.format' = 'json');"
        "CREATE JOB keeping_job WITH ('state.unbounded' = 'allow') AS INSERT INTO keeping SELECT k, count(*) FROM keeping_in GROUP BY k;",
    )
    incarnation = lambda: declared.sql("SELECT incarnation FROM polybolos.jobs WHERE name = 'keeping_job'")  # noqa: E731
    before = incarnation()
    done = declared.run("sql", "-c", "RESTART JOB keeping_job FROM EARLIEST REPLACE", check=False)
    assert done.returncode != 0 and "rows of topic table keeping" in done.stderr and "write KEEP" in done.stderr, done.stderr
    assert incarnation() == before, "the earlier run was ended"
    declared.run("sql", "-c", "RESTART JOB keeping_job FROM EARLIEST KEEP")
    assert incarnation() != before
    declared.run("sql", "-c", "DROP JOB keeping_job")
