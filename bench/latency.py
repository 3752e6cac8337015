"""`make bench-latency`: milliseconds until a row is visible in Cassandra, at fixed rates, in turns: of the users pipeline, of windows with updates, and of windows
that come out when they are closed.

The clock starts when a record is handed to the producer (its linger of 1 ms counts): the one that makes the row, or the one that lets the watermark pass the
window's end. It stops when a read of the row, asked again after two milliseconds or a twentieth of the time it has taken so far, answers with it: asking more often
would keep the machine from writing what is asked for. Both only ever make a figure worse.

Before the clock of a pipeline starts, it runs at its highest rate, piece by piece, until two of them are no better than the best before: that long Kafka's
and Cassandra's compilers are at work on its path. A Cassandra just started takes fewer rows a second than are asked for here, and every row of the run then waits
behind that backlog. Rows that are not there after half a minute count as half a minute, and are told."""

import argparse
import statistics
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from harness import Platform, cassandra, conditions, percentile, show
from records import PARTITIONS, create_topic, producer, users

SAMPLES_PER_SECOND = 20
POLL_S = 0.002
POLL_SHARE = 0.05
WARM_UP_S = 5
PATIENCE_S = 30
# Reads under way at a time: more, and a backlog would be asked for so often that it could not shrink.
READS = SAMPLES_PER_SECOND
# A piece of the time to warm up, and what is no gain any more.
WARM_S = 20
WARM_SEED = 1_000_000
STEADY = 0.9
DEVICES = 500


class Users:
    """A row for each record, by its own key."""

    name, topic = "users", "users_created"
    look = "SELECT id FROM spark_streams.created_users WHERE id = ?"

    def __init__(self, rate: int, seconds: int, seed: int):
        self.every = rate // SAMPLES_PER_SECOND
        self.records = [(key, payload.encode()) for key, payload in users(rate * (seconds + WARM_UP_S), seed)]

    @staticmethod
    def start(platform: Platform):
        platform.start_users("created_users")

    def record(self, index: int) -> tuple[str, bytes]:
        return self.records[index]

    def rows_of(self, index: int) -> list[tuple]:
        """Keys of rows whose clock starts with this record."""
        return [(self.records[index][0],)] if index % self.every == 0 else []


