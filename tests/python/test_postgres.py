"""The PostgreSQL door with psycopg: simple and prepared, text and binary, errors, and what Grafana asks first; psql's commands; SQLAlchemy."""
import datetime
import decimal
import json
import os
import pathlib
import re
import subprocess
import uuid

import psycopg
import pytest
import sqlalchemy
from conftest import wait_for
from psycopg.types import TypeInfo

USERS = "spark_streams.created_users"


@pytest.fixture
def connect(platform):
    host, port = platform.address("postgres")

    def connect(**changes):
        return psycopg.connect(**{"host": host, "port": port, "user": "admin", "password": platform.token, "dbname": "polybolos",
                                  "autocommit": True, "connect_timeout": 10, **changes})
    return connect


def test_users_arrive(connect):
    with connect() as connection:
        row = wait_for("a user", lambda: connection.execute(f"SELECT id, first_name, age, registered_date FROM {USERS} LIMIT 1").fetchone())
        assert isinstance(row[0], str) and isinstance(row[1], str)


@pytest.mark.parametrize("binary", [False, True])
def test_prepared_statements_with_parameters(connect, binary):
    with connect() as connection:
        known = wait_for("a user", lambda: connection.execute(f"SELECT id, first_name FROM {USERS} LIMIT 1").fetchone())
        for _ in range(3):
            with connection.cursor(binary=binary) as cursor:
                cursor.execute(f"SELECT id, first_name FROM {USERS} WHERE id = %s", [known[0]], prepare=True)
                assert cursor.fetchall() == [known]
        with connection.cursor(binary=binary) as cursor:
            cursor.execute(f"SELECT count(*) FROM {USERS} WHERE age > %s AND first_name <> %s", [-1, "x'; DROP TABLE y; --"])
            assert cursor.fetchone()[0] >= 0


def test_types_are_found_by_name(connect):
    with connect() as connection:
        assert TypeInfo.fetch(connection, "int4").array_oid == 1007
        assert TypeInfo.fetch(connection, "hstore") is None


def test_answers_without_rows(connect):
    with connect() as connection:
        for query in [
            f"SELECT * FROM {USERS} WHERE id = 'nobody'",
            f"SELECT id FROM {USERS} LIMIT 0",
            "SELECT * FROM polybolos.jobs WHERE name = 'nowhere'",
        ]:
            answer = connection.execute(query)
            assert answer.fetchall() == [] and answer.description, query
        assert connection.execute(f"SELECT id FROM {USERS} WHERE id = %s", ["nobody"], prepare=True).fetchall() == []


@pytest.mark.parametrize("binary", [False, True])
def test_parameters_of_limits(connect, binary):
    with connect() as connection, connection.cursor(binary=binary) as cursor:
        cursor.execute("SELECT n FROM (VALUES (1), (2), (3)) AS t (n) ORDER BY n LIMIT %s OFFSET %s", [1, 1], prepare=True)
        assert cursor.fetchall() == [(2,)]


@pytest.mark.parametrize("binary", [False, True])
def test_types_that_postgresql_lacks(connect, binary):
    query = ("SELECT CAST(n AS TINYINT) AS tiny, make_array(CAST(n AS TINYINT), NULL), make_array(make_array(n)), "
             "map(make_array('k'), make_array(n)), named_struct('a', n, 'b', NULL), NULL FROM (VALUES (-1), (2)) AS t (n) ORDER BY n")
    with connect() as connection, connection.cursor(binary=binary) as cursor:
        cursor.execute(query, prepare=True)
        tiny, tinies, nested, pairs, struct, nothing = cursor.fetchone()
        assert (tiny, tinies, nothing) == (-1, [-1, None], None)
        assert (json.loads(nested), json.loads(pairs), json.loads(struct)) == ([[-1]], {"k": -1}, {"a": -1, "b": None})


@pytest.mark.parametrize("binary", [False, True])
def test_decimals_of_every_length(connect, binary):
    nines = "9" * 38
    with connect() as connection, connection.cursor(binary=binary) as cursor:
        for text, scale in [("1" + "0" * 28, 0), (nines, 0), ("-" + nines, 0), ("-0." + nines, 38), (nines[:20] + ".50", 2), ("0.000", 3)]:
            value = f"CAST('{text}' AS DECIMAL(38, {scale}))"
            cursor.execute(f"SELECT {value}, make_array({value}, NULL), nullif({value}, {value})", prepare=True)
            number, numbers, nothing = cursor.fetchone()
            expected = decimal.Decimal(text).as_tuple()
            assert number.as_tuple() == expected, text
            assert (numbers[0].as_tuple(), numbers[1], nothing) == (expected, None, None), text


