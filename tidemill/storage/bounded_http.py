"""HTTP that ends: an answer is bounded in bytes and in time, and a range is what was asked for, or an error.

A client's own timeouts bound silence alone. A server that sends a byte a second, or
sends for ever, is held by a least rate and by a most size here.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from huggingface_hub.utils import httpx

from tidemill.errors import SourceUnavailable

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 10.0
SLOW_SECONDS = 30.0
LEAST_BYTES_PER_SECOND = 1024
"""Below this rate, for longer than `SLOW_SECONDS`, an answer is given up."""
MOST_ANSWER_BYTES = 64 * 2**20
"""The largest answer that is no file of a length which it says beforehand."""
MOST_FORWARDED = 1024
"""Of how many files is remembered where their servers sent us."""
MOST_SKIPPED_BYTES = 64 * 2**20
"""How far into a whole file a range is looked for, where a server sends nothing else."""


def bound(client: Any) -> Any:
    """Bound what an httpx client is answered, in place."""
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _bound_silence],
        "response": [*hooks["response"], _bound_answer],
    }
    return client


def read_span(
    client: Any, url: str, start: int, stop: int, *, name: str, headers: Mapping[str, str], check: Callable[[Any], None]
) -> bytes:
    """The bytes [start, stop) behind `url`. `check` sees the answer's head, and raises what it means.

    No more than these bytes are in memory, whatever comes.

    Raises:
        SourceUnavailable: other bytes came, or fewer or more.
        httpx.TransportError: the connection failed, or nothing came for long.
    """
    span = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with client.stream("GET", url, headers={**headers, **span}, follow_redirects=True) as response:
        if response.is_error:
            response.read()
        check(response)
        body = bytearray()
        for piece in _from(start, response, name, span["Range"]):
            body += piece
            if len(body) > stop - start:
                break
    if response.status_code == httpx.codes.OK:
        del body[stop - start :]
    if len(body) != stop - start:
        came = f"{len(body)} of" if len(body) < stop - start else "more than"
        raise SourceUnavailable(f"{name}: {came} {stop - start} bytes came.")
    return bytes(body)


class ForwardedFile:
    """A file at an address whose server may send us to another one, as the Hub does to its CDN.

    Where it sent us is asked for the next ranges at once, without credentials, until
    that refuses, as it does once what was signed has expired, or fails: then its server
    is asked again. May be used by several threads.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._sent_to: str | None = None

    def read(
        self,
        client: Any,
        start: int,
        stop: int,
        *,
        name: str,
        headers: Mapping[str, str],
        check: Callable[[Any], None],
    ) -> bytes:
        """As `read_span`; what is asked has the `headers`."""
        if (there := self._sent_to) is not None:
            self._sent_to = None
            with suppress(_Refused):
                body = read_span(client, there, start, stop, name=name, headers={}, check=_checked_there(check))
                self._sent_to = there
                return body
        sent_to: list[str] = []

        def note(response: Any) -> None:
            check(response)
            if response.url.host != httpx.URL(self._url).host:
                sent_to.append(str(response.url))

        body = read_span(client, self._url, start, stop, name=name, headers=headers, check=note)
        self._sent_to = sent_to[0] if sent_to else None
        return body


@functools.lru_cache(MOST_FORWARDED)
def forwarded(url: str) -> ForwardedFile:
    """The file at an address, with where its server sent this process last."""
    return ForwardedFile(url)


class _Refused(Exception):
    """An address that we were sent to before does not answer any more."""


def _checked_there(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """What `check` means, but for what only the file's own server can say: that it may not be read, or is gone."""

    def refuse(response: Any) -> None:
        if response.is_client_error and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
            raise _Refused
        check(response)

    return refuse


def _from(start: int, response: Any, name: str, asked: str) -> Iterator[bytes]:
    """The body from the byte `start` of the file on: its all, or of a whole file what lies behind."""
    if encoding := response.headers.get("Content-Encoding", "").replace("identity", ""):
        raise SourceUnavailable(f"{name}: it came encoded as {encoding}, though it was asked for as it is.")
    skipped = 0
    match response.status_code:
        case httpx.codes.PARTIAL_CONTENT:
            came = response.headers.get("Content-Range", "")
            if not re.fullmatch(rf"{asked.replace('=', ' ')}/(\d+|\*)", came):
                raise SourceUnavailable(f"{name}: {came or 'an unnamed range'} came where {asked} was asked for.")
        case httpx.codes.OK if start > MOST_SKIPPED_BYTES:
            raise SourceUnavailable(
                f"{name}: the server ignores Range, and sends the whole file where {asked} was asked for. "
                "If a proxy does so, go around it."
            )
        case httpx.codes.OK:
            skipped = start
        case status:
            raise SourceUnavailable(f"{name}: the server answered {status}.")
    for piece in response.iter_raw():
        yield piece[skipped:]
        skipped = max(0, skipped - len(piece))


def _bound_silence(request: Any) -> None:
    own = request.extensions.get("timeout") or {}
    least = {"connect": CONNECT_SECONDS, "read": SILENCE_SECONDS, "write": SILENCE_SECONDS, "pool": SILENCE_SECONDS}
    request.extensions["timeout"] = {name: own.get(name) or seconds for name, seconds in least.items()}


def _bound_answer(response: Any) -> None:
    is_file = "Content-Length" in response.headers and "/api/" not in response.request.url.path
    most_bytes = float("inf") if is_file and not response.is_error else MOST_ANSWER_BYTES
    response.stream = _BoundedStream(response.stream, most_bytes)


class _BoundedStream(httpx.SyncByteStream):
    """A body as it comes. What its reader takes between the pieces is not counted as the server's time."""

    def __init__(self, stream: Any, most_bytes: float) -> None:
        self._stream, self._most_bytes = stream, most_bytes

    def __iter__(self) -> Iterator[bytes]:
        num_bytes, waited = 0, 0.0
        pieces = iter(self._stream)
        while True:
            before = time.monotonic()
            piece = next(pieces, None)
            waited += time.monotonic() - before
            if piece is None:
                return
            num_bytes += len(piece)
            if num_bytes > self._most_bytes:
                raise httpx.RemoteProtocolError(f"more than {self._most_bytes:,} bytes came, and no end")
            if waited > SLOW_SECONDS + num_bytes / LEAST_BYTES_PER_SECOND:
                raise httpx.ReadTimeout(f"only {num_bytes:,} bytes came in {waited:.0f} s")
            yield piece

    def close(self) -> None:
        self._stream.close()
