"""A Kafka that wants a login over TLS, as hosted ones do: a job reads from it and writes back to it with what `properties.*` say, and what is wrong
with them is told without the password. A whole cluster, its feeds and `polybolos topic` log in by what `[kafka.properties]` and `-X` say."""
import json
import os
import types

import pytest
from conftest import Servers, cassandra, wait_for

PASSWORD = "not-for-your-eyes"


@pytest.fixture
def broker(tmp_path, certificates):
    properties = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL",
        "listener.name.sasl.ssl.keystore.type": "PEM",
        "listener.name.sasl.ssl.keystore.location": str(certificates / "keystore.pem"),
    }
    settings = [word for item in properties.items() for word in ("--kafka-property", "=".join(item))]
    servers = Servers(tmp_path / "kafka.log", "--only", "kafka", "--kafka-login", f"ann:{PASSWORD}", *settings)
    yield servers
    servers.end()


def test_a_job_reads_and_writes_a_kafka_that_wants_a_login_over_tls(broker, fresh_platform, certificates, monkeypatch):
    monkeypatch.setenv("ANNS_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", f"{PASSWORD}-of-another")
    platform = fresh_platform("--no-pipelines")
    platform.start()

    def table(name: str, topic: str, password: str = "ANNS_PASSWORD", authority: str = "ca.pem") -> None:
        platform.sql(
            f"CREATE TABLE {name} (id STRING, v INT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', "
            f"'properties.bootstrap.servers' = '{broker.kafka_login}', 'properties.security.protocol' = 'SASL_SSL', "
            f"'properties.ssl.ca.location' = '{certificates / authority}', 'properties.sasl.mechanisms' = 'PLAIN', "
            f"'properties.sasl.username' = 'ann', 'properties.sasl.password' = '${{env:{password}}}')"
        )

    table("numbers", "numbers")
    table("doubles", "doubles")
    platform.sql("INSERT INTO numbers VALUES ('a', 1), ('b', 2)")
    platform.sql("CREATE JOB doubling AS INSERT INTO doubles SELECT id, 2 * v FROM numbers")
    read = lambda: sorted((row["id"], row["v"]) for row in platform.sql("SELECT * FROM doubles"))  # noqa: E731
    wait_for("the doubled numbers", read, [("a", 2), ("b", 4)])
    broker.order("kill kafka")
    broker.order("start kafka")
    platform.sql("INSERT INTO numbers VALUES ('c', 3)")
    wait_for("the job going on", read, [("a", 2), ("b", 4), ("c", 6)])

    # Another authority's certificate is as good as none.
    table("strangers", "numbers", password="WRONG_PASSWORD")
    table("unknown", "numbers", authority="certificate.pem")
    for name, said in (("strangers", "uthentication failed"), ("unknown", "certificate verify failed")):
        refused = platform.run("sql", "-c", f"SELECT * FROM {name}", check=False)
        assert refused.returncode == 1 and said in refused.stderr, refused.stderr
        assert PASSWORD not in refused.stderr

    # What no client can be made with is no outage to wait for.
    platform.sql(
        "CREATE TABLE misspelt (id STRING, v INT) WITH ('connector' = 'kafka', 'topic' = 'numbers', 'format' = 'json', "
        f"'properties.bootstrap.server' = '{broker.kafka_login}')"
    )
    platform.sql("CREATE TABLE nowhere (id STRING, v INT) WITH ('connector' = 'blackhole')")
    refused = platform.run("sql", "-c", "CREATE JOB never AS INSERT INTO nowhere SELECT id, v FROM misspelt", check=False)
    assert refused.returncode == 1, refused.stderr
    assert "misspelt" in refused.stderr and "property 'properties.bootstrap.server' is refused" in refused.stderr, refused.stderr
    assert [row for row in platform.sql("SHOW JOBS") if "never" in row.values()] == []

    shown = json.dumps(platform.sql("SHOW CREATE TABLE numbers")) + platform.account()
    assert "ANNS_PASSWORD" in shown and PASSWORD not in shown


def test_the_users_pipeline_runs_unchanged_on_a_cluster_whose_kafka_wants_a_login(broker, fresh_cluster, certificates):
    """What it writes is read by Cassandra's own driver."""
    properties = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(certificates / "ca.pem"),
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "ann",
        "sasl.password": "${env:ANNS_PASSWORD}",
    }
    environment = {f"POLYBOLOS_KAFKA_PROPERTIES_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
    servers = types.SimpleNamespace(kafka=broker.kafka_login, cassandra=os.environ["POLYBOLOS_TEST_CASSANDRA"])
    cluster = fresh_cluster("--pipelines", "jobs/users", servers=servers, environment=environment | {"ANNS_PASSWORD": PASSWORD})
    many = "SELECT count(*) AS n FROM created_users"
    wait_for("users in Cassandra", lambda: cluster.sql(many)[0]["n"] >= 20)

    with cassandra(servers.cassandra) as session:
        stored = {row.id: row._asdict() for row in session.execute("SELECT * FROM spark_streams.created_users LIMIT 20")}
    assert len(stored) == 20
    listed = ", ".join(f"'{key}'" for key in stored)
    assert {row["id"]: row for row in cluster.sql(f"SELECT * FROM created_users WHERE id IN ({listed})")} == stored
    for user in stored.values():
        numbers = {"age": int, "latitude": float, "longitude": float}
        assert {name: type(value) for name, value in user.items()} == {name: numbers.get(name, str) for name in user}
        assert len(user) == 16 and user["email"].count("@") == 1 and 0 < user["age"] < 120 and abs(user["latitude"]) <= 90

    login = [word for name, value in properties.items() for word in ("-X", f"{name}={value.replace('${env:ANNS_PASSWORD}', PASSWORD)}")]
    topics = cluster.run("topic", "list", "--output", "json", *login).stdout.splitlines()
    assert {"topic": "users_created", "partitions": 4} in map(json.loads, topics)
    cluster.run("topic", "produce", "by_hand", *login, stdin="one\ntwo\n")
    tail = cluster.run("topic", "tail", "by_hand", "--output", "json", *login).stdout
    assert "one" in tail and "two" in tail
    refused = cluster.run("topic", "list", *login[:-1], "sasl.password=another", check=False)
    assert refused.returncode != 0 and "uthentication" in refused.stderr and PASSWORD not in refused.stderr, refused.stderr
    logs = "".join(path.read_text() for path in (cluster.folder / "log").iterdir())
    assert PASSWORD not in logs
