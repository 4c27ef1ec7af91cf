"""Folders, addresses and catalogs, and where Tidemill keeps what it is not told to keep elsewhere."""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tidemill.errors import ConfigError, PlaceUnusable

CATALOG_WAYS = "Give sqlite:FILE, postgres:host=... dbname=..., or a postgresql:// address"
BEGIN = "Relative paths in a pipeline file begin at its folder, those of --set at the current one."
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w*$")
"""How a file's name ends, and no release's: `a/reviews.csv` is a file, `a/model-v1.5` is not."""


def home() -> Path:
    """Where Tidemill keeps things: `TIDEMILL_HOME`, else `.tidemill` in the current folder."""
    return Path(os.environ.get("TIDEMILL_HOME") or ".tidemill")


def default_catalog() -> str:
    return f"sqlite:{home() / 'lake.sqlite'}"


def default_data() -> str:
    return str(home() / "lake")


def placed(path: str, folder: Path) -> str:
    """Where a path leads from a folder: absolute, `~` is the user's home folder."""
    base, rest = _base_and_rest(path, folder)
    return str(base / rest)


def placed_source(path: str, folder: Path, *, of: str, look: bool = True) -> str:
    """What a dataset's (`of="dataset"`) or a model's path means from a folder: local paths become absolute.

    Everything else is an address or a Hub id, and stays. A Hub id is taken for
    a local path where something is there, or the folder that it would be in:
    then `/./` before it says that it could be either, to whoever misses it.
    With `look` false it is a Hub id, for somebody has looked before.
    """
    if not path or "://" in path:
        return _address(path, folder, of)
    if path.startswith("/"):
        return path
    base, rest = _base_and_rest(path, folder)
    if is_hub_id(path, of=of):
        if not look or not _may_be_local(base, rest):
            return path
        if not _is_there(base / rest):
            return f"{base}/./{rest}"
    # In a pattern, what the folder is called is no pattern.
    is_pattern = glob.has_magic(rest) and not _is_there(base / rest)
    return str((Path(glob.escape(str(base))) if is_pattern else base) / rest)


def is_hub_id(path: str, *, of: str) -> bool:
    """Whether a path has a Hub id's form, and not that of a local path: of a settled path it is one then."""
    return HUB_ID.fullmatch(path) is not None and not (of == "dataset" and FILE_SUFFIX.search(path))


def missing(path: str, *, of: str) -> str:
    """What to say where nothing is at the local path of a dataset or a model."""
    what = "file or folder" if of == "dataset" else "model folder"
    told = f"There is no {what} {Path(path)}. Check {of}.path. {BEGIN}"
    _, is_either, repo = path.partition("/./")
    if not is_either:
        return told
    address = f"hf://datasets/{repo}" if of == "dataset" else f"hf://{repo}"
    return f'{told} If {repo} on the Hub is meant, set {of}.path = "{address}".'


def _base_and_rest(path: str, folder: Path) -> tuple[Path, str]:
    if path == "~" or path.startswith("~/"):
        return Path(path[:1]).expanduser(), path[2:]
    base = folder.absolute()
    while path == ".." or path.startswith("../"):
        base, path = Path(os.path.realpath(base)).parent, path[3:]
    return base, path


def _may_be_local(base: Path, rest: str) -> bool:
    first, slash, _ = rest.partition("/")
    return _is_there(base / rest) or (bool(slash) and _is_there(base / first))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _address(address: str, folder: Path, of: str) -> str:
    """An address, but for a model's on the Hub, whose id it is, and a local archive's, which begins at the folder."""
    if of != "dataset" and HUB_ID.fullmatch(repo := address.removeprefix("hf://")):
        return repo
    inside, separator, archive = address.rpartition("::")
    return f"{inside}::{placed(archive, folder)}" if separator and "://" not in archive else address


def make_folder(path: Path, option: str) -> None:
    """Make a folder that `option` names, with its parents.

    Raises:
        ConfigError: it cannot be made; the message names the option.
    """
    try:
        make_folders(path)
    except OSError as e:
        raise ConfigError(f"The folder {path} cannot be made: {e.strerror}. Set {option} to one that can.") from e


