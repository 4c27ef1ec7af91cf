"""The one boundary to file systems behind addresses: how one is opened, and what its library's errors mean.

fsspec's libraries find endpoints and credentials by themselves; S3's are taken
from the environment, under the names that AWS gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tidemill.errors import DatasetError, InputError, SourceUnavailable, TidemillError, first_line
from tidemill.places import is_s3

CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"

# What S3 calls an error, or the class that its client raises where S3 was not asked.
NO_BUCKET = {"NoSuchBucket"}
_NOT_ALLOWED = {"NoCredentialsError", "PartialCredentialsError", "TokenRefreshRequired", "InvalidToken"}
_WRONG_PLACE = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidBucketName",
    "PermanentRedirect",
    "ParamValidationError",
    "301",
}

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
            raise SourceUnavailable(f"{address} does not answer well: {type(e).__name__}: {first_line(e)}.") from e
        install = " pip install 'tidemill[s3]', or correct it." if is_s3(address) else ""
        raise wrong(
            f"{option} = {address!r} cannot be opened: {first_line(e)}.{install or _archive_hint(address)}"
        ) from e
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
        code = error_code(e)
        if code in NO_BUCKET:
            raise wrong(f"There is no bucket for {address}. Make it, or correct {option}.") from e
        if isinstance(e, FileNotFoundError):
            raise
        if isinstance(e, PermissionError) or code in _NOT_ALLOWED:
            check = f"Check {CREDENTIALS}" if is_s3(address) else "Check the credentials"
            raise wrong(f"{address} may not be used: {first_line(e)}. {check}, or correct {option}.") from e
        if isinstance(e, _MISUSE) or code in _WRONG_PLACE:
            check = f"Check {option}, AWS_REGION and AWS_ENDPOINT_URL" if is_s3(address) else f"Check {option}"
            raise wrong(f"{address} cannot be used: {first_line(e)}. {check}.") from e
        raise SourceUnavailable(f"{address} does not answer well: {type(e).__name__}: {first_line(e)}.") from e


def check_bucket(address: str, option: str, wrong: type[InputError]) -> None:
    """Find out, by one small listing, whether an S3 address can be used at all; others are taken at their word."""
    if is_s3(address):
        file_system, path = open_address(address, option, wrong)
        bucket, prefix, _ = file_system.split_path(path)
        with translated(address, option, wrong):
            file_system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)


def error_code(error: BaseException) -> str:
    """What S3 calls an error, which s3fs keeps in the cause of what it raises; else the error's class."""
    for found in (error, error.__cause__):
        if isinstance(response := getattr(found, "response", None), Mapping):
            return str(response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def _archive_hint(address: str) -> str:
    if address.startswith(("zip://", "tar://")) and "::" not in address:
        return " The address of a file in an archive ends with the archive's, as zip://a.csv::s3://bucket/x.zip does."
    return ""
