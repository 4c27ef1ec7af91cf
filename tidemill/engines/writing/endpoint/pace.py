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

logger = logging.getLogger("tidemill")


class Pace:
    """Of the requests to the server that is called `who`. One event loop uses it."""

    def __init__(
        self,
        who: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._who, self.clock, self._sleep, self._draw = who, clock, sleep, draw
        self._held_until = float("-inf")
        self._refused_since: float | None = None
        self._num_holds = 0

    async def turn(self) -> None:
        """Wait until the next request may be sent, and a little longer, so that not all are sent at once."""
        while (left := self._held_until - self.clock()) > 0:
            await self._sleep(left + self._draw(0.0, min(1.0, left)))

    async def pause(self, num_tries: int, failure: Failure) -> None:
        """Before a row's next try, after so many; as long as the server asked for, which holds back the others too.

        Raises:
            RunFailed: it asked for a wait that is too long.
        """
        if failure.wait_seconds is not None:
            self.refused(failure)
        else:
            await self._sleep(self._draw(0.0, backoff_seconds(num_tries - 1)))

    def hold(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._held_until = max(self._held_until, self.clock() + seconds)

    def answered(self) -> None:
        """The server has answered a request well."""
        self._refused_since, self._num_holds = None, 0

    def refused(self, failure: Failure) -> None:
        """The server has turned a request away for what says nothing of it: all wait.

        Raises:
            RunFailed: it has answered nobody for long, or asks for a wait that is longer.
        """
        now = self.clock()
        if self._refused_since is None:
            self._refused_since = now
        seconds = failure.wait_seconds
        if seconds is None:
            if now < self._held_until:
                return  # Of the requests that were on their way together, the first has said it.
            seconds = self._draw(0.5, 1.0) * backoff_seconds(self._num_holds)
            self._num_holds += 1
        self._refuse_endless(failure, now, seconds)
        if seconds >= QUIET_SECONDS and now >= self._held_until:
            logger.warning("waiting %.0f s for the server %s: %s", seconds, self._who, failure.reason)
        self.hold(seconds)

    def _refuse_endless(self, failure: Failure, now: float, seconds: float) -> None:
        lasted = 0.0 if self._refused_since is None else now - self._refused_since
        if lasted + seconds <= GIVE_UP_SECONDS:
            return
        what = f"has answered no request for {lasted:,.0f} s" if lasted else f"asks to wait {seconds:,.0f} s"
        raise RunFailed(
            f"The server {self._who} {what}; the last time {failure.reason}. What was committed stays: run again when "
            "it answers. If it bounds how much is asked, lower inference.endpoint.concurrency."
        )
