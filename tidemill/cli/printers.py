"""The formats of `tidemill sql`: what a statement gives, piece by piece. DuckDB's own writers make CSV and JSON."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain
from typing import Any

from tidemill.cli.outlet import VIEW, Outlet
from tidemill.cli.terminal import printable
from tidemill.errors import ConfigError, InputError
from tidemill.lake import Cursor

ROWS_AT_A_TIME = 10_000
MAX_TABLE_ROWS = 200
NUMBERS = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint", "float", "double", "decimal"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint", "bignum"),
}
FLOATS = {"float", "double"}
NUMBERS_SHOWN, LONGEST_VECTOR = 4, 8
"""Of a vector in a table: of one with more than the second, the first so many are shown."""
NESTED = {"list", "array", "struct", "map", "union"}

Pieces = Generator[bytes, None, None]
"""Of what is printed. Closed early, they cancel the query."""
Printer = Callable[[Cursor, Any, Outlet], Pieces]


def _table(cursor: Cursor, statement: Any, outlet: Outlet) -> Pieces:
    relation: Any = cursor.sql(statement)
    if relation is None:
        return
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 200
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        _with_short_vectors(relation).show(max_rows=MAX_TABLE_ROWS, max_width=max(80, width))
    yield printable(shown.getvalue()).encode()
    cursor.execute(f"DROP VIEW IF EXISTS {VIEW}")


def _with_short_vectors(relation: Any) -> Any:
    """Of a long vector its first numbers and the count of the others: a whole one fills the screen."""
    is_vector = [kind.id in ("list", "array") and kind.children[0][1].id in FLOATS for kind in relation.types]
    if not any(is_vector):
        return relation
    columns = [
        f"{_short_vector(f'#{number}')} AS {_quoted(name)}" if found else f"#{number}"
        for number, (name, found) in enumerate(zip(relation.columns, is_vector, strict=True), start=1)
    ]
    return relation.query(VIEW, f"SELECT {', '.join(columns)} FROM {VIEW}")


def _short_vector(value: str) -> str:
    first = f"array_to_string(list_transform({value}[:{NUMBERS_SHOWN}], lambda number: number::VARCHAR), ', ')"
    short = f"'[' || {first} || ', … ' || (len({value}) - {NUMBERS_SHOWN}) || ' more]'"
    return f"CASE WHEN len({value}) > {LONGEST_VECTOR} THEN {short} ELSE {value}::VARCHAR END"


def _csv(cursor: Cursor, statement: Any, outlet: Outlet) -> Pieces:
    """Lists, structs and maps as JSON, which other programs read, and DuckDB's own spelling of them none."""
    relation: Any = cursor.sql(statement)
    if relation is None:
        return
    columns = [
        f"to_json(#{number}) AS {_quoted(name)}" if kind.id in NESTED else f"#{number}"
        for number, (name, kind) in enumerate(zip(relation.columns, relation.types, strict=True), start=1)
    ]
    yield from outlet.written(cursor, relation, "FORMAT csv", ", ".join(columns))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _json(cursor: Cursor, statement: Any, outlet: Outlet) -> Pieces:
    relation: Any = cursor.sql(statement)
    if relation is not None:
        yield from outlet.written(cursor, relation, "FORMAT json, ARRAY true")


def _markdown(cursor: Cursor, statement: Any, outlet: Outlet) -> Pieces:
    """As DuckDB spells its values; columns are as wide as the first rows ask for."""
    relation: Any = cursor.sql(statement)
    if relation is None:
        return
    names, is_number = relation.columns, [kind.id in NUMBERS for kind in relation.types]
    pages = _pages(relation.query(VIEW, f"SELECT COLUMNS(*)::VARCHAR FROM {VIEW}"))
    first = [_markdown_cells(row) for row in next(pages, [])]
    header = _markdown_cells(names)
    widths = [max([3, *(len(row[i]) for row in [header, *first])]) for i in range(len(names))]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, is_number, strict=True)]
    for rows in chain([[header, rule], first], ([_markdown_cells(row) for row in page] for page in pages)):
        yield "".join(_markdown_line(row, widths, is_number) for row in rows).encode()
    cursor.execute(f"DROP VIEW IF EXISTS {VIEW}")


def _markdown_cells(values: Sequence[str | None]) -> list[str]:
    return [
        printable(
            ("NULL" if value is None else value).replace("|", "\\|").replace("\r\n", "<br>").replace("\n", "<br>")
        )
        for value in values
    ]


def _markdown_line(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, is_number, strict=True)
    ]
    return f"| {' | '.join(padded)} |\n"


def _parquet(cursor: Cursor, statement: Any, outlet: Outlet) -> Pieces:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise ConfigError("Parquet is binary. Send it to a file: tidemill sql ... --format parquet > result.parquet")
    reader = cursor.execute(statement).to_arrow_reader(ROWS_AT_A_TIME)
    sink = _Sink()
    try:
        with pq.ParquetWriter(sink, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                yield sink.take()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as e:
        raise InputError(f"Parquet cannot hold this: {e}. Cast it in the query, such as to VARCHAR.") from e
    yield sink.take()


class _Sink(io.RawIOBase):
    """A file that is taken away piece by piece while it is written."""

    def __init__(self) -> None:
        self._written, self._num_bytes = bytearray(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += data
        self._num_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self._num_bytes

    def take(self) -> bytes:
        piece = bytes(self._written)
        self._written.clear()
        return piece


PRINTERS: dict[str, Printer] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "markdown": _markdown,
    "parquet": _parquet,
}


def _pages(relation: Any) -> Iterator[list[tuple[Any, ...]]]:
    while rows := relation.fetchmany(ROWS_AT_A_TIME):
        yield rows
