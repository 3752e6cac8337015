"""Late rows go to `polybolos.late_rows`, and to a table that the job names."""

import json
import time
import uuid

from conftest import create_topics, wait_for


def test_a_table_that_the_job_names_takes_its_late_rows(system):
    stem = f"late_{uuid.uuid4().hex[:8]}"

    def produce(*seconds: int) -> None:
        lines = "".join(json.dumps({"k": "a", "ts": f"2026-01-01 00:{second // 60:02}:{second % 60:02}"}) + "\n" for second in seconds)
        system.run("topic", "produce", stem, stdin=lines)

    produce(1, 95)
    system.sql(
        f"CREATE TABLE {stem}_source (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json', 'scan.watermark.idle-timeout' = '1 s')"
    )
    system.sql(
        f"CREATE TABLE {stem} (window_start TIMESTAMP(3), n BIGINT, PRIMARY KEY (window_start) NOT ENFORCED) "
        f"WITH ('connector' = 'cassandra', 'keyspace' = 'late', 'table' = '{stem}', 'table.create' = 'true')"
    )
    query = f"INSERT INTO {stem} SELECT window_start, count(*) FROM TABLE(TUMBLE(TABLE {stem}_source, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end EMIT ON WINDOW CLOSE"
    refused = system.run("sql", "-c", f"CREATE JOB {stem}_job WITH ('late_rows.table' = 'late.{stem}') AS {query}", check=False)
    assert refused.returncode != 0 and "the columns of polybolos.late_rows" in refused.stderr, refused.stderr
    refused = system.run("sql", "-c", f"CREATE JOB {stem}_job WITH ('late_rows.table' = 'nowhere') AS {query}", check=False)
    assert refused.returncode != 0 and "keyspace.table" in refused.stderr, refused.stderr
    system.sql(f"CREATE JOB {stem}_job WITH ('late_rows.table' = 'late.{stem}_late') AS {query}")
    # Every partition has been silent: the watermark is at the newest time.
    wait_for("the first window closing", lambda: len(system.sql(f"SELECT * FROM {stem}")), 1)
    produce(12, 93, 13)
    ours = lambda: [row for row in system.sql("SELECT * FROM polybolos.late_rows") if row["job"] == f"{stem}_job"]  # noqa: E731
    wait_for("two late rows", lambda: len(ours()), 2)
    system.sql(
        f"CREATE TABLE {stem}_late (id STRING, job STRING, topic STRING, topic_partition INT, topic_offset BIGINT, PRIMARY KEY (id) NOT ENFORCED) "
        f"WITH ('connector' = 'cassandra', 'keyspace' = 'late', 'table' = '{stem}_late')"
    )
    named = lambda: sorted((row["id"], row["topic"], row["topic_offset"]) for row in system.sql(f"SELECT * FROM {stem}_late"))  # noqa: E731
    wait_for("the same rows", named, sorted((row["id"], row["topic"], row["topic_offset"]) for row in ours()))
    assert system.sql(f"SELECT n FROM {stem}") == [{"n": 1}]


