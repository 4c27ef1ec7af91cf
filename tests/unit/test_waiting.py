"""A wait that lasts is told, once; a short one is not."""

from __future__ import annotations

import logging
import queue
import threading

import pytest

from tidemill import waiting
from tidemill.waiting import waiting_for


def test_a_wait_that_lasts_is_told_once_with_how_far_it_is_by_then(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.001)
    told: queue.Queue[str] = queue.Queue()
    attempt = 2
    with waiting_for(lambda: f"the Hub, attempt {attempt}", told.put):
        assert told.get(timeout=60) == "waiting for the Hub, attempt 2"
    assert told.empty()


def test_a_short_wait_is_not_told_and_leaves_no_thread(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 3600.0)
    told: list[str] = []
    before = set(threading.enumerate())
    with waiting_for("the lock", told.append):
        (timer,) = set(threading.enumerate()) - before
    timer.join(timeout=60)
    assert told == []
    assert not timer.is_alive()


def test_a_wait_that_fails_is_not_told_afterwards(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 3600.0)
    before, timers = set(threading.enumerate()), []

    def wait_in_vain():
        with waiting_for("the lock"):
            timers.extend(set(threading.enumerate()) - before)
            raise ValueError

    with pytest.raises(ValueError):
        wait_in_vain()
    timers[0].join(timeout=60)
    assert not timers[0].is_alive()


def test_who_names_nobody_to_tell_has_it_logged(monkeypatch, caplog):
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.001)
    logged = threading.Event()

    class Listening(logging.Handler):
        def emit(self, record):
            logged.set()

    handler = Listening()
    logging.getLogger("tidemill").addHandler(handler)
    try:
        with waiting_for("the temporary server"):
            assert logged.wait(60)
    finally:
        logging.getLogger("tidemill").removeHandler(handler)
    assert "waiting for the temporary server" in caplog.text
