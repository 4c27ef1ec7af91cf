"""Several statements, from a file or from standard input: the result of each is printed, one after the other."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.cli.query import Reader, write_out
from tidemill.errors import ConfigError, InputError
from tidemill.lake.ducklake.catalog import LakeSpec

PLACE = re.compile(r"^LINE (\d+):", re.MULTILINE)
"""Where DuckDB says that a statement is wrong."""


def read_script(name: str) -> str:
    """The SQL of a file, or of standard input if that is called `-`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        raise ConfigError(f"There is no file {name}. Give --file one with SQL.") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"The SQL in {shown(name)} cannot be read: {e}.") from e


def run_script(spec: LakeSpec, text: str, output: str, folders: Sequence[str] = (), *, name: str = "-") -> None:
    """Judge every statement, then run them against one snapshot, and print the result of each.

    Raises:
        InputError: a statement is wrong, or would write; the message says in which line.
    """
    statements = list(split(text))
    with Reader(spec, folders) as reader:
        if not statements:
            raise ConfigError(f"There is no statement in {shown(name)}.")
        for line, statement in statements:
            with _placed(name, line):
                reader.judged(statement)
        for line, statement in statements:
            with _placed(name, line):
                run_statement(reader, statement, output)


def run_statement(reader: Reader, text: str, output: str) -> None:
    """Run one statement as a user wrote it, of which DuckDB may make several, and print what the last of them gives."""
    *before, last = reader.judged(text)
    for statement in before:
        reader.execute(statement)
    write_out(reader.printed(last, output))


def split(text: str) -> Iterator[tuple[int, str]]:
    """Every statement, from its first word to its semicolon, and the line in which it begins, counted from 1."""
    encoded = text.encode()
    start: int | None = None
    for offset, _ in duckdb.tokenize(text):
        if encoded[offset : offset + 1] != b";":
            start = offset if start is None else start
        elif start is not None:
            yield _line(encoded, start), encoded[start : offset + 1].decode()
            start = None
    if start is not None:
        yield _line(encoded, start), encoded[start:].decode()


def shown(name: str) -> str:
    return "standard input" if name == "-" else name


def _line(encoded: bytes, offset: int) -> int:
    return 1 + encoded.count(b"\n", 0, offset)


@contextmanager
def _placed(name: str, line: int) -> Iterator[None]:
    """Say where in the script an error is: DuckDB counts lines from the statement's first."""
    try:
        yield
    except InputError as e:
        within = PLACE.search(str(e))
        at = line + int(within[1]) - 1 if within else line
        raise InputError(f"{shown(name)}, line {at}: {PLACE.sub(f'LINE {at}:', str(e))}") from e