@pytest.mark.parametrize("form", ["s", "t", "b"])
def test_parameters_of_every_type(connect, form):
    """`%s` lets psycopg choose, `%t` is text, `%b` binary."""
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6)
    with connect() as connection:
        for value in [5, -70_000, 1.5, True, "O'Hara", b"\x00\xff", moment, moment.date(), moment.time()]:
            assert connection.execute(f"SELECT %{form}", [value]).fetchone() == (value,), value
        # Of texts psycopg says no type unless it sends them in binary, so they come back as one text.
        texts = [["a", "", None, "NULL", 'x"y\\,{}']] if form == "b" else []
        for items in [*texts, [1, None, -3], [1.5, None], [True, None], [b"\x01", None]]:
            assert connection.execute(f"SELECT %{form}", [items]).fetchone() == (items,), items
        name = uuid.uuid4()
        assert connection.execute(f"SELECT %{form}", [name]).fetchone() == (str(name),)
        found = connection.execute(f"SELECT count(*) FROM {USERS} WHERE id = %{form}", [name]).fetchone()
        assert found == (0,)
        assert connection.execute(f"SELECT %{form}", [None]).fetchone() == (None,)
        assert connection.execute(f"SELECT %{form}, %{form}, %{form}", [7, 7, None]).fetchone() == (7, 7, None)


@pytest.mark.parametrize("form", ["s", "t", "b"])
def test_numeric_parameters(connect, form):
    with connect() as connection:
        for value in map(decimal.Decimal, ["1.50", "-70000.25", "0.000012", "120000", "0", "1E+10"]):
            assert float(connection.execute(f"SELECT %{form}", [value]).fetchone()[0]) == float(value)
        for value in map(decimal.Decimal, ["1.50", "-70000.25", "123456789012345678.12"]):
            query = f"SELECT count(*) FROM (VALUES (CAST('{value}' AS DECIMAL(20, 2)))) AS t (n) WHERE n = %{form}"
            assert connection.execute(query, [value]).fetchone() == (1,), value
        if form == "b":
            with pytest.raises(psycopg.Error, match="is no numeric"):
                connection.execute("SELECT %b", [decimal.Decimal("NaN")])


@pytest.mark.parametrize("form", ["s", "t", "b"])
def test_interval_parameters(connect, form):
    length = datetime.timedelta(days=1, hours=2, microseconds=7)
    with connect() as connection:
        answer = connection.execute(f"SELECT TIMESTAMP '2026-01-01 00:00:00' + %{form}", [length]).fetchone()
    assert answer == (datetime.datetime(2026, 1, 2, 2, 0, 0, 7),)


