"""Which column holds a property of a JSON schema: one of the property's type, or text with its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tidemill.structured.schemas import Schema, root_of, target
from tidemill.structured.strict_json import LARGEST

INTEGER, FRACTION = "integer", "fraction"
"""A number is one of these two."""
_KINDS_OF_TYPES = {
    "string": {"string"},
    "integer": {INTEGER},
    "number": {INTEGER, FRACTION},
    "boolean": {"boolean"},
    "null": {"null"},
    "array": {"array"},
    "object": {"object"},
}
_ALL = frozenset().union(*_KINDS_OF_TYPES.values())
_COLUMNS: list[tuple[set[str], pa.DataType]] = [
    ({"string"}, pa.string()),
    ({"boolean"}, pa.bool_()),
    ({INTEGER}, pa.int64()),
    ({INTEGER, FRACTION}, pa.float64()),
]


def columns_of(schema: Schema) -> dict[str, pa.DataType | None]:
    """The type of each property's column, in the order of the schema; None is text with JSON."""
    properties = root_of(schema).get("properties", {})
    return {name: _column(of, schema, frozenset()) for name, of in properties.items()}


def _column(of: Any, within: Schema, seen: frozenset[str]) -> pa.DataType | None:
    kinds = _kinds(of, within, seen) - {"null"}
    for held, column in _COLUMNS:
        if kinds and kinds <= held:
            return column
    return _list_column(of, within, seen) if kinds == {"array"} else None


def _list_column(of: Any, within: Schema, seen: frozenset[str]) -> pa.DataType | None:
    found = list(_schemas_of_arrays(of, within, seen))
    if len(found) != 1 or "prefixItems" in found[0][0] or "items" not in found[0][0]:
        return None
    array, seen = found[0]
    item = _column(array["items"], within, seen)
    return None if item is None else pa.list_(item)


def _schemas_of_arrays(of: Any, within: Schema, seen: frozenset[str]) -> Iterator[tuple[Schema, frozenset[str]]]:
    """Of the schemas that a value may be of, those that speak of its items."""
    if not isinstance(of, dict):
        return
    if "items" in of or "prefixItems" in of:
        yield of, seen
    for inner, seen_there in _applied(of, within, seen):
        yield from _schemas_of_arrays(inner, within, seen_there)


def _applied(of: Schema, within: Schema, seen: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """The schemas that one applies to the same value; a circle of references is left where it closes."""
    reference = of.get("$ref")
    if reference is not None and reference not in seen:
        yield target(within, reference), seen | {reference}
    for keyword in ("allOf", "anyOf", "oneOf"):
        for inner in of.get(keyword, ()):
            yield inner, seen


def _kinds(of: Any, within: Schema, seen: frozenset[str]) -> frozenset[str]:
    """What a value may be, as far as types and listed values say."""
    if of is False:
        return frozenset()
    if not isinstance(of, dict):
        return _ALL
    kinds = set(_ALL)
    if "type" in of:
        types = [of["type"]] if isinstance(of["type"], str) else of["type"]
        kinds &= set().union(*(_KINDS_OF_TYPES[name] for name in types))
    if "enum" in of or "const" in of:
        kinds &= {_kind(value) for value in (of["enum"] if "enum" in of else [of["const"]])}
    reference = of.get("$ref")
    if reference is not None and reference not in seen:
        kinds &= _kinds(target(within, reference), within, seen | {reference})
    for inner in of.get("allOf", ()):
        kinds &= _kinds(inner, within, seen)
    for keyword in ("anyOf", "oneOf"):
        if keyword in of:
            kinds &= set().union(*(_kinds(inner, within, seen) for inner in of[keyword]))
    return frozenset(kinds)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return INTEGER
        case float():
            return INTEGER if value.is_integer() and -LARGEST <= value < LARGEST else FRACTION
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"
