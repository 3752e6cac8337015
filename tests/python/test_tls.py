"""Every door with TLS, from certificate files, as psql, ADBC and the command line come in."""
import contextlib
import os
import pathlib
import socket
import subprocess

import adbc_driver_flightsql.dbapi as flight_sql
import pytest
from adbc_driver_flightsql import DatabaseOptions
from conftest import BINARY, free_offset


def test_every_door_speaks_tls(fresh_platform, certificates):
    tls = ("--tls-certificate", str(certificates / "certificate.pem"), "--tls-key", str(certificates / "key.pem"))
    platform = fresh_platform("--no-pipelines", *tls)
    platform.start()
    ca = str(certificates / "ca.pem")

    host, port = platform.address("postgres")
    for mode in ("require", "verify-full"):
        psql = ["psql", f"host={host} port={port} user=admin dbname=polybolos sslmode={mode} sslrootcert={ca}", "-Atc", "SELECT 1"]
        done = subprocess.run(psql, capture_output=True, text=True, env={**os.environ, "PGPASSWORD": platform.token}, timeout=60)
        assert done.stdout.strip() == "1", done.stderr
    with contextlib.ExitStack() as taken:
        for _ in range(128):
            taken.enter_context(socket.create_connection((host, port), timeout=60))
        done = subprocess.run(psql, capture_output=True, text=True, env={**os.environ, "PGPASSWORD": platform.token}, timeout=60)
        assert done.returncode == 2 and "too many connections: the PostgreSQL door takes 128" in done.stderr, done.stderr

    host, port = platform.address("flight_sql")
    options = {
        DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {platform.token}",
        DatabaseOptions.TLS_ROOT_CERTS.value: pathlib.Path(ca).read_text(),
    }
    with flight_sql.connect(f"grpc+tls://{host}:{port}", db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 AS one")
            assert cursor.fetchone() == (1,)

    answer = platform.run("sql", "-c", "SELECT 1 AS one", "--output", "json", "--ca-file", ca)
    assert answer.stdout == '{"one":1}\n'
    in_the_clear = platform.run("sql", "-c", "SELECT 1", check=False)
    assert in_the_clear.returncode == 3 and "pass --ca-file" in in_the_clear.stderr, in_the_clear.stderr
    no_certificate = platform.run("sql", "-c", "SELECT 1", "--ca-file", str(certificates / "key.pem"), check=False)
    assert no_certificate.returncode == 1 and "holds no certificate" in no_certificate.stderr, no_certificate.stderr


def test_tls_with_a_platform_that_speaks_none_is_told(platform, certificates):
    done = platform.run("sql", "-c", "SELECT 1", "--ca-file", str(certificates / "ca.pem"), check=False)
    assert done.returncode == 3 and "does not speak TLS" in done.stderr, done.stderr


def test_a_certificate_without_its_key_is_refused(certificates):
    command = [BINARY, "up", "--data-dir", str(certificates / "data"), "--port-offset", str(free_offset()), "--no-pipelines"]
    command += ["--tls-certificate", str(certificates / "certificate.pem"), "--tls-key", str(certificates / "ca-key.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "do not go together" in done.stderr