def test_each_table_of_a_job_says_through_where_it_is_complete(system):
    stem = f"complete_{uuid.uuid4().hex[:8]}"
    lines = "".join(json.dumps({"k": "a", "ts": f"2026-01-01 00:00:{second:02}"}) + "\n" for second in (1, 48))
    system.run("topic", "produce", stem, stdin=lines)
    system.sql(
        f"CREATE TABLE {stem}_source (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json', 'scan.watermark.idle-timeout' = '1 s')"
    )
    inserts = []
    for table, emit in ((f"{stem}_soon", ""), (f"{stem}_closed", " EMIT ON WINDOW CLOSE")):
        system.sql(
            f"CREATE TABLE {table} (window_start TIMESTAMP(3), n BIGINT, PRIMARY KEY (window_start) NOT ENFORCED) "
            f"WITH ('connector' = 'cassandra', 'keyspace' = 'late', 'table' = '{table}', 'table.create' = 'true')"
        )
        windows = f"TABLE(TUMBLE(TABLE {stem}_source, DESCRIPTOR(ts), INTERVAL '10' SECOND))"
        inserts.append(f"INSERT INTO {table} SELECT window_start, count(*) FROM {windows} GROUP BY window_start, window_end{emit};")
    system.sql(f"CREATE JOB {stem}_job AS BEGIN {' '.join(inserts)} END")

    def complete() -> bool:
        tables = system.sql(f"SELECT * FROM polybolos.completeness WHERE job = '{stem}_job' ORDER BY table_name")
        assert [row["table_name"].rpartition(".")[2] for row in tables] == [f"{stem}_closed", f"{stem}_soon"], tables
        read = [sum(int(part.rpartition(":")[2]) for part in row["complete_through_offsets"].split()) for row in tables]
        # The newest time less five seconds; what closes at 40 s is there.
        through = [row["watermark"] is not None and "2026-01-01T00:00:40" <= row["watermark"] < "2026-01-01T00:00:44" for row in tables]
        return read == [2, 2] and all(through)

    wait_for("both tables to be complete", complete)
    assert len(system.sql(f"SELECT * FROM {stem}_soon")) == 2 and len(system.sql(f"SELECT * FROM {stem}_closed")) == 1
    [job] = system.sql(f"SELECT watermark FROM polybolos.jobs WHERE name = '{stem}_job'")
    assert job["watermark"].startswith("2026-01-01T00:00:43"), job
    shown = system.run("job", "show", f"{stem}_job").stdout
    assert f"{stem}_soon" in shown and f"{stem}_closed" in shown and "2026-01-01T00:00:4" in shown, shown


