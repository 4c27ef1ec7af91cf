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
"""In which a client has to read what waits for it to be read."""
HEADER_BYTES = 64 * 2**10
"""Of a request's headers, about."""


class _Open:
    """The connections that are open, and which of them have no request, the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self.most, self.header_seconds = _most(limits.connections), limits.header_seconds
        self.body_bytes = limits.body_bytes
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
        _unread: asyncio.TimerHandle | None = None
        _num_header_bytes = 0
        _is_refused = False
        """What still comes is read and dropped: a connection that is closed before takes its answer with it."""

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
            self._is_read()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                return
            if self._late is None:
                self._num_header_bytes = 0
            elif self._num_header_bytes > (opened.body_bytes if self._is_answered() else HEADER_BYTES):
                self._refuse(b"431 Request Header Fields Too Large", "The headers are too long.")
                return
            else:
                self._num_header_bytes += len(data)
            super().data_received(data)

        def _is_answered(self) -> bool:
            """Whether what comes is the rest of a body whose request has its answer."""
            return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            self._is_read()
            super().resume_writing()

        def _is_read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._expect_headers()

        def on_headers_complete(self) -> None:
            self._forget()
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self.cycle.response_complete:
                opened.idle[self] = None
                if self._is_answered():
                    self._expect_headers()

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
            if self._is_refused:
                self.transport.abort()
            if self.transport.is_closing():
                return
            self._answer(status, why)
            self.transport.close()
            self.loop.call_later(READ_SECONDS, self.transport.abort)

        def _refuse(self, status: bytes, why: str) -> None:
            """Answer a client that is still sending, which reads its answer when it has sent all."""
            self._forget()
            self._is_refused = True
            self._answer(status, why)
            self.transport.write_eof()
            opened.idle[self] = None
            self._late = self.loop.call_later(READ_SECONDS, self.transport.abort)

        def _answer(self, status: bytes, why: str) -> None:
            body = b'{"error":"' + why.encode() + b'"}'
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
            )

    return Connection
