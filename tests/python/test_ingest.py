"""The ingestor is killed at seeded moments while it produces: what the API told for long enough to be asked again is in the table, once, and the
table is what the topic says."""

import http.server
import json
import os
import pathlib
import random
import signal
import socket
import threading
import time

from confluent_kafka import Consumer, TopicPartition
from conftest import wait_for

KILLS = 8
SEED = 20261126
PARTITIONS = 4
# An answer tells what happened in so many seconds: longer than the ingestor is ever away.
WINDOW_S = 15

INGEST = """
[[feed]]
name = "changes"
topic = "%s"
partitions = %d
[feed.http]
url = "http://127.0.0.1:%d/"
interval = "100ms"
allow_private = true
[feed.record]
items = "/changes"
key = "id"
"""
TABLES = """
CREATE TABLE IF NOT EXISTS changes (id STRING, n BIGINT, name STRING)
  WITH ('connector' = 'kafka', 'topic' = '%s', 'format' = 'json');
CREATE TABLE IF NOT EXISTS changed (id STRING, n BIGINT, name STRING, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'ingest', 'table' = '%s', 'table.create' = 'true');
CREATE JOB IF NOT EXISTS changed_job AS INSERT INTO changed SELECT id, n, name FROM changes;
"""


class Api:
    """Something happens so many times a second; an answer is what happened lately. Topic and table have its name."""

    def __init__(self, name: str, changes_per_s: int):
        self.name, self.changes_per_s = name, changes_per_s
        self.started = time.monotonic()
        self.ended = None
        self.asked = 0
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                api.asked += 1
                body = json.dumps({"changes": api.recent()}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # It was killed while it was told.

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def count(self) -> int:
        return int(((self.ended or time.monotonic()) - self.started) * self.changes_per_s)

    def ledger(self) -> dict:
        return {change(number)["id"]: change(number) for number in range(self.count())}

    def pipeline(self, folder: pathlib.Path) -> str:
        """A folder with the feed, its table and the job."""
        (folder / "ingest.toml").write_text(INGEST % (self.name, PARTITIONS, self.port))
        (folder / "changes.sql").write_text(TABLES % (self.name, self.name))
        return str(folder)

    def end(self) -> None:
        """Nothing happens any more, and soon nobody answers."""
        self.ended = time.monotonic()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def recent(self) -> list[dict]:
        count = self.count()
        return [change(number) for number in range(max(0, count - WINDOW_S * self.changes_per_s), count)]


def change(number: int) -> dict:
    return {"id": f"change-{number}", "n": number, "name": ["Zoé", "علی", "李雷", None][number % 4]}


def last_per_key(kafka: str, topic: str) -> tuple[dict, int]:
    """The topic as a table, and how many records it has."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "oracle", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    rows, records, finished = {}, 0, 0
    while finished < PARTITIONS:
        for message in consumer.consume(5_000, 5):
            if message.error():
                finished += 1
                continue
            row = json.loads(message.value())
            rows[row["id"]] = row
            records += 1
    consumer.close()
    return rows, records


def check(cluster, api: Api, ledger: dict) -> None:
    """The table and the topic are what happened. Nothing is produced any more: the API goes."""
    api.close()

    def caught_up():
        [job] = cluster.sql("SELECT lag_records, unpublished_epochs, dead_letters FROM polybolos.jobs WHERE name = 'changed_job'")
        return job == {"lag_records": 0, "unpublished_epochs": 0, "dead_letters": 0}

    wait_for("the job catching up", caught_up)
    topic, records = last_per_key(cluster.kafka, api.name)
    assert records > len(ledger), "answers overlap, so records come more than once"
    rows = {row["id"]: row for row in cluster.sql("SELECT * FROM changed")}
    assert rows == topic
    assert rows == ledger


def test_kills_of_the_ingestor_lose_and_double_nothing(fresh_cluster, tmp_path):
    api = Api("changes", 100)
    cluster = fresh_cluster("--pipelines", api.pipeline(tmp_path))
    rows_in_table = lambda: cluster.sql("SELECT count(*) AS n FROM changed")[0]["n"]  # noqa: E731
    wait_for("the first rows", lambda: rows_in_table() > 0)

    moments = random.Random(SEED)
    killed = 0
    for _ in range(KILLS):
        pid, asked = cluster.pid("ingest"), api.asked
        wait_for("the ingestor asking", lambda: api.asked > asked)
        time.sleep(moments.uniform(0.0, 0.5))
        os.kill(pid, signal.SIGKILL)
        killed += 1
        wait_for("the ingestor starting again", lambda: cluster.pid("ingest") != pid)
    asked, before = api.asked, rows_in_table()
    wait_for("the ingestor asking", lambda: api.asked > asked + 1)
    wait_for("more rows", lambda: rows_in_table() > before)
    api.end()
    ledger = api.ledger()
    wait_for("the last rows", lambda: rows_in_table() >= len(ledger))
    assert killed == KILLS and len(ledger) > KILLS * api.changes_per_s

    check(cluster, api, ledger)
    assert "panicked" not in (pathlib.Path(cluster.folder) / "log/ingest.log").read_text()


FEED = """
[[feed]]
name = "%s"
topic = "asked"
[feed.http]
url = "http://127.0.0.1:%d/%s"
interval = "200ms"
timeout = "1s"
max_retry_backoff = "1s"
allow_private = true
"""
ITEMS = {"items": ["str", None, {"id": None, "n": 1}, {"id": "a", "n": 2}]}


class Awkward(http.server.BaseHTTPRequestHandler):
    """Answers as the path says."""

    def do_GET(self):
        body = json.dumps(ITEMS).encode() if self.path == "/items" else b"[1]"
        if self.path == "/silent":
            time.sleep(3)
        self.send_response(204 if self.path == "/empty" else 200)
        if self.path != "/empty":
            self.send_header("Content-Length", str(len(body) + (self.path in ("/cut", "/drip"))))
        self.end_headers()
        if self.path == "/empty":
            return
        try:
            self.wfile.write(body)
            self.wfile.flush()
            if self.path == "/drip":
                time.sleep(3)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Nobody waited.

    def log_message(self, *_):
        pass


def test_a_feed_says_why_it_fails_and_what_it_skips(fresh_platform, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Awkward)
    port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
    # None of them has [feed.record] but the last.
    feeds = [FEED % (name, port, name) for name in ("silent", "drip", "cut", "empty")] + [FEED % ("away", nobody, "")]
    record = "[feed.record]\nitems = '/items'\nkey = 'id'\nfields = { id = '/id', n = '/n' }\n"
    (tmp_path / "ingest.toml").write_text("".join(feeds) + FEED % ("items", port, "items") + record)
    platform = fresh_platform("--pipelines", str(tmp_path))
    platform.start()
    expected = {
        "silent": "timed out after 1s ",
        "drip": "timed out after 1s, in the middle of the answer",
        "cut": "the body ended early",
        "empty": "the answer is empty (204 No Content)",
        "away": f"cannot connect to 127.0.0.1:{nobody}: connection refused",
    }
    log = pathlib.Path(platform.err.name)
    said = lambda feed, words: any(f"feed={feed} " in line and words in line for line in log.read_text().splitlines())  # noqa: E731
    for feed, words in expected.items():
        wait_for(f"{feed}: {words}", lambda: said(feed, words))
    wait_for("what is no object", lambda: said("items", "the item is no object"))
    assert said("items", '"id", the feed\'s key, is absent or null')
    tail = lambda: platform.run("topic", "tail", "asked", "--records", "100", "--output", "json").stdout.splitlines()  # noqa: E731
    records = {(line["key"], line["payload"]) for line in map(json.loads, wait_for("records", tail))}
    assert records == {("a", '{"id":"a","n":2}')}
    server.shutdown()
    server.server_close()


MOODY = """
[[feed]]
name = "moody"
topic = "%s"
[feed.http]
url = "http://127.0.0.1:%d/items?key=hush"
interval = "200ms"
max_retry_backoff = "1s"
allow_private = true
"""


class Moody:
    """A server that answers a record, or that it cannot."""

    def __init__(self):
        self.status = 500
        moody = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = b'{"n": 1}' if moody.status == 200 else b""
                self.send_response(moody.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def pipeline(self, folder: pathlib.Path, topic: str) -> str:
        (folder / "ingest.toml").write_text(MOODY % (topic, self.port))
        return str(folder)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def in_state(system, topic: str, state: str) -> dict | None:
    """What is told of the topic's feed, if it is in that state. Platforms that share a Kafka know of each other's feeds."""
    newer = "last_record_at > coalesce(last_error_at, started_at) AS is_newer"
    [row] = system.sql(f"SELECT *, {newer} FROM polybolos.feeds WHERE topic = '{topic}'")
    return row if row["state"] == state else None


def test_sql_knows_the_demos_feed(platform):
    running = wait_for("the feed", lambda: in_state(platform, "users_created", "running"))
    assert (running["name"], running["skipped_items"]) == ("users", 0)
    assert running["ingestor"] and running["reported_at"]
    told = wait_for("more records", lambda: (row := in_state(platform, "users_created", "running")) and row["records"] > running["records"] and row)
    assert told["is_newer"] and told["started_at"] == running["started_at"]
    listed = platform.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'polybolos' AND table_name = 'feeds'")
    assert listed == [{"table_name": "feeds"}]


def test_sql_says_why_a_feed_fails_and_that_it_runs_again(fresh_platform, tmp_path):
    moody = Moody()
    platform = fresh_platform("--pipelines", moody.pipeline(tmp_path, "moods"))
    platform.start()
    failing = wait_for("the failure", lambda: in_state(platform, "moods", "failing"))
    assert failing["last_error"] == "the server answered 500 Internal Server Error" and failing["last_error_at"]
    assert (failing["records"], failing["last_record_at"]) == (0, None)
    assert failing["url"] == f"http://127.0.0.1:{moody.port}/items?…", "what the query says is a secret"
    moody.status = 200
    running = wait_for("its coming back", lambda: in_state(platform, "moods", "running"))
    assert running["last_error"] == failing["last_error"], "what went wrong last is kept"
    grown = wait_for("more records", lambda: (row := in_state(platform, "moods", "running")) and row["records"] > running["records"] and row)
    assert grown["is_newer"], "the last record came after the last error"
    moody.status = 503
    again = wait_for("the next failure", lambda: in_state(platform, "moods", "failing"))
    assert again["last_error"] == "the server answered 503 Service Unavailable" and again["records"] >= grown["records"]
    moody.close()
    wait_for("nobody there", lambda: "connection refused" in in_state(platform, "moods", "failing")["last_error"])
    told = platform.run("topic", "tail", "polybolos.feeds", "--records", "1000", "--output", "json").stdout
    assert "moods" in told and "hush" not in told
    # Another life of the ingestor takes the place of the one before.
    assert platform.stop() == 0
    platform.start()
    wait_for("the next ingestor", lambda: in_state(platform, "moods", "failing")["ingestor"] != again["ingestor"])


def test_an_ingestor_that_hangs_is_silent(fresh_cluster, tmp_path):
    moody = Moody()
    moody.status = 200
    topic = f"moods-{os.getpid()}-{time.time_ns()}"
    cluster = fresh_cluster("--pipelines", moody.pipeline(tmp_path, topic))
    running = wait_for("the feed", lambda: in_state(cluster, topic, "running"))
    pid = cluster.pid("ingest")
    os.kill(pid, signal.SIGSTOP)
    try:
        silent = wait_for("silence", lambda: in_state(cluster, topic, "silent"))
        assert silent["ingestor"] == running["ingestor"]
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("its waking up", lambda: in_state(cluster, topic, "running"))
    moody.close()
