"""Waiting and trying again: exponential backoff with full jitter, or as long as the server says; and never in silence.

A wait that lasts says once what it waits for, to the logger `tidemill`, which a command line shows on stderr, unless
whoever waits has somebody to tell it to.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from tidemill.errors import SourceUnavailable, is_retryable
from tidemill.masking import masked

QUIET_SECONDS = 3.0
"""How long a wait may last before it is told."""
logger = logging.getLogger("tidemill")

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


@contextmanager
def waiting_for(what: str | Callable[[], str], tell: Callable[[str], object] = logger.warning) -> Iterator[None]:
    """Tell `what` is waited for, once, if the block lasts longer than `QUIET_SECONDS`.

    A callable is asked at that moment, in another thread: so it may say how far
    the wait is. The bound of the wait is the block's own; the message should name it.
    """

    def say() -> None:
        tell(masked(f"waiting for {what if isinstance(what, str) else what()}"))

    timer = threading.Timer(QUIET_SECONDS, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def ask(
    who: str,
    call: Callable[[], T],
    *,
    retries: int,
    within_seconds: float = float("inf"),
    longest_wait_seconds: float = float("inf"),
    told_from: int = 1,
) -> T:
    """Call until `who` answers well, as `retrying` does; a wait that lasts says who, which attempt and how long yet.

    Attempts before `told_from` may last without a word, as a transfer rightly does.
    """
    started, attempt = time.monotonic(), 0

    def how_far() -> str:
        left = max(0.0, started + within_seconds - time.monotonic())
        bound = "" if math.isinf(left) else f", gives up in {left:.0f} s at the latest"
        return f"{who}, attempt {attempt} of {retries + 1}{bound}"

    with ExitStack() as telling:

        def begin_attempt(_: BaseException | None = None) -> None:
            nonlocal attempt
            attempt += 1
            if attempt == told_from:
                telling.enter_context(waiting_for(how_far))

        begin_attempt()
        return retrying(
            call,
            retries=retries,
            on_retry=begin_attempt,
            longest_wait_seconds=longest_wait_seconds,
            within_seconds=within_seconds,
        )
