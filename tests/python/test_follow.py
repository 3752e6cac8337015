"""SELECT … EMIT CHANGES: rows come while the query runs, through every door that streams, until they are enough or nobody wants more."""

import concurrent.futures
import json
import queue
import signal
import subprocess
import threading
import urllib.error
import urllib.request

import adbc_driver_flightsql.dbapi as flight_sql
import psycopg
import pytest
from adbc_driver_flightsql import DatabaseOptions
from conftest import BINARY, REPOSITORY

PATIENCE_S = 60
LATEST = "/*+ OPTIONS('scan.startup.mode' = 'latest-offset') */"


class Followed:
    """`polybolos sql` that prints rows as they come."""

    def __init__(self, platform, sql: str, output: str = "json"):
        command = [BINARY, "sql", "-c", sql, "--output", output, "--data-dir", str(platform.folder)]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))

    def line(self) -> str:
        return self.lines.get(timeout=PATIENCE_S)

    def end(self) -> tuple[int, str]:
        """After it has ended: its exit code, and what it said of that."""
        code = self.process.wait(timeout=PATIENCE_S)
        return code, self.process.stderr.read()

    def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        return self.end()


@pytest.fixture
def follow():
    begun = []

    def begin(*arguments: str) -> Followed:
        begun.append(Followed(*arguments))
        return begun[-1]

    yield begin
    for followed in begun:
        followed.process.kill()
        followed.process.wait()


def produce(platform, topic: str, *records: str) -> None:
    platform.run("topic", "produce", topic, stdin="".join(f"{record}\n" for record in records))


@pytest.fixture
def table(platform, request):
    """A table over a topic of the same name, with one record in its only partition."""
    name = f"follow_{request.node.name.removeprefix('test_')}"[:60].rstrip("_")
    platform.run("topic", "create", name, "--partitions", "1")
    produce(platform, name, '{"n": 1, "items": [10, 11]}')
    platform.run(
        "sql", "-c", f"CREATE TABLE {name} (n BIGINT, items ARRAY<BIGINT>) WITH ('connector' = 'kafka', 'topic' = '{name}', 'format' = 'json')"
    )
    yield name
    platform.run("sql", "-c", f"DROP TABLE {name}")


def test_rows_come_from_where_the_table_begins_until_ctrl_c(platform, table, follow):
    followed = follow(platform, f"SELECT n FROM {table} EMIT CHANGES")
    assert json.loads(followed.line()) == {"n": 1}
    for n in (2, 3):
        produce(platform, table, "no JSON", f'{{"n": {n}}}')
        assert json.loads(followed.line()) == {"n": n}
    assert followed.interrupt() == (0, "")


def test_from_the_latest_on_only_what_is_new_comes(platform, table, follow):
    followed = follow(platform, f"SELECT n * 2 AS twice FROM {table} {LATEST} EMIT CHANGES", "csv")
    # The line of names says that it has begun.
    assert followed.line() == "twice"
    produce(platform, table, '{"n": 7}')
    assert followed.line() == "14"
    assert followed.interrupt()[0] == 0


def test_a_limit_ends_it(platform, table, follow):
    followed = follow(platform, f"SELECT n FROM {table} WHERE n > 1 EMIT CHANGES LIMIT 3")
    produce(platform, table, '{"n": 2}', '{"n": 3}', "no JSON")
    assert [json.loads(followed.line())["n"] for _ in range(2)] == [2, 3]
    produce(platform, table, '{"n": 4}', '{"n": 5}')
    assert json.loads(followed.line())["n"] == 4
    code, said = followed.end()
    assert code == 0 and "1 record of topic" in said, said
    items = f"SELECT item FROM {table} CROSS JOIN UNNEST(items) AS x (item) UNION ALL SELECT n FROM {table} WHERE n = 5 EMIT CHANGES"
    found = platform.run("sql", "--limit", "3", "--output", "json", "-c", items).stdout.splitlines()
    assert sorted(json.loads(line)["item"] for line in found) == [5, 10, 11]


def test_people_see_a_table_that_grows(platform, table, follow):
    followed = follow(platform, f"SELECT n FROM {table} EMIT CHANGES LIMIT 2", "table")
    shown = [followed.line() for _ in range(4)]
    assert shown[1].split() == ["│", "n", "│"] and shown[3].split() == ["│", "1", "│"], shown
    produce(platform, table, '{"n": 20}')
    shown = [followed.line() for _ in range(3)]
    assert shown[0].split() == ["│", "20", "│"] and shown[2] == "2 rows", shown
    assert followed.end()[0] == 0


def test_adbc_reads_batches_as_they_come(platform, table):
    host, port = platform.address("flight_sql")
    header = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {platform.token}"}
    with (
        flight_sql.connect(f"grpc://{host}:{port}", db_kwargs=header, autocommit=True) as connection,
        concurrent.futures.ThreadPoolExecutor() as beside,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"SELECT n FROM {table} EMIT CHANGES LIMIT 3")
        batches = cursor.fetch_record_batch()
        for n in (1, 2, 3):
            batch = beside.submit(batches.read_next_batch).result(timeout=PATIENCE_S)
            assert batch.to_pydict() == {"n": [n]}
            produce(platform, table, f'{{"n": {n + 1}}}')
        with pytest.raises(StopIteration):
            beside.submit(batches.read_next_batch).result(timeout=PATIENCE_S)


def test_postgresql_sends_rows_as_they_come(platform, table):
    host, port = platform.address("postgres")
    with psycopg.connect(host=host, port=port, user="admin", password=platform.token, dbname="polybolos", autocommit=True) as connection:
        connection.execute(f"SET statement_timeout = '{PATIENCE_S}s'")
        with connection.cursor() as cursor:
            rows = cursor.stream(f"SELECT n FROM {table} EMIT CHANGES")
            assert next(rows) == (1,)
            produce(platform, table, '{"n": 2}')
            assert next(rows) == (2,)
            # Which cancels it.
            rows.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_what_cannot_be_followed_is_told_with_what_to_do(platform, table):
    for sql, told in [
        (f"SELECT count(*) FROM {table}", "groups or aggregates rows; create a job"),
        (f"SELECT a.n FROM {table} AS a JOIN {table} AS b ON a.n = b.n", "joins; create a job"),
        ("SELECT id FROM created_users", "follows Kafka tables"),
    ]:
        refused = platform.run("sql", "-c", f"{sql} EMIT CHANGES", check=False)
        assert refused.returncode == 1 and told in refused.stderr, refused.stderr
    body = json.dumps({"sql": f"SELECT n FROM {table} EMIT CHANGES"}).encode()
    headers = {"Authorization": f"Bearer {platform.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{platform.endpoints['http']}/api/v1/sql", data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=PATIENCE_S)
    assert refused.value.code == 501 and "polybolos sql" in refused.value.read().decode()


def test_a_platform_that_stops_ends_it(fresh_platform, follow):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    produce(platform, "last", '{"n": 1}')
    platform.run("sql", "-c", "CREATE TABLE last (n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'last', 'format' = 'json')")
    followed = follow(platform, "SELECT n FROM last EMIT CHANGES")
    assert json.loads(followed.line()) == {"n": 1}
    assert platform.stop() == 0
    code, said = followed.end()
    assert code != 0 and said.startswith("error: the platform "), said