def make_folders(path: Path) -> None:
    """Make a folder, with its parents. Tidemill's own, if it is made by that, is for its owner alone from the start:
    texts and predictions lie in it. One that was there keeps the mode that somebody gave it.

    Raises:
        OSError: it cannot be made.
    """
    wanted, own = path.absolute(), home().absolute()
    if wanted.is_relative_to(own):
        own.parent.mkdir(parents=True, exist_ok=True)
        own.mkdir(mode=0o700, exist_ok=True)
    wanted.mkdir(parents=True, exist_ok=True)


@contextmanager
def published(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A name to write under, beside `path` or in `folder`; at the end of the block the file takes its place.

    Nothing is left of a block that fails.
    """
    unpublished = (folder or path.parent) / f".{secrets.token_hex(8)}.partial"
    try:
        yield unpublished
        unpublished.replace(path)
    except BaseException:
        unpublished.unlink(missing_ok=True)
        raise


@contextmanager
def usable(place: str | Path, option: str) -> Iterator[None]:
    """Use a place that `option` names. A `FileNotFoundError` goes on as it is: what it means, only the caller knows.

    Raises:
        PlaceUnusable: the system does not let it be used; the message says where, why, and what to change.
    """
    try:
        yield
    except OSError as e:
        # One without a number is a library's, and not the system's.
        if isinstance(e, FileNotFoundError) or e.errno is None:
            raise
        raise PlaceUnusable(system_error(e, str(place), option)) from e


def system_error(error: OSError, place: str = "", option: str | None = None) -> str:
    """What the system said of a place, and what to change; `option` names the place, if one does.

    What the error names itself is where it is.
    """
    elsewhere = f", or set {option} to another place" if option else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        way_out = f"Free space{elsewhere}."
    elif error.errno in (errno.EACCES, errno.EPERM):
        way_out = f"Give this user the right to it{elsewhere}."
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        way_out = "Raise the limit on open files (ulimit -n)."
    else:
        way_out = f"Check {option}." if option else "Check it."
    where = str(error.filename or place)
    said = error.strerror or str(error)
    return f"{where} cannot be used: {said}. {way_out}" if where else f"{said}. {way_out}"


def is_s3(address: str) -> bool:
    return address.startswith(("s3://", "s3a://"))


def settled_catalog(catalog: str) -> str:
    """The catalog as everything else takes it.

    Raises:
        ValueError: it is not one of these spellings. The message holds nothing of it.
    """
    kind, _, where = catalog.partition(":")
    if kind == "sqlite" and where:
        return f"sqlite:{_sqlite_path(where)}"
    if kind not in ("postgres", "postgresql"):
        raise ValueError(f"is not a lake's catalog. {CATALOG_WAYS}")
    return f"postgres:{_postgres_keywords(catalog if where.startswith('//') else where)}"


def catalog_with_options(catalog: str, options: str) -> str:
    """A settled PostgreSQL catalog, whose sessions have these command-line options too."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    _, _, conninfo = catalog.partition(":")
    given = conninfo_to_dict(conninfo).get("options")
    return f"postgres:{make_conninfo(conninfo, options=f'{given} {options}' if given else options)}"


def _sqlite_path(where: str) -> str:
    if not where.startswith("file:"):
        return str(Path(where).expanduser()) if where.startswith("~/") else where
    address = urlsplit(where)
    if address.netloc not in ("", "localhost") or address.query or address.fragment or not address.path:
        raise ValueError("is not a file of this machine, or has options after a question mark. Give sqlite:FILE")
    return unquote(address.path)


def _postgres_keywords(conninfo: str) -> str:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        given = conninfo_to_dict(conninfo)
    except ProgrammingError:
        # PostgreSQL's message repeats what it stumbled over, which may be a part of a password.
        raise ValueError(f"has neither name=value pairs nor an address. {CATALOG_WAYS}") from None
    return make_conninfo("", **given) if "://" in conninfo.partition("=")[0] else conninfo
