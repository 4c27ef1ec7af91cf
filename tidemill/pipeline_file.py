"""The pipeline file as it is read: TOML with its overrides, before `config` checks what it says.

Who only reads a lake takes from it where that lies. The model of the whole
file is Pydantic's: to import and build it takes longer than to count ten
million rows.
"""

from __future__ import annotations

import copy
import re
import reprlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tidemill.errors import ConfigError
from tidemill.masking import shown_override
from tidemill.places import default_catalog, default_data, settled_catalog

SECTIONS = frozenset(
    ["name", "dataset", "tokenizer", "model", "inference", "schedule", "alerts", "lake", "store", "limits", "cost"]
)
LARGEST_FILE = 2**20
DEEPEST = 16
LONG_KEY = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){200}")
"""A dotted key that takes tomllib a time that grows with the square of its parts."""


class LakeToRead(NamedTuple):
    """As much of the section `lake` as it takes to open one for reading."""

    catalog: str
    data: str
    names_data: bool = False
    """Whether the file says `data`, rather than leave it at its default."""
    lock_timeout_seconds: float = 0.0
    """Readers take no lock."""


def named_catalog(source: str) -> str:
    """The catalog that a user names in place of a pipeline file: a SQLite file's path will do.

    Raises:
        ConfigError: it is not a catalog.
    """
    try:
        return settled_catalog(
            source if source.startswith(("sqlite:", "postgres:", "postgresql:")) else f"sqlite:{source}"
        )
    except ValueError as e:
        raise ConfigError(f"The lake's catalog {e}.") from None


def read_file(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a pipeline file says; each override is `key.path=value`, its value as in TOML or a bare string.

    Raises:
        ConfigError: the file is missing or is not TOML, or an override is not of that form.
    """
    try:
        raw = _parse(_text_of(path))
    except FileNotFoundError as e:
        raise ConfigError(f"There is no pipeline file {path}. Give the path of a .toml file.") from e
    except (OSError, UnicodeError) as e:
        raise ConfigError(f"The pipeline file {path} cannot be read: {e}.") from e
    except ValueError as e:
        raise ConfigError(f"{path} is not valid TOML: {e}.") from e
    return overridden(raw, overrides)


def overridden(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What a pipeline file says with overrides in place; `raw` itself stays as it is.

    Raises:
        ConfigError: an override is not of the form `key.path=value`.
    """
    raw = copy.deepcopy(raw)
    for override in overrides:
        _apply_override(raw, override)
    return raw


def shown(value: object) -> str:
    """A value for a message: as Python writes it, but short, and printable anywhere."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value).encode("utf-8", "backslashreplace").decode()


def _text_of(path: str | Path) -> str:
    """The text of a file; of a pipe only where the shell made it, since another may never have a writer.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is too large for a pipeline file.
        UnicodeError: it is not UTF-8.
    """
    file = Path(path)
    if "\0" in str(path):
        raise ConfigError(f"{shown(str(path))} is not a path. Give the path of a .toml file.")
    if not file.is_file() and not str(path).startswith(("/dev/", "/proc/")):
        raise (OSError("it is not a regular file") if file.exists() else FileNotFoundError(str(path)))
    with file.open("rb") as opened:
        content = opened.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path} is larger than {LARGEST_FILE:,} bytes: not a pipeline file. Check the path.")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _parse(text: str) -> dict[str, Any]:
    """TOML, whose numbers have 64 bits and whose values lie no deeper than options do.

    Raises:
        ValueError: it is something else.
    """
    too_deep = ValueError(f"values lie more than {DEEPEST} deep")
    if LONG_KEY.search(text):
        raise too_deep
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise too_deep from None
    _check_values(raw)
    return raw


def _check_values(raw: dict[str, Any]) -> None:
    """By a list of its own, so that no depth hurts."""
    waiting: list[tuple[object, int]] = [(raw, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"values lie more than {DEEPEST} deep")
        match value:
            case dict():
                waiting += [(inner, depth + 1) for pair in value.items() for inner in pair]
            case list():
                waiting += [(inner, depth + 1) for inner in value]
            case bool():
                pass
            case int() if not -(2**63) <= value < 2**63:
                raise ValueError(f"the number {shown(value)} has more than 64 bits")
            case str() if "\0" in value:
                raise ValueError(f"the text {shown(value)} holds a NUL")
            case str():
                value.encode()


def lake_to_read(raw: dict[str, Any]) -> LakeToRead | None:
    """Where the file's lake lies, if that is plain to see; None where `config` has to say what is wrong, or more."""
    section = raw.get("lake", {})
    if not raw.keys() <= SECTIONS or not isinstance(section, dict) or not section.keys() <= {"catalog", "data"}:
        return None
    catalog, data = section.get("catalog", default_catalog()), section.get("data", default_data())
    if not isinstance(catalog, str) or not isinstance(data, str):
        return None
    try:
        return LakeToRead(settled_catalog(catalog), data, names_data="data" in section)
    except ValueError:
        return None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    dotted, sign, value = override.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"--set {shown(shown_override(override))} is not key.path=value.")
    try:
        parsed = _parsed_value(value)
        _check_values({dotted: parsed})
    except ValueError as e:
        raise ConfigError(f"--set {shown(shown_override(override))} is not a value for the pipeline file: {e}.") from e
    *sections, last = dotted.strip().split(".")
    if len(sections) > DEEPEST:
        raise ConfigError(f"--set {shown(shown_override(override))}: keys lie no more than {DEEPEST} deep.")
    table = raw
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {shown(shown_override(override))}: {section} is not a section.")
    table[last] = parsed


def _parsed_value(value: str) -> object:
    """A value in TOML, or the text itself where it is not TOML."""
    try:
        table = _parse(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return table["value"] if table.keys() == {"value"} else value
