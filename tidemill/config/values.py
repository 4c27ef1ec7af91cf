"""What sections of the pipeline file are made of: addresses, durations, names, and what refuses unknown keys."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)

from tidemill.masking import masked, shown_setting
from tidemill.places import placed_source
from tidemill.times.cron import checked_cron, checked_timezone

Stage = Literal["ingest", "tokenize", "infer", "materialize"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""In the order in which a shard goes through them."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _without_secret(value: str) -> str:
    """Refuse an address that lets in whoever reads it: tables name the files that rows came from."""
    if masked(value) != value:
        raise ValueError(
            "holds a key, a password or a token, which tables and messages would show. Take it out, and give it by "
            "the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or HF_TOKEN"
        )
    return value


Address = Annotated[str, AfterValidator(_without_secret)]
"""Where something lies, as it may be recorded."""

SETTLED = {"settled": True}
"""Context of a validation: paths were settled before, in another folder perhaps, and nobody is to look again."""


def _placed_dataset(path: str, info: ValidationInfo) -> str:
    return placed_source(path, Path(), of="dataset", look=info.context != SETTLED)


def _placed_model(path: str, info: ValidationInfo) -> str:
    return placed_source(path, Path(), of="model", look=info.context != SETTLED)


ModelPath = Annotated[Address, AfterValidator(_placed_model)]


def _known_encoding(value: str) -> str:
    try:
        codec = codecs.lookup(value)
    except LookupError:
        codec = None
    if codec is None or not codec._is_text_encoding or codec.incrementaldecoder is None:
        raise ValueError("is no encoding of text that Python knows: give one such as utf-8, latin-1, cp1252 or utf-16")
    return value


Encoding = Annotated[str, AfterValidator(_known_encoding)]
"""Of text, by Python's name of it."""

Names = Annotated[list[str], BeforeValidator(_as_list)]

Cron = Annotated[str, AfterValidator(checked_cron)]
TimeZone = Annotated[str, AfterValidator(checked_timezone)]

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
"""Units of a duration, by their shortest name."""
LONGEST_SECONDS = 36_500 * 86_400
LARGEST_BYTES = 2**62


def _as_seconds(value: object) -> object:
    """`"30 days"`, `"26 h"` or `"90 min"` as seconds; a number is seconds already."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|seconds?|min|minutes?|h|hours?|d|days?)\s*", value)
    if found is None:
        raise ValueError('is not a duration: give a number and s, min, h or days, such as "30 days"')
    unit = next(name for name in ("min", "s", "h", "d") if found[2].startswith(name))
    return float(found[1]) * SECONDS[unit]


Duration = Annotated[
    float, BeforeValidator(_as_seconds), Field(gt=0, le=LONGEST_SECONDS, json_schema_extra={"format": "duration"})
]
"""Seconds."""


LongText = Literal["truncate", "quarantine", "windows"]
Aggregate = Literal["mean", "max", "length_weighted"]
Truncation = Literal["longest_first", "only_second"]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_setting(name or "", value)


_QUOTED_NAME = r'"(?:[^"]|"")*"'
_AS = re.compile(r"\s+as\s+", re.IGNORECASE)
_NAME = rf"{_QUOTED_NAME}|(?:(?!{_AS.pattern}).)*"
_DECLARATION = re.compile(rf"({_NAME})(?:{_AS.pattern}({_NAME}))?", re.IGNORECASE | re.DOTALL)


def _declared(declaration: str) -> tuple[str, str]:
    """The source column, and its name in the table, of `column` or `column as name`."""
    match = _DECLARATION.fullmatch(declaration)
    if match is None:
        raise ValueError(
            f"{declaration!r} is neither a column nor `column as name`: put a name that holds ` as ` in double quotes, "
            f"such as '\"a as b\" as c'"
        )
    source, name = _unquoted(match[1]), match[2]
    return source, _unquoted(name.strip()) if name and name.strip() else source.strip()


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if re.fullmatch(_QUOTED_NAME, name) else name


def _readable_names(declarations: list[str]) -> list[str]:
    for declaration in declarations:
        _declared(declaration)
    return declarations


Declarations = Annotated[Names, AfterValidator(_readable_names)]
