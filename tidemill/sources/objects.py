"""Files behind addresses: what a listing says of them, and reading a range of one as it was listed.

Listings are never remembered, for another machine may have written since. What
S3 sends of an object is taken if it comes with the ETag that was listed; other
stores do not say.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tidemill.errors import DatasetError, SourceUnavailable
from tidemill.places import is_s3
from tidemill.retry import ask
from tidemill.shards import SourceFile
from tidemill.sources.listing import LeftOut, fixed_part, not_entered
from tidemill.storage.addresses import NO_BUCKET, check_bucket, error_code, open_address, translated

T = TypeVar("T")
READ_RETRIES = 4
LISTING_SECONDS = 120.0
_TIMES = ("LastModified", "mtime", "modified", "modify", "created")

_TOO_SHORT = {"InvalidRange", "416"}


def list_files(address: str) -> tuple[list[SourceFile], tuple[LeftOut, ...]]:
    """The files that an address names now, a file, a folder with all below it, or a pattern; and what it passes over.

    Raises:
        DatasetError: they may not be listed, or the address cannot be opened.
        SourceUnavailable: after retries.
    """
    if _is_http(address):
        from tidemill.sources import http_files

        return _ask(address, lambda: http_files.list_files(address)), ()
    file_system, pattern = _ask(address, lambda: open_address(address, "dataset.path"))

    def find() -> Mapping[str, Any]:
        found: Mapping[str, Any] = {}
        with translated(address, "dataset.path"):
            try:
                if glob.has_magic(pattern):
                    found = file_system.glob(pattern, detail=True)
                # A name may hold what a pattern is made of.
                found = found or file_system.find(pattern, detail=True)
            except FileNotFoundError as e:
                if error_code(e) in NO_BUCKET:
                    raise
        if not found:
            check_bucket(address, "dataset.path", DatasetError)
        return found

    entries = _ask(address, find)
    base = fixed_part(pattern) if glob.has_magic(pattern) or pattern in entries else pattern
    files = [
        SourceFile(
            path=os.path.relpath(path, base),
            url=_chained(file_system.unstrip_protocol(path), address),
            size=_size(info, path),
            content=content_id(info),
        )
        for path, info in entries.items()
        if info["type"] == "file" and not path.endswith("/")
    ]
    folders = sorted(os.path.relpath(path, base) for path, info in entries.items() if info["type"] == "directory")
    return files, not_entered(folders, pattern)


def read_range(file: SourceFile, start: int, stop: int) -> bytes | None:
    """The bytes [start, stop) of a file as it was listed; None if it is gone or another one lies there now.

    Raises:
        DatasetError: it may not be read.
        SourceUnavailable: after retries; a body that is too short counts as one that was cut.
    """
    return ask(
        f"{file.url}, which does not answer well",
        lambda: _request_range(file, start, stop),
        retries=READ_RETRIES,
        told_from=2,
    )


def content_id(info: Mapping[str, Any]) -> str:
    """What names an object's bytes. An ETag first: it stays when the same bytes are put again, and can be asked for."""
    for fact in ("ETag", "etag", "VersionId", "version_id", "md5", "checksum", "sha256", "CRC"):
        if info.get(fact) and info[fact] != "null":
            return f"{fact}:{info[fact]}".replace('"', "")
    modified = next((info[time] for time in _TIMES if info.get(time)), None)
    return f"modified:{info['size']}-{modified}"


def _request_range(file: SourceFile, start: int, stop: int) -> bytes | None:
    if _is_http(file.url):
        from tidemill.sources import http_files

        try:
            return http_files.read_range(file, start, stop)
        except http_files.Gone:
            return None
    file_system, path = open_address(file.url, "dataset.path")
    with translated(file.url, "dataset.path"):
        try:
            if is_s3(file.url):
                body, content = _s3_range(file_system, path, start, stop)
            else:
                body, content = bytes(file_system.cat_file(path, start=start, end=stop)), file.stored
        except OSError as e:
            if error_code(e) in _TOO_SHORT or (isinstance(e, FileNotFoundError) and error_code(e) not in NO_BUCKET):
                return None
            raise
    if content != file.stored:
        return None
    if len(body) != stop - start:
        raise SourceUnavailable(f"{file.url}: {len(body)} of {stop - start} bytes came.")
    return body


def _ask(address: str, call: Callable[[], T]) -> T:
    return ask(address, call, retries=READ_RETRIES, within_seconds=LISTING_SECONDS)


def _size(info: Mapping[str, Any], path: str) -> int:
    if info.get("size") is None:
        raise DatasetError(f"{path}: nothing says how long the file is. Copy it, and name the copy in dataset.path.")
    return int(info["size"])


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _chained(address: str, chain: str) -> str:
    """An address with what the chain that it was found through says behind its first part."""
    return address + chain[chain.index("::") :] if "::" in chain else address


def _s3_range(file_system: Any, path: str, start: int, stop: int) -> tuple[bytes, str]:
    """The bytes that are there now, or one more where too many come, and what names the object that they are of."""
    import fsspec.asyn

    from tidemill.storage.bounded_http import LEAST_BYTES_PER_SECOND, SLOW_SECONDS

    async def get() -> tuple[bytes, str]:
        bucket, key, _ = file_system.split_path(path)
        span = f"{start}-{stop - 1}"
        answer = await file_system._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={span}")
        came = answer.get("ContentRange", f"bytes {span}" if start == 0 else "").partition("/")[0]
        body = bytearray()
        async with answer["Body"] as pieces:
            if came != f"bytes {span}":
                raise SourceUnavailable(f"{path}: {came or 'the whole object'} came where bytes {span} were asked for.")
            while len(body) <= stop - start and (piece := await pieces.read(stop - start + 1 - len(body))):
                body += piece
        return bytes(body), content_id(answer)

    bound_seconds = SLOW_SECONDS + (stop - start) / LEAST_BYTES_PER_SECOND
    found: tuple[bytes, str] = fsspec.asyn.sync(file_system.loop, get, timeout=bound_seconds)
    return found
