"""`make bench-state`: what a million events cost a job whose state has 10 000 to 10 000 000 keys, what a key takes in memory and in a snapshot, and how long an executor
that was killed takes to have the state again, in all and per GB; with --state-memory-mib, with so much memory for it, the rest being on the executor's disk.

A topic first has every key once, then events of random keys, which are produced while the job is paused: so each size reads the same backlog. What is read ahead
meanwhile is not counted."""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import time

from harness import BINARY, Platform, conditions, show
from records import PARTITIONS, create_topic, send

JOB = """
CREATE TABLE readings (device STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE nowhere (device STRING, n BIGINT, total BIGINT, highest BIGINT) WITH ('connector' = 'blackhole');
CREATE JOB totals AS INSERT INTO nowhere SELECT device, count(*), sum(v), max(v) FROM readings GROUP BY device;
"""
# For compaction and for memory that is given back.
SETTLE_S = 5


def readings(devices):
    for device in devices:
        yield None, f'{{"device":"device-{device}","v":{device * 31 % 1_000}}}'.encode(), device % PARTITIONS


def executor(platform: Platform) -> int | None:
    """Its process, if there is one just now."""
    for pid in platform.tree.members():
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked
        if b"executor" in words:
            return pid
    return None


def restored(platform: Platform, topic: str, records: int) -> tuple[float, float]:
    """Seconds and CPU-seconds from when a new executor is there until it has answered one more event."""
    platform.sql("PAUSE JOB totals")
    old = executor(platform)
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while executor(platform) in (None, old) or executor_count(platform) != 1:
        if time.monotonic() > deadline:
            raise SystemExit("the executor did not come back")
        time.sleep(0.1)
    send(topic, readings([0]))
    cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
    platform.sql("RESUME JOB totals")
    platform.wait_until_published(records + 1, 0.05)
    return time.monotonic() - wall, platform.tree.cpu_seconds() - cpu


def executor_count(platform: Platform) -> int:
    return platform.sql("SELECT count(*) AS n FROM polybolos.executors")[0]["n"]


def snapshot_bytes(platform: Platform) -> int:
    path = platform.data / "savepoint"
    for words in (["job", "savepoint", "totals", "--as", "bench"], ["savepoint", "export", "bench", str(path)]):
        subprocess.run([BINARY, *words, "--data-dir", str(platform.data)], check=True, stdout=subprocess.DEVNULL)
    return path.stat().st_size


def run(keys: int, events: int) -> dict:
    topic = f"state_{keys}"
    create_topic(topic)
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        time.sleep(SETTLE_S)
        before = platform.tree.resident_bytes()
        send(topic, readings(range(keys)))
        platform.sql(JOB.format(topic=topic))
        platform.wait_until_published(keys, 0.3)
        platform.sql("PAUSE JOB totals")
        time.sleep(SETTLE_S)
        held = platform.tree.resident_bytes() - before
        chosen = random.Random(keys)
        send(topic, readings(chosen.randrange(keys) for _ in range(events)))
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        platform.sql("RESUME JOB totals")
        platform.wait_until_published(keys + events, 0.2)
        cpu, wall = platform.tree.cpu_seconds() - cpu, time.monotonic() - wall
        snapshot = snapshot_bytes(platform)
        seconds, restoring = restored(platform, topic, keys + events)
    return {
        "keys": keys,
        "µs CPU per event": round(cpu / events * 1e6, 2),
        "K events/s": round(events / wall / 1_000),
        "MB held": round(held / 2**20),
        "bytes per key": round(held / keys),
        "snapshot MB": round(snapshot / 2**20, 1),
        "restore s": round(seconds, 2),
        "s per GB held": round(seconds / held * 1e9, 1) if held > 0 else "",
        "s per GB of snapshot": round(seconds / snapshot * 1e9, 1),
        "restore CPU-s": round(restoring, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--state-memory-mib", type=int, default=0, help="0: as much as it needs")
    arguments = parser.parse_args()
    if arguments.state_memory_mib:
        os.environ["POLYBOLOS_EXECUTOR_STATE_MEMORY_MIB"] = str(arguments.state_memory_mib)
    began = conditions()
    rows = []
    for keys in arguments.keys:
        rows.append(run(keys, arguments.events))
        print(rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    growth = last["µs CPU per event"] / first["µs CPU per event"]
    bars = [(f"CPU per event at {last['keys']} keys, times that at {first['keys']}", growth, "<=", 2)]
    show("state", rows, bars, began)


main()
