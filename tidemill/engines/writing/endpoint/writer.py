"""Models that a server has: prompts go to it, so many at a time, and what it wrote comes back in its rows' places."""

from __future__ import annotations

import asyncio
import concurrent.futures
import difflib
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tidemill import config as options
from tidemill.encoding.batching import ANY_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, Arrays
from tidemill.encoding.prompts import unpacked
from tidemill.engines import never
from tidemill.engines.writing.endpoint.failures import Busy, Failure, Refusal, Trouble, Unusable
from tidemill.engines.writing.endpoint.pace import GIVE_UP_SECONDS, Pace
from tidemill.engines.writing.endpoint.protocol import THINKING, Protocol
from tidemill.engines.writing.endpoint.server import Server
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import Written, failed, outputs_of
from tidemill.errors import ModelError, RunFailed, SourceUnavailable, Stopped

T = TypeVar("T")

RETRIES = 5
LOOK_SECONDS = 0.1
"""How often somebody who waits for a batch looks whether the run is to stop."""
SAID_OF_A_MODEL = ("id", "created", "owned_by", "root", "parent", "revision", "max_model_len")
"""What servers tell of a model that is worth keeping."""
MOST_NAMED = 5

logger = logging.getLogger("tidemill")


class EndpointWriter:
    """The model that `server` serves under the name in `protocol`; at most `concurrency` requests are on their way.

    A request is tried `retries` times more where the same may go well another time.
    """

    name = "endpoint"
    rounds_widths = False
    company: Company = ANY_LENGTHS
    pads = False
    reference = None

    def __init__(
        self,
        server: Server,
        protocol: Protocol,
        *,
        concurrency: int,
        retries: int = RETRIES,
        pace: Pace | None = None,
    ) -> None:
        self._server, self._protocol, self._retries = server, protocol, retries
        self._pace = Pace(server) if pace is None else pace
        self._slots = asyncio.Semaphore(concurrency)
        # A batch may be one row: even then the server has enough to do while the slowest is waited for.
        self.depth = 4 * concurrency
        self._takes_thinking = True
        self._said: dict[str, Any] = {"id": protocol.name}
        self.doubt: str | None = None
        """What speaks against that it is our model which answers."""
        self._loop = _loop()
        weakref.finalize(self, _close, server, self._loop).atexit = False

    @classmethod
    def open(
        cls,
        *,
        settings: Settings,
        inference: options.Inference,
        name: str,
        thinking: bool = False,
        retries: int = RETRIES,
    ) -> Self:
        """Of the server that `inference.endpoint` names, which is asked for its models.

        Raises:
            ConfigError: there is no such address, or the environment lacks the key.
            ModelError: the server refuses the key, or has nothing at the address.
            SourceUnavailable: it does not answer.
        """
        server = Server(inference.endpoint)
        protocol = Protocol(name, settings, thinking=thinking)
        writer = cls(server, protocol, concurrency=inference.endpoint.concurrency, retries=retries)
        writer.look()
        return writer

    def look(self) -> None:
        """Ask the server which models it has, and keep what it says of ours.

        Raises:
            ModelError: the server refuses the key, or has nothing at the address.
            SourceUnavailable: it does not answer.
        """
        try:
            models = self._wait(self._server.find())
        except (Unusable, Refusal) as e:
            raise ModelError(e.reason) from None
        except (Busy, Trouble) as e:
            raise SourceUnavailable(
                f"The server {self._server} does not answer: {e.reason}. Start it, or correct "
                "inference.endpoint.base_url.",
                wait_seconds=e.wait_seconds,
            ) from None
        ours = next((model for model in models if model["id"] == self._protocol.name), None)
        if ours is not None:
            self._said = {name: ours[name] for name in SAID_OF_A_MODEL if ours.get(name) is not None}
        elif models:
            self._said["is_listed"] = False
            self.doubt = self._unlisted([model["id"] for model in models])
            logger.warning("%s", self.doubt)

    def _unlisted(self, names: list[str]) -> str:
        name = self._protocol.name
        near = [*difflib.get_close_matches(name, names, n=MOST_NAMED, cutoff=0.3), *names]
        more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return (
            f"The server {self._server} lists no model {name}. It lists: "
            f"{', '.join(list(dict.fromkeys(near))[:MOST_NAMED])}{more}. Whatever answers is recorded as {name}: check "
            "model.path."
        )

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> _Waiting:
        prompts = _prompts_of(inputs)
        return _Waiting(asyncio.run_coroutine_threadsafe(self._write_all(prompts), self._loop), should_stop)

    def facts(self) -> dict[str, Any]:
        unsent = {} if self._takes_thinking else {"refused_options": [THINKING]}
        doubt = {} if self.doubt is None else {"fallback": self.doubt}
        return {
            "engine": self.name,
            "device": "server",
            "device_name": self._server.place,
            "dtype": "unknown",
            "served": self._said,
            "generation": self._protocol.settings.facts(),
            **unsent,
            **doubt,
        }

    def release_memory(self) -> None:
        """It is the server's."""

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    async def _write_all(self, prompts: list[bytes]) -> NDArray[np.int32]:
        """In the order of the prompts, whatever the order of the answers. One that ends the run ends the others."""
        rows = [asyncio.create_task(self._write(prompt)) for prompt in prompts]
        try:
            return outputs_of(await asyncio.gather(*rows))
        finally:
            for row in rows:
                row.cancel()

    async def _write(self, prompt: bytes) -> Written:
        route, body = self._protocol.request(prompt)
        num_tries = 0
        while True:
            async with self._slots:
                outcome = await self._try(route, body)
            if isinstance(outcome, Written):
                return outcome
            num_tries += 1
            if num_tries > self._retries:
                return failed(f"the server failed, the last of {num_tries} times: {outcome.reason}")
            await self._pace.pause(num_tries)

    async def _try(self, route: str, body: dict[str, Any]) -> Written | Trouble:
        """What was written, or why it may be another time. As long as the server turns everybody away, it waits.

        Raises:
            RunFailed: nothing will be answered, or was for long.
        """
        begun = self._pace.clock()
        while True:
            await self._pace.turn()
            failure: Failure
            try:
                return await self._once(route, body)
            except Unusable as e:
                raise RunFailed(e.reason) from None
            except Busy as e:
                failure = e
            except Trouble as e:
                # Of a server that is down, as while it starts again, nothing is known of the row.
                if await self._server.is_up():
                    self._pace.heed(e)
                    return e
                failure = e
            if self._pace.refused(failure, begun=begun):
                return failed(f"the server turned it away for {GIVE_UP_SECONDS:g} s: {failure.reason}")

    async def _once(self, route: str, body: dict[str, Any]) -> Written:
        """Raises:
        Failure: as the server's answer means, but for one that refuses the row alone.
        """
        if not self._takes_thinking:
            body.pop(THINKING, None)
        try:
            written = self._protocol.written(await self._server.ask("POST", route, body))
        except Refusal as e:
            if THINKING not in body or THINKING not in e.reason:
                self._pace.answered()
                return failed(f"the server refused it: {e.reason}")
            self._takes_thinking = False
            return await self._once(route, body)
        self._pace.answered()
        return written


class _Waiting:
    """A batch on its way."""

    def __init__(self, future: concurrent.futures.Future[NDArray[np.int32]], should_stop: Callable[[], bool]) -> None:
        self._future, self._should_stop = future, should_stop

    def result(self) -> Any:
        """Raises:
        Stopped: somebody asked for it; what was on its way is broken off.
        RunFailed: the server will answer nothing.
        """
        while not concurrent.futures.wait([self._future], LOOK_SECONDS).done:
            if self._should_stop():
                self._future.cancel()
                raise Stopped("Stopped while a server was answering. The shard starts again on the next run.")
        return self._future.result()


def _prompts_of(inputs: Arrays) -> list[bytes]:
    ids_BT = inputs[IDS]
    if MASK not in inputs:
        return [unpacked(ids_T) for ids_T in ids_BT]
    return [unpacked(ids_T[mask_T == 1]) for ids_T, mask_T in zip(ids_BT, inputs[MASK], strict=True)]


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all servers of a process, in a thread that ends with it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


def _close(server: Server, loop: asyncio.AbstractEventLoop) -> None:
    asyncio.run_coroutine_threadsafe(server.close(), loop)
