"""Kafka and Cassandra are killed, come back, and are stopped for a while under a running cluster: the job waits and says for what, goes on by
itself, and the table is exactly the ledger."""

import json
import time

from confluent_kafka import Producer
from conftest import create_topics, wait_for
from test_exactly_once import PARTITIONS, TABLES, Ledger, bad_coordinates


def shown(cluster) -> dict:
    return cluster.sql("SELECT state, limiting, error, epoch, records_in, lag_records, unpublished_epochs FROM polybolos.jobs")[0]


def goes_on(cluster, load) -> None:
    """What is acknowledged now is in the table a little later."""
    acknowledged = load.acknowledged
    wait_for("the job going on", lambda: (job := shown(cluster))["records_in"] > acknowledged and job["error"] is None)


def test_a_job_waits_for_kafka_and_cassandra_and_loses_nothing(servers, fresh_cluster):
    create_topics(servers.kafka, "ledger", partitions=PARTITIONS)
    cluster = fresh_cluster(servers=servers)
    cluster.run("sql", "-c", TABLES)
    load = Ledger(servers.kafka)
    load.start()
    goes_on(cluster, load)

    servers.order("kill kafka")
    said = wait_for("the job saying that Kafka is away", lambda: (job := shown(cluster))["state"] == "waiting" and job)
    assert 'topic "ledger" cannot be read' in said["limiting"], said
    show = cluster.run("job", "show", "ledger_job")
    assert "waiting" in show.stdout and "cannot be read" in show.stdout
    servers.order("start kafka")
    goes_on(cluster, load)

    servers.order("kill cassandra")
    said = wait_for("the job saying that Cassandra is away", lambda: (job := shown(cluster))["error"] and job)
    assert "does not take rows" in said["limiting"] and "Cassandra" in said["limiting"], said
    # Computing goes on: what is recorded waits for its table.
    recorded = shown(cluster)["records_in"]
    waiting = wait_for("epochs recorded meanwhile", lambda: (job := shown(cluster))["records_in"] > recorded and job)
    assert waiting["unpublished_epochs"] > 0
    servers.order("start cassandra")
    goes_on(cluster, load)
    # What came meanwhile waits its turn, too: how many epochs do depends on how fast the sink is.
    recorded = shown(cluster)["epoch"]
    wait_for("what waited being published", lambda: (job := shown(cluster))["epoch"] - job["unpublished_epochs"] >= recorded, patience_s=180)

    # Answers stop, connections stay.
    servers.order("pause cassandra")
    time.sleep(4)
    servers.order("pause kafka")
    time.sleep(3)
    servers.order("resume cassandra")
    servers.order("resume kafka")
    goes_on(cluster, load)

    load.stop()
    assert load.acknowledged == load.sent > 1_000
    settled = {"lag_records": 0, "unpublished_epochs": 0, "records_in": load.sent}
    wait_for("the job catching up", lambda: shown(cluster).items() >= settled.items())
    rows = {row["id"]: row for row in cluster.sql("SELECT * FROM ledger")}
    assert rows == {key: row | {"price": None if row["price"] is None else float(row["price"])} for key, row in load.latest.items()}
    letters = cluster.sql("SELECT topic_partition, topic_offset FROM polybolos.dead_letters")
    coordinates = [(letter["topic_partition"], letter["topic_offset"]) for letter in letters]
    assert len(coordinates) == len(set(coordinates))
    assert set(coordinates) == bad_coordinates(cluster)

    # Longer than a client is kept that nobody answers. A broker that wakes up after that may name no brokers at first, and clients forget those that they knew.
    read = shown(cluster)["records_in"]
    servers.order("pause kafka")
    time.sleep(20)
    wait_for("the job saying that Kafka is away", lambda: (job := shown(cluster))["state"] == "waiting" and job["lag_records"] is None)
    servers.order("resume kafka")
    # A broker that has only just woken up may answer so late that a record is sent twice.
    producer = Producer({"bootstrap.servers": servers.kafka, "enable.idempotence": True, "log_level": 0})
    producer.produce("ledger", json.dumps({"id": 1}))
    assert producer.flush(60) == 0
    wait_for("the job reading on", lambda: shown(cluster)["records_in"], read + 1)
