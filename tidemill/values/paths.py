"""Values within nested columns, by paths such as `conversation[0].content` or `"a b".c[-1]`.

A column of that very name wins over what its name would mean as a path. Where a
path leads nowhere in a row, as behind the end of a list, the value is null.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.values.types import is_list

Steps = tuple[str | int, ...]
"""A column's name, then names of fields and numbers of items; negative ones count from the end."""

_STEP = re.compile(r'(?:(?:^|(?<=.)\.)(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<bare>[^.\[\]"]+)))|\[(?P<item>-?\d+)\]')


@cache
def steps_of(path: str) -> Steps | None:
    """The steps of a path; None if it is none.

    >>> steps_of('conversation[0]."the text"')
    ('conversation', 0, 'the text')
    """
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None or (step["item"] and not steps):
            return None
        name = step["bare"] or (step["quoted"] or "").replace('""', '"')
        steps.append(int(step["item"]) if step["item"] else name)
        at = step.end()
    return tuple(steps) or None


def nested_among(names: Sequence[str], own: Sequence[str]) -> dict[str, Steps]:
    """Those of the names that are no columns of a file but paths within its `own` ones."""
    found = {name: steps_of(name) for name in names if name not in own}
    return {name: steps for name, steps in found.items() if steps and own.count(str(steps[0])) == 1}


def value_at(record: Any, steps: Steps) -> Any:
    for step in steps:
        if isinstance(step, str):
            record = record.get(step) if isinstance(record, dict) else None
        elif isinstance(record, list) and -len(record) <= step < len(record):
            record = record[step]
        else:
            return None
    return record


def values_at(records: Sequence[dict[str, Any]], steps: Steps) -> list[Any]:
    if len(steps) == 1:
        name = str(steps[0])
        return [record.get(name) for record in records]
    return [value_at(record, steps) for record in records]


def type_at(column: pa.DataType, steps: Steps) -> pa.DataType | None:
    """The type behind the steps within a column; None if there can be no value."""
    found, _ = _led(column, steps)
    return found


def dead_end(column: pa.DataType, steps: Steps) -> str:
    """Where a path ends that leads nowhere, and what there is instead."""
    reached, last = _led(column, steps)[1], steps[0]
    place = str(last) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps[1:reached])
    at, _ = _led(column, steps[:reached])
    if at is not None and pa.types.is_struct(at):
        return f"{place!r} has no field {steps[reached]!r}. It has: {', '.join(at.names)}"
    if at is not None and is_list(at):
        return f"{place!r} is a list, with items such as {place + '[0]'!r}"
    return f"{place!r} is {at}, which has no {'items' if isinstance(steps[reached], int) else 'fields'}"


def _led(type_: pa.DataType, steps: Steps) -> tuple[pa.DataType | None, int]:
    """The type behind the steps, or None, and how many of them lead somewhere."""
    for number, step in enumerate(steps[1:], 1):
        within = _within(type_, step)
        if within is None:
            return None, number
        type_ = within
    return type_, len(steps)


def _within(type_: pa.DataType, step: str | int) -> pa.DataType | None:
    if pa.types.is_null(type_):
        return type_
    if isinstance(step, str):
        return type_.field(step).type if pa.types.is_struct(type_) and type_.names.count(step) == 1 else None
    return type_.value_type if is_list(type_) or pa.types.is_fixed_size_list(type_) else None


def column_at(column: pa.ChunkedArray, steps: Steps) -> pa.ChunkedArray:
    """The values behind the steps, a row each."""
    parts = []
    for values in column.chunks:
        for step in steps[1:]:
            if not pa.types.is_null(values.type):
                values = pc.struct_field(values, step) if isinstance(step, str) else _items(values, step)
        parts.append(values)
    return pa.chunked_array(parts)


def _items(lists: pa.Array, number: int) -> pa.Array:
    if pa.types.is_fixed_size_list(lists.type):
        lists = lists.cast(pa.list_(lists.type.value_type))
    lengths = pc.list_value_length(lists)
    inside = pc.greater(lengths, number) if number >= 0 else pc.greater_equal(lengths, -number)
    starts = lists.offsets[:-1]
    places = pc.add(starts if number >= 0 else pc.add(starts, lengths), number)
    return lists.values.take(pc.if_else(inside, places, pa.scalar(None, places.type)))
