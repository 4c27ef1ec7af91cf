"""Files behind http:// and https:// addresses: read by ranges, bounded, and checked to be those that were listed.

fsspec finds what a pattern matches among the links of a page. Nothing else is left
to it, for it reads a whole file to look for links in it, and takes what comes for the range.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from huggingface_hub.utils import httpx

from tidemill.errors import DatasetError, SourceUnavailable
from tidemill.shards import SourceFile
from tidemill.sources.listing import fixed_part
from tidemill.storage.addresses import translated
from tidemill.storage.bounded_http import MOST_ANSWER_BYTES, SILENCE_SECONDS, bound, forwarded

PAGES_SECONDS = 60.0
"""The most that one page of links may take."""
_NO_HEAD = {400, 403, 405, 501}
_GONE = {404, 410, 416}


class Gone(Exception):
    """Nothing is there, or another file than was listed."""


def list_files(address: str) -> list[SourceFile]:
    """The file at an address, or the files that a pattern matches among the links of its pages.

    Raises:
        DatasetError: the server refuses, or does not say how long a file is.
        SourceUnavailable: it does not answer well.
    """
    place = address.partition("?")[0]
    if place.endswith("/"):
        raise DatasetError(
            f"dataset.path = {address!r} names a folder, which HTTP does not list. Name a file, or a pattern of the "
            f"links on that page, such as {place}*.csv."
        )
    base = fixed_part(place)
    with translated(address, "dataset.path"):
        urls = _links(address) if re.search(r"[*[]", place) else [address]
    found = []
    for url in urls:
        with _translated(url):
            try:
                found.append(_describe(url, base))
            except Gone:
                continue
    return found


def read_range(file: SourceFile, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file as it was listed.

    Raises:
        Gone: it is not there any more, or was replaced.
        DatasetError: it may not be read.
        SourceUnavailable: the server does not answer well.
    """

    def check(response: Any) -> None:
        _refuse(response, file.url)
        now = _content(response.headers, file.size)
        if now.partition(":")[0] == file.stored.partition(":")[0] and now != file.stored:
            raise Gone

    with _translated(file.url):
        return forwarded(file.url).read(_client(), start, stop, name=_shown(file.url), headers={}, check=check)


@functools.cache
def _client() -> Any:
    return bound(httpx.Client(follow_redirects=True, timeout=None))


def _describe(url: str, base: str) -> SourceFile:
    head = _client().head(url, headers={"Accept-Encoding": "identity"})
    if head.status_code in _NO_HEAD or (head.is_success and "Content-Length" not in head.headers):
        with _client().stream("GET", url, headers={"Accept-Encoding": "identity", "Range": "bytes=0-0"}) as head:
            pass
    _refuse(head, url)
    total = head.headers.get("Content-Range", "").rpartition("/")[2] or head.headers.get("Content-Length", "")
    if not total.isdigit():
        raise DatasetError(f"{_shown(url)}: the server does not say how long the file is. Copy it, and name the copy.")
    path = os.path.relpath(urlsplit(url).path, urlsplit(base).path)
    return SourceFile(path=path, url=url, size=int(total), content=_content(head.headers, int(total)))


def _content(headers: Mapping[str, str], size: int) -> str:
    """What names a file's bytes, by what the server says of them."""
    if etag := headers.get("ETag"):
        return f"ETag:{etag}".replace('"', "")
    return f"modified:{size}-{headers.get('Last-Modified')}"


def _refuse(response: Any, url: str) -> None:
    status, name = response.status_code, _shown(url)
    if status in _GONE:
        raise Gone
    if status in (401, 403):
        raise DatasetError(f"{name} may not be read (the server answered {status}). Check dataset.path.")
    if status == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        after = response.headers.get("Retry-After", "")
        raise SourceUnavailable(
            f"{name}: the server answered {status}.", wait_seconds=float(after) if after.isdigit() else None
        )
    if not response.is_success:
        raise DatasetError(f"{name} cannot be read (the server answered {status}). Check dataset.path.")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as e:
        raise SourceUnavailable(f"{_shown(url)} does not answer well: {type(e).__name__}: {e}.") from e
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        raise DatasetError(f"dataset.path = {_shown(url)!r} cannot be read: {e}. Correct dataset.path.") from e


def _shown(url: str) -> str:
    """Without a query, which may hold a credential."""
    return url.partition("?")[0]


def _links(pattern: str) -> list[str]:
    import fsspec

    timeout = aiohttp.ClientTimeout(total=PAGES_SECONDS, sock_read=SILENCE_SECONDS)
    file_system, path = fsspec.core.url_to_fs(
        pattern, use_listings_cache=False, client_kwargs={"timeout": timeout, "response_class": _BoundedPage}
    )
    try:
        return [str(url) for url in file_system.glob(path) if not url.endswith("/")]
    except FileNotFoundError:
        return []


class _BoundedPage(aiohttp.ClientResponse):
    """A page that is read to its end or to `MOST_ANSWER_BYTES`, whichever comes first."""

    async def read(self) -> bytes:
        if self._body is None:
            body = bytearray()
            async for piece in self.content.iter_any():
                body += piece
                if len(body) > MOST_ANSWER_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"more than {MOST_ANSWER_BYTES:,} bytes came, and no end")
            self._body = bytes(body)
        return self._body
