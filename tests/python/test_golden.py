"""`polybolos test`: our own pipelines pass, and what does not fit fails with a diff that a person can read."""

import json
import os
import pathlib
import shutil
import subprocess

from conftest import is_alive, wait_for

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("POLYBOLOS", str(REPOSITORY / "target/debug/polybolos"))


def polybolos_test(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, "test", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)


def test_our_pipelines_come_to_the_expected_rows_in_all_three_ways():
    folders = sorted(str(folder.parent.relative_to(REPOSITORY)) for folder in (REPOSITORY / "jobs").glob("*/tests"))
    assert {"jobs/users", "jobs/nexmark", "jobs/sensors"} <= set(folders)
    done = polybolos_test(*folders, "--output", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(line["passed"] for line in lines)
    ways = {"one go", "an epoch per record", "a crash in the middle"}
    for folder in folders:
        assert {line["run"] for line in lines if line["pipeline"] == folder} == ways, folder


def test_a_wrong_expectation_fails_with_a_diff_and_can_be_taken_as_right(tmp_path):
    pipeline = tmp_path / "users"
    shutil.copytree(REPOSITORY / "jobs/users", pipeline)
    expected = pipeline / "tests/people/expected/created_users.ndjson"
    right = [json.loads(line) for line in expected.read_text().splitlines()]
    wrong = [dict(row) for row in right]
    wrong[0]["age"] = 99
    wrong[1]["id"] = "nobody"
    expected.write_text("".join(json.dumps(row) + "\n" for row in wrong))

    done = polybolos_test(str(pipeline))
    assert done.returncode == 4, done.stdout + done.stderr
    assert "3 of 3 runs failed" in done.stderr
    diff = done.stdout
    assert "--- people/expected/created_users.ndjson" in diff and "+++ created_users, one go" in diff, diff
    assert "@@ 1 missing, 1 extra, 1 changed @@" in diff
    assert "    age: expected 99, found 36" in diff
    assert any(line.startswith("-") and 'id="nobody"' in line for line in diff.splitlines())
    assert any(line.startswith("+") and 'id="2"' in line for line in diff.splitlines())
    assert "dead_letters" not in diff, "that file is right"

    [line, *_] = [json.loads(line) for line in polybolos_test(str(pipeline), "--output", "json").stdout.splitlines()]
    [table] = line["differences"]
    assert not line["passed"] and table["table"] == "created_users"
    assert table["changed"][0]["expected"]["age"] == 99 and table["changed"][0]["found"]["age"] == 36

    done = polybolos_test(str(pipeline), "--update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted((json.loads(line) for line in expected.read_text().splitlines()), key=lambda row: row["id"]) == right


def test_a_case_gives_files_and_expects_some(tmp_path):
    pipeline = tmp_path / "rooms"
    (pipeline / "tests/one/input").mkdir(parents=True)
    (pipeline / "tests/one/expected").mkdir()
    (pipeline / "rooms.sql").write_text("""
CREATE TABLE readings (id BIGINT, sensor STRING) WITH ('connector' = 'kafka', 'topic' = 'readings', 'format' = 'json');
CREATE TABLE rooms (sensor STRING, room STRING) WITH ('connector' = 'filesystem', 'path' = 's3://lake/rooms', 'format' = 'parquet');
CREATE TABLE placed (id BIGINT, room STRING) WITH ('connector' = 'filesystem', 'path' = 's3://lake/placed', 'format' = 'parquet');
CREATE JOB placed_job AS INSERT INTO placed SELECT id, room FROM readings JOIN rooms ON readings.sensor = rooms.sensor;
""")
    readings = [{"id": number, "sensor": "ab"[number % 2]} for number in range(6)]
    (pipeline / "tests/one/input/readings.ndjson").write_text("".join(json.dumps(reading) + "\n" for reading in readings))
    (pipeline / "tests/one/input/rooms.ndjson").write_text('{"sensor": "b", "room": "hall"}\n{"sensor": "c", "room": "attic"}\n')
    (pipeline / "tests/one/expected/placed.csv").write_text("id,room\n1,hall\n3,hall\n5,hall\n")
    done = polybolos_test(str(pipeline))
    assert done.returncode == 0, done.stdout + done.stderr


def test_rows_that_may_be_late_correct_their_windows_however_epochs_are_cut(tmp_path):
    pipeline = tmp_path / "lateness"
    (pipeline / "tests/one/input").mkdir(parents=True)
    (pipeline / "tests/one/expected").mkdir()
    statements = ["CREATE TABLE readings (ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 'readings', 'format' = 'json')"]
    for table, emit in (("closed", " EMIT ON WINDOW CLOSE"), ("counted", "")):
        statements += [
            f"CREATE TABLE {table} (window_start TIMESTAMP(3), n BIGINT, PRIMARY KEY (window_start) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's')",
            f"CREATE JOB {table}_job WITH ('allowed_lateness' = '1 minute') AS INSERT INTO {table} SELECT window_start, count(*) "
            f"FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end{emit}",
        ]
    (pipeline / "lateness.sql").write_text(";\n".join(statements) + ";\n")
    # Each window gets a row after its end, of which the second comes when it has been written twice.
    seconds = [1, 2, 15, 3, 27, 4, 16, 35]
    (pipeline / "tests/one/input/readings.ndjson").write_text("".join(f'{{"ts": "2026-01-01 00:00:{second:02}"}}\n' for second in seconds))
    closed = "window_start,n\n2026-01-01T00:00:00,4\n2026-01-01T00:00:10,2\n2026-01-01T00:00:20,1\n"
    (pipeline / "tests/one/expected/closed.csv").write_text(closed)
    (pipeline / "tests/one/expected/counted.csv").write_text(closed + "2026-01-01T00:00:30,1\n")
    (pipeline / "tests/one/expected/polybolos.late_rows.ndjson").write_text("")
    done = polybolos_test(str(pipeline))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_case_lacks_is_told(tmp_path):
    assert polybolos_test(str(REPOSITORY / "ingest")).returncode == 2
    pipeline = tmp_path / "users"
    shutil.copytree(REPOSITORY / "jobs/users", pipeline)
    (pipeline / "tests/people/input/users_created.ndjson").rename(pipeline / "tests/people/input/user_created.ndjson")
    done = polybolos_test(str(pipeline))
    assert done.returncode == 1 and 'no table or topic "user_created"' in done.stderr, done.stderr
    shutil.rmtree(pipeline)
    shutil.copytree(REPOSITORY / "jobs/users", pipeline)
    expected = pipeline / "tests/people/expected"
    for name, text, words in [
        ("nowhere.ndjson", '{"id": 1}\n', ["expected/nowhere.ndjson", "does not exist"]),
        ("created_users.csv", "\ufeffid,nome\n1,Ada\n", ["expected/created_users.csv has column nome", "first_name"]),
        ("created_users.csv", "id,id\n1,1\n", ["expected/created_users.csv has column id twice"]),
    ]:
        (expected / name).write_text(text)
        done = polybolos_test(str(pipeline))
        assert done.returncode == 1 and all(word in done.stderr for word in words), (name, done.stderr)
        (expected / name).unlink()


def test_platforms_end_with_a_test_that_is_killed(tmp_path):
    own = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([BINARY, "test", "jobs/nexmark"], cwd=REPOSITORY, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    platforms = lambda: [  # noqa: E731
        int(folder.name) for folder in pathlib.Path("/proc").iterdir() if folder.name.isdigit() and str(tmp_path).encode() in (folder / "cmdline").read_bytes()
    ]
    try:
        wait_for("a platform that serves", lambda: list(tmp_path.glob("*/data/endpoints.json")))
        started = wait_for("its process", platforms)
    finally:
        process.kill()
        process.wait()
    wait_for("the end of the platforms", lambda: not any(map(is_alive, started)))
