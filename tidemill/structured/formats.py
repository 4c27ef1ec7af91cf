"""The formats of strings that a JSON schema may ask for: those that a grammar can hold, each checked here too.

What other packages add to `jsonschema` does not count: the same answer is right on every machine.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonschema import FormatChecker

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|[+-](\d\d):(\d\d))", re.ASCII)
_DURATION = re.compile(r"P(?=.)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*")
_MOST_IN_LEAP_MINUTE = 60


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    date.fromisoformat(text)
    return True


def _is_time(text: str) -> bool:
    if not (found := _TIME.fullmatch(text)):
        return False
    hour, minute, second, hours_off, minutes_off = (int(part or 0) for part in found.groups())
    time(hour, minute, second - (second == _MOST_IN_LEAP_MINUTE))
    time(hours_off, minutes_off)
    return True


def _is_date_time(text: str) -> bool:
    return len(text) > 10 and text[10] in "Tt" and _is_date(text[:10]) and _is_time(text[11:])


def _is_uuid(text: str) -> bool:
    return str(uuid.UUID(text)) == text.lower()


def _matching(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


FORMATS: dict[str, Callable[[str], bool]] = {
    "date": _is_date,
    "time": _is_time,
    "date-time": _is_date_time,
    "duration": _matching(_DURATION),
    "email": _matching(_EMAIL),
    "hostname": _matching(_HOSTNAME),
    "ipv4": lambda text: bool(ipaddress.IPv4Address(text)) or True,
    "ipv6": lambda text: bool(ipaddress.IPv6Address(text)) or True,
    "uri": _matching(_URI),
    "uuid": _is_uuid,
}
"""Whether a string has the format; what raises ValueError has not."""


def format_checker() -> FormatChecker:
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, is_of_format in FORMATS.items():
        checker.checks(name, raises=ValueError)(_of_strings(is_of_format))
    return checker


def _of_strings(is_of_format: Callable[[str], bool]) -> Callable[[object], bool]:
    """A format says nothing of what is no string."""
    return lambda value: not isinstance(value, str) or is_of_format(value)
