"""One line of JSON with nothing lost, and what of a value a column's type would lose.

Slower than what reads good lines: only for those that give cause.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from tidemill.values.rows import cannot_settle
from tidemill.values.types import is_list, is_string

_SURROGATES = re.compile("[\ud800-\udfff]")
_KINDS = ((dict, "an object"), (list, "an array"), (str, "a string"), (bool, "a boolean"), ((int, float), "a number"))
_MOST_IN_DOUBLE = 2**53
"""The largest integer up to which a double holds all."""


class WrittenFloat(float):
    """A number with a point or an exponent, shown as it was written."""

    literal: str

    def __new__(cls, literal: str) -> WrittenFloat:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number

    def __repr__(self) -> str:
        return self.literal

    @property
    def loses_digits(self) -> bool:
        """Whether another number may be meant than the double that stands for it."""
        return math.isinf(self) or Decimal(self.literal) != Decimal(float.__repr__(self))


class WrittenObject(dict[str, Any]):
    """An object that knows which of its keys are there several times; the last value counts."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = [name for name in self if names.count(name) > 1] if len(names) > len(self) else []


def read_exactly(line: bytes) -> Any:
    """The line's value, with numbers as written; NaN and lone surrogates are taken.

    Raises:
        ValueError: it is not JSON; the message says where.
        RecursionError: it is nested too deep.
    """
    return json.loads(line.decode("utf-8", "replace"), parse_float=WrittenFloat, object_pairs_hook=WrittenObject)


def repeated_key(record: Any, names: Sequence[str]) -> str | None:
    """The path of a key that is there twice, among `names` or within their values."""
    found = (name for name in record.repeated if name in names)
    within = (path for name in names for path in _repeated_within(record.get(name), name))
    return next(found, None) or next(within, None)


def _repeated_within(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, WrittenObject):
        yield from (f"{path}.{name}" for name in value.repeated)
        for name, item in value.items():
            yield from _repeated_within(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _repeated_within(item, f"{path}[{index}]")


def kind_of(value: object) -> str:
    """What JSON calls it."""
    return next((name for type_, name in _KINDS if isinstance(value, type_)), "null")


def as_json(value: Any) -> str:
    """A value as JSON text, its numbers as they were written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_json(name)}: {as_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_json, value)) + "]"
    return value.literal if isinstance(value, WrittenFloat) else json.dumps(value, ensure_ascii=False)


def lone_surrogate(text: str) -> int | None:
    found = _SURROGATES.search(text)
    return found.start() if found else None


def without_surrogates(text: str) -> str:
    return _SURROGATES.sub("\ufffd", text)


def floats(value: Any) -> Iterator[float]:
    """The numbers with a point or an exponent, at any depth."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from floats(item)
    elif isinstance(value, list):
        for item in value:
            yield from floats(item)


def misfit(value: Any, to: pa.DataType, path: str) -> str | None:
    """Why a column of the type would not give the value back; None if it would. Names the place at which."""
    if value is None:
        return None
    if pa.types.is_struct(to) and isinstance(value, dict):
        fields = {field.name: field.type for field in to}
        return next(_misfits((f"{path}.{name}", item, fields.get(name)) for name, item in value.items()), None)
    if is_list(to) and isinstance(value, list):
        return next(_misfits((f"{path}[{i}]", item, to.value_type) for i, item in enumerate(value)), None)
    if is_string(to) and isinstance(value, str):
        at = lone_surrogate(value)
        return None if at is None else f"{path} holds a lone surrogate at character {at}"
    return None if _is_number_of(value, to) else cannot_settle(path, value, to)


def _misfits(items: Iterator[tuple[str, Any, pa.DataType | None]]) -> Iterator[str]:
    for path, item, to in items:
        if to is None:
            yield (
                f"{path} = {item!r:.80} is a field that the first records do not show; "
                "dataset.types can settle the column's type"
            )
        elif reason := misfit(item, to, path):
            yield reason


def _is_number_of(value: Any, to: pa.DataType) -> bool:
    if isinstance(value, bool) or pa.types.is_boolean(to):
        return isinstance(value, bool) and bool(pa.types.is_boolean(to))
    if pa.types.is_integer(to) and isinstance(value, int | float):
        return _is_integer_of(value, to)
    if pa.types.is_floating(to) and isinstance(value, int | float):
        return not (isinstance(value, WrittenFloat) and math.isinf(value)) and (
            isinstance(value, float) or abs(value) <= _MOST_IN_DOUBLE
        )
    return False


def _is_integer_of(value: float, to: pa.DataType) -> bool:
    try:
        return bool(pa.array([value]).cast(to)[0].as_py() == value)
    except (pa.ArrowInvalid, OverflowError):
        return False
