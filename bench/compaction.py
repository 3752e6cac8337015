"""`make bench-compaction`: whether output pauses while a large state is compacted: records at a steady rate, whose rows are watched in Cassandra while runs of a
state of --gigabytes are merged, and for a while afterwards.

State is what a thousand random characters per key take, in bytes of these characters. It is written anew while the job is paused, so that its runs are due to be
merged when the steady records come. A merge is known by its file on the store, which has most of the state; it is under way at some time between the first of the
steady records and that file. A tenth of the records are of one key, whose row is read every few milliseconds: a pause is the time in which it did not change. The
longest read is shown beside it: a pause of Cassandra's is not one of ours."""

import argparse
import base64
import pathlib
import random
import time

from harness import Platform, cassandra, conditions, percentile, show
from pulse import Feed, Watch
from records import PARTITIONS, create_topic, send

TOPIC = "compaction"
JOB = f"""
CREATE TABLE readings (device STRING, n BIGINT, payload STRING)
  WITH ('connector' = 'kafka', 'topic' = '{TOPIC}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE totals (device STRING, n BIGINT, records BIGINT, size BIGINT, PRIMARY KEY (device) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'compaction', 'table' = 'totals', 'table.create' = 'true');
CREATE JOB totals_job AS INSERT INTO totals
  SELECT device, max(n), count(*), character_length(max(payload)) FROM readings GROUP BY device HAVING max(n) >= 0;
"""
# Characters per key: base64 of three quarters as many random bytes, which hardly anything compresses by more than a quarter.
CHARACTERS = 1_000
PULSE_EVERY = 10
READ_EVERY_S = 0.004
# Of the state's bytes, a merged file of which is one of the whole state: it is compressed, and the newest runs are not in it.
SHARE = 0.4
TRIES = 5


def reading(device: str, number: int, index: int, chosen: random.Random) -> tuple[bytes, int]:
    payload = base64.b64encode(chosen.randbytes(CHARACTERS * 3 // 4)).decode()
    return f'{{"device":"{device}","n":{number},"payload":"{payload}"}}'.encode(), index % PARTITIONS


class Run:
    def __init__(self, platform: Platform, session, keys: int, rate: int):
        self.platform, self.session, self.keys, self.rate = platform, session, keys, rate
        self.chosen = random.Random(keys)
        self.produced = self.steadily = 0
        self.statements = {"totals": session.prepare("SELECT device, n FROM compaction.totals WHERE device = 'pulse'")}

    def steady(self, number: int) -> tuple[bytes, int]:
        device = "pulse" if number % PULSE_EVERY == 0 else f"device-{self.chosen.randrange(self.keys)}"
        return reading(device, number, number, self.chosen)

    def load(self):
        """Writes all of the state anew. Of these records the table has no rows."""
        self.platform.sql("PAUSE JOB totals_job")
        send(TOPIC, ((None, *reading(f"device-{key}", -1, key, self.chosen)) for key in range(self.keys)))
        self.produced += self.keys
        self.platform.sql("RESUME JOB totals_job")
        self.platform.wait_until_published(self.produced, 0.5)

    def merged(self) -> dict[pathlib.Path, int]:
        """Files of merged state, and their bytes."""
        files = {}
        for path in (self.platform.data / "store").glob("jobs/*/parts/state-*"):
            try:
                with path.open("rb") as file:
                    # What it begins with is written last.
                    if file.read(9) == b"polybolos":
                        files[path] = path.stat().st_size
            except FileNotFoundError:
                continue  # it was renamed or removed meanwhile
        return files

    def watch(self, seconds: float, patience_s: float) -> tuple[Feed, Watch, float | None, int]:
        """Steady records until a merge of the state is over, and for so long afterwards. Answers when it was over, if it was, and its bytes."""
        known = self.merged()
        feed = Feed(TOPIC, self.rate, self.steady, self.steadily)
        feed.start()
        watch = Watch(self.session, self.statements, READ_EVERY_S)
        over, size = None, 0
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            time.sleep(0.1)
            watch.check()
            new = {path: bytes for path, bytes in self.merged().items() if path not in known}
            if over is None and any(bytes >= SHARE * self.keys * CHARACTERS for bytes in new.values()):
                over, size = time.monotonic(), max(new.values())
                end = over + seconds
        feed.stop()
        watch.close()
        self.produced += len(feed.sent)
        self.steadily += len(feed.sent)
        self.platform.wait_until_published(self.produced, 0.2)
        return feed, watch, over, size

    def round(self, seconds: float) -> list[dict]:
        for _ in range(TRIES):
            self.load()
            feed, watch, over, size = self.watch(seconds, 60 + self.keys * CHARACTERS / 20e6)
            if over:
                break
            print("the state was merged before the steady records came; once more", flush=True)
        else:
            raise SystemExit(f"the state was not merged under steady records in {TRIES} tries: the figures are worth nothing")
        # The first second is of the job's way out of its rest.
        began = feed.sent[0] + 1
        return [self.figures("until merged", feed, watch, began, over, size), self.figures("afterwards", feed, watch, over, feed.sent[-1])]

    def figures(self, when: str, feed: Feed, watch: Watch, began: float, ended: float, size: int = 0) -> dict:
        changes = [change for change in watch.changes if began <= change.at and change.before <= ended]
        latencies = [(change.at - feed.sent_at(change.number)) * 1_000 for change in changes]
        return {
            "when": when,
            "state GB": round(self.keys * CHARACTERS / 1e9, 2),
            "merged MB": round(size / 1e6) if size else "",
            "seconds": round(ended - began, 1),
            "changes seen": len(changes),
            "p50 ms": round(percentile(latencies, 0.50)),
            "p99 ms": round(percentile(latencies, 0.99)),
            "longest pause ms": round(max(change.pause for change in changes) * 1_000),
            "longest read ms": round(max(took for at, took in watch.reads if began <= at <= ended) * 1_000),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1, help="bytes of state, in thousands of millions")
    parser.add_argument("--rate", type=int, default=1_000, help="records a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="how long it is watched after a merge")
    parser.add_argument("--warm-up", type=int, default=60, metavar="SECONDS", help="steady records before anything is measured")
    arguments = parser.parse_args()
    began = conditions()
    session = cassandra()
    create_topic(TOPIC)
    rows = []
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        platform.sql(JOB)
        run = Run(platform, session, round(arguments.gigabytes * 1e9 / CHARACTERS), arguments.rate)
        run.watch(0, arguments.warm_up)
        for _ in range(arguments.rounds):
            for row in run.round(arguments.seconds):
                rows.append(row)
                print(row, flush=True)
    longest = max(row["longest pause ms"] for row in rows if row["when"] == "until merged")
    show("compaction", rows, [("longest pause of output while state is merged, ms", longest, "<=", 200)], began)


main()
