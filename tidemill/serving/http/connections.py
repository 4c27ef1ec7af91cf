"""Connections: so many at one time, and none that says nothing keeps another out."""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill.serving.answering.limits import Limits

OWN_FILES = 256
"""That the service has open beside connections."""
LEAST = 16
READ_SECONDS = 10.0
"""In which a client has to read the rest of an answer, once it is complete."""


class _Open:
    """The connections that are open, and which of them have no request, the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self.most, self.header_seconds = _most(limits.connections), limits.header_seconds
        self.idle: OrderedDict[Any, None] = OrderedDict()
        self.num_open = 0


def _most(wanted: int) -> int:
    """As many as the system lets this process have, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(LEAST, min(wanted, soft - OWN_FILES))


def protocol_of(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol of a server under these limits."""
    opened = _Open(limits)

    class Connection(HttpToolsProtocol):
        """Uvicorn's, with a bound on how long a request's headers may take, and on connections."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            opened.num_open += 1
            opened.idle[self] = None
            self._expect_headers()
            if opened.num_open > opened.most:
                oldest = next(iter(opened.idle))
                if oldest is self:
                    self._end(b"503 Service Unavailable", "As many connections are open as may. Try again later.")
                else:
                    oldest._end(b"408 Request Timeout", "The connection said nothing while others waited for it.")

        def connection_lost(self, exc: Exception | None) -> None:
            opened.num_open -= 1
            self._forget()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect_headers()

        def on_headers_complete(self) -> None:
            self._forget()
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and not self.pipeline:
                opened.idle[self] = None

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self.loop.call_later(READ_SECONDS, self.transport.abort)

        def _expect_headers(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(opened.header_seconds, self._give_up)

        def _give_up(self) -> None:
            self._end(b"408 Request Timeout", f"No request came within {opened.header_seconds:g} s.")

        def _forget(self) -> None:
            opened.idle.pop(self, None)
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _end(self, status: bytes, why: str) -> None:
            self._forget()
            if self.transport.is_closing():
                return
            body = b'{"error":"' + why.encode() + b'"}'
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
            )
            self.transport.close()
            self.loop.call_later(READ_SECONDS, self.transport.abort)

    return Connection
