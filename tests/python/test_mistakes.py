"""What newcomers get wrong is told in one line that names the object and the remedy."""

import json
import os
import subprocess

import pytest
from conftest import BINARY, wait_for

TABLES = """
CREATE TABLE heard (device STRING, value DOUBLE, ts TIMESTAMP(3)) WITH ('connector' = 'kafka', 'topic' = 'heard', 'format' = 'json');
CREATE TABLE unheard (device STRING, value DOUBLE) WITH ('connector' = 'kafka', 'topic' = 'unheard', 'format' = 'json');
CREATE TABLE elsewhere (device STRING) WITH ('connector' = 'kafka', 'topic' = 'heard', 'format' = 'json', 'properties.bootstrap.servers' = '127.0.0.1:1');
CREATE TABLE last (device STRING, value DOUBLE, PRIMARY KEY (device) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'mistakes', 'table.create' = 'true');
CREATE TABLE minutes (device STRING, n BIGINT, PRIMARY KEY (device) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'mistakes', 'table.create' = 'true');
CREATE TABLE homeless (device STRING, value DOUBLE, PRIMARY KEY (device) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 'nowhere')
"""

REFUSED = [
    ("SELECT * FROM unheard", ['topic "unheard" does not exist', "polybolos topic create unheard"]),
    ("SELECT * FROM elsewhere", ["Kafka at 127.0.0.1:1 is not answering"]),
    ("CREATE JOB j AS INSERT INTO homeless SELECT device, value FROM heard", ["table nowhere.homeless does not exist", "'table.create' = 'true'"]),
    ("CREATE TABLE keyless (device STRING) WITH ('connector' = 'cassandra', 'keyspace' = 'mistakes')", ["keyless needs a primary key", "add PRIMARY KEY"]),
    ("CREATE JOB j AS INSERT INTO last SELECT value, device FROM heard", ["column value of table last is DOUBLE", "CAST(device AS DOUBLE)"]),
    ("CREATE JOB j AS INSERT INTO last SELECT device FROM heard", ["fills 2 columns and the SELECT gives 1", "INSERT INTO last (…)"]),
    ("CREATE TABLE t (a INT) WITH ('connector' = 'kafka', 'topik' = 't', 'format' = 'json')", ["unknown option 'topik' of table t", "did you mean 'topic'?"]),
    ("CREATE JOB j AS INSERT INTO last SELECT uper(device), value FROM heard", ["no function uper", "did you mean upper?"]),
    (
        "CREATE JOB j AS INSERT INTO last SELECT device, lag(value, n) OVER (PARTITION BY device ORDER BY ts) FROM (SELECT *, 1 AS n FROM heard)",
        ["how far lag, lead and nth_value go", "are constants"],
    ),
    ("CREATE JOB there AS INSERT INTO last SELECT device, value FROM heard", ["job there exists already", "drop it first"]),
    ("SELECT * FROM herd", ["table herd does not exist", "did you mean heard?"]),
    ("SELECT * FROM polybolos.job", ["table polybolos.job does not exist", "did you mean polybolos.jobs?"]),
]


def test_mistakes_are_told_with_what_to_do(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    made = platform.run("topic", "create", "heard", "--partitions", "3")
    assert made.stderr == "topic heard created\n"
    assert [line["partitions"] for line in map(json.loads, platform.run("topic", "list", "--output", "json").stdout.splitlines())] == [3]
    again = platform.run("topic", "create", "heard", check=False)
    assert again.returncode == 1 and 'topic "heard" exists already' in again.stderr, again.stderr
    unnamed = platform.run("topic", "create", "bad name!", check=False)
    assert unnamed.returncode == 1 and 'topic "bad name!" cannot be made; its name takes 1 to 249 letters' in unnamed.stderr, unnamed.stderr
    missing = platform.run("topic", "describe", "unheard", check=False)
    assert missing.returncode == 1 and "polybolos topic list" in missing.stderr and "topic create" in missing.stderr, missing.stderr
    produced = platform.run("topic", "produce", "heard", stdin='{"device": "a", "value": 1}\n')
    assert produced.stderr == "1 record produced to heard\n"

    platform.run("sql", "-c", TABLES, "-c", "CREATE JOB there AS INSERT INTO minutes SELECT device, 1 FROM heard")
    for statement, told in REFUSED:
        refused = platform.run("sql", "-c", statement, check=False)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1, (statement, refused.stderr)
        assert all(words in refused.stderr for words in told), (statement, refused.stderr)
    platform.run("sql", "-c", "DROP JOB there")

    # A topic may come later: the job waits for it, and says so.
    platform.run("sql", "-c", "CREATE JOB waits AS INSERT INTO last SELECT device, value FROM unheard")
    limiting = lambda: platform.sql("SELECT limiting FROM polybolos.jobs WHERE name = 'waits'")[0]["limiting"]  # noqa: E731
    wait_for("the job naming its topic", lambda: "polybolos topic create unheard" in limiting())

    window = "TABLE(TUMBLE(TABLE heard, DESCRIPTOR(ts), INTERVAL '1' MINUTE))"
    unwatched = f"CREATE JOB grows AS INSERT INTO minutes SELECT device, count(*) FROM {window} GROUP BY device, window_start, window_end"
    told = platform.run("sql", "-c", unwatched).stderr
    assert "declare WATERMARK FOR column AS column - INTERVAL '5' SECOND in heard" in told, told

    host, port = platform.address("postgres")
    psql = ["psql", f"host={host} port={port} user=admin dbname=polybolos", "-c", "SELECT 1"]
    refused = subprocess.run(psql, capture_output=True, text=True, env={**os.environ, "PGPASSWORD": "wrong"}, timeout=60)
    assert 'password authentication failed for user "admin"' in refused.stderr and "file `token`" in refused.stderr, refused.stderr
    assert platform.stop() == 0


def test_a_broken_pipeline_is_refused_before_anything_begins(fresh_platform, tmp_path):
    (tmp_path / "broken.sql").write_text("CREATE TABLE t (a INT) WITH ('connector' = 'blackhole');\n\nCREATE VIEW v AS SELECT b FROM t;\n")
    platform = fresh_platform("--pipelines", str(tmp_path))
    with pytest.raises(AssertionError, match="nothing was started") as refused:
        platform.start()
    assert platform.process.returncode == 1
    assert f"error: {tmp_path}/broken.sql:3:" in str(refused.value) and "--no-pipelines" in str(refused.value)
    assert not (platform.folder / "broker").exists() and "door open" not in platform.errors()


def test_an_executor_without_a_scheduler_says_so_before_it_waits_for_anything(tmp_path):
    (tmp_path / "cluster.toml").write_text("[executor]\nschedulers = []\n")
    refused = subprocess.run(
        [BINARY, "executor", "--config", str(tmp_path / "cluster.toml")], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1 and "executor.schedulers names no scheduler" in refused.stderr, refused.stderr
