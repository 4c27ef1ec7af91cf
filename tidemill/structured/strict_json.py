"""JSON of which nothing is lost on its way into a table: what cannot be kept is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

LARGEST = 2**63
"""Integers have 64 bits, with their sign."""


def read_strictly(text: str) -> Any:
    """The value of a text. Numbers with a fraction are `Decimal`, exactly as written; 1.0 and 1e3 are integers.

    Raises:
        ValueError: it is no JSON, or has a key twice, a NaN, a number beyond 64 bits or half a character.
    """
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_number, parse_constant=_refuse, object_pairs_hook=_object
        )
        for inner in _texts(value):
            _check_text(inner)
    except json.JSONDecodeError as e:
        # Without the place: reasons are grouped to count rows by them.
        raise ValueError(f"it is no JSON: {e.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def as_json(value: Any) -> str:
    """A value of `read_strictly` as text, in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=float)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if doubled := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"it has the key {doubled[0]!r} twice")
    return dict(pairs)


def _integer(literal: str) -> int:
    # Nobody waits for the digits of a number that is refused for its length.
    if len(literal) > 20 or not -LARGEST <= int(literal) < LARGEST:
        raise ValueError(f"the number {literal:.40} has more than 64 bits")
    return int(literal)


def _number(literal: str) -> int | Decimal:
    if math.isinf(float(literal)):
        raise ValueError(f"the number {literal:.40} is beyond a double")
    try:
        number = Decimal(literal)
    except ArithmeticError:
        raise ValueError(f"the number {literal:.40} is too close to zero") from None
    is_integer = -LARGEST <= number < LARGEST and number == number.to_integral_value()
    return int(number) if is_integer else number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no JSON")


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from value
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"it holds half a character, \\u{ord(text[e.start]):x}") from None
