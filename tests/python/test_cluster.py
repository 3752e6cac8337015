"""The same ledger on a cluster of processes with a real Kafka and a real Cassandra: executors and the scheduler are killed and stopped at
seeded moments, Cassandra then holds exactly the ledger's rows. Servers come from the launcher around the tests."""

import json
import random

from confluent_kafka.admin import AdminClient, NewTopic
from conftest import hit, wait_for
from test_exactly_once import PARTITIONS, SEED, TABLES, Load, bad_coordinates

FAULTS = 12


def test_kills_and_pauses_of_services_change_nothing(fresh_cluster):
    cluster = fresh_cluster()
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    for future in admin.create_topics([NewTopic("ledger", PARTITIONS, 1)]).values():
        future.result()
    cluster.run("sql", "-c", TABLES)
    load = Load(cluster)
    load.servers = cluster.kafka
    load.start()
    # A pause is longer than the lease and the publisher's grant.
    kills, pauses = hit(cluster, random.Random(SEED + 2), FAULTS, (0.5, 2.0), 5)
    load.stopping.set()
    load.join()
    assert kills >= 6 and pauses >= 3
    assert load.acknowledged == load.sequence > 1_000

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
