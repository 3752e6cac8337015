"""The Flight SQL door with ADBC, the way Polars, pandas and SQLAlchemy come in."""
import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import OperationalError, ProgrammingError
from conftest import wait_for

USERS = "spark_streams.created_users"


@pytest.fixture
def connection(platform):
    host, port = platform.address("flight_sql")
    header = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {platform.token}"}
    with flight_sql.connect(f"grpc://{host}:{port}", db_kwargs=header, autocommit=True) as connection:
        yield connection


def query(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def test_users_arrive(connection):
    table = wait_for("a user", lambda: (found := query(connection, f"SELECT * FROM {USERS} LIMIT 10")).num_rows and found)
    assert {"id", "first_name", "last_name", "picture", "nationality"} <= set(table.column_names)
    assert table.column("id").null_count == 0
    assert query(connection, f"SELECT count(*) AS n FROM {USERS}").column("n")[0].as_py() > 0


def test_an_empty_answer_keeps_its_schema(connection):
    table = query(connection, f"SELECT id, age FROM {USERS} WHERE id = 'nobody'")
    assert table.num_rows == 0 and table.column_names == ["id", "age"]


def test_a_column_that_folding_makes_non_null(connection):
    assert query(connection, "SELECT CASE WHEN 1 = 1 THEN 5 END AS n").column("n").to_pylist() == [5]
    assert query(connection, f"SELECT nullif(1, 2) AS n, id FROM {USERS} LIMIT 0").num_rows == 0
    with connection.cursor() as cursor:
        cursor.adbc_prepare("SELECT nullif(1, 2) AS n")
        cursor.execute("SELECT nullif(1, 2) AS n")
        assert cursor.fetch_arrow_table().column("n").to_pylist() == [1]


def test_parameters_beside_a_users_function_and_a_view_have_types(connection):
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION flight_twice(n BIGINT) RETURNS BIGINT RETURN n * 2")
        cursor.execute(f"CREATE VIEW flight_ages AS SELECT id, age FROM {USERS}")
        parameters = cursor.adbc_prepare("SELECT flight_twice(age), IF(age > 9, 1, 2) FROM flight_ages WHERE age > $1 AND id = $2")
        assert [str(field.type) for field in parameters] == ["int32", "string"]
        cursor.execute("DROP VIEW flight_ages")
        cursor.execute("DROP FUNCTION flight_twice")


def test_statements_of_the_platform(connection):
    assert "created_users_job" in query(connection, "SHOW JOBS").column(0).to_pylist()
    assert query(connection, "SELECT * FROM polybolos.jobs").num_rows >= 1


def test_tables_create_and_drop(connection):
    is_there = lambda: "adbc_probe" in query(connection, "SHOW TABLES").column("table_name").to_pylist()  # noqa: E731
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE adbc_probe (id STRING, n BIGINT) WITH ('connector' = 'blackhole')")
        assert is_there()
        cursor.execute("DROP TABLE adbc_probe")
        assert not is_there()


def test_rows_come_where_a_query_leaves_records_out(connection, platform):
    """What is told of it in the call's trailers, ADBC does not look for."""
    platform.run("topic", "produce", "flight_left_out", stdin='{"n": 1}\nno JSON\n{"n": 2}\n')
    with connection.cursor() as cursor:
        # Nobody asks for its answer, and what follows counts on it.
        cursor.execute("CREATE TABLE flight_left_out (n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'flight_left_out', 'format' = 'json')")
    try:
        assert query(connection, "SELECT n FROM flight_left_out ORDER BY n").column("n").to_pylist() == [1, 2]
        assert query(connection, "SELECT n FROM flight_left_out WHERE n > 2").num_rows == 0
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE flight_left_out")


def test_metadata(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Polybolos"
    objects = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
    tables = [table["table_name"] for catalog in objects for schema in catalog["catalog_db_schemas"] or []
              for table in schema["db_schema_tables"] or []]
    assert "created_users" in tables
    assert "TABLE" in connection.adbc_get_table_types()


def test_schemas_are_told_without_rows(connection):
    with connection.cursor() as cursor:
        assert cursor.adbc_execute_schema(f"SELECT id, age + 1 AS next FROM {USERS}").names == ["id", "next"]
    assert "name" in connection.adbc_get_table_schema("jobs", db_schema_filter="polybolos").names


def test_errors_are_told(connection):
    with pytest.raises((ProgrammingError, OperationalError), match="nowhere"):
        query(connection, "SELECT * FROM nowhere")


def test_basic_login(platform):
    host, port = platform.address("flight_sql")
    with flight_sql.connect(f"grpc://{host}:{port}", db_kwargs={"username": "admin", "password": platform.token}, autocommit=True) as connection:
        assert query(connection, "SELECT 1 AS one").column("one").to_pylist() == [1]
    with pytest.raises((ProgrammingError, OperationalError)):
        with flight_sql.connect(f"grpc://{host}:{port}", db_kwargs={"username": "admin", "password": "wrong"}, autocommit=True) as connection:
            query(connection, "SELECT 1")
