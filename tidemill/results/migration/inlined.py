"""Structs that DuckLake 1.5.5 put into the catalog as text, and could not read back: their values, from that text.

It wrote a struct as an SQL literal and reads it as a plain cast: quotes and
backslashes vanish, and a date, a NaN or bytes are not understood at all
(ducklake #1435, #1157). The literal still says what the value was. Lists and
maps, a struct's own too, were written as they are cast to text, which the same
cast reads back; where it does not, the value is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tidemill.lake.ducklake.connection import CATALOG, Cursor
from tidemill.lake.tables import existing_columns, identifier

MOST_INLINED_ROWS = 50
"""What the catalog took of one insert before layout 3."""
_NULL = re.compile("NULL")
_STRING = re.compile(r"'((?:[^']|'')*)'")
_CAST = re.compile(r"CAST\('((?:[^']|'')*)' AS [A-Z_ ]+\)")
_CONCAT = re.compile(r"CONCAT\((?:(?:'(?:[^']|'')*'|chr\(0\))(?:, )?)+\)")
_PART = re.compile(r"'((?:[^']|'')*)'|chr\(0\)")
_PLAIN = re.compile(r"[^\s',{}\[\]()]+")


class Undetermined(ValueError):
    """The text does not say what the value was."""


@dataclass(frozen=True)
class Restored:
    """What was done to a table's rows in the catalog. The shards in `unknown` have rows whose values are lost."""

    table: str
    num_rows: int
    unknown: frozenset[str]


def nested_columns(cursor: Cursor, table: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in existing_columns(cursor, table) if is_nested(kind)]


def is_nested(kind: str) -> bool:
    """Whether values of a DuckDB type, as DuckDB writes it, hold others."""
    return kind.endswith("]") or kind.startswith(("STRUCT(", "MAP("))


def restore_structs(cursor: Cursor, table: str) -> Restored | None:
    """Write a result table's inlined rows anew, with what their text says; None if it has none with nested columns.

    The rows of a shard of which a value is unknown stay as they are.
    """
    columns = nested_columns(cursor, table)
    rows = [row for name in _inlined_tables(cursor, table) for row in _texts(cursor, name, columns)] if columns else []
    if not rows:
        return None
    known, unknown = [], set()
    with duckdb.connect() as reader:
        for shard_id, row_number, *texts in rows:
            try:
                literals = [literal(text, kind) for text, (_, kind) in zip(texts, columns, strict=True)]
                _check(reader, literals)
                known.append((shard_id, row_number, literals))
            except Undetermined:
                unknown.add(shard_id)
    known = [row for row in known if row[0] not in unknown]
    if known:
        _write_anew(cursor, table, columns, known)
    return Restored(table, len(known), frozenset(unknown))


def flushed_shards(cursor: Cursor, table: str) -> list[str]:
    """Shards that may have lost values of their structs for good: they were moved from the catalog into a file.

    Nothing tells them from others of so few rows in files that were made of several inserts, so those count as well.
    """
    if not any("STRUCT(" in kind for _, kind in nested_columns(cursor, table)):
        return []
    rows = cursor.execute(
        f"SELECT parse_filename(f.path) FROM {CATALOG}.ducklake_data_file f JOIN {CATALOG}.ducklake_table t "
        "USING (table_id) WHERE f.end_snapshot IS NULL AND t.end_snapshot IS NULL AND f.partial_max IS NOT NULL "
        "AND t.table_name = ?",
        [table],
    ).fetchall()
    names = {name for (name,) in rows}
    listed = cursor.execute("SELECT data_file FROM ducklake_list_files('lake', ?)", [table]).fetchall()
    paths = [path for (path,) in listed if path.rpartition("/")[2] in names]
    if not paths:
        return []
    found = cursor.execute(
        f"SELECT shard_id FROM read_parquet(?) GROUP BY shard_id HAVING count(*) <= {MOST_INLINED_ROWS} ORDER BY ALL",
        [paths],
    ).fetchall()
    return [shard_id for (shard_id,) in found]


@dataclass(frozen=True)
class Literal:
    """A nested value as SQL: an expression, and for each `?` in there a text that a cast reads."""

    expression: str
    texts: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    """The lists and maps among the texts, and their types with text for JSON."""


def literal(text: str | None, kind: str) -> Literal:
    """What DuckLake's text of a value of a nested type says.

    Raises:
        Undetermined: DuckLake does not write such a text.

    >>> literal("{'name': 'O''Brien', 'day': CAST('2020-01-02' AS DATE)}", "STRUCT(name VARCHAR, day DATE)").texts
    ("O'Brien", '2020-01-02')
    """
    return _Text("NULL" if text is None else text).literal(duckdb.sqltype(kind))


def _inlined_tables(cursor: Cursor, table: str) -> list[str]:
    """The catalog's tables that hold rows of a result table; several if its columns were changed."""
    rows = cursor.execute(
        f"SELECT i.table_name FROM {CATALOG}.ducklake_inlined_data_tables i JOIN {CATALOG}.ducklake_table t "
        "USING (table_id) WHERE t.end_snapshot IS NULL AND t.table_name = ?",
        [table],
    ).fetchall()
    return [name for (name,) in rows]


