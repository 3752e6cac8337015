"""A Cassandra that speaks TLS: a cluster's rows reach it over connections that it encrypts, a node whose certificate nobody trusts is not written to."""
import os
import subprocess
import types

import pytest
from conftest import BINARY, Servers, cassandra, wait_for


@pytest.fixture
def server(tmp_path, certificates):
    # The launcher looks without TLS whether it is up.
    factory = "{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}"
    encryption = f"{{enabled: true, optional: true, ssl_context_factory: {factory}, keystore: {certificates / 'keystore.pem'}}}"
    servers = Servers(tmp_path / "cassandra.log", "--only", "cassandra", "--cassandra-setting", f"client_encryption_options={encryption}")
    yield servers
    servers.end()


def test_rows_reach_a_cassandra_over_tls(server, fresh_cluster, certificates):
    servers = types.SimpleNamespace(kafka=os.environ["POLYBOLOS_TEST_KAFKA"], cassandra=server.cassandra)
    environment = {"POLYBOLOS_CASSANDRA_CA_FILE": str(certificates / "ca.pem")}
    cluster = fresh_cluster("--no-pipelines", servers=servers, environment=environment)
    cluster.sql(
        """
        CREATE TABLE secrets (id STRING, v INT, PRIMARY KEY (id) NOT ENFORCED)
          WITH ('connector' = 'cassandra', 'keyspace' = 'tls', 'table' = 'secrets', 'table.create' = 'true');
        INSERT INTO secrets VALUES ('a', 1), ('b', 2);
        """
    )
    wait_for("the rows", lambda: sorted(row["id"] for row in cluster.sql("SELECT * FROM secrets")), ["a", "b"])
    with cassandra(server.cassandra) as session:
        clients = [(row.driver_name, row.ssl_enabled) for row in session.execute("SELECT driver_name, ssl_enabled FROM system_views.clients")]
    assert {encrypted for name, encrypted in clients if "scylla" in (name or "").lower()} == {True}, clients

    # Another authority's certificate is as good as none: it is said at once, instead of waiting for a Cassandra that is there.
    home = certificates / "stranger"
    home.mkdir()
    stranger = environment | {
        "POLYBOLOS_CASSANDRA_CA_FILE": str(certificates / "certificate.pem"),
        "POLYBOLOS_CASSANDRA_CONTACT_POINTS": server.cassandra,
        "POLYBOLOS_CASSANDRA_USERNAME": "cassandra",
        "POLYBOLOS_CASSANDRA_PASSWORD": "cassandra",
        "POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS": servers.kafka,
    } | {f"POLYBOLOS_SCHEDULER_{door}_PORT": "0" for door in ("INTERNAL", "HTTP", "POSTGRES", "FLIGHT_SQL")}
    refused = subprocess.run([BINARY, "scheduler"], cwd=home, env=os.environ | stranger, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and "correct cassandra.ca_file" in refused.stderr, refused.stderr
