"""A wait that lasts is told, once; a short one is not."""

from __future__ import annotations

import logging
import queue
import threading

import pytest

from tidemill import retry
from tidemill.errors import SourceUnavailable
from tidemill.retry import ask, waiting_for


def test_a_wait_that_lasts_is_told_once_with_how_far_it_is_by_then(monkeypatch):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 0.001)
    told: queue.Queue[str] = queue.Queue()
    attempt = 2
    with waiting_for(lambda: f"the Hub, attempt {attempt}", told.put):
        assert told.get(timeout=60) == "waiting for the Hub, attempt 2"
    assert told.empty()


def test_a_wait_does_not_tell_the_password_of_an_address(monkeypatch):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 0.001)
    told: queue.Queue[str] = queue.Queue()
    with waiting_for("the server at http://me:hunter2@example.org/api", told.put):
        assert told.get(timeout=60) == "waiting for the server at http://***@example.org/api"


def test_a_short_wait_is_not_told_and_leaves_no_thread(monkeypatch):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 3600.0)
    told: list[str] = []
    before = set(threading.enumerate())
    with waiting_for("the lock", told.append):
        (timer,) = set(threading.enumerate()) - before
    timer.join(timeout=60)
    assert told == []
    assert not timer.is_alive()


def test_a_wait_that_fails_is_not_told_afterwards(monkeypatch):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 3600.0)
    before = set(threading.enumerate())
    timers: list[threading.Thread] = []

    def wait_in_vain():
        with waiting_for("the lock"):
            timers.extend(set(threading.enumerate()) - before)
            raise ValueError

    with pytest.raises(ValueError):
        wait_in_vain()
    timers[0].join(timeout=60)
    assert not timers[0].is_alive()


@pytest.fixture
def logged():
    """What the logger `tidemill` is given, as it comes."""
    messages: queue.Queue[str] = queue.Queue()
    handler = logging.Handler()
    handler.emit = lambda record: messages.put(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tidemill").addHandler(handler)
    yield messages
    logging.getLogger("tidemill").removeHandler(handler)


def test_who_names_nobody_to_tell_has_it_logged(monkeypatch, logged):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 0.001)
    with waiting_for("the temporary server"):
        assert logged.get(timeout=60) == "waiting for the temporary server"


@pytest.mark.parametrize("told_from", [1, 2])
def test_who_does_not_answer_is_told_with_the_attempt_and_the_bound(monkeypatch, logged, told_from):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 0.001)
    monkeypatch.setattr("tidemill.retry.FIRST_DELAY_SECONDS", 0.0)
    attempts: list[int] = []
    told: list[str] = []

    def call() -> str:
        attempts.append(len(attempts) + 1)
        if len(attempts) == told_from:
            told.append(logged.get(timeout=60))
            return "answered"
        raise SourceUnavailable("503")

    assert ask("the Hub at nowhere", call, retries=4, within_seconds=3600.0, told_from=told_from) == "answered"
    assert told[0].startswith(f"waiting for the Hub at nowhere, attempt {told_from} of 5, gives up in 3")
    assert logged.empty()
