"""One retry rule: what says that it is retryable is tried again, with backoff, and nothing else is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tidemill import errors
from tidemill.errors import ChoiceMissing, FormatError, LakeLocked, SequenceTooLong, SourceUnavailable, is_retryable
from tidemill.retry import LONGEST_DELAY_SECONDS, backoff_seconds, retrying


class Failing:
    def __init__(self, *failures: Exception) -> None:
        self.failures, self.calls = list(failures), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def test_a_retryable_error_is_tried_again_and_told():
    slept: list[float] = []
    told: list[BaseException] = []
    call = Failing(LakeLocked("a"), LakeLocked("b"))
    assert retrying(call, retries=2, sleep=slept.append, on_retry=told.append) == "done"
    assert (call.calls, len(slept), [str(e) for e in told]) == (3, 2, ["a", "b"])


@pytest.mark.parametrize("error", [FormatError("x"), ValueError("x")])
def test_a_terminal_error_is_tried_once(error):
    call = Failing(error)
    with pytest.raises(type(error)):
        retrying(call, retries=5, sleep=lambda _: None)
    assert call.calls == 1


def test_the_last_error_is_raised_when_retries_are_used_up():
    call = Failing(*[LakeLocked(str(i)) for i in range(9)])
    with pytest.raises(LakeLocked, match="3"):
        retrying(call, retries=3, sleep=lambda _: None)


def test_a_servers_wait_is_kept_to_and_jitter_only_added():
    slept: list[float] = []
    retrying(Failing(SourceUnavailable("429", wait_seconds=7.0)), retries=1, sleep=slept.append)
    assert 7.0 <= slept[0] <= 8.0


def test_a_wait_longer_than_the_caller_allows_is_raised():
    call = Failing(SourceUnavailable("429", wait_seconds=60.0))
    with pytest.raises(SourceUnavailable):
        retrying(call, retries=5, sleep=lambda _: None, longest_wait_seconds=5.0)
    assert call.calls == 1


def test_no_attempt_begins_after_the_time_that_is_given():
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    call = Failing(*[SourceUnavailable("429", wait_seconds=7.0) for _ in range(9)])
    with pytest.raises(SourceUnavailable):
        retrying(call, retries=8, sleep=sleep, within_seconds=20.0, clock=lambda: now)
    assert (call.calls, now <= 20.0) == (3, True)


def test_backoff_doubles_up_to_a_bound():
    delays = [backoff_seconds(attempt) for attempt in range(12)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(delays) == LONGEST_DELAY_SECONDS


MADE_WITH_FACTS: dict[type, dict[str, Any]] = {
    SourceUnavailable: {"message": "what happened", "wait_seconds": 3.0},
    ChoiceMissing: {"message": "what happened", "noun": "split", "existing": ["test", "train"]},
    SequenceTooLong: {"num_tokens": 600, "token_budget": 512},
}


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
)
def test_every_error_survives_pickling(kind):
    error = kind(**MADE_WITH_FACTS[kind]) if kind in MADE_WITH_FACTS else kind("what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), is_retryable(copy)) == (kind, str(error), is_retryable(error))
    assert vars(copy) == vars(error)
