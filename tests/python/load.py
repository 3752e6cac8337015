"""Producers that go on while a test does harm to what reads."""

import random
import threading
import time
import weakref

from confluent_kafka import Producer


class Load(threading.Thread):
    """Produces in rounds until stopped; what the broker acknowledged counts, what it did not is produced again. It ends with its test, whatever becomes of that."""

    everyone: "weakref.WeakSet[Load]" = weakref.WeakSet()

    def __init__(self, servers: str, seed: int):
        super().__init__(daemon=True)
        self.everyone.add(self)
        self.servers = servers
        self.random = random.Random(seed)
        self.stopping, self.given_up = threading.Event(), False
        self.sent = self.acknowledged = 0
        self.error: BaseException | None = None

    def send_some(self) -> None:
        """Sends some records."""
        raise NotImplementedError

    def send(self, topic: str, payload: bytes, partition: int) -> None:
        self.producer.produce(topic, payload, partition=partition, on_delivery=self.delivered)
        self.sent += 1

    def delivered(self, error, _message) -> None:
        assert error is None, error
        self.acknowledged += 1

    def run(self) -> None:
        try:
            self.go_on()
        except BaseException as error:  # noqa: BLE001 - whoever stops it is told
            self.error = error

    def go_on(self) -> None:
        settings = {"bootstrap.servers": self.servers, "enable.idempotence": True, "message.timeout.ms": 120_000, "linger.ms": 2}
        self.producer = Producer(settings | {"reconnect.backoff.max.ms": 500, "log_level": 0})
        while not self.stopping.is_set():
            # The broker may be away: what waits for it is bounded.
            while self.sent - self.acknowledged > 20_000 and not self.stopping.is_set():
                self.producer.poll(0.1)
            self.send_some()
            self.producer.poll(0)
            time.sleep(0.01)
        assert self.given_up or self.producer.flush(120) == 0

    def wait_until_sending(self) -> None:
        while not self.sent and self.is_alive():
            time.sleep(0.01)
        if self.error:
            raise self.error

    def stop(self) -> None:
        self.stopping.set()
        self.join()
        if self.error:
            raise self.error

    def give_up(self) -> None:
        """Ends without waiting for what the broker has not acknowledged: it may be gone."""
        self.given_up = True
        self.stopping.set()
        if self.is_alive():
            self.join()
