"""How the requests to one server wait: what it asks of one holds back all, and a wait has its end."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from tidemill.engines.writing.endpoint.failures import Failure
from tidemill.errors import RunFailed
from tidemill.retry import QUIET_SECONDS, backoff_seconds

GIVE_UP_SECONDS = 600.0
"""How long a server may answer nobody, or a row be turned away."""
TOLD_AGAIN_SECONDS = 60.0
"""How long nothing is said of another wait: a server that bounds requests a second asks for many."""

logger = logging.getLogger("tidemill")


class Pace:
    """Of the requests to the server that messages call `who`, as it is called then. One event loop uses it."""

    def __init__(
        self,
        who: object,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._who, self.clock, self._sleep, self._draw = who, clock, sleep, draw
        self._held_until = float("-inf")
        self._answered_at = float("-inf")
        self._refused_since: float | None = None
        self._num_holds = 0
        self._told_at = float("-inf")

    async def turn(self) -> None:
        """Wait until the next request may be sent, and a little longer, so that not all are sent at once."""
        while (left := self._held_until - self.clock()) > 0:
            await self._sleep(left + self._draw(0.0, min(1.0, left)))

    async def pause(self, num_tries: int) -> None:
        """Before a row's next try, after so many."""
        await self._sleep(self._draw(0.0, backoff_seconds(num_tries - 1)))

    def heed(self, failure: Failure) -> None:
        """Send nothing for as long as the server asked for, if it did.

        Raises:
            RunFailed: that is too long.
        """
        if failure.wait_seconds is not None:
            self._hold(failure, failure.wait_seconds)

    def answered(self) -> None:
        """The server has answered a request well."""
        self._answered_at, self._refused_since, self._num_holds = self.clock(), None, 0

    def refused(self, failure: Failure, *, begun: float) -> bool:
        """The server has turned a row away for what says nothing of it: all wait. Whether this row has been for too
        long, while others were answered since it had `begun`.

        Raises:
            RunFailed: it has answered nobody for too long, or asks for a wait that is longer.
        """
        now = self.clock()
        if self._refused_since is None:
            self._refused_since = now
        is_first = now >= self._held_until
        seconds = failure.wait_seconds
        if seconds is None and is_first:
            seconds = self._draw(0.5, 1.0) * backoff_seconds(self._num_holds)
            self._num_holds += 1
        if self._answered_at > begun and now - begun > GIVE_UP_SECONDS:
            return True
        # Of requests that were on their way together, the first has said it.
        if seconds is not None:
            self._hold(failure, seconds)
        return False

    def _hold(self, failure: Failure, seconds: float) -> None:
        now = self.clock()
        lasted = 0.0 if self._refused_since is None else now - self._refused_since
        if max(lasted, seconds) > GIVE_UP_SECONDS:
            raise self._gave_up(failure, lasted, seconds)
        if seconds >= QUIET_SECONDS and now - self._told_at > TOLD_AGAIN_SECONDS:
            self._told_at = now
            logger.warning("waiting %.0f s for the server %s: %s", seconds, self._who, failure.reason)
        self._held_until = max(self._held_until, now + seconds)

    def _gave_up(self, failure: Failure, lasted: float, seconds: float) -> RunFailed:
        what = (
            f"asks to wait {seconds:,.0f} s"
            if seconds > GIVE_UP_SECONDS
            else f"has answered nobody for {lasted:,.0f} s"
        )
        return RunFailed(
            f"The server {self._who} {what}; the last time {failure.reason}. What was committed stays: run again when "
            "it answers. If it bounds how much is asked, lower inference.endpoint.concurrency."
        )
