"""`make bench-state`: what a million events cost a job whose state has 10 000 to 10 000 000 keys, what a key takes in memory and in a snapshot, and how long an executor
that was killed takes to have the state again, in all and per GB; with --state-memory-mib, with so much memory for it, the rest being on the executor's disk.

A topic first has every key once, then events of random keys, which are produced while the job is paused: so each size reads the same backlog. What is read ahead
meanwhile is not counted; what merging the runs takes that the events wrote is, and what merging those of the first records takes is not. Of few keys an epoch of a
backlog changes each many times and writes it once; of many keys nearly every event is a change of its own. So the same job then gets events at a steady rate, too, as
a live one does: epochs are short there, and change about as many keys whether there are few or many."""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import time

from harness import BINARY, Platform, conditions, show
from records import PARTITIONS, create_topic, producer, send

JOB = """
CREATE TABLE readings (device STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE nowhere (device STRING, n BIGINT, total BIGINT, highest BIGINT) WITH ('connector' = 'blackhole');
CREATE JOB totals AS INSERT INTO nowhere SELECT device, count(*), sum(v), max(v) FROM readings GROUP BY device;
"""
BACKLOG, LIVE = "µs CPU per event, backlog", "µs CPU per event, live"
# For memory that is given back.
SETTLE_S = 5
# A platform that has nothing to do takes less than such a share of a core; one that merges runs of state takes more.
QUIET, LOOK_S = 0.05, 2


def readings(devices):
    for device in devices:
        yield None, f'{{"device":"device-{device}","v":{device * 31 % 1_000}}}'.encode(), device % PARTITIONS


def wait_until_merged(platform: Platform):
    deadline = time.monotonic() + 300
    taken = platform.tree.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(LOOK_S)
        before, taken = taken, platform.tree.cpu_seconds()
        if taken - before < QUIET * LOOK_S:
            return
    raise SystemExit("the platform does not come to rest")


def live(platform: Platform, topic: str, keys: int, published: int, rate: int, seconds: int) -> float:
    """CPU-seconds per event that come at this rate."""
    chosen = random.Random(keys + 1)
    client, refused = producer(1), []
    began, cpu = time.monotonic(), platform.tree.cpu_seconds()
    for index, (key, payload, partition) in enumerate(readings(chosen.randrange(keys) for _ in range(rate * seconds))):
        ahead = began + index / rate - time.monotonic()
        if ahead > 0.001:
            client.poll(0)
            time.sleep(ahead)
        client.produce(topic, payload, key, partition=partition, on_delivery=lambda error, _: error and refused.append(error))
    if client.flush(60) or refused:
        raise SystemExit(f"Kafka did not take every record: {refused[:1]}")
    platform.wait_until_published(published + rate * seconds, 0.05)
    wait_until_merged(platform)
    return (platform.tree.cpu_seconds() - cpu) / (rate * seconds)


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


def run(keys: int, events: int, rate: int, seconds: int) -> dict:
    topic = f"state_{keys}"
    create_topic(topic)
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        time.sleep(SETTLE_S)
        before = platform.tree.resident_bytes()
        send(topic, readings(range(keys)))
        platform.sql(JOB.format(topic=topic))
        platform.wait_until_published(keys, 0.3)
        wait_until_merged(platform)
        platform.sql("PAUSE JOB totals")
        time.sleep(SETTLE_S)
        held = platform.tree.resident_bytes() - before
        chosen = random.Random(keys)
        send(topic, readings(chosen.randrange(keys) for _ in range(events)))
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        platform.sql("RESUME JOB totals")
        platform.wait_until_published(keys + events, 0.2)
        wall = time.monotonic() - wall
        wait_until_merged(platform)
        cpu = platform.tree.cpu_seconds() - cpu
        steady = live(platform, topic, keys, keys + events, rate, seconds)
        snapshot = snapshot_bytes(platform)
        took, restoring = restored(platform, topic, keys + events + rate * seconds)
    return {
        "keys": keys,
        BACKLOG: round(cpu / events * 1e6, 2),
        LIVE: round(steady * 1e6, 2),
        "K events/s": round(events / wall / 1_000),
        "MB held": round(held / 2**20),
        "bytes per key": round(held / keys),
        "snapshot MB": round(snapshot / 2**20, 1),
        "restore s": round(took, 2),
        "s per GB held": round(took / held * 1e9, 1) if held > 0 else "",
        "s per GB of snapshot": round(took / snapshot * 1e9, 1),
        "restore CPU-s": round(restoring, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="live events a second")
    parser.add_argument("--seconds", type=int, default=20, help="how long they come")
    parser.add_argument("--state-memory-mib", type=int, default=0, help="0: as much as it needs")
    arguments = parser.parse_args()
    if arguments.state_memory_mib:
        os.environ["POLYBOLOS_EXECUTOR_STATE_MEMORY_MIB"] = str(arguments.state_memory_mib)
    began = conditions()
    rows = []
    for keys in arguments.keys:
        rows.append(run(keys, arguments.events, arguments.rate, arguments.seconds))
        print(rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    bars = [(f"{what} with {last['keys']} keys, times that with {first['keys']}", last[what] / first[what], "<=", 2) for what in (BACKLOG, LIVE)]
    show("state", rows, bars, began)


main()