class Windows:
    """Counts and sums of devices by the second."""

    topic = "latency_readings"
    emit = ""

    def __init__(self, rate: int, seconds: int, seed: int):
        self.every = rate // SAMPLES_PER_SECOND
        self.seed = seed
        self.now = 0.0

    @classmethod
    def start(cls, platform: Platform):
        platform.sql(
            f"""
            CREATE TABLE readings (device STRING, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
              WITH ('connector' = 'kafka', 'topic' = '{cls.topic}', 'format' = 'json');
            CREATE TABLE seconds (device STRING, window_start TIMESTAMP(3), n BIGINT, total BIGINT, PRIMARY KEY (device, window_start) NOT ENFORCED)
              WITH ('connector' = 'cassandra', 'keyspace' = 'latency', 'table' = '{cls.table}', 'table.create' = 'true');
            CREATE JOB seconds_job AS INSERT INTO seconds SELECT device, window_start, count(*), sum(v)
              FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY device, window_start, window_end {cls.emit};
            """
        )

    def device(self, index: int) -> str:
        return f"device-{index * 7 % DEVICES}"

    def record(self, index: int) -> tuple[str, bytes]:
        self.now = time.time()
        ts = datetime.fromtimestamp(self.now, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        device = self.device(index)
        return device, f'{{"device":"{device}","v":{index % 1_000},"ts":"{ts}"}}'.encode()


class Updates(Windows):
    """Every sampled record is the first of its device in its window: the row is there once it is counted."""

    name, table = "windows, updates", "updates"
    look = "SELECT n FROM latency.updates WHERE device = ? AND window_start = ?"

    def device(self, index: int) -> str:
        return f"probe-{self.seed}-{index}" if index % self.every == 0 else super().device(index)

    def rows_of(self, index: int) -> list[tuple]:
        return [(self.device(index), datetime.fromtimestamp(int(self.now), timezone.utc))] if index % self.every == 0 else []


class Closings(Windows):
    """The clock of a window's rows starts with the record that is the last partition's first one after its end."""

    name, table, emit = "windows, on close", "closings", "EMIT ON WINDOW CLOSE"
    look = "SELECT n FROM latency.closings WHERE device = ? AND window_start = ?"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seconds = [0] * PARTITIONS
        self.closed = 0
        self.first = None

    def rows_of(self, index: int) -> list[tuple]:
        second = int(self.now)
        # The second it starts in may have no record of some device.
        self.first = self.first or second + 1
        self.seconds[index % PARTITIONS] = second
        if min(self.seconds) <= self.closed:
            return []
        self.closed = min(self.seconds)
        window = datetime.fromtimestamp(self.closed - 1, timezone.utc)
        return [(self.device(number), window) for number in range(SAMPLES_PER_SECOND)] if self.closed > self.first else []


PIPELINES = {"users": Users, "updates": Updates, "closings": Closings}


@dataclass(eq=False)
class Awaited:
    """A row that is not there yet, and when it is asked for next."""

    key: tuple
    sent: float
    due: float


class Watcher(threading.Thread):
    """Reads the rows that are not there yet, the oldest first, until each is or is overdue."""

    def __init__(self, session, statement):
        super().__init__(daemon=True)
        self.session, self.statement = session, statement
        self.awaited: list[Awaited] = []
        self.latencies, self.overdue, self.error = [], 0, None
        self.lock, self.closed = threading.Lock(), False
        self.start()

    def expect(self, key: tuple, sent: float):
        with self.lock:
            self.awaited.append(Awaited(key, sent, sent))

    def run(self):
        try:
            while not self.closed or self.awaited:
                now = time.monotonic()
                with self.lock:
                    asked = [row for row in self.awaited if row.due <= now][:READS]
                answers = [self.session.execute_async(self.statement, row.key) for row in asked]
                for row, answer in zip(asked, answers):
                    found, now = answer.result().one(), time.monotonic()
                    took = now - row.sent
                    if not found and took <= PATIENCE_S:
                        row.due = now + max(POLL_S, took * POLL_SHARE)
                        continue
                    self.latencies.append(took * 1_000)
                    self.overdue += not found
                    with self.lock:
                        self.awaited.remove(row)
                time.sleep(POLL_S)
        except Exception as error:
            self.error = error

    def close(self):
        self.closed = True
        self.join()
        if self.error:
            raise SystemExit(f"a row could not be read: {self.error}")


def run(kind: type, rate: int, seconds: int, session, statement, platform, seed: int) -> dict:
    feed = kind(rate, seconds, seed)
    client = producer(1)
    watcher, refused = Watcher(session, statement), []

    def report(error, _):
        if error:
            refused.append(error)

    began = time.monotonic()
    cpu = wall = None
    for index in range(rate * (seconds + WARM_UP_S)):
        ahead = began + index / rate - time.monotonic()
        if ahead > 0.001:
            client.poll(0)
            time.sleep(ahead)
        warm = index >= rate * WARM_UP_S
        if warm and cpu is None:
            cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        key, payload = feed.record(index)
        sent = time.monotonic()
        client.produce(kind.topic, payload, key, partition=index % PARTITIONS, on_delivery=report)
        for row in feed.rows_of(index):
            if warm:
                watcher.expect(row, sent)
    took = time.monotonic() - wall
    cpu = platform.tree.cpu_seconds() - cpu
    unsent = client.flush(30)
    watcher.close()
    if unsent or refused:
        raise SystemExit(f"Kafka did not take every record: {unsent} unsent, {refused[:1]}")
    latencies = watcher.latencies
    return {
        "what": kind.name,
        "rows/s asked": rate,
        "rows/s sent": round(rate * seconds / took),
        "samples": len(latencies),
        "overdue": watcher.overdue,
        "p50 ms": round(percentile(latencies, 0.50), 1),
        "p95 ms": round(percentile(latencies, 0.95), 1),
        "p99 ms": round(percentile(latencies, 0.99), 1),
        "cores": round(cpu / took, 2),
    }


def warm_up(kind: type, rate: int, most_s: int, session, statement, platform):
    """Until two pieces in turn are no better than the best so far, or the time is over."""
    best, no_gain = float("inf"), 0
    for piece in range(max(1, most_s // (WARM_S + WARM_UP_S))):
        row = run(kind, rate, WARM_S, session, statement, platform, rate + WARM_SEED + piece)
        platform.wait_until_published(0, 0.5)
        print(f"warming up {kind.name}: p50 {row['p50 ms']} ms", flush=True)
        no_gain = no_gain + 1 if row["p50 ms"] > STEADY * best else 0
        best = min(best, row["p50 ms"])
        if no_gain == 2:
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=300, metavar="SECONDS", help="how long a pipeline may run at the highest rate before it is measured")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    arguments = parser.parse_args()
    began = conditions()
    session = cassandra()
    rows = []
    kinds = [PIPELINES[name] for name in arguments.pipelines]
    for topic in {kind.topic for kind in kinds}:
        create_topic(topic)
    for kind in kinds:
        with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
            kind.start(platform)
            statement = session.prepare(kind.look)
            warm_up(kind, max(arguments.rates), arguments.warm_up, session, statement, platform)
            for number in range(arguments.rounds):
                for rate in arguments.rates:
                    rows.append(run(kind, rate, arguments.seconds, session, statement, platform, rate + number))
                    print(rows[-1], flush=True)
                    # What is left over of one run is none of the next one's.
                    platform.wait_until_published(0, 0.5)
    bars = []
    for kind in kinds:
        for rate in arguments.rates:
            for share, limit in (("p50", 30), ("p99", 100)):
                of_kind = [row for row in rows if row["what"] == kind.name and row["rows/s asked"] == rate]
                figure = statistics.median(row[f"{share} ms"] for row in of_kind)
                bars.append((f"{kind.name}: {share} ms at {rate} rows/s, median of the rounds", figure, "<=", limit))
    show("latency", rows, bars, began)


main()
