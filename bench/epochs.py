"""`make bench-epochs`: what an epoch costs by itself: CPU of the scheduler and one executor for jobs whose epochs have a record each, beside as many trivial queries on
the same Ballista, scheduler and executor in one process, as many a second.

A record is produced when the epoch of the one before is over, and rows go into `blackhole`. What the platform costs while such a job has nothing to do is shown,
and taken off in the figures that are compared: it is per second, and not per epoch. Of Ballista the cheaper way counts, which writes no shuffle files; ours writes
none either."""

import argparse
import time

from harness import Platform, conditions, example, show
from records import PARTITIONS, create_topic, producer

TABLES = """
CREATE TABLE readings (device STRING, v BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE nowhere (device STRING, n BIGINT) WITH ('connector' = 'blackhole');
"""
QUERIES = {
    "stateless": "SELECT device, v FROM readings",
    "stateful": "SELECT device, count(*) FROM readings GROUP BY device",
}
DEVICES = 1_000
WARM_UP = 200
SETTLE_S = 5
BAR_MS = 3
# Epochs per record. On a busy machine one record or another is read together with the next one.
LEAST = 0.7


def feed(topic: str, records: int, rate: int):
    """One record after another, so many a second."""
    client = producer(0)
    began = time.monotonic()
    for index in range(records):
        time.sleep(max(0.0, began + index / rate - time.monotonic()))
        client.produce(topic, f'{{"device":"device-{index * 7 % DEVICES}","v":{index}}}'.encode(), partition=index % PARTITIONS)
        client.poll(0)
    if client.flush(30):
        raise SystemExit("Kafka did not take every record")


def ours(kind: str, epochs: int, rate: int) -> dict:
    topic = f"epochs_{kind}"
    create_topic(topic)
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        platform.sql(TABLES.format(topic=topic))
        platform.sql(f"CREATE JOB tiny AS INSERT INTO nowhere {QUERIES[kind]}")
        feed(topic, WARM_UP, rate)
        platform.wait_until_published(WARM_UP, 0.5)
        time.sleep(SETTLE_S)
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        time.sleep(2 * SETTLE_S)
        idle = (platform.tree.cpu_seconds() - cpu) / (time.monotonic() - wall)
        before = platform.status()["epoch"]
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        feed(topic, epochs, rate)
        platform.wait_until_published(WARM_UP + epochs, 0.5)
        cpu, wall = platform.tree.cpu_seconds() - cpu, time.monotonic() - wall
        done = platform.status()["epoch"] - before
    if done < LEAST * epochs:
        raise SystemExit(f"{epochs} records were read in {done} epochs, several in each: the figures are worth nothing; give a lower --rate")
    return row(f"polybolos, {kind}", done, cpu, wall, idle)


def row(what: str, epochs: int, cpu: float, wall: float, idle: float = 0.0) -> dict:
    return {
        "what": what,
        "epochs": epochs,
        "CPU-s": round(cpu, 2),
        "idle, % of a core": round(idle * 100, 2),
        "ms CPU per epoch": round((cpu - idle * wall) / epochs * 1_000, 3),
        "with idling": round(cpu / epochs * 1_000, 3),
        "seconds": round(wall, 1),
    }


def ballista(what: str, files: str, epochs: int, rate: int) -> dict:
    answer = example("ballista", files, str(epochs), str(rate))
    return row(what, epochs, answer["cpu_s"], answer["seconds"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=20, help="records a second, each of which should have an epoch to itself")
    parser.add_argument("--without-ballista", action="store_true")
    arguments = parser.parse_args()
    began = conditions()
    rows = {}
    if not arguments.without_ballista:
        rows["none"] = ballista("Ballista, one stage", "none", arguments.epochs, arguments.rate)
        rows["files"] = ballista("Ballista, one stage, with shuffle files", "files", arguments.epochs, arguments.rate)
        for found in rows.values():
            print(found, flush=True)
    for kind in QUERIES:
        rows[kind] = ours(kind, arguments.epochs, arguments.rate)
        print(rows[kind], flush=True)
    bars = []
    if "none" in rows:
        beyond = rows["none"]["ms CPU per epoch"]
        bars = [(f"ms of CPU per epoch beyond Ballista's, {kind}", rows[kind]["ms CPU per epoch"] - beyond, "<=", BAR_MS) for kind in QUERIES]
    show("epochs", list(rows.values()), bars, began)


main()
