"""`make bench-nexmark`: Nexmark's queries from one topic of a real Kafka into `blackhole`, JSON decoding included, by us and by Flink SQL in turns. Both
clocks start when the service is up and idle, and stop when the last event is in.

Flink writes groups of windows once, when their window closes. We do that too where a query says so, and else write every update, which is more work: queries
with such groups run both ways, and it is the former that is compared."""

import argparse
import math
import os
import pathlib
import re
import subprocess
import tempfile
import time
from functools import partial

from harness import REPOSITORY, Platform, Tree, conditions, numbers, show
from source import tool

TOPIC = "nexmark"
CACHE = pathlib.Path.home() / ".cache/polybolos"
QUERIES = REPOSITORY / "jobs/nexmark"
# What Flink runs (bench/flink/nexmark.sql). q13 needs a table to look up in.
BY_FLINK = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22]
BY_US = [query for query in range(23) if query != 13]
ON_CLOSE = [5, 7, 8, 11]
CASSANDRA = re.compile(r"WITH \(\s*'connector' = 'cassandra'[^)]*\)")


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


def ours(query: int, events: int, executors: int = 1, on_close: bool = False) -> dict:
    """A cluster of a scheduler and so many executors that share the job; CPU and memory of all, and of the process that watches over them."""
    with Platform("cluster", "--executors", str(executors), "--no-pipelines") as platform:
        platform.sql((QUERIES / "00_tables.sql").read_text())
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        statements = CASSANDRA.sub("WITH ('connector' = 'blackhole')", (QUERIES / f"q{query}.sql").read_text())
        if on_close:
            statements = statements.rstrip().removesuffix(";") + "\nEMIT ON WINDOW CLOSE;"
        platform.sql(re.sub(r"(CREATE JOB \w+) AS", rf"\1 WITH ('parallelism' = '{executors}') AS", statements))
        platform.wait_until_published(events, 0.3)
        row = figures("polybolos, on close" if on_close else "polybolos", query, events, time.monotonic() - wall, platform.tree.cpu_seconds() - cpu, platform.tree.peak_bytes)
        last = platform.job()
        if last["records_in"] != events or last["dead_letters"]:
            raise SystemExit(f"q{query}: {last['records_in']} records in and {last['dead_letters']} dead letters, not {events} and 0")
        return row


def flink(query: int, events: int) -> dict:
    """Its mini-cluster and the Python that starts it, from when its tables are declared until the bounded job has ended."""
    with tempfile.TemporaryDirectory(prefix="polybolos-flink-") as home:
        environment = os.environ | {"BENCH_JARS": str(CACHE / "flink-jars"), "BENCH_TOPIC": TOPIC, "BENCH_CHECKPOINT": f"{home}/checkpoints"}
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
    arguments = parser.parse_args()
    began = conditions()
    size = tool("fill-unified", TOPIC, str(arguments.events))["bytes_per_event"]
    print(f"{arguments.events} events of {size} bytes in Kafka", flush=True)
    rows, ratios = [], {}
    for query in arguments.queries:
        runs = [] if arguments.without_us or query not in BY_US else [ours]
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
    bars = []
    if ratios:
        middle = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        slowest = min(ratios, key=ratios.get)
        bars.append(("events per CPU-second, times Flink's, geometric mean", middle, ">=", 4))
        bars.append((f"events per CPU-second, times Flink's, the least (q{slowest})", ratios[slowest], ">=", 2.5))
    show("nexmark", rows, bars, began)


if __name__ == "__main__":
    main()
