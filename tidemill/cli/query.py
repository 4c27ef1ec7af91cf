"""`tidemill sql`: statements that read, against one snapshot of a lake, or each against the newest."""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from typing import Any

from tidemill.cli.outlet import Outlet
from tidemill.cli.printers import PRINTERS, Pieces
from tidemill.cli.silence import break_silence, telling
from tidemill.cli.terminal import printable
from tidemill.lake.ducklake.catalog import LakeSpec
from tidemill.lake.ducklake.connection import Lake
from tidemill.lake.ducklake.reading import check_definitions, readable
from tidemill.reports.query import find_lake, of_query

__all__ = ["Reader", "find_lake", "run_query"]

PLAIN_BYTES = {chr(byte) for byte in range(32, 127)} - set("\\'\"")
"""Of a blob, what DuckDB prints as it is."""


class Reader:
    """A lake that is open for a user's SQL, which reads it, files in `folders`, and nothing else.

    All statements see the lake as it was when it was opened, until `renew`.
    """

    def __init__(self, spec: LakeSpec, folders: Sequence[str] = ()) -> None:
        self._files = bool(folders)
        self.lake = Lake(spec, read_only=True, one_snapshot=True, scans=True)
        self._outlet = Outlet()
        try:
            self.lake.seal(folders, self._outlet.path)
        except BaseException:
            self.close()
            raise
        self.cursor = self.lake.cursor()

    def judged(self, text: str) -> list[Any]:
        """The statements of `text`, in order, which do nothing but read.

        Raises:
            InputError: it is not SQL, or would do more.
        """
        with of_query():
            check_definitions(self.cursor, text)
            return readable(self.cursor, text, files=self._files)

    def printed(self, statement: Any, output: str) -> Pieces:
        """What a judged statement gives, in the format `output`, piece by piece. Close it to cancel the query.

        Raises:
            InputError: the statement fails; what it gave before that was yielded.
        """
        with of_query():
            yield from PRINTERS[output](self.cursor, statement, self._outlet)

    def execute(self, statement: Any) -> None:
        with of_query():
            self.cursor.execute(statement)

    def cancel(self) -> None:
        """End a query that Ctrl-C left: DuckDB's threads are still at it, and whatever comes next would wait."""
        self.cursor.interrupt()

    def renew(self) -> None:
        """Statements from here on see the lake as it is now."""
        self.lake.renew()

    def close(self) -> None:
        self.lake.close()
        self._outlet.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_query(spec: LakeSpec, query: str, output: str, folders: Sequence[str] = ()) -> None:
    """Run `query` against one snapshot of the lake, attached read-only, and print the last statement's result.

    It can read files in `folders`, and nothing else beside the lake.

    Raises:
        InputError: the SQL is wrong, or would write.
    """
    asked = telling("running the query") if sys.stderr.isatty() else nullcontext()
    with asked, Reader(spec, folders) as reader:
        *before, last = reader.judged(query)
        for statement in before:
            reader.execute(statement)
        write_out(reader.printed(last, output))


def write_out(pieces: Pieces) -> None:
    """Write to stdout, and cancel the query where that takes no more."""
    sys.stdout.flush()
    with closing(for_terminal(pieces) if sys.stdout.isatty() else pieces) as shown:
        for piece in shown:
            break_silence()
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def for_terminal(pieces: Pieces) -> Pieces:
    """The pieces with what a terminal takes for commands spelled out."""
    with closing(pieces):
        for text in codecs.iterdecode(pieces, "utf-8", errors="replace"):
            yield printable(text).encode()


def plain(value: Any) -> Any:
    """A value as JSON can hold it: no NaN, string keys, bytes as DuckDB spells them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return "".join(chr(byte) if chr(byte) in PLAIN_BYTES else f"\\x{byte:02X}" for byte in value)
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
