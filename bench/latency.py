"""`make bench-latency`: produce-to-visible in Cassandra of the users pipeline at fixed rates, in turns.

The clock starts when a record is handed to the producer (its linger of 1 ms counts), and stops when a read of a sampled id, asked again every
two milliseconds, answers with the row. Both only ever make a figure worse."""

import argparse
import statistics
import threading
import time

from harness import Platform, cassandra, conditions, percentile, show
from records import PARTITIONS, create_topic, producer, users

TOPIC = "users_created"
SAMPLES_PER_SECOND = 20
POLL_S = 0.002
WARM_UP_S = 5
PATIENCE_S = 30


def wait_for_row(session, statement, key: str, sent: float, into: list, overdue: list):
    while time.monotonic() < sent + PATIENCE_S:
        if session.execute(statement, (key,)).one():
            into.append((time.monotonic() - sent) * 1_000)
            return
        time.sleep(POLL_S)
    overdue.append(key)


def run(rate: int, seconds: int, session, statement, platform, seed: int) -> dict:
    records = [(key, payload.encode()) for key, payload in users(rate * (seconds + WARM_UP_S), seed)]
    client = producer(1)
    latencies, overdue, watchers, refused = [], [], [], []

    def report(error, _):
        if error:
            refused.append(error)

    every = rate // SAMPLES_PER_SECOND
    began = time.monotonic()
    cpu = wall = None
    for index, (key, payload) in enumerate(records):
        ahead = began + index / rate - time.monotonic()
        if ahead > 0.001:
            client.poll(0)
            time.sleep(ahead)
        warm = index >= rate * WARM_UP_S
        if warm and cpu is None:
            cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        sent = time.monotonic()
        client.produce(TOPIC, payload, key, partition=index % PARTITIONS, on_delivery=report)
        if warm and index % every == 0:
            watcher = threading.Thread(target=wait_for_row, args=(session, statement, key, sent, latencies, overdue))
            watcher.start()
            watchers.append(watcher)
    took = time.monotonic() - wall
    cpu = platform.tree.cpu_seconds() - cpu
    unsent = client.flush(30)
    for watcher in watchers:
        watcher.join()
    if unsent or refused:
        raise SystemExit(f"Kafka did not take every record: {unsent} unsent, {refused[:1]}")
    if overdue:
        raise SystemExit(f"{len(overdue)} of {len(watchers)} sampled rows were not in Cassandra after {PATIENCE_S} s")
    return {
        "rows/s asked": rate,
        "rows/s sent": round(rate * seconds / took),
        "samples": len(latencies),
        "p50 ms": round(percentile(latencies, 0.50), 1),
        "p95 ms": round(percentile(latencies, 0.95), 1),
        "p99 ms": round(percentile(latencies, 0.99), 1),
        "cores": round(cpu / took, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    began = conditions()
    create_topic(TOPIC)
    session = cassandra()
    rows = []
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        platform.start_users("created_users")
        statement = session.prepare("SELECT id FROM spark_streams.created_users WHERE id = ?")
        for number in range(arguments.rounds):
            for rate in arguments.rates:
                rows.append(run(rate, arguments.seconds, session, statement, platform, rate + number))
                print(rows[-1], flush=True)
                # What is left over of one run is none of the next one's.
                platform.wait_until_published(0, 0.5)
    bars = []
    for rate in arguments.rates:
        for share, limit in (("p50", 30), ("p99", 100)):
            figure = statistics.median(row[f"{share} ms"] for row in rows if row["rows/s asked"] == rate)
            bars.append((f"{share} ms at {rate} rows/s, median of the rounds", figure, "<=", limit))
    show("latency", rows, bars, began)


main()
