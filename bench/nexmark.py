"""`make bench-nexmark`: Nexmark's queries from one topic of a real Kafka into `blackhole`, JSON decoding included, by us and by Flink SQL in turns. Both
clocks start when the service is up and idle, and stop when the last event is in. Each of our queries is then run once more, into a table, whose rows are held against
plain DataFusion's answer over all events.

Flink writes groups of windows once, when their window closes. We do that too where a query says so, and else write every update, which is more work: queries
with such groups run both ways, and it is the former that is compared."""

import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import partial

from harness import BINARY, REPOSITORY, TARGET, Platform, Tree, conditions, numbers, server, show
from nexmark_reference import Reference, side_input
from source import tool

TOPIC = "nexmark"
CACHE = pathlib.Path.home() / ".cache/polybolos"
QUERIES = REPOSITORY / "jobs/nexmark"
# What Flink runs (bench/flink/nexmark.sql).
BY_FLINK = [query for query in range(23) if query != 6]
ON_CLOSE = [5, 7, 8, 11]
CASSANDRA = re.compile(r"WITH \(\s*'connector' = 'cassandra'[^)]*\)")
GENERATOR = pathlib.Path(BINARY).with_name("polybolos-nexmark-events")
# What q13 joins bids with is a file, for Flink as for us, and as published.
SIDE_INPUT = TARGET.resolve() / "bench/side_input"
SIDE_INPUT_TABLE = re.compile(r"CREATE TABLE side_input .*?;", re.DOTALL)


def figures(who: str, query: int, events: int, wall: float, cpu: float, peak: int) -> dict:
    return {
        "query": f"q{query}",
        "who": who,
        "K events/CPU-s": round(events / cpu / 1_000, 1),
        "peak MB": round(peak / 2**20),
        "CPU-s": round(cpu, 1),
        "seconds": round(wall, 1),
        "K events/s": round(events / wall / 1_000, 1),
    }


def write_side_input():
    SIDE_INPUT.mkdir(parents=True, exist_ok=True)
    rows = side_input()
    (SIDE_INPUT / "rows.json").write_text("".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in rows))
    SIDE_INPUT.with_suffix(".csv").write_text("".join(f"{key},{value}\n" for key, value in rows))


@contextmanager
def platform_with_tables(*arguments: str):
    """A platform that reads the topic, wherever its own Kafka is, and the file of q13."""
    write_side_input()
    with Platform(*arguments, "--no-pipelines", environment={"POLYBOLOS_SQL_ALLOWED_LOCATIONS": str(SIDE_INPUT)}) as platform:
        topic = f"'topic' = '{TOPIC}', 'properties.bootstrap.servers' = '{server('POLYBOLOS_TEST_KAFKA')}'"
        platform.sql((QUERIES / "00_tables.sql").read_text().replace("'topic' = 'nexmark'", topic))
        yield platform


def statements(query: int, executors: int = 1, on_close: bool = False) -> str:
    """As jobs/nexmark has the query."""
    text = (QUERIES / f"q{query}.sql").read_text()
    declared = f"CREATE TABLE side_input (key BIGINT, `value` VARCHAR) WITH ('connector' = 'filesystem', 'path' = 'file://{SIDE_INPUT}', 'format' = 'json');"
    text = SIDE_INPUT_TABLE.sub(declared, text).replace(" FOR SYSTEM_TIME AS OF B.p_time", "")
    if on_close:
        text = text.rstrip().removesuffix(";") + "\nEMIT ON WINDOW CLOSE;"
    return re.sub(r"(CREATE JOB \w+) AS", rf"\1 WITH ('parallelism' = '{executors}') AS", text)


def into_blackhole(text: str) -> str:
    return CASSANDRA.sub("WITH ('connector' = 'blackhole')", text)


def check_counts(platform: Platform, query: int, events: int):
    last = platform.job()
    if last["records_in"] != events or last["dead_letters"] or last["late_rows"]:
        raise SystemExit(f"q{query}: of {events} records {last['records_in']} in, {last['dead_letters']} dead letters and {last['late_rows']} late rows")


def ours(query: int, events: int, executors: int = 1, on_close: bool = False) -> dict:
    """A cluster of a scheduler and so many executors that share the job; CPU and memory of all, and of the process that watches over them."""
    with platform_with_tables("cluster", "--executors", str(executors)) as platform:
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        platform.sql(into_blackhole(statements(query, executors, on_close)))
        platform.wait_until_published(events, 0.3)
        row = figures("polybolos, on close" if on_close else "polybolos", query, events, time.monotonic() - wall, platform.tree.cpu_seconds() - cpu, platform.tree.peak_bytes)
        check_counts(platform, query, events)
        return row


