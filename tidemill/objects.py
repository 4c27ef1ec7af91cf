"""The one boundary to object stores and other addresses: what is asked of them, and what their errors mean.

fsspec's libraries find endpoints and credentials by themselves; S3's are taken
from the environment, under the names that AWS gives them. Listings are never
remembered, for another machine may have written since. What S3 sends of an object
is taken if it comes with the ETag that was listed; other stores do not say.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from tidemill.errors import DatasetError, InputError, SourceUnavailable, TidemillError
from tidemill.listing import LeftOut, fixed_part, not_entered
from tidemill.places import is_s3
from tidemill.shards import SourceFile
from tidemill.waiting import ask

T = TypeVar("T")
READ_RETRIES = 4
LISTING_SECONDS = 120.0
_TIMES = ("LastModified", "mtime", "modified", "modify", "created")
CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"

# What S3 calls an error, or the class that its client raises where S3 was not asked.
_NO_BUCKET = {"NoSuchBucket"}
_NOT_ALLOWED = {"NoCredentialsError", "PartialCredentialsError", "TokenRefreshRequired", "InvalidToken"}
_WRONG_PLACE = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidBucketName",
    "PermanentRedirect",
    "ParamValidationError",
    "301",
}
_TOO_SHORT = {"InvalidRange", "416"}

_NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_MISUSE = (ValueError, TypeError, NotImplementedError, IsADirectoryError, NotADirectoryError)
"""What a file system raises of an address that it can make no use of."""


def open_address(address: str, option: str, wrong: type[InputError] = DatasetError) -> tuple[Any, str]:
    """The file system behind an address, and the path there.

    Raises:
        InputError: of the class `wrong`, where no library opens such an address.
    """
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except Exception as e:  # What opens an archive or a connection raises errors of its own.
        if isinstance(e, OSError) and not isinstance(e, _NOT_THERE):
            raise SourceUnavailable(f"{address} does not answer well: {type(e).__name__}: {_line(e)}.") from e
        install = " pip install 'tidemill[s3]', or correct it." if is_s3(address) else ""
        raise wrong(f"{option} = {address!r} cannot be opened: {_line(e)}.{install or _archive_hint(address)}") from e
    return file_system, str(path)


@contextmanager
def translated(address: str, option: str, wrong: type[InputError] = DatasetError) -> Iterator[None]:
    """Turn what a file system's own library raises into Tidemill's errors, which name `option`.

    A `FileNotFoundError` of an object goes on as it is: what it means, only the caller knows.

    Raises:
        InputError: of the class `wrong`: there is no such bucket, or it may not be used.
        SourceUnavailable: there was no answer, or not a good one.
    """
    try:
        yield
    except TidemillError:
        raise
    except Exception as e:  # Each file system raises errors of its own library.
        code = _code(e)
        if code in _NO_BUCKET:
            raise wrong(f"There is no bucket for {address}. Make it, or correct {option}.") from e
        if isinstance(e, FileNotFoundError):
            raise
        if isinstance(e, PermissionError) or code in _NOT_ALLOWED:
            check = f"Check {CREDENTIALS}" if is_s3(address) else "Check the credentials"
            raise wrong(f"{address} may not be used: {_line(e)}. {check}, or correct {option}.") from e
        if isinstance(e, _MISUSE) or code in _WRONG_PLACE:
            check = f"Check {option}, AWS_REGION and AWS_ENDPOINT_URL" if is_s3(address) else f"Check {option}"
            raise wrong(f"{address} cannot be used: {_line(e)}. {check}.") from e
        raise SourceUnavailable(f"{address} does not answer well: {type(e).__name__}: {_line(e)}.") from e


def check_bucket(address: str, option: str, wrong: type[InputError]) -> None:
    """Find out, by one small listing, whether an S3 address can be used at all; others are taken at their word."""
    if is_s3(address):
        file_system, path = open_address(address, option, wrong)
        bucket, prefix, _ = file_system.split_path(path)
        with translated(address, option, wrong):
            file_system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)


def list_files(address: str) -> tuple[list[SourceFile], tuple[LeftOut, ...]]:
    """The files that an address names now, a file, a folder with all below it, or a pattern; and what it passes over.

    Raises:
        DatasetError: they may not be listed, or the address cannot be opened.
        SourceUnavailable: after retries.
    """
    if _is_http(address):
        from tidemill import http_files

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
                if _code(e) in _NO_BUCKET:
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
        from tidemill import http_files

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
            if _code(e) in _TOO_SHORT or (isinstance(e, FileNotFoundError) and _code(e) not in _NO_BUCKET):
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


def _archive_hint(address: str) -> str:
    if address.startswith(("zip://", "tar://")) and "::" not in address:
        return " The address of a file in an archive ends with the archive's, as zip://a.csv::s3://bucket/x.zip does."
    return ""


def _s3_range(file_system: Any, path: str, start: int, stop: int) -> tuple[bytes, str]:
    """The bytes that are there now, or one more where too many come, and what names the object that they are of."""
    import fsspec.asyn

    from tidemill.bounded_http import LEAST_BYTES_PER_SECOND, SLOW_SECONDS

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


def _code(error: BaseException) -> str:
    """What S3 calls an error, which s3fs keeps in the cause of what it raises; else the error's class."""
    for found in (error, error.__cause__):
        if isinstance(response := getattr(found, "response", None), Mapping):
            return str(response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def _line(error: BaseException) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