def test_backslash_commands_of_psql(platform, connect):
    host, port = platform.address("postgres")

    def psql(command):
        """Everything that it prints, unaligned."""
        answer = subprocess.run(
            ["psql", "-XAw", "-h", host, "-p", str(port), "-U", "admin", "-d", "polybolos", "-c", command], text=True, timeout=60,
            env={**os.environ, "PGPASSWORD": platform.token}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return answer.stdout

    with connect() as connection:
        connection.execute("CREATE TABLE psql_probe (\"Id\" STRING NOT NULL, n BIGINT) WITH ('connector' = 'blackhole')")
        connection.execute("CREATE VIEW \"Psql_View\" AS SELECT \"Id\", n + 1 AS more FROM psql_probe WHERE n > 1")
        query = 'SELECT "Id", n + 1 AS more FROM psql_probe WHERE n > 1'
        try:
            for command, expected in {
                r"\d psql_probe": "Id|text||not null|\nn|bigint|||",
                r"\d+ psql_probe": "Id|text||not null||extended|||\nn|bigint||||plain|||",
                r'\d "Psql_View"': "View \"public.Psql_View\"",
                r'\d public."Psql_View"': "more|bigint|||",
                r'\d+ "Psql_View"': f"View definition:\n{query}\n",
                r'\sv "Psql_View"': f"VIEW public.\"Psql_View\" AS\n{query}\n",
                r"\d": "public|psql_probe|table|admin\n",
                r"\d+": "public|Psql_View|view|admin|permanent||0 bytes|\n",
                r"\dt+": "public|psql_probe|table|admin|permanent||0 bytes|\n",
                r"\dv": "public|Psql_View|view|admin\n",
                r"\dv+": "public|Psql_View|view|admin|permanent|0 bytes|\n",
                r"\dn+": "public|admin||\n",
                r"\l+": "polybolos|admin|UTF-8|en_US.UTF-8|en_US.UTF-8||libc||0 bytes|pg_default|\n(1 row)",
                r"\du": "admin|Superuser, Create role, Create DB|",
                r"\dp": "public|psql_probe|table|||\n",
                r"\df": "(0 rows)",
                r"\df+": "(0 rows)",
                r"\dT": "(0 rows)",
                r"\dT+": "(0 rows)",
                r"\ddp": "(0 rows)",
                r"\dL": "(0 rows)",
                r"\dO": "(0 rows)",
                r"\dd": "(0 rows)",
                r"\dy": "(0 rows)",
                r"\dX": "(0 rows)",
                r"\di": "Did not find any relations",
                r"\ds": "Did not find any relations",
                r"\dm": "Did not find any relations",
                r"\sf nowhere": "\"nowhere\" not found",
            }.items():
                said = psql(command)
                assert expected in said and ("ERROR" in said) == ("not found" in expected), f"{command}: {said}"
            views = connection.execute("SELECT viewname, definition FROM pg_views WHERE viewowner = current_user").fetchall()
            assert ("Psql_View", query) in views
        finally:
            connection.execute("DROP VIEW \"Psql_View\"")
            connection.execute("DROP TABLE psql_probe")


def test_sqlalchemy_reflects_tables(platform, connect):
    host, port = platform.address("postgres")
    engine = sqlalchemy.create_engine(sqlalchemy.URL.create(
        "postgresql+psycopg", username="admin", password=platform.token, host=host, port=port, database="polybolos"))
    with connect() as connection:
        connection.execute("CREATE TABLE alchemy_probe (\"Id\" STRING NOT NULL, n BIGINT, price DECIMAL(10, 2), seen TIMESTAMP(3), "
                           "tags ARRAY<STRING>) WITH ('connector' = 'blackhole')")
        connection.execute("CREATE TABLE alchemy_keyed (\"Id\" STRING, v STRING, n BIGINT, PRIMARY KEY (n, \"Id\") NOT ENFORCED) WITH "
                           "('connector' = 'upsert-kafka', 'topic' = 'alchemy_keyed', 'key.format' = 'json', 'value.format' = 'json')")
        connection.execute("CREATE VIEW alchemy_view AS SELECT \"Id\", n + 1 AS more FROM alchemy_probe")
        try:
            inspector = sqlalchemy.inspect(engine)
            schemas = inspector.get_schema_names()
            assert {"public", "polybolos"} <= set(schemas) and "pg_catalog" not in schemas
            tables, views = inspector.get_table_names(), inspector.get_view_names()
            assert "alchemy_probe" in tables and "alchemy_view" in views and "jobs" not in tables + views
            assert "jobs" in inspector.get_table_names("polybolos") + inspector.get_view_names("polybolos")
            columns = {column["name"]: column for column in inspector.get_columns("alchemy_probe")}
            kinds = {"Id": sqlalchemy.Text, "n": sqlalchemy.BigInteger, "price": sqlalchemy.Numeric, "seen": sqlalchemy.DateTime,
                     "tags": sqlalchemy.ARRAY}
            assert list(columns) == list(kinds)
            assert all(isinstance(columns[name]["type"], kind) for name, kind in kinds.items()), columns
            assert [name for name, column in columns.items() if not column["nullable"]] == ["Id"]
            assert [column["name"] for column in inspector.get_columns("alchemy_view")] == ["Id", "more"]
            assert "name" in [column["name"] for column in inspector.get_columns("jobs", schema="polybolos")]
            assert inspector.get_pk_constraint("alchemy_probe")["constrained_columns"] == []
            key = inspector.get_pk_constraint("alchemy_keyed")
            assert (key["constrained_columns"], key["name"]) == (["n", "Id"], "alchemy_keyed_pkey")
            keyed = sqlalchemy.Table("alchemy_keyed", sqlalchemy.MetaData(), autoload_with=engine)
            assert {column.name for column in keyed.primary_key} == {"n", "Id"}
            assert inspector.get_indexes("alchemy_keyed") == inspector.get_unique_constraints("alchemy_keyed") == []
            assert inspector.get_foreign_keys("alchemy_keyed") == inspector.get_check_constraints("alchemy_keyed") == []
            assert inspector.has_table("alchemy_probe") and inspector.has_table("jobs", schema="polybolos")
            assert not inspector.has_table("nowhere") and not inspector.has_table("jobs")
            reflected = sqlalchemy.Table("alchemy_probe", sqlalchemy.MetaData(), autoload_with=engine)
            assert reflected.columns.keys() == list(kinds)
        finally:
            engine.dispose()
            connection.execute("DROP VIEW alchemy_view")
            connection.execute("DROP TABLE alchemy_probe")
            connection.execute("DROP TABLE alchemy_keyed")


def test_a_transaction_says_that_it_takes_nothing_back(connect):
    said = []
    with connect(autocommit=False) as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
        connection.execute("CREATE TABLE postgres_probe (id STRING) WITH ('connector' = 'blackhole')")
        connection.rollback()
        assert any("take effect at once" in message for message in said), said
        connection.autocommit = True
        connection.execute("DROP TABLE postgres_probe")


def test_what_a_query_leaves_out_is_told(connect, platform):
    platform.run("topic", "produce", "postgres_left_out", stdin='{"n": 1}\nno JSON\n{"n": 2}\n{"n": "x"}\n')
    notice = r"2 records of topic postgres_left_out could not be read and are left out; the first: partition \d+ offset \d+: .+"
    said = []
    with connect() as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
        connection.execute(
            "CREATE TABLE postgres_left_out (n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'postgres_left_out', 'format' = 'json')"
        )
        try:
            for query, answer in [
                ("SELECT sum(n) FROM postgres_left_out", [(3,)]),
                ("SELECT n FROM postgres_left_out ORDER BY n", [(1,), (2,)]),
                ("SELECT a.n FROM postgres_left_out AS a JOIN postgres_left_out AS b ON a.n = b.n + 1", [(2,)]),
            ]:
                said.clear()
                assert connection.execute(query).fetchall() == answer
                assert len(said) == 1 and re.fullmatch(notice, said[0]), f"{query}: {said}"
                assert re.search(notice, platform.run("sql", "-c", query).stderr), query
            said.clear()
            from_the_end = "SELECT count(*) FROM postgres_left_out /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */"
            assert connection.execute(from_the_end).fetchall() == [(0,)] and not said
        finally:
            connection.execute("DROP TABLE postgres_left_out")


def test_statements_of_the_platform(connect):
    with connect() as connection:
        jobs = [row[0] for row in connection.execute("SHOW JOBS").fetchall()]
        assert "created_users_job" in jobs
        assert connection.execute("SELECT name FROM polybolos.jobs").fetchall()
        described = connection.execute("DESCRIBE polybolos.jobs").fetchall()
        assert ("name", "STRING") in [row[:2] for row in described]
        columns = connection.execute("SHOW COLUMNS FROM information_schema.tables").fetchall()
        assert "table_name" in [row[0] for row in columns]
        with pytest.raises(psycopg.Error, match="are the system's own and no statement made them; DESCRIBE polybolos.jobs"):
            connection.execute("SHOW CREATE TABLE polybolos.jobs")


def test_errors_have_codes(connect):
    with connect() as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM nowhere")
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("SELEC 1")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_wrong_token_is_refused(connect):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(password="wrong")


def test_what_grafana_asks(connect):
    with connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        tables = connection.execute(
            "SELECT quote_ident(table_name) FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN "
            "('information_schema', 'pg_catalog') ORDER BY 1").fetchall()
        assert ("created_users",) in tables
        series = connection.execute(
            f"SELECT date_trunc('month', registered_date) AS time, count(*) AS users FROM {USERS} "
            "WHERE registered_date BETWEEN '1990-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z' GROUP BY 1 ORDER BY 1").fetchall()
        assert all(len(row) == 2 for row in series)


def test_every_panel_of_the_grafana_dashboards_has_an_answer(connect):
    """The panels' queries, with `$__timeFilter(column)` written out as Grafana's PostgreSQL data source does."""
    files = sorted((pathlib.Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards").glob("*.json"))
    queries = re.findall(r'"rawSql": ("(?:[^"\\]|\\.)*")', "\n".join(file.read_text() for file in files))
    assert len(queries) >= 8
    with connect() as connection:
        wait_for("a user", lambda: connection.execute(f"SELECT id FROM {USERS} LIMIT 1").fetchone())
        for query in map(json.loads, queries):
            asked = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '1970-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'", query)
            assert connection.execute(asked).fetchall(), query
