"""A key or kept column of JSON records: the type that gives back all its values, and the values in that type.

A block of values is converted at once where Arrow's own reading of it shows that
nothing is changed. Else it is looked at value by value, those read again from
their lines whose digits may have been lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.values.exact_json import (
    WrittenFloat,
    as_json,
    floats,
    lone_surrogate,
    misfit,
    read_exactly,
    without_surrogates,
)
from tidemill.values.paths import Steps, value_at, values_at
from tidemill.values.rows import CONVERSION_ERRORS, Problems, cannot_settle
from tidemill.values.types import is_list, is_string

_BEYOND_INTEGERS = 2.0**63

Record = dict[str, Any]


@dataclass(frozen=True)
class JsonColumn:
    """A key or kept column of one file: how its values become the type that it has in the table."""

    name: str
    type: pa.DataType
    converted: bool
    is_key: bool
    steps: Steps
    """Where its values are in a record."""

    def settle(self, lines: Sequence[bytes], values: Sequence[Any], problems: Problems) -> pa.Array:
        """The values of the lines; what the type would change is noted, and null."""
        try:
            natural = pa.array(values)
            if not (
                _may_lose_digits(natural, self.is_key and not self.converted) or _may_hide_booleans(natural, values)
            ):
                return self._convert(values, natural)
        except (*CONVERSION_ERRORS, RecursionError):
            pass
        cells = [
            self._cell(value, line, i, problems) for i, (value, line) in enumerate(zip(values, lines, strict=True))
        ]
        return pa.array(cells, self.type)

    def _convert(self, values: Sequence[Any], natural: pa.Array) -> pa.Array:
        """The values as a column; what a conversion would change is refused.

        By way of their own type: built as integers at once, 2.5 would become 2.
        """
        to = self.type
        if natural.type.equals(to):
            return natural
        if pa.types.is_nested(to) and _fits(natural.type, to):
            return pa.array(values, to)
        if pa.types.is_nested(to) or not self._may_become(natural.type):
            raise pa.ArrowInvalid(f"{natural.type} is not {to}")
        return natural.cast(to)

    def _may_become(self, natural: pa.DataType) -> bool:
        if pa.types.is_null(natural):
            return True
        if is_string(self.type) or pa.types.is_boolean(natural):
            return False
        if is_string(natural):
            return self.converted
        return not pa.types.is_boolean(self.type)

    def _cell(self, value: Any, line: bytes, index: int, problems: Problems) -> Any:
        if value is None:
            return None
        try:
            value = self._exact(value, line)
            if is_string(self.type):
                return self._string(value, index, problems)
            reason = self._misfit(value)
        except RecursionError:
            reason = f"{self.name} is nested too deep"
        if reason is None:
            return self._convert([value], pa.array([value]))[0].as_py() if self.converted else value
        problems.setdefault(index, reason)
        return None

    def _exact(self, value: Any, line: bytes) -> Any:
        """The value, read again from its line if of its digits something may be lost."""
        least = 0 if self.is_key or is_string(self.type) else _BEYOND_INTEGERS
        doubtful = any(abs(number) >= least for number in floats(value))
        return value_at(read_exactly(line), self.steps) if doubtful else value

    def _misfit(self, value: Any) -> str | None:
        if not self.converted or pa.types.is_nested(self.type):
            return (self.is_key and _lost_digits(value, self.name)) or misfit(value, self.type, self.name)
        try:
            self._convert([value], pa.array([value]))
        except CONVERSION_ERRORS:
            return cannot_settle(self.name, value, self.type)
        return None

    def _string(self, value: Any, index: int, problems: Problems) -> str:
        text = value if isinstance(value, str) else as_json(value)
        if (at := lone_surrogate(text)) is not None:
            problems.setdefault(index, f"{self.name} holds a lone surrogate at character {at}")
        return without_surrogates(text)


def inferred_type(steps: Steps, lines: Sequence[bytes], records: Sequence[Record], *, is_key: bool) -> pa.DataType:
    """The type that gives back all that the records show there; strings, of JSON, where there is none."""
    name = str(steps[0])
    values = values_at(records, steps)
    try:
        natural = pa.array(values)
        if _may_lose_digits(natural, is_key) or _may_hide_booleans(natural, values):
            values = [value_at(read_exactly(line), steps) for line in lines]
            natural = pa.array(values)
            if any((is_key and _lost_digits(value, name)) or misfit(value, natural.type, name) for value in values):
                return pa.string()
    except (*CONVERSION_ERRORS, RecursionError):
        return pa.string()
    return natural.type


def _may_lose_digits(values: pa.Array, is_key: bool) -> bool:
    """Whether there are doubles, at any depth, that stand for larger integers, or in a key for longer numbers."""
    if pa.types.is_floating(values.type):
        return is_key or bool(pc.any(pc.greater_equal(pc.abs(values), _BEYOND_INTEGERS)).as_py())
    if pa.types.is_struct(values.type):
        return any(_may_lose_digits(child, is_key) for child in values.flatten())
    return is_list(values.type) and _may_lose_digits(values.flatten(), is_key)


def _may_hide_booleans(natural: pa.Array, values: Sequence[Any]) -> bool:
    """Whether Arrow may have read booleans among doubles as 0 and 1, at any depth; they are counted."""
    if not _has_floats(natural.type):
        return False
    try:
        written = orjson.dumps(values)
    except TypeError:
        return True
    return written.count(b"true") + written.count(b"false") != _num_booleans(natural)


def _has_floats(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_)) or any(_has_floats(type_.field(i).type) for i in range(type_.num_fields))


def _num_booleans(values: pa.Array) -> int:
    if pa.types.is_boolean(values.type):
        return len(values) - int(values.null_count)
    if pa.types.is_struct(values.type):
        return sum(map(_num_booleans, values.flatten()))
    return _num_booleans(values.flatten()) if is_list(values.type) else 0


def _lost_digits(value: Any, name: str) -> str | None:
    lost = (number for number in floats(value) if isinstance(number, WrittenFloat) and number.loses_digits)
    found = next(lost, None)
    if found is None:
        return None
    return f"{name} = {found!r} has more digits than a double; dataset.types can settle the column's type"


def _fits(natural: pa.DataType, to: pa.DataType) -> bool:
    """Whether Arrow changes no value of the natural type when it reads it as a nested type: it drops and rounds."""
    if pa.types.is_null(natural) or natural.equals(to):
        return True
    if pa.types.is_struct(natural) and pa.types.is_struct(to):
        fields = {field.name: field.type for field in to}
        return all(field.name in fields and _fits(field.type, fields[field.name]) for field in natural)
    if is_list(natural) and is_list(to):
        return _fits(natural.value_type, to.value_type)
    # An integer beyond a double's or a smaller integer's range is refused by Arrow itself.
    return bool(pa.types.is_integer(natural) and (pa.types.is_integer(to) or pa.types.is_floating(to)))
