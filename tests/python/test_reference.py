"""README and docs/reference cannot rot: their examples go through the binary, their tables are compared with the code."""

import os
import pathlib
import re
import shlex
import subprocess
import tomllib

import pytest
from conftest import wait_for

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs/reference"
BINARY = os.environ.get("POLYBOLOS", str(REPOSITORY / "target/debug/polybolos"))


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", (REFERENCE / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {language} example"
    return found


def polybolos(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [BINARY, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
    )


def test_the_first_job_of_the_readme_works_as_it_is_printed(fresh_platform):
    section = (REPOSITORY / "README.md").read_text().split("## A first job")[1].split("\n## ")[0]
    printed = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    platform = fresh_platform("--no-pipelines")
    platform.start()
    script = f'set -euo pipefail\npolybolos() {{ {shlex.quote(BINARY)} "$@"; }}\n{printed}\n'
    environment = {**os.environ, "POLYBOLOS_DATA_DIR": str(platform.folder)}
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "job latest_job started" in answer.stdout + answer.stderr
    wait_for("the row", lambda: platform.sql("SELECT * FROM latest"), [{"device": "a", "value": 1.5}])
    assert platform.stop() == 0


def test_the_tutorial_works_as_it_is_printed(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    environment = {**os.environ, "POLYBOLOS_DATA_DIR": str(platform.folder)}
    minutes = "SELECT mean, n FROM minute_stats ORDER BY window_start"
    first, second = {"mean": 1.5, "n": 2}, {"mean": 4.4, "n": 2}
    # What each step leads to: the next one begins when it is there.
    seen = [
        lambda: platform.sql(minutes) == [first],
        lambda: platform.sql("SELECT count(*) AS n FROM polybolos.dead_letters") == [{"n": 1}],
        lambda: True,
        lambda: True,
        lambda: platform.sql(minutes) == [first, second],
        lambda: platform.sql("SELECT topic_offset FROM polybolos.late_rows") == [{"topic_offset": 6}],
    ]
    steps = blocks("../tutorial.md", "sh")
    assert len(steps) == len(seen)
    for step, is_there in zip(steps, seen):
        script = f'set -euo pipefail\npolybolos() {{ {shlex.quote(BINARY)} "$@"; }}\n{step}'
        answer = subprocess.run(["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=environment)
        assert answer.returncode == 0, step + answer.stdout + answer.stderr
        wait_for(step, is_there)
    assert platform.sql(minutes) == [first, second]
    assert platform.stop() == 0


@pytest.mark.parametrize("page", ["sql.md", "types.md", "kafka.md", "cassandra.md", "filesystem.md"])
def test_sql_examples_are_planned(page, tmp_path):
    (tmp_path / "page.sql").write_text("\n".join(blocks(page, "sql")))
    answer = polybolos("validate", str(tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (tmp_path / "page.sql").write_text("\n".join(blocks(page, "sql")).replace("'connector'", "'conector'", 1))
    assert polybolos("validate", str(tmp_path)).returncode != 0


def test_what_a_pipeline_does_at_every_start_is_a_warning(tmp_path):
    (tmp_path / "asks.sql").write_text("CREATE TABLE t (a INT) WITH ('connector' = 'blackhole');\nSHOW TABLES;\n")
    answer = polybolos("validate", str(tmp_path))
    assert answer.returncode == 0 and "asks.sql:2:1: warning: SHOW is run at every start" in answer.stdout, answer.stdout + answer.stderr


def test_what_the_engine_cannot_keep_right_is_told_before_it_is_made(tmp_path):
    tables = """CREATE TABLE t (k STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json');
CREATE TABLE s (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'cassandra', 'keyspace' = 's');
"""
    job = "  CREATE JOB j AS INSERT INTO s SELECT k, {}(v) FROM t GROUP BY k;\n"
    (tmp_path / "job.sql").write_text(tables + job.format("max"))
    answer = polybolos("validate", str(tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    sliding = "approx_distinct(v) OVER (PARTITION BY k ORDER BY v ROWS 1 PRECEDING) FROM t"
    (tmp_path / "job.sql").write_text(tables + job.format("max").replace("max(v) FROM t GROUP BY k", sliding))
    answer = polybolos("validate", str(tmp_path))
    assert answer.returncode != 0 and "job.sql:3:3: " in answer.stdout and "begin with UNBOUNDED PRECEDING" in answer.stdout, answer.stdout
    assert "0 feeds, 2 tables, 0 jobs" in answer.stdout and "1 problem;" in answer.stdout + answer.stderr, answer.stdout + answer.stderr


def test_the_feed_example_is_loaded(tmp_path):
    (tmp_path / "ingest.toml").write_text(blocks("configuration.md", "toml ingest")[0])
    answer = polybolos("validate", str(tmp_path))
    assert answer.returncode == 0 and ": 1 feed," in answer.stdout, answer.stdout + answer.stderr


def test_the_cluster_file_has_what_each_service_prints():
    head, *sections = (REPOSITORY / "cli/config/cluster.toml").read_text().rstrip().split("\n\n")
    assert blocks("configuration.md", "toml cluster") == ["\n\n".join([head, *sections]) + "\n"]
    others = {"scheduler": ("executor", "ingest"), "executor": ("kafka", "scheduler", "sql", "ingest"),
              "ingest": ("storage", "s3", "cassandra", "scheduler", "sql", "executor")}
    for service, foreign in others.items():
        read = [section for section in sections if re.match(r"\[(\w+)", section)[1] not in foreign]
        assert polybolos(service, "--print-config").stdout == "\n\n".join([head, *read]) + "\n", service


def test_command_lines_have_the_verbs_and_flags_of_the_binary():
    for line in blocks("cli.md", "sh")[0].splitlines():
        words = shlex.split(line)[1:]
        verbs = words[: 2 if words[0] in ("job", "topic", "dlq", "savepoint") else 1]
        answer = polybolos(*verbs, "--help")
        assert answer.returncode == 0, f"{line}: {answer.stderr}"
        for flag in (word for word in words if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", answer.stdout), f"{line}: no {flag}"


def helps(*verbs: str):
    """Every verb with its help."""
    answer = polybolos(*verbs, "--help")
    assert answer.returncode == 0, answer.stderr
    yield " ".join(verbs), answer.stdout
    listed = re.search(r"^Commands:\n(.*?)(?=^\S|\Z)", answer.stdout, re.MULTILINE | re.DOTALL)
    for verb in re.findall(r"^  ([a-z]+)", listed[1], re.MULTILINE) if listed else []:
        if verb != "help":
            yield from helps(*verbs, verb)


def test_every_flag_is_in_the_reference():
    page = (REFERENCE / "cli.md").read_text()
    flags = {(verb, flag) for verb, text in helps() for flag in re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)}
    assert {("up", "--tls-key"), ("job restart", "--discard"), ("cluster", "--kafka"), ("sql", "--command")} <= flags
    own = {"--help", "--version"}
    assert sorted(f"{verb} {flag}" for verb, flag in flags if flag not in own and not re.search(rf"(?<![\w-]){flag}(?![\w-])", page)) == []


def test_variables_of_flags_are_in_the_reference_or_follow_its_rule():
    keys = {f"POLYBOLOS_{section}_{key}".upper() for section, keys in tomllib.loads(blocks("configuration.md", "toml cluster")[0]).items() for key in keys}
    named = {name for page in ("cli.md", "configuration.md") for name in re.findall(r"`(POLYBOLOS_\w+)`", (REFERENCE / page).read_text())}
    found = {variable: verb for verb, text in helps() for variable in re.findall(r"\[env:\s+(\w+)", text)}
    assert {"POLYBOLOS_DATA_DIR", "POLYBOLOS_KAFKA_BOOTSTRAP_SERVERS", "POLYBOLOS_CASSANDRA_CONTACT_POINTS"} <= set(found)
    assert {variable: verb for variable, verb in found.items() if variable not in keys | named} == {}


def test_what_verifying_does_to_a_job_is_said_alike_in_help_and_reference():
    told = "The job computes nothing while its tables are read, and other statements about it are refused then."
    for text in (polybolos("job", "verify", "--help").stdout, (REFERENCE / "sql.md").read_text()):
        assert told.rstrip(".") in " ".join(text.split())


def test_commands_that_the_console_names_exist():
    pages = [page.read_text() for pattern in ("*.html", "js/*.js") for page in (REPOSITORY / "console").glob(pattern)]
    named = {line for page in pages for line in re.findall(r"polybolos ([a-z]+(?: -{0,2}[a-z]+)*)", page)}
    assert {"up", "sql", "dlq list --job"} <= named, named
    for line in named:
        words = line.split()
        answer = polybolos(*words[: 2 if words[0] in ("job", "topic", "dlq", "savepoint") else 1], "--help")
        assert answer.returncode == 0, f"{line}: {answer.stderr}"
        for flag in (word for word in words if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", answer.stdout), f"{line}: no {flag}"


def test_every_metric_is_documented_and_exists():
    sources = ["crates/kafka/src/metrics.rs", "scheduler/src/metrics.rs", "ingest/src/metrics.rs", "crates/service/src/telemetry.rs"]
    names = {name for file in sources for name in re.findall(r'"(polybolos_[a-z_]+)", "', (REPOSITORY / file).read_text())}
    assert set(re.findall(r"^\| `(polybolos_\w+)`", (REFERENCE / "metrics.md").read_text(), re.MULTILINE)) == names


@pytest.mark.parametrize("page, module", [("kafka.md", "kafka"), ("cassandra.md", "cassandra"), ("filesystem.md", "filesystem"), ("sql.md", "job")])
def test_every_option_is_documented_and_exists(page, module):
    """By the table at the head of the module, which lists every key."""
    head = (REPOSITORY / f"crates/sql/src/options/{module}.rs").read_text()
    rows = [line.split("|")[1] for line in head.splitlines() if line.startswith("//! | `")]
    code = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    table = re.search(r"^\| option \|.*?(?=\n\n)", (REFERENCE / page).read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    assert set(re.findall(r"^\| `([^`]+)`", table.group(), re.MULTILINE)) == code


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/EPOCHS.md"])
def test_what_is_named_by_its_path_exists(page):
    folders = "|".join(entry.name for entry in REPOSITORY.iterdir() if entry.is_dir() and entry.name != "target")
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", (REPOSITORY / page).read_text())
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def anchors(page: pathlib.Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    pages = [page for place in ("*.md", "docs/**/*.md", "deploy/**/*.md") for page in REPOSITORY.glob(place)]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert len(pages) > 10 and links
    dead = []
    for page, link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(f"{page.relative_to(REPOSITORY)}: {link}")
    assert dead == []


def test_grafana_gets_every_variable_that_its_files_name():
    folder = REPOSITORY / "deploy/grafana"
    printed = [line.strip() for line in (folder / "README.md").read_text().splitlines() if line.startswith("    export ")]
    files = "\n".join(file.read_text() for file in sorted((folder / "provisioning").rglob("*.yaml")))
    files = re.sub(r"#.*", "", files)
    assert ":-" not in files, "Grafana knows no defaults"

    def exported(**environment: str) -> dict[str, str]:
        script = "\n".join([*printed, "env -0"])
        environment = {"PATH": os.environ["PATH"], **environment}
        answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=REPOSITORY, env=environment, check=True)
        return dict(entry.split("=", 1) for entry in answer.stdout.split("\0") if entry)

    named = set(re.findall(r"\$\{?(\w+)", files))
    assert "POLYBOLOS_GRAFANA_POSTGRES" in named and named <= set(exported())
    assert exported()["POLYBOLOS_GRAFANA_POSTGRES"] == "127.0.0.1:7432"
    assert exported(POLYBOLOS_GRAFANA_POSTGRES="there:7432")["POLYBOLOS_GRAFANA_POSTGRES"] == "there:7432"


def test_every_test_that_a_rule_names_exists():
    table = (REPOSITORY / "docs/EPOCHS.md").read_text().split("## Which test fails without a rule")[1]
    rows = [line for line in table.splitlines() if re.match(r"\| [\d–]+ \|", line)]
    rules = {number for line in rows for first, last in [re.match(r"\| (\d+)(?:–(\d+))?", line).groups()] for number in range(int(first), int(last or first) + 1)}
    assert rules == set(range(1, 21))
    for line in rows:
        places = [REPOSITORY / path for path in re.findall(r"`([\w./]+/[\w./]+)`", line)]
        files = [file for place in places for file in (place.rglob("*.rs") if place.is_dir() else [place])]
        code = "\n".join(file.read_text() for file in files)
        assert [name for name in re.findall(r"`(\w+)`", line) if f"fn {name}(" not in code] == [], line
