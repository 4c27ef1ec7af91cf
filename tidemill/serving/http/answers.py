"""A call's way from a request to its answers: the client may leave, and the deadline may pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from tidemill.errors import InputError, RunFailed, TidemillError, counted
from tidemill.serving.answering.calls import Busy, Call, Closing, Record, Told
from tidemill.serving.answering.limits import Limits
from tidemill.serving.answering.version import Reading
from tidemill.serving.http.said import Refusal
from tidemill.serving.pipelines.pipeline import ServedPipeline

TIMEOUT_HEADER = "x-timeout-seconds"
"""By which a client may wait for less than the service lets it."""


class Answers:
    """Asks pipelines for rows' answers."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def seconds(self, request: Request) -> float:
        """How long the request may take.

        Raises:
            Refusal: its header says no number.
        """
        most = self._limits.deadline_seconds
        given = request.headers.get(TIMEOUT_HEADER)
        if given is None:
            return most
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise Refusal(400, f"{TIMEOUT_HEADER} is no number of seconds.")
        return min(seconds, most)

    async def of(
        self,
        request: Request,
        pipeline: ServedPipeline,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any],
        **how: Any,
    ) -> list[Record]:
        """An answer for each input, in order.

        Raises:
            Refusal: the inputs are wrong, or nobody can answer them, or not in time; or the client left.
        """
        self.check_count(len(inputs))
        if not inputs:
            return []
        seconds = self.seconds(request)
        async with self.calling(pipeline, inputs, parameters, seconds, **how) as call:
            return await self._wait(request, call, seconds)

    @asynccontextmanager
    async def calling(
        self,
        pipeline: ServedPipeline,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any],
        seconds: float,
        *,
        told: Told | None = None,
        reading: Reading | None = None,
    ) -> AsyncIterator[Call]:
        """A call that is on its way within the block, and is left with it."""
        call = await self._begin(pipeline, inputs, parameters, time.monotonic() + seconds, told, reading)
        try:
            yield call
        finally:
            call.leave()

    def check_count(self, num_rows: int) -> None:
        most = self._limits.call_rows
        if num_rows > most:
            raise Refusal(
                413, f"A request may have {counted(most, 'row')} (--max-rows), and this one has {num_rows:,}."
            )

    async def _begin(
        self,
        pipeline: ServedPipeline,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any],
        deadline: float,
        told: Told | None,
        reading: Reading | None,
    ) -> Call:
        def begin() -> Call:
            return pipeline.call(inputs, parameters, deadline=deadline, told=told, reading=reading)

        try:
            # To open a version under other options takes a moment, in which others are answered.
            is_open = pipeline.version.is_open(parameters, reading)
            return begin() if is_open else await asyncio.to_thread(begin)
        except Busy as e:
            raise Refusal(429, str(e), headers={"retry-after": str(e.seconds)}) from None
        except (Closing, RunFailed) as e:
            raise Refusal(503, str(e), headers={"retry-after": "5"}) from None
        except InputError as e:
            raise Refusal(422, str(e)) from None

    async def _wait(self, request: Request, call: Call, seconds: float) -> list[Record]:
        answered, left = asyncio.wrap_future(call.done), asyncio.ensure_future(gone(request))
        either: set[asyncio.Future[Any]] = {answered, left}
        try:
            done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
        if answered in done:
            return result_of(answered)
        answered.cancel()
        if left in done:
            raise Refusal(499, "The client left.")
        raise late(seconds)


async def gone(request: Request) -> None:
    """Wait until the client has left; its body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def late(seconds: float) -> Refusal:
    return Refusal(504, f"There was no answer within {seconds:g} s.", headers={"retry-after": "1"})


def result_of(answered: asyncio.Future[list[Record]] | Future[list[Record]]) -> list[Record]:
    """
    Raises:
        Refusal: the model failed.
    """
    error = answered.exception()
    if error is None:
        return answered.result()
    if isinstance(error, RunFailed):
        raise Refusal(503, str(error))
    said = f": {error}" if isinstance(error, TidemillError) else ""
    raise Refusal(500, f"The model failed ({type(error).__name__}){said}")