def test_a_written_window_is_corrected_while_late_rows_are_allowed(system):
    stem = f"allowed_{uuid.uuid4().hex[:8]}"

    def produce(*seconds: int) -> None:
        lines = "".join(json.dumps({"ts": f"2026-01-01 00:00:{second:02}"}) + "\n" for second in seconds)
        system.run("topic", "produce", stem, stdin=lines)

    produce(1, 12)
    system.sql(
        f"CREATE TABLE {stem}_source (ts TIMESTAMP(3), WATERMARK FOR ts AS ts) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json', 'scan.watermark.idle-timeout' = '1 s')"
    )
    system.sql(
        f"CREATE TABLE {stem} (window_start TIMESTAMP(3), n BIGINT, PRIMARY KEY (window_start) NOT ENFORCED) "
        f"WITH ('connector' = 'cassandra', 'keyspace' = 'late', 'table' = '{stem}', 'table.create' = 'true')"
    )
    system.sql(f"CREATE TABLE {stem}_only (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{stem}_only', 'format' = 'json')")
    query = f"SELECT window_start, count(*) FROM TABLE(TUMBLE(TABLE {stem}_source, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end EMIT ON WINDOW CLOSE"
    allowed = "WITH ('allowed_lateness' = '30 s')"
    refused = system.run("sql", "-c", f"CREATE JOB {stem}_job {allowed} AS INSERT INTO {stem}_only {query}", check=False)
    assert refused.returncode != 0 and f"table {stem}_only only takes rows" in refused.stderr and "leave 'allowed_lateness' out" in refused.stderr, refused.stderr
    job = f"CREATE JOB {stem}_job {allowed} AS INSERT INTO {stem} {query}"
    explained = system.run("sql", "-c", f"EXPLAIN {job}").stdout
    for words in ("with 30000 ms of allowed lateness", "and again when rows change it", "dropped once the watermark is 30 s past"):
        assert words in explained, explained
    system.sql(job)
    counts = lambda: [row["n"] for row in system.sql(f"SELECT n FROM {stem} ORDER BY window_start")]  # noqa: E731
    late = lambda: system.sql(f"SELECT late_rows FROM polybolos.jobs WHERE name = '{stem}_job'")[0]["late_rows"]  # noqa: E731
    # All partitions fall silent, and the watermark is at the newest time.
    wait_for("the first window closing", counts, [1])
    produce(3)
    wait_for("it coming out again", counts, [2])
    produce(45)
    wait_for("the second window closing", counts, [2, 1])
    produce(4, 13)
    wait_for("one row that is late and one that is allowed", lambda: (late(), counts()), (1, [2, 2]))
    refused = system.run("sql", "-c", f"UPGRADE JOB {stem}_job WITH ('allowed_lateness' = '1 m') AS INSERT INTO {stem} {query}", check=False)
    assert refused.returncode != 0 and "'allowed_lateness' is another" in refused.stderr, refused.stderr
    verified = system.run("job", "verify", f"{stem}_job", check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_an_insert_without_windows_beside_one_with_them_is_told_of(system):
    stem = f"beside_{uuid.uuid4().hex[:8]}"
    system.run("topic", "produce", stem, stdin='{"k": "a", "ts": "2026-01-01 00:00:01"}\n')
    system.sql(
        f"CREATE TABLE {stem}_source (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) "
        f"WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')"
    )
    for table in ("rows", "windows"):
        system.sql(f"CREATE TABLE {stem}_{table} (k STRING) WITH ('connector' = 'blackhole')")
    rows = f"INSERT INTO {stem}_rows SELECT k FROM {stem}_source"
    windows = f"INSERT INTO {stem}_windows SELECT k FROM TABLE(TUMBLE(TABLE {stem}_source, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY k, window_start, window_end"
    told = system.run("sql", "-c", f"CREATE JOB {stem}_both AS BEGIN {rows}; {windows}; END").stderr
    assert f"late for the windows of {stem}_windows" in told and f"INSERT INTO {stem}_rows a job of its own" in told, told
    system.sql(f"DROP JOB {stem}_both")
    for name, insert in (("one", rows), ("other", windows)):
        assert "late" not in system.run("sql", "-c", f"CREATE JOB {stem}_{name} AS {insert}").stderr


def test_each_table_says_how_long_the_watermark_waits_for_it(cluster):
    stem = f"idle_{uuid.uuid4().hex[:8]}"
    create_topics(cluster.kafka, *(f"{stem}_{side}" for side in "ab"))

    def produce(side: str, *records: tuple[str, int]) -> None:
        lines = "".join(json.dumps({"k": k, "ts": f"2026-01-01 00:{at // 60:02}:{at % 60:02}"}) + "\n" for k, at in records)
        cluster.run("topic", "produce", f"{stem}_{side}", stdin=lines)

    for side, timeout in (("a", "1 s"), ("b", "1 h")):
        produce(side, ("x", 5))
        cluster.sql(
            f"CREATE TABLE {stem}_{side} (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) "
            f"WITH ('connector' = 'kafka', 'topic' = '{stem}_{side}', 'format' = 'json', 'scan.watermark.idle-timeout' = '{timeout}')"
        )
    cluster.sql(
        f"CREATE TABLE {stem} (k STRING, a TIMESTAMP(3), b TIMESTAMP(3), PRIMARY KEY (k) NOT ENFORCED) "
        f"WITH ('connector' = 'cassandra', 'keyspace' = 'late', 'table' = '{stem}', 'table.create' = 'true')"
    )
    cluster.sql(
        f"CREATE JOB {stem}_job AS INSERT INTO {stem} SELECT a.k, a.ts, b.ts FROM {stem}_a a JOIN {stem}_b b "
        "ON a.k = b.k AND a.ts BETWEEN b.ts - INTERVAL '10' SECOND AND b.ts + INTERVAL '10' SECOND"
    )
    keys = lambda: sorted(row["k"] for row in cluster.sql(f"SELECT k FROM {stem}"))  # noqa: E731
    read = lambda: cluster.sql(f"SELECT records_in, late_rows FROM polybolos.jobs WHERE name = '{stem}_job'")  # noqa: E731
    wait_for("the first pair", keys, ["x"])
    produce("a", ("y", 100), ("z", 200))
    wait_for("the side that goes on", lambda: read()[0]["records_in"], 4)
    # Longer than the impatient side's.
    time.sleep(4)
    produce("b", ("y", 100))
    wait_for("the second pair", keys, ["x", "y"])
    assert read() == [{"records_in": 5, "late_rows": 0}]
