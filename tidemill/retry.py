"""Waiting and trying again: exponential backoff with full jitter, or as long as the server says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tidemill.errors import SourceUnavailable, is_retryable

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
T = TypeVar("T")


def backoff_seconds(attempt: int) -> float:
    """How long to wait before attempt `attempt` + 1, counted from 0, before jitter."""
    return float(min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**attempt))


def retrying(
    call: Callable[[], T],
    *,
    retries: int,
    on_retry: Callable[[BaseException], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    longest_wait_seconds: float = float("inf"),
    within_seconds: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call until it does not raise a retryable error, at most `retries` times more.

    A server's own wait is kept to and jitter only added to it, so that many
    clients do not return at once (Full Jitter: Brooker, "Exponential Backoff And
    Jitter", 2015). An error that asks for more than `longest_wait_seconds` is
    raised: whoever called waits then, in a way that can be stopped. No attempt
    begins later than `within_seconds` after the first.
    """
    latest = clock() + within_seconds
    for attempt in range(retries + 1):
        try:
            return call()
        except Exception as e:
            if not is_retryable(e) or attempt == retries:
                raise
            asked = e.wait_seconds if isinstance(e, SourceUnavailable) else None
            if asked is not None and asked > longest_wait_seconds:
                raise
            jitter = random.uniform(0.0, backoff_seconds(attempt))
            pause = jitter if asked is None else asked + min(jitter, 1.0)
            if clock() + pause > latest:
                raise
            if on_retry is not None:
                on_retry(e)
            sleep(pause)
    raise AssertionError("unreachable")
