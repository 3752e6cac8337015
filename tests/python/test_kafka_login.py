"""A Kafka that wants a login over TLS, as hosted ones do: a job reads from it and writes back to it with what `properties.*` say, and what is wrong
with them is told without the password."""
import json

import pytest
from conftest import Servers, wait_for

PASSWORD = "not-for-your-eyes"


@pytest.fixture
def broker(tmp_path, certificates):
    store = certificates / "keystore.pem"
    store.write_text((certificates / "key.pem").read_text() + (certificates / "certificate.pem").read_text())
    properties = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL",
        "listener.name.sasl.ssl.keystore.type": "PEM",
        "listener.name.sasl.ssl.keystore.location": str(store),
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
