"""Records at a steady rate, and rows watched as they change: for benchmarks of pauses in what a job writes."""

import threading
import time
from typing import Callable, NamedTuple

from records import producer


class Feed(threading.Thread):
    """Produces record after record, numbered from `first` on, so many a second, until stopped; `sent` has when each was handed to the producer."""

    def __init__(self, topic: str, rate: int, record: Callable[[int], tuple[bytes, int]], first: int = 0):
        super().__init__(daemon=True)
        self.topic, self.rate, self.record, self.first = topic, rate, record, first
        self.sent: list[float] = []
        self.refused = []
        self.stopping = threading.Event()

    def run(self):
        client = producer(1)
        began = time.monotonic()
        while not self.stopping.is_set():
            ahead = began + len(self.sent) / self.rate - time.monotonic()
            client.poll(0)
            if ahead > 0.001:
                time.sleep(ahead)
            payload, partition = self.record(self.first + len(self.sent))
            self.sent.append(time.monotonic())
            client.produce(self.topic, payload, partition=partition, on_delivery=self.delivered)
        if client.flush(60):
            self.refused.append("not acknowledged within a minute")

    def sent_at(self, number: int) -> float:
        return self.sent[number - self.first]

    def delivered(self, error, _):
        if error:
            self.refused.append(error)

    def stop(self):
        self.stopping.set()
        self.join()
        if self.refused:
            raise SystemExit(f"Kafka did not take every record: {self.refused[0]}")


class Change(NamedTuple):
    """A row of a table that was seen with a later record's number: when it was seen with the one before, and when with this one."""

    table: str
    key: str
    number: int
    before: float
    at: float

    @property
    def pause(self) -> float:
        return self.at - self.before


class Watch(threading.Thread):
    """Reads a few rows (key, number of the last record in it) again and again."""

    def __init__(self, session, statements: dict, every_s: float):
        super().__init__(daemon=True)
        self.session, self.statements, self.every_s = session, statements, every_s
        self.newest: dict[tuple[str, str], tuple[int, float]] = {}
        self.changes: list[Change] = []
        # When each read came back, and how long it took: a pause in reading is none of the job's.
        self.reads: list[tuple[float, float]] = []
        self.error = None
        self.closing = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.closing.wait(self.every_s):
                asked = time.monotonic()
                answers = {table: self.session.execute_async(statement) for table, statement in self.statements.items()}
                for table, answer in answers.items():
                    rows, now = list(answer.result()), time.monotonic()
                    self.reads.append((now, now - asked))
                    for key, number in rows:
                        self.see(table, key, number, now)
        except Exception as error:
            self.error = error

    def see(self, table: str, key: str, number: int, now: float):
        before = self.newest.get((table, key))
        if before and before[0] == number:
            return
        self.newest[table, key] = (number, now)
        if before:
            self.changes.append(Change(table, key, number, before[1], now))

    def check(self):
        if self.error:
            raise SystemExit(f"rows could not be read: {self.error}")

    def close(self):
        self.closing.set()
        self.join()
        self.check()
