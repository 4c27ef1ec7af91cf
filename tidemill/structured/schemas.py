"""JSON schemas that answers can be asked to hold: read from the pipeline file, and refused where nobody would check
what they say.

A schema is kept as text in the order of its keys: its properties are written in that order.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidemill.structured.formats import FORMATS
from tidemill.structured.strict_json import read_strictly

Schema = dict[str, Any]

_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONE_SCHEMA = (
    *("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
)
_OTHERS = (
    *("$schema", "$comment", "$ref", "title", "description", "default", "examples", "deprecated"),
    *("readOnly", "writeOnly", "type", "enum", "const", "format", "multipleOf", "maximum", "exclusiveMaximum"),
    *("minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems"),
    *("maxContains", "minContains", "maxProperties", "minProperties", "required", "dependentRequired"),
)
KEYWORDS = (*_SCHEMAS_BY_NAME, *_LISTS_OF_SCHEMAS, *_ONE_SCHEMA, *_OTHERS)
"""Of Draft 2020-12. What is none of them says nothing to anybody, and is refused as a slip of the pen."""


def read_json_schema(value: object) -> str | None:
    """The text of a schema that is given as a table, as its JSON, or as the path of a JSON file.

    Raises:
        ValueError: it cannot be read, is no schema, or says what nobody would check.
    """
    if value is None:
        return None
    schema = _read(value)
    check_schema(schema)
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _read(value: object) -> Any:
    if isinstance(value, str):
        text = value if value.lstrip().startswith("{") else _text_of(Path(value))
    else:
        text = _text_of_table(value)
    try:
        read_strictly(text)
    except ValueError as e:
        raise ValueError(f"cannot be read: {e}") from None
    return json.loads(text)


def _text_of(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError("leads to no file: give the path of a JSON file, or the schema itself as a table") from None
    except (OSError, ValueError) as e:
        raise ValueError(f"cannot be read: {e}") from None


def _text_of_table(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as e:
        raise ValueError(f"holds what JSON cannot: {e}") from None


def check_schema(schema: Any) -> None:
    """
    Raises:
        ValueError: it is no JSON schema of objects, or says what nobody would check.
    """
    _check_by_draft(schema)
    _check_refs(schema)
    root = root_of(schema) if isinstance(schema, dict) else {}
    if root.get("type") != "object":
        raise ValueError('is no schema of an object: set type = "object" at its top, and put the answer in a property')
    for where, keywords in subschemas(schema):
        _check_keywords(where, keywords)
    _check_names(list(root.get("properties", {})))


def _check_by_draft(schema: Any) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as e:
        raise ValueError(f"is no JSON schema: {e.message} ({_place(e.absolute_path)})") from None


def _check_keywords(where: str, schema: Schema) -> None:
    for keyword in schema:
        if keyword not in KEYWORDS and not keyword.startswith("x-"):
            near = difflib.get_close_matches(keyword, KEYWORDS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "take it out, or begin its name with x-"
            raise ValueError(f'has "{keyword}" at {where}, which is no keyword of Draft 2020-12: {hint}')
    if (name := schema.get("format")) is not None and name not in FORMATS:
        raise ValueError(
            f'asks for format "{name}" at {where}, which nothing here checks: take it out, or say it by "pattern". '
            f"Known: {', '.join(sorted(FORMATS))}"
        )


def _check_refs(schema: Any) -> None:
    for where, keywords in subschemas(schema):
        reference = keywords.get("$ref")
        if reference is not None and target(schema, reference) is None:
            raise ValueError(f'refers to "{reference}" at {where}, which is not in it: define it under "$defs"')


def _check_names(names: list[str]) -> None:
    if "" in names:
        raise ValueError("has a property without a name, which no column can have: name it")
    for i, name in enumerate(names):
        if other := next((other for other in names[:i] if other.lower() == name.lower()), None):
            raise ValueError(
                f'has the properties "{other}" and "{name}", which would be one column, since case does not count '
                "there: rename one"
            )


def subschemas(schema: Any, where: str = "#") -> Iterator[tuple[str, Schema]]:
    """Every schema that is an object within one, itself included, with the place at which it stands."""
    if not isinstance(schema, dict):
        return
    yield where, schema
    for keyword, value in schema.items():
        at = f"{where}/{keyword}"
        if keyword in _SCHEMAS_BY_NAME and isinstance(value, dict):
            for name, inner in value.items():
                yield from subschemas(inner, f"{at}/{name}")
        elif keyword in _LISTS_OF_SCHEMAS and isinstance(value, list):
            for index, inner in enumerate(value):
                yield from subschemas(inner, f"{at}/{index}")
        elif keyword in _ONE_SCHEMA:
            yield from subschemas(value, at)


def target(schema: Any, reference: str) -> Schema | bool | None:
    """What a reference within a schema leads to; None where it leads nowhere, or out of it."""
    if reference == "#":
        return schema if isinstance(schema, dict) else None
    if not reference.startswith("#/"):
        return None
    found = schema
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict | bool) else None


def root_of(schema: Schema) -> Schema:
    """The schema itself, or what it refers to at its top; empty where that is a circle."""
    root, seen = schema, set()
    while "type" not in root and (reference := root.get("$ref")) is not None:
        found = target(schema, reference)
        if reference in seen or not isinstance(found, dict):
            return {}
        seen.add(reference)
        root = found
    return root


def _place(path: Any) -> str:
    return "/".join(["#", *map(str, path)])
