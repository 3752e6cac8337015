"""`'state.ttl'`: what was not touched for so long is forgotten, and the same key begins anew."""

import json
import time
import uuid

from conftest import wait_for

OPTIONS = "'connector' = 'cassandra', 'keyspace' = 'ttl', 'table.create' = 'true'"


def test_a_group_that_was_left_alone_for_the_ttl_begins_anew(system):
    stem = f"t{uuid.uuid4().hex[:8]}"
    produce = lambda keys: system.run("topic", "produce", stem, stdin="".join(json.dumps({"k": key}) + "\n" for key in keys))  # noqa: E731
    produce("aab")
    system.sql(f"CREATE TABLE {stem}_in (k STRING) WITH ('connector' = 'kafka', 'topic' = '{stem}', 'format' = 'json')")
    for name in ["kept", "short", "refused"]:
        system.sql(f"CREATE TABLE {stem}_{name} (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({OPTIONS})")
    query = f"SELECT k, count(*) FROM {stem}_in GROUP BY k"
    for name, options in [("kept", "'state.ttl' = '1 h', 'state.unbounded' = 'refuse'"), ("short", "'state.ttl' = '2 s'")]:
        job = f"CREATE JOB {stem}_{name}_job WITH ({options}) AS INSERT INTO {stem}_{name} {query}"
        made = system.run("sql", "-c", job)
        assert "never dropped" not in made.stdout + made.stderr
    rows = lambda name: {row["k"]: row["n"] for row in system.sql(f"SELECT * FROM {stem}_{name}")}  # noqa: E731
    for name in ["kept", "short"]:
        wait_for("the first rows", lambda: rows(name), {"a": 2, "b": 1})
    # The clock is the platform's own.
    time.sleep(3)
    produce("a")
    wait_for("a group that was kept", lambda: rows("kept"), {"a": 3, "b": 1})
    wait_for("a group that began anew", lambda: rows("short"), {"a": 1, "b": 1})
    refused = system.run("sql", "-c", f"CREATE JOB {stem}_no WITH ('state.unbounded' = 'refuse') AS INSERT INTO {stem}_refused {query}", check=False)
    assert refused.returncode != 0 and "'state.ttl'" in refused.stderr, refused.stderr
