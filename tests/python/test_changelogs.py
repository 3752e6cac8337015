"""Topics that say what became of rows: upsert topics of other producers, and changes of a database's table as Debezium tells them. Jobs and queries
see the rows, as they change and go."""

import json
import random

import pytest
from confluent_kafka import Producer
from conftest import create_topics, wait_for

CREATE = """
CREATE TABLE {name} (id BIGINT, city STRING NOT NULL, n BIGINT, place BIGINT METADATA FROM 'offset' VIRTUAL, twice AS n * 2, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = '{connector}', 'topic' = '{name}', {options});
CREATE TABLE {name}_by_city (city STRING, people BIGINT, total BIGINT, PRIMARY KEY (city) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'changelogs', 'table' = '{name}_by_city', 'table.create' = 'true');
CREATE JOB {name}_job WITH ('state.unbounded' = 'allow'{job}) AS
  INSERT INTO {name}_by_city SELECT city, count(*), sum(twice) FROM {name} GROUP BY city;
"""

DEBEZIUM = "'format' = 'debezium-json'"
KINDS = {
    "people_upserts": ("upsert-kafka", "'key.format' = 'json', 'value.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY'"),
    "people_changes": ("kafka", DEBEZIUM),
    "people_with_schema": ("kafka", f"{DEBEZIUM}, 'debezium-json.schema-include' = 'true'"),
    # Deletes tell their rows by their keys alone.
    "people_keyed": ("kafka", f"{DEBEZIUM}, 'debezium-json.schema-include' = 'true', 'key.format' = 'json'"),
}


