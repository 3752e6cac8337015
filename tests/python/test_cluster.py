"""The same ledger on a cluster of processes with a real Kafka and a real Cassandra: executors and the scheduler are killed and stopped at
seeded moments, Cassandra then holds exactly the ledger's rows. Servers come from the launcher around the tests."""

import json
import os
import random
import signal

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from conftest import hit, wait_for
from test_exactly_once import PARTITIONS, SEED, TABLES, Ledger, bad_coordinates

FAULTS = 12


def test_kills_and_pauses_of_services_change_nothing(fresh_cluster):
    cluster = fresh_cluster()
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    for future in admin.create_topics([NewTopic("ledger", PARTITIONS, 1)]).values():
        future.result()
    cluster.run("sql", "-c", TABLES)
    load = Ledger(cluster.kafka)
    load.start()
    # A pause is longer than the lease and the publisher's grant.
    kills, pauses = hit(cluster, random.Random(SEED + 2), FAULTS, (0.5, 2.0), 5)
    load.stop()
    assert kills >= 6 and pauses >= 3
    assert load.acknowledged == load.sent > 1_000

    def caught_up():
        jobs = cluster.sql("SELECT state, records_in, lag_records, unpublished_epochs FROM polybolos.jobs")
        return jobs and jobs[0]["lag_records"] == 0 and jobs[0]["unpublished_epochs"] == 0 and jobs[0]["records_in"] >= load.acknowledged

    wait_for("the job catching up", caught_up, 120)
    rows = {row["id"]: row for row in cluster.sql("SELECT * FROM ledger")}
    expected = {key: row | {"price": None if row["price"] is None else float(row["price"])} for key, row in load.latest.items()}
    assert rows == expected, json.dumps([(rows.get(key), row) for key, row in expected.items() if rows.get(key) != row][:3])
    letters = cluster.sql("SELECT topic_partition, topic_offset FROM polybolos.dead_letters WHERE job = 'ledger_job'")
    coordinates = [(letter["topic_partition"], letter["topic_offset"]) for letter in letters]
    assert len(coordinates) == len(set(coordinates))
    assert set(coordinates) == bad_coordinates(cluster)


def test_records_that_come_while_nobody_leads_are_read_by_the_next_leader(fresh_cluster):
    """None follow them that would wake anybody up, and the only executor has them already."""
    cluster = fresh_cluster("--no-pipelines", "--executors", "1")
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    for future in admin.create_topics([NewTopic("unled", PARTITIONS, 1)]).values():
        future.result()
    cluster.run("sql", "-c", TABLES.replace("ledger", "unled"))
    producer = Producer({"bootstrap.servers": cluster.kafka})

    def send(numbers):
        for number in numbers:
            producer.produce("unled", json.dumps({"id": f"key-{number}", "n": number}).encode(), partition=number % PARTITIONS)
        assert producer.flush(30) == 0

    count = lambda: cluster.sql("SELECT count(*) AS n FROM unled")[0]["n"]  # noqa: E731
    send(range(20))
    wait_for("the first rows", lambda: count() == 20)
    pid = cluster.pid("scheduler")
    os.kill(pid, signal.SIGKILL)
    # The next one leads once the lease has run out, seconds from now.
    send(range(20, 40))
    wait_for("another scheduler", lambda: cluster.pid("scheduler") != pid)
    wait_for("all rows", lambda: count() == 40)
