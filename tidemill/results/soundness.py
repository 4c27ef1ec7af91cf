"""What must hold of the values in a version's result columns, whichever model task they are of: asked by their types.

Every row has a value, and every number in it is finite; spans lie within their
text; vectors have the size that their column says, and a direction. Spans may
be empty, be there twice, or share a character with their neighbours. Where a
model writes, a row has its text and why that ended; its counts may be unknown,
and what a schema reads from the text may be missing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.pipelines import load_kept, load_spec
from tidemill.lake.tables import fields_in, identifier

FLOATS = frozenset({"float", "double"})
INTEGERS = frozenset({"integer", "bigint"})
NO_VALUE = "there is no value"
FINISH_REASON, FINISHES = "finish_reason", ("stop", "length")
COUNTS = ("num_prompt_tokens", "num_new_tokens")
"""Columns of every version whose model writes; its text is the first column."""
ELEMENT = "_element"
"""What lambdas call an element: DuckDB takes `x.start` for a field of a column x, if there is one."""


def unsound_values(
    cursor: Cursor, columns: Sequence[tuple[str, str]], text: str | None = None
) -> Iterator[tuple[str, set[str]]]:
    """What is wrong with values of the view `results`, and the ids of the shards that have them: by one reading.

    `columns` are the result columns with their types, `text` the column that has what was predicted, if one does.
    """
    writes = {FINISH_REASON, *COUNTS} <= {name for name, _ in columns}
    checks = {
        f"{name}: {problem}": sql
        for i, (name, kind) in enumerate(columns)
        for problem, sql in (
            _of_written(name, kind, is_text=i == 0) if writes else _Column.of(name, kind).unsound(text)
        )
    }
    if not checks:
        return
    found = cursor.execute(
        f"SELECT shard_id, {', '.join(f'bool_or({sql})' for sql in checks.values())} FROM results GROUP BY shard_id"
    ).fetchall()
    for number, problem in enumerate(checks, start=1):
        yield problem, {row[0] for row in found if row[number]}


def _of_written(name: str, kind: str, *, is_text: bool) -> Iterator[tuple[str, str]]:
    """(problem, SQL condition of a row that has it) of a column of a version whose model writes."""
    for problem, sql in _Column.of(name, kind).unsound(None):
        if problem != NO_VALUE or is_text or name == FINISH_REASON:
            yield problem, sql
    if name == FINISH_REASON:
        yield f"it is none of {', '.join(FINISHES)}", f"{identifier(name)} NOT IN {FINISHES}"
    if name in COUNTS:
        yield "a count is below 0", f"{identifier(name)} < 0"


def kept_text(cursor: Cursor, pipeline: str, version: str) -> str | None:
    """The column of a version's table that holds what was predicted, where that is one and is kept as it was read."""
    spec = load_spec(cursor, pipeline, version) or {}
    kept = load_kept(cursor, pipeline, version) or []
    texts = [column for column in kept if [column["source"]] == list(spec.get("text") or ())]
    return next((column["name"] for column in texts if column["type"] == "VARCHAR"), None)


@dataclass(frozen=True)
class _Column:
    sql: str
    kind: str
    size: int | None
    """Of a vector; None where the column is none."""
    fields: Mapping[str, str]
    """Of the structs in a list: name → kind."""
    element: str
    """The kind of a list's elements or a map's values."""

    @classmethod
    def of(cls, name: str, kind: str) -> _Column:
        parsed: Any = duckdb.sqltype(kind)
        children = dict(parsed.children) if parsed.id in ("list", "array", "map") else {}
        inner = children.get("value" if parsed.id == "map" else "child")
        return cls(identifier(name), parsed.id, children.get("size"), fields_in(kind), inner.id if inner else "")

    def unsound(self, text: str | None) -> Iterator[tuple[str, str]]:
        """(problem, SQL condition of a row that has it)."""
        yield NO_VALUE, f"{self.sql} IS NULL"
        if numbers := list(self._sums()):
            yield "a number is not finite", " OR ".join(f"NOT isfinite(coalesce({total}, 0))" for total in numbers)
        if self.size is not None:
            yield f"a vector has not the size of {self.size}", f"len({self.sql}) <> {self.size}"
            yield (
                "a vector has no direction",
                f"list_sum(list_transform({self.sql}, lambda {ELEMENT}: abs({ELEMENT}))) = 0",
            )
        if {self.fields.get("start"), self.fields.get("end")} <= INTEGERS:
            yield "a span lies outside of its text", self._any_span(_outside(text))

    def _sums(self) -> Iterator[str]:
        """SQL: numbers that are finite only if all of a row's are; large ones do not add up to infinity in a DOUBLE."""
        if self.kind in FLOATS:
            yield self.sql
        elif self.element in FLOATS:
            values = f"map_values({self.sql})" if self.kind == "map" else self.sql
            yield f"list_sum({values}::DOUBLE[])"
        for name, kind in self.fields.items():
            if kind in FLOATS:
                yield f"list_sum(list_transform({self.sql}, lambda {ELEMENT}: {ELEMENT}.{identifier(name)}::DOUBLE))"

    def _any_span(self, condition: str) -> str:
        return f"len(list_filter({self.sql}, lambda {ELEMENT}: {condition})) > 0"


def _outside(text: str | None) -> str:
    """SQL: whether a span is none, or ends behind the text; offsets count its code points, as `length` does."""
    start, end = f"{ELEMENT}.start", f'{ELEMENT}."end"'
    behind = [f"{end} > length({identifier(text)})"] if text else []
    return " OR ".join([f"{start} IS NULL", f"{end} IS NULL", f"{start} < 0", f"{end} < {start}", *behind])
