"""A lake's catalog in one spelling, in whichever it was given: `sqlite:PATH`, or `postgres:` and keywords."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

WAYS = "Give sqlite:FILE, postgres:host=... dbname=..., or a postgresql:// address"


def settled(catalog: str) -> str:
    """The catalog as everything else takes it.

    Raises:
        ValueError: it is none of the spellings. The message holds nothing of it.
    """
    kind, _, where = catalog.partition(":")
    if kind == "sqlite" and where:
        return f"sqlite:{_path(where)}"
    if kind not in ("postgres", "postgresql"):
        raise ValueError(f"is no lake's catalog. {WAYS}")
    return f"postgres:{_keywords(catalog if where.startswith('//') else where)}"


def with_options(catalog: str, options: str) -> str:
    """A settled PostgreSQL catalog, whose sessions have these command-line options too."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    _, _, conninfo = catalog.partition(":")
    given = conninfo_to_dict(conninfo).get("options")
    return f"postgres:{make_conninfo(conninfo, options=f'{given} {options}' if given else options)}"


def _path(where: str) -> str:
    if not where.startswith("file:"):
        return str(Path(where).expanduser()) if where.startswith("~/") else where
    address = urlsplit(where)
    if address.netloc not in ("", "localhost") or address.query or address.fragment or not address.path:
        raise ValueError("is no file of this machine, or has options after a question mark. Give sqlite:FILE")
    return unquote(address.path)


def _keywords(conninfo: str) -> str:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        given = conninfo_to_dict(conninfo)
    except ProgrammingError:
        # PostgreSQL's message repeats what it stumbled over, which may be a part of a password.
        raise ValueError(f"has neither name=value pairs nor an address. {WAYS}") from None
    return make_conninfo("", **given) if "://" in conninfo.partition("=")[0] else conninfo
