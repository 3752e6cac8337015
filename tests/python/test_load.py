"""What the tests themselves stand on."""

import time

import pytest
from conftest import pytest_runtest_teardown
from load import Load


class Sender(Load):
    def send_some(self) -> None:
        self.send("nowhere", b"", 0)


def test_a_load_that_its_test_did_not_stop_ends_with_the_test():
    # Nobody listens there: what is sent is not acknowledged.
    load = Sender("127.0.0.1:1", 0)
    load.start()
    load.wait_until_sending()
    began = time.monotonic()
    pytest_runtest_teardown()
    assert not load.is_alive() and load.acknowledged == 0 and time.monotonic() - began < 60
    # One that never began holds nobody up.
    Sender("127.0.0.1:1", 0)
    pytest_runtest_teardown()


def test_a_load_that_cannot_send_says_why(monkeypatch):
    def refuse(_settings):
        raise ValueError("no client can be made")

    monkeypatch.setattr("load.Producer", refuse)
    load = Sender("127.0.0.1:1", 0)
    load.start()
    for tells in (load.wait_until_sending, load.stop):
        with pytest.raises(ValueError, match="no client can be made"):
            tells()
    # The test that has failed by then ends in order.
    pytest_runtest_teardown()
