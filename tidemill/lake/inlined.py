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

from tidemill.lake.connection import CATALOG, Cursor
from tidemill.lake.tables import existing_columns, identifier

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
    values, unknown = [], set()
    with duckdb.connect() as reader:
        for shard_id, row_number, *texts in rows:
            try:
                read = [_as_cast(reader, text, kind) for text, (_, kind) in zip(texts, columns, strict=True)]
                values.append((shard_id, row_number, *read))
            except Undetermined:
                unknown.add(shard_id)
    known = [value for value in values if value[0] not in unknown]
    _write_anew(cursor, table, columns, known)
    return Restored(table, len(known), frozenset(unknown))


def as_cast(text: str, kind: str) -> str:
    """The text of a struct, list or map as a cast to its type reads it.

    Raises:
        Undetermined: the text is not one that DuckLake writes.

    >>> as_cast("{'name': 'O''Brien', 'day': CAST('2020-01-02' AS DATE)}", "STRUCT(name VARCHAR, day DATE)")
    "{'name': 'O\\\\'Brien', 'day': '2020-01-02'}"
    """
    return _Literal(text).as_cast(duckdb.sqltype(kind))


def _inlined_tables(cursor: Cursor, table: str) -> list[str]:
    """The catalog's tables that hold rows of a result table; several if its columns were changed."""
    rows = cursor.execute(
        f"SELECT i.table_name FROM {CATALOG}.ducklake_inlined_data_tables i JOIN {CATALOG}.ducklake_table t "
        "USING (table_id) WHERE t.end_snapshot IS NULL AND t.table_name = ?",
        [table],
    ).fetchall()
    return [name for (name,) in rows]


def _texts(cursor: Cursor, inlined: str, columns: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
    """(shard id, row number, the nested columns' texts) of the rows that are there now."""
    names = ", ".join(identifier(name) for name, _ in columns)
    return cursor.execute(
        f"SELECT shard_id, row_number, {names} FROM {CATALOG}.{identifier(inlined)} WHERE end_snapshot IS NULL"
    ).fetchall()


def _as_cast(reader: duckdb.DuckDBPyConnection, text: Any, kind: str) -> str | None:
    """`as_cast`, if each list and map in there means one value: as text again, it gives what the catalog has."""
    if text is None:
        return None
    literal, type_ = _Literal(str(text)), duckdb.sqltype(kind)
    found = literal.as_cast(type_)
    try:
        reader.execute(f"SELECT CAST(? AS {_without_json(type_)})", [found])
        for part, of_part in literal.parts:
            again = reader.execute(f"SELECT CAST(CAST(? AS {_without_json(of_part)}) AS VARCHAR)", [part]).fetchall()
            if again != [(part,)]:
                raise Undetermined(text)
    except duckdb.Error as e:
        raise Undetermined(text) from e
    return found


def _write_anew(
    cursor: Cursor, table: str, columns: Sequence[tuple[str, str]], values: Sequence[tuple[Any, ...]]
) -> None:
    if not values:
        return
    kinds = ["VARCHAR", "BIGINT", *("VARCHAR" for _ in columns)]
    names = ["shard_id", "row_number", *(name for name, _ in columns)]
    listed = ", ".join(f"{identifier(name)} {kind}" for name, kind in zip(names, kinds, strict=True))
    cursor.execute(f"CREATE OR REPLACE TEMP TABLE restored ({listed})")
    cursor.executemany(f"INSERT INTO restored VALUES ({', '.join('?' for _ in names)})", values)
    read = {
        name: f"CAST(CAST(v.{identifier(name)} AS {_without_json(duckdb.sqltype(kind))}) AS {kind})"
        for name, kind in columns
    }
    selected = ", ".join(read.get(name, f"t.{identifier(name)}") for name, _ in existing_columns(cursor, table))
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


class _Literal:
    """A text of DuckLake's, read from its beginning; `parts` are the lists and maps met, with their types."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.parts: list[tuple[str, Any]] = []

    def as_cast(self, kind: Any) -> str:
        found = self._value(kind)
        if self._at != len(self._text):
            raise Undetermined(self._text)
        return found

    def _value(self, kind: Any) -> str:
        if self._take_match(_NULL):
            return "NULL"
        if kind.id == "struct":
            return self._struct(kind)
        if kind.id in ("list", "map", "array"):
            return self._part(kind)
        if match := self._take_match(_STRING) or self._take_match(_CAST):
            return _quoted(match[1].replace("''", "'"))
        if match := self._take_match(_CONCAT):
            parts = (part[1] for part in _PART.finditer(match[0]))
            return _quoted("".join("\0" if part is None else part.replace("''", "'") for part in parts))
        if match := self._take_match(_PLAIN):
            return match[0]
        raise Undetermined(self._text)

    def _struct(self, kind: Any) -> str:
        fields = []
        self._take("{")
        for number, (name, of_field) in enumerate(kind.children):
            self._take(("" if number == 0 else ", ") + "'" + name.replace("'", "''") + "': ")
            fields.append(f"{_quoted(name)}: {self._value(of_field)}")
        self._take("}")
        return "{" + ", ".join(fields) + "}"

    def _part(self, kind: Any) -> str:
        """A list or a map, as a cast writes it: strings with a quote or a bracket in them are quoted."""
        start, depth = self._at, 0
        for at, character in _unquoted(self._text, start):
            depth += (character in "[{") - (character in "]}")
            if depth == 0:
                self._at = at + 1
                self.parts.append((self._text[start : self._at], kind))
                return self.parts[-1][0]
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


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _without_json(kind: Any) -> str:
    """The type with text for JSON, whose own text a cast to a nested type does not take."""
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{identifier(name)} {_without_json(part)}' for name, part in kind.children)})"
    if kind.id == "map":
        return f"MAP({', '.join(_without_json(part) for _, part in kind.children)})"
    if kind.id == "list":
        return f"{_without_json(kind.children[0][1])}[]"
    return "VARCHAR" if str(kind) == "JSON" else str(kind)