def _texts(cursor: Cursor, inlined: str, columns: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
    """(shard id, row number, the nested columns' texts) of the rows there are. PostgreSQL has bytes for text."""
    names = ", ".join(identifier(name) for name, _ in columns)
    rows = cursor.execute(
        f"SELECT shard_id, row_number, {names} FROM {CATALOG}.{identifier(inlined)} WHERE end_snapshot IS NULL"
    ).fetchall()
    return [tuple(value.decode() if isinstance(value, bytes) else value for value in row) for row in rows]


def _check(reader: duckdb.DuckDBPyConnection, literals: Sequence[Literal]) -> None:
    """
    Raises:
        Undetermined: a value cannot be read; or a list or map, read and written again, is not what the catalog has.
    """
    try:
        for found in literals:
            reader.execute(f"SELECT {found.expression}", list(found.texts))
            for text, kind in found.parts:
                again = reader.execute(f"SELECT CAST(CAST(? AS {kind}) AS VARCHAR)", [text]).fetchall()
                if again != [(text,)]:
                    raise Undetermined(text)
    except duckdb.Error as e:
        raise Undetermined(str(e)) from e


def _write_anew(
    cursor: Cursor, table: str, columns: Sequence[tuple[str, str]], rows: Sequence[tuple[str, int, list[Literal]]]
) -> None:
    """Replace rows by what they are with the literals' values; of what is there only the plain columns can be read."""
    listed = [("shard_id", "VARCHAR"), ("row_number", "BIGINT"), *columns]
    of_columns = ", ".join(f"{identifier(name)} {kind}" for name, kind in listed)
    cursor.execute(f"CREATE OR REPLACE TEMP TABLE restored ({of_columns})")
    for shard_id, row_number, literals in rows:
        values = ", ".join(["?", "?", *(found.expression for found in literals)])
        texts = [text for found in literals for text in found.texts]
        cursor.execute(f"INSERT INTO restored VALUES ({values})", [shard_id, row_number, *texts])
    nested = {name for name, _ in columns}
    selected = ", ".join(
        f"{'v' if name in nested else 't'}.{identifier(name)}" for name, _ in existing_columns(cursor, table)
    )
    target = f"lake.{identifier(table)}"
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE anew AS SELECT {selected} FROM {target} t JOIN restored v "
        "USING (shard_id, row_number)"
    )
    cursor.execute(
        f"DELETE FROM {target} WHERE (shard_id, row_number) IN (SELECT (shard_id, row_number) FROM restored)"
    )
    cursor.execute(f"INSERT INTO {target} FROM anew")
    cursor.execute("DROP TABLE anew")
    cursor.execute("DROP TABLE restored")


class _Text:
    """A text of DuckLake's, read from its beginning."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._texts: list[str] = []
        self._parts: list[tuple[str, str]] = []

    def literal(self, kind: Any) -> Literal:
        expression = self._value(kind)
        if self._at != len(self._text):
            raise Undetermined(self._text)
        return Literal(expression, tuple(self._texts), tuple(self._parts))

    def _value(self, kind: Any) -> str:
        if self._take_match(_NULL):
            return "NULL"
        if kind.id == "struct":
            return self._struct(kind)
        is_part = kind.id in ("list", "map")
        self._texts.append(self._part() if is_part else self._leaf())
        if not is_part:
            return f"CAST(? AS {kind})"
        self._parts.append((self._texts[-1], _without_json(kind)))
        return f"CAST(CAST(? AS {_without_json(kind)}) AS {kind})"

    def _struct(self, kind: Any) -> str:
        fields = []
        self._take("{")
        for number, (name, of_field) in enumerate(kind.children):
            label = "'" + name.replace("'", "''") + "': "
            self._take(("" if number == 0 else ", ") + label)
            fields.append(label + self._value(of_field))
        self._take("}")
        return "{" + ", ".join(fields) + "}"

    def _leaf(self) -> str:
        if match := self._take_match(_STRING) or self._take_match(_CAST):
            return match[1].replace("''", "'")
        if match := self._take_match(_CONCAT):
            parts = (part[1] for part in _PART.finditer(match[0]))
            return "".join("\0" if part is None else part.replace("''", "'") for part in parts)
        if match := self._take_match(_PLAIN):
            return match[0]
        raise Undetermined(self._text)

    def _part(self) -> str:
        """A list or a map, as a cast writes it: strings with a quote or a bracket in them are quoted."""
        start, depth = self._at, 0
        for at, character in _unquoted(self._text, start):
            depth += (character in "[{") - (character in "]}")
            if depth == 0:
                self._at = at + 1
                return self._text[start : self._at]
        raise Undetermined(self._text)

    def _take(self, expected: str) -> None:
        if not self._text.startswith(expected, self._at):
            raise Undetermined(self._text)
        self._at += len(expected)

    def _take_match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if match := pattern.match(self._text, self._at):
            self._at = match.end()
        return match


def _unquoted(text: str, start: int) -> Iterator[tuple[int, str]]:
    at, quoted = start, False
    while at < len(text):
        if quoted and text[at] == "\\":
            at += 2
            continue
        if text[at] == "'":
            quoted = not quoted
        elif not quoted:
            yield at, text[at]
        at += 1


def _without_json(kind: Any) -> str:
    """The type with text for JSON, whose own text a cast to a nested type does not take."""
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{identifier(name)} {_without_json(part)}' for name, part in kind.children)})"
    if kind.id == "map":
        return f"MAP({', '.join(_without_json(part) for _, part in kind.children)})"
    if kind.id == "list":
        return f"{_without_json(kind.children[0][1])}[]"
    return "VARCHAR" if str(kind) == "JSON" else str(kind)
