"""The pipeline file as it is read: TOML with its overrides, before `config` checks what it says.

Who only reads a lake takes from it where that lies. The model of the whole
file is Pydantic's: to import and build it takes longer than to count ten
million rows.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tidemill.errors import ConfigError
from tidemill.masking import shown_override
from tidemill.places import default_catalog, default_data

SECTIONS = frozenset(
    ["name", "dataset", "tokenizer", "model", "inference", "schedule", "alerts", "lake", "store", "limits", "cost"]
)
CATALOG_PATTERN = r"^(sqlite:.+|postgres:(?s:.*))$"


class LakeToRead(NamedTuple):
    """As much of the section `lake` as it takes to open one for reading."""

    catalog: str
    data: str
    names_data: bool = False
    """Whether the file says `data`, rather than leave it at its default."""
    lock_timeout_seconds: float = 0.0
    """Readers take no lock."""


def named_catalog(source: str) -> str:
    """The catalog that a user names in place of a pipeline file: a SQLite file's path will do."""
    return source if source.startswith(("sqlite:", "postgres:")) else f"sqlite:{Path(source)}"


def read_file(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a pipeline file says; each override is `key.path=value`, its value as in TOML or a bare string.

    Raises:
        ConfigError: the file is missing or is not TOML, or an override is not of that form.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ConfigError(f"There is no pipeline file {path}. Give the path of a .toml file.") from e
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"The pipeline file {path} cannot be read: {e}.") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not valid TOML: {e}.") from e
    for override in overrides:
        _apply_override(raw, override)
    return raw


def lake_to_read(raw: dict[str, Any]) -> LakeToRead | None:
    """Where the file's lake lies, if that is plain to see; None where `config` has to say what is wrong, or more."""
    section = raw.get("lake", {})
    if not raw.keys() <= SECTIONS or not isinstance(section, dict) or not section.keys() <= {"catalog", "data"}:
        return None
    catalog, data = section.get("catalog", default_catalog()), section.get("data", default_data())
    if not isinstance(catalog, str) or not isinstance(data, str) or re.match(CATALOG_PATTERN, catalog) is None:
        return None
    return LakeToRead(catalog, data, names_data="data" in section)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    dotted, sign, value = override.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"--set {shown_override(override)!r} is not key.path=value.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, last = dotted.strip().split(".")
    table = raw
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {shown_override(override)!r}: {section} is not a section.")
    table[last] = parsed