class Table:
    """A table of a database, and the topic that tells of it."""

    def __init__(self, system, kind: str):
        self.system, self.kind, self.rows = system, kind, {}
        self.producer = Producer({"bootstrap.servers": system.endpoints["kafka"]})

    def send(self, key: dict | None, value: dict | None) -> None:
        encoded = [None if it is None else json.dumps(it).encode() for it in (key, value)]
        self.producer.produce(self.kind, key=encoded[0], value=encoded[1])

    def in_envelope(self, value: dict | None) -> dict | None:
        return value if self.kind == "people_changes" else {"schema": {"type": "struct"}, "payload": value}

    def send_change(self, key: dict, value: dict | None) -> None:
        self.send(self.in_envelope(key) if self.kind == "people_keyed" else key, self.in_envelope(value))

    def change(self, op: str, before: dict | None, after: dict | None) -> None:
        key = {"id": (after or before)["id"]}
        if self.kind == "people_upserts":
            self.send(key, after and {name: value for name, value in after.items() if name != "id"})
            return
        before = None if self.kind == "people_keyed" else before
        self.send_change(key, {"before": before, "after": after, "op": op, "ts_ms": 1, "source": {"table": "people"}})
        if op == "d":
            self.send_change(key, None)

    def put(self, id: int, city: str, n: int | None) -> None:
        before = self.rows.get(id)
        self.rows[id] = {"id": id, "city": city, "n": n}
        self.change("u" if before else "c", before, self.rows[id])

    def delete(self, id: int) -> None:
        self.change("d", self.rows.pop(id), None)

    def by_city(self) -> dict:
        answer: dict[str, list] = {}
        for row in self.rows.values():
            answer.setdefault(row["city"], []).append(row["n"])
        return {city: (len(ns), sum(2 * n for n in ns if n is not None) if any(n is not None for n in ns) else None) for city, ns in answer.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_follow_rows_that_change_and_go(system, kind):
    connector, options = KINDS[kind]
    table = Table(system, kind)
    create_topics(system.endpoints["kafka"], kind, partitions=3)
    dice = random.Random(kind)
    for id in range(20):
        table.put(id, dice.choice("abc"), id)
    table.producer.flush(60)
    shared = ", 'parallelism' = '2'" if system.__class__.__name__ == "Cluster" else ""
    system.run("sql", "-c", CREATE.format(name=kind, connector=connector, options=options, job=shared))
    for _ in range(5):
        for _ in range(100):
            id = dice.randrange(60)
            if id in table.rows and dice.random() < 0.4:
                table.delete(id)
            else:
                table.put(id, dice.choice("abcd"), dice.choice([None, dice.randrange(100)]))
        table.producer.flush(60)
        found = lambda: {row["city"]: (row["people"], row["total"]) for row in system.sql(f"SELECT * FROM {kind}_by_city")}  # noqa: E731
        wait_for("the rows as they are", found, table.by_city())
    rows = {row["id"]: row for row in system.sql(f"SELECT id, city, n, twice FROM {kind}")}
    assert rows == {id: row | {"twice": None if row["n"] is None else 2 * row["n"]} for id, row in table.rows.items()}
    system.run("job", "verify", f"{kind}_job")
    explained = system.run("sql", "-c", f"EXPLAIN JOB {kind}_job").stdout
    assert f"ChangelogNormalize: the rows of {kind} by key (id)" in explained, explained
    assert "keeps the last record of each key that is not deleted" in explained, explained
    assert "last_record" not in explained and "record:" not in explained, explained
    plans = "\n".join(row["plan"] for row in system.sql(f"EXPLAIN SELECT city FROM {kind}"))
    assert "number of the key's record" in plans and "last_record(" not in plans, plans

    # What says of no row what became of it.
    if kind == "people_upserts":
        table.send(None, {"city": "x"})
        table.send({"id": 1}, {"n": 1})
        said = ["the record has no key", "NOT NULL"]
    else:
        ann = {"id": 1, "city": "a", "n": 1}
        table.send_change({"id": 1}, {"before": None, "after": None, "op": "t"})
        table.send_change({"id": 1}, {"before": None, "after": {"id": 1, "n": 1}, "op": "c"})
        table.send_change({"id": 2}, {"before": ann, "after": ann | {"id": 2}, "op": "u"})
        table.send_change({}, {"before": None, "after": None, "op": "d"})
        # No payload, as JSON says it: it says nothing.
        table.producer.produce(kind, key=json.dumps(table.in_envelope({"id": 1})).encode(), value=b"null")
        no_key = "neither in before nor in the record's key" if kind == "people_keyed" else "REPLICA IDENTITY FULL"
        said = ["none of c, r, u and d", "(id, city) is missing in its after", "another primary key (id)", no_key]
    table.producer.flush(60)
    letters = wait_for(
        "the dead letters",
        lambda: len(found := system.sql(f"SELECT error FROM polybolos.dead_letters WHERE job = '{kind}_job'")) == len(said) and found,
    )
    assert all(any(words in letter["error"] for letter in letters) for words in said), letters
    assert found() == table.by_city()
    system.run("job", "verify", f"{kind}_job")
    system.run("sql", "-c", f"DROP JOB {kind}_job")


BOTH = """
CREATE TABLE both_rows (id BIGINT, city STRING NOT NULL, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'upsert-kafka', 'topic' = 'both', 'key.format' = 'json', 'value.format' = 'json');
CREATE TABLE both_records (city STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  WITH ('connector' = 'kafka', 'topic' = 'both', 'format' = 'json');
CREATE TABLE both_by_city (city STRING, people BIGINT, PRIMARY KEY (city) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'changelogs', 'table' = 'both_by_city', 'table.create' = 'true');
CREATE TABLE both_by_window (window_start TIMESTAMP(3), records BIGINT, PRIMARY KEY (window_start) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'changelogs', 'table' = 'both_by_window', 'table.create' = 'true');
CREATE JOB both_job WITH ('state.unbounded' = 'allow') AS BEGIN
  INSERT INTO both_by_city SELECT city, count(*) FROM both_rows GROUP BY city;
  INSERT INTO both_by_window SELECT window_start, count(*)
    FROM TABLE(TUMBLE(TABLE both_records, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;
END;
"""


def test_a_topic_of_rows_is_read_as_records_too_and_each_table_sets_aside_what_is_none_of_its_own(system):
    producer = Producer({"bootstrap.servers": system.endpoints["kafka"]})
    create_topics(system.endpoints["kafka"], "both")

    def send(id: int, city: str | None, second: int | None) -> None:
        value = None if second is None else json.dumps({"id": id, "city": city, "ts": f"2026-01-01 00:00:{second:02}"})
        producer.produce("both", key=json.dumps({"id": id}), value=value)
        producer.flush(60)

    cities = lambda: {row["city"]: row["people"] for row in system.sql("SELECT * FROM both_by_city")}  # noqa: E731
    windows = lambda: [row["records"] for row in system.sql("SELECT * FROM both_by_window ORDER BY window_start")]  # noqa: E731
    letters = lambda: sorted(row["id"].split("/", 1)[1] for row in system.sql("SELECT id FROM polybolos.dead_letters WHERE job = 'both_job'"))  # noqa: E731
    late = lambda: system.sql("SELECT topic_offset FROM polybolos.late_rows WHERE job = 'both_job'")  # noqa: E731
    send(1, "a", 5)
    send(2, "b", 31)
    system.run("sql", "-c", BOTH)
    wait_for("rows and records", lambda: cities() == {"a": 1, "b": 1} and windows() == [1, 1])

    # A late record says what became of row 1; no record of a payload is a dead letter, and says that row 2 is gone.
    send(1, "c", 6)
    send(2, None, None)
    wait_for("rows that changed", lambda: cities() == {"c": 1} and letters() == ["both/0/3"] and late() == [{"topic_offset": 2}])
    # No row, as it has no city, and yet a record.
    send(3, None, 32)
    wait_for("the record without a city", lambda: windows() == [1, 2] and letters() == ["both/0/3", "both/0/4/row"])
    assert cities() == {"c": 1}
    system.run("job", "verify", "both_job")

    # An old record under its key would be the row again.
    replayed = system.run("dlq", "replay", "--job", "both_job").stderr
    assert "0 dead letters sent back" in replayed and "1 is of topics whose last records are rows of a table" in replayed, replayed
    [letter] = [row["id"] for row in system.sql("SELECT id FROM polybolos.dead_letters WHERE job = 'both_job'") if row["id"].endswith("/row")]
    replayed = system.run("dlq", "replay", letter).stderr
    assert "1 dead letter sent back, 0 were before" in replayed, replayed
    wait_for("the record again", lambda: windows() == [1, 3] and "both/0/5/row" in letters())
    of_rows = "FROM polybolos.dead_letters WHERE job = 'both_job' AND id LIKE '%/row'"
    keys = system.sql(f"SELECT count(record_key) AS all_keys, count(DISTINCT record_key) AS keys {of_rows}")
    assert keys == [{"all_keys": 2, "keys": 1}], "it has the key that it had"
    system.run("sql", "-c", "DROP JOB both_job")


VERIFIED = """
CREATE TABLE verified_in (city STRING) WITH ('connector' = 'kafka', 'topic' = 'verified_in', 'format' = 'json');
CREATE TABLE verified_out (city STRING, people BIGINT, PRIMARY KEY (city) NOT ENFORCED) WITH ('connector' = 'upsert-kafka',
  'topic' = 'verified_out', 'key.format' = 'json', 'value.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY');
CREATE JOB verified_job WITH ('state.unbounded' = 'allow') AS
  INSERT INTO verified_out SELECT city, count(*) FROM verified_in GROUP BY city HAVING count(*) < 3;
"""


def test_a_topic_of_rows_is_verified_as_its_readers_see_it(system):
    producer = Producer({"bootstrap.servers": system.endpoints["kafka"]})
    create_topics(system.endpoints["kafka"], "verified_in", "verified_out")
    for city in ["a", "b", "c", "c", "a", "c", ""]:
        producer.produce("verified_in", value=json.dumps({"city": city}))
    producer.flush(60)
    system.run("sql", "-c", VERIFIED)
    rows = lambda: {row["city"]: row["people"] for row in system.sql("SELECT * FROM verified_out")}  # noqa: E731
    read = lambda: system.sql("SELECT records_in FROM polybolos.jobs WHERE name = 'verified_job'")[0]["records_in"]  # noqa: E731
    wait_for("the rows", lambda: read() == 7 and rows() == {"a": 2, "b": 1, "": 1})
    told = system.run("job", "verify", "verified_job").stderr
    assert "3 rows compared with 7 records: 0 differences" in told, told

    # Somebody else writes there.
    for city, people in [("a", None), ("b", 9), ("z", 1)]:
        producer.produce("verified_out", key=json.dumps({"city": city}), value=people and json.dumps({"people": people}))
    producer.flush(60)
    found = system.run("job", "verify", "verified_job", "--output", "json", check=False)
    assert found.returncode == 4, found.stdout + found.stderr
    differences = [json.loads(line) for line in found.stdout.splitlines()]
    assert {(line["difference"], line["key"]) for line in differences} == {("missing", "city=a"), ("changed", "city=b"), ("extra", "city=z")}
    system.run("sql", "-c", "DROP JOB verified_job")
