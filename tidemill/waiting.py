"""Nothing waits in silence: a wait that lasts says once what it waits for.

The message goes to the logger `tidemill`, which a command line shows on stderr,
unless whoever waits has somebody to tell it to.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from tidemill.masking import masked
from tidemill.retry import retrying

QUIET_SECONDS = 3.0
"""How long a wait may last before it is told."""

logger = logging.getLogger("tidemill")
T = TypeVar("T")


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
