"""`make bench-idle`: what the embedded platform costs: resident memory while its demo runs, and CPU while a job has nothing to do."""

import argparse
import subprocess
import time

from harness import BINARY, Platform, conditions, show

JOB = """
CREATE TABLE quiet (id STRING) WITH ('connector' = 'kafka', 'topic' = 'quiet', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE nowhere (id STRING) WITH ('connector' = 'blackhole');
CREATE JOB idle_job AS INSERT INTO nowhere SELECT id FROM quiet;
"""
SETTLE_S = 10


def watch(what: str, platform: Platform, seconds: int) -> dict:
    time.sleep(SETTLE_S)
    cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    share = (platform.tree.cpu_seconds() - cpu) / (time.monotonic() - wall)
    resident = platform.tree.resident_bytes()
    return {
        "what": what,
        "% of a core": round(share * 100, 2),
        "MB now": round(resident / 2**20),
        "MB peak": round(platform.tree.peak_bytes / 2**20),
    }


def demo(seconds: int) -> dict:
    with Platform("up") as platform:
        before = platform.job()["rows_out"]
        row = watch("up with its demo", platform, seconds)
        written = platform.job()["rows_out"] - before
        if written < seconds:
            raise SystemExit(f"the demo wrote {written} rows in {seconds} s: it did not run")
        return row


def idle(seconds: int) -> list[dict]:
    with Platform("up", "--no-pipelines") as platform:
        empty = watch("up without a job", platform, seconds)
        platform.tree.peak_bytes = 0
        # The topic must exist before a job can read it, and one record through the job shows that it runs.
        record = [BINARY, "topic", "produce", "quiet", "--data-dir", str(platform.data)]
        subprocess.run(record, input='{"id":"1"}\n', text=True, check=True, stdout=subprocess.DEVNULL)
        platform.sql(JOB)
        platform.wait_until_published(1, 0.2)
        row = watch("up with an idle job", platform, seconds)
        job = platform.job()
        if job["state"] not in ("running", "idle") or job["records_in"] != 1:
            raise SystemExit(f"the idle job is {job['state']} after {job['records_in']} records: the figures are worth nothing")
        return [empty, row]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    began = conditions()
    rows = [demo(seconds), *idle(seconds)]
    with_demo, empty, with_job = rows
    bars = [
        ("an idle job, % of a core", with_job["% of a core"] - empty["% of a core"], "<=", 2),
        ("the platform with an idle job, % of a core", with_job["% of a core"], "<=", 2),
        ("up with its demo, peak MB resident", with_demo["MB peak"], "<=", 250),
    ]
    show("idle", rows, bars, began)


main()