def differences(query: int, events: int, reference: Reference) -> list[str]:
    """The embedded platform's table beside plain DataFusion's answer."""
    with platform_with_tables("up", "--allow-location", str(SIDE_INPUT)) as platform:
        platform.sql(statements(query))
        platform.wait_until_published(events, 0.3)
        check_counts(platform, query, events)
        found = platform.table(f"nexmark_q{query}")
    told = reference.differences(f"q{query}", found)
    print(f"q{query}: " + ("\n".join(["not DataFusion's answer", *told]) if told else f"{found.num_rows} rows, as DataFusion's"), flush=True)
    return told


def reference_over(events: int, folder: pathlib.Path) -> Reference:
    """Over the events that the topic has."""
    path = folder / "events.json"
    with path.open("wb") as file:
        subprocess.run([GENERATOR, str(events)], stdout=file, check=True)
    reference = Reference(path)
    path.unlink()
    return reference


def flink(query: int, events: int) -> dict:
    """Its mini-cluster and the Python that starts it, from when its tables are declared until the bounded job has ended."""
    write_side_input()
    with tempfile.TemporaryDirectory(prefix="polybolos-flink-") as home:
        environment = os.environ | {"BENCH_JARS": str(CACHE / "flink-jars"), "BENCH_TOPIC": TOPIC, "BENCH_CHECKPOINT": f"{home}/checkpoints"}
        environment["BENCH_SIDE_INPUT"] = str(SIDE_INPUT.with_suffix(".csv"))
        command = [str(CACHE / "flink-venv/bin/python"), str(REPOSITORY / "bench/flink/nexmark.py"), f"q{query}"]
        with open(f"{home}/err", "w") as err:
            process = subprocess.Popen(
                command, cwd=home, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=err, text=True
            )
        tree = Tree(process.pid)

        def wait_for(word: str):
            for line in process.stdout:
                if line.strip() == word:
                    return
            raise SystemExit(f"Flink ended q{query} before {word!r}: {pathlib.Path(home, 'err').read_text()[-3000:]}")

        # It says when its tables are declared and when the query has ended, and waits each time for us to read the clocks.
        wait_for("session")
        cpu, wall = tree.cpu_seconds(), time.monotonic()
        process.stdin.write("go\n")
        process.stdin.flush()
        wait_for("done")
        row = figures("flink", query, events, time.monotonic() - wall, tree.cpu_seconds() - cpu, tree.peak_bytes)
        tree.close()
        process.stdin.close()
        process.wait(timeout=60)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--queries", type=numbers, default=list(range(23)), help="as 0,4,7")
    parser.add_argument("--without-flink", action="store_true")
    parser.add_argument("--without-us", action="store_true")
    parser.add_argument("--without-check", action="store_true", help="do not hold our tables against DataFusion's answers")
    arguments = parser.parse_args()
    checking = not (arguments.without_check or arguments.without_us)
    began = conditions()
    size = tool("fill-unified", TOPIC, str(arguments.events))["bytes_per_event"]
    print(f"{arguments.events} events of {size} bytes in Kafka", flush=True)
    rows, ratios, wrong = [], {}, []
    scratch = tempfile.TemporaryDirectory(prefix="polybolos-bench-")
    reference = reference_over(arguments.events, pathlib.Path(scratch.name)) if checking else None
    for query in arguments.queries:
        runs = [] if arguments.without_us else [ours]
        runs += [partial(ours, on_close=True)] if runs and query in ON_CLOSE else []
        runs += [] if arguments.without_flink or query not in BY_FLINK else [flink]
        rates = {}
        for run in runs:
            row = run(query, arguments.events)
            rows.append(row)
            rates[row["who"]] = row["K events/CPU-s"]
            print(row, flush=True)
        if "flink" in rates and len(rates) > 1:
            ratios[query] = rates.get("polybolos, on close", rates["polybolos"]) / rates["flink"]
        if reference and differences(query, arguments.events, reference):
            wrong.append(query)
    scratch.cleanup()
    bars = [("tables that are not DataFusion's answer", len(wrong), "<=", 0)] if checking else []
    if ratios:
        middle = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        slowest = min(ratios, key=ratios.get)
        bars.append(("events per CPU-second, times Flink's, geometric mean", middle, ">=", 4))
        bars.append((f"events per CPU-second, times Flink's, the least (q{slowest})", ratios[slowest], ">=", 2.5))
    show("nexmark", rows, bars, began)


if __name__ == "__main__":
    main()
