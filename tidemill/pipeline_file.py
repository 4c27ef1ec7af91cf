"""The pipeline file as it is read: TOML with its overrides, before `config` checks what it says.

Who only reads a lake takes from it where that lies. The model of the whole
file is Pydantic's: to import and build it takes longer than to count ten
million rows.
"""

from __future__ import annotations

import copy
import json
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tidemill.errors import ConfigError
from tidemill.masking import shown_override
from tidemill.places import default_catalog, default_data, placed, placed_source, settled_catalog

SECTIONS = frozenset(
    [
        *("name", "dataset", "tokenizer", "model", "inference", "schedule", "alerts", "lake", "store", "report"),
        *("limits", "cost"),
    ]
)
Overrides = Sequence[str] | Mapping[str, object]
"""`key.path=value`, its value as in TOML or a bare string; or values by `key.path`."""
PATHS: dict[str, Callable[[str, Path], str]] = {
    "dataset.path": lambda path, folder: placed_source(path, folder, of="dataset"),
    "tokenizer.path": lambda path, folder: placed_source(path, folder, of="tokenizer"),
    "model.path": lambda path, folder: placed_source(path, folder, of="model"),
    "lake.catalog": lambda catalog, folder: _placed_catalog(catalog, folder),
    "lake.data": lambda path, folder: path if "://" in path else placed(path, folder),
    "store.path": lambda path, folder: path if "://" in path else placed(path, folder),
    "report.path": lambda path, folder: path if "://" in path else placed(path, folder),
    "schedule.retrain.file": lambda path, folder: placed(path, folder),
    # Of a training file, which is read by the same rules.
    "data.path": lambda path, folder: placed_source(path, folder, of="dataset"),
    "base.path": lambda path, folder: placed_source(path, folder, of="model"),
    "base.pipeline": lambda path, folder: placed(path, folder),
}
"""Keys that say where something lies, and what a value means from a folder."""
PIPES = ("/dev/", "/proc/")
"""Where a shell puts pipes."""
IN_NO_FOLDER = ("/dev/fd/", "/dev/stdin", "/proc/")
"""How a shell names what lies in no folder of its own."""
JSON_SCHEMA = "model.options.json_schema"
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


def read_file(path: str | Path, overrides: Overrides = ()) -> dict[str, Any]:
    """What a pipeline file says, and what overrides it.

    Its local paths are absolute: they begin at the file's folder, those of overrides at the current one.

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
    folder = Path() if str(path).startswith(IN_NO_FOLDER) else Path(path).parent
    return _overridden(raw, overrides, folder)


def overridden(raw: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """What a pipeline file says with overrides in place; `raw` itself stays as it is.

    Local paths of overrides begin at the current folder.

    Raises:
        ConfigError: an override is not of the form `key.path=value`.
    """
    return _overridden(raw, overrides, None)


def _overridden(raw: dict[str, Any], overrides: Overrides, folder: Path | None) -> dict[str, Any]:
    """As `overridden`; what `raw` itself says begins at `folder`, or is settled where there is none."""
    raw = copy.deepcopy(raw)
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else list(map(_parsed_override, overrides))
    keys = [_apply_override(raw, dotted, str(value) if isinstance(value, Path) else value) for dotted, value in pairs]
    # Whether model.path is one at all, all of them together say.
    here = [path for path in PATHS if any(path == key or path.startswith(f"{key}.") for key in keys)]
    if folder is not None:
        _place(raw, folder, [path for path in PATHS if path not in here])
    _place(raw, Path(), here)
    if any(key == JSON_SCHEMA or JSON_SCHEMA.startswith(f"{key}.") for key in keys):
        _take_schema_in(raw, Path())
    elif folder is not None:
        _take_schema_in(raw, folder)
    return raw


def names_served_model(raw: Mapping[str, Any]) -> bool:
    """Whether model.path is what a server calls its model, and no path."""
    inference = raw.get("inference")
    return isinstance(inference, dict) and inference.get("engine") == "endpoint"


def _place(raw: dict[str, Any], folder: Path, keys: Iterable[str]) -> None:
    """Settle the values of some keys, as far as they are paths at all: what is wrong with others, `config` says."""
    for key in keys:
        if key == "model.path" and names_served_model(raw):
            continue
        section, _, name = key.partition(".")
        table = raw.get(section)
        if isinstance(table, dict) and isinstance(path := table.get(name), str) and path:
            table[name] = PATHS[key](path, folder)


def _take_schema_in(raw: dict[str, Any], folder: Path) -> None:
    """Put the text of a JSON schema in the place of its file's path, or of its table.

    So the pipeline says the same wherever it runs, and the order of a schema's keys survives whoever stores it.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    model = raw.get("model")
    options = model.get("options") if isinstance(model, dict) else None
    schema = options.get("json_schema") if isinstance(options, dict) else None
    if isinstance(options, dict) and isinstance(schema, dict):
        with suppress(TypeError, ValueError):  # What JSON cannot hold, the option's check says.
            options["json_schema"] = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    elif isinstance(options, dict) and isinstance(schema, str) and schema and not schema.lstrip().startswith("{"):
        options["json_schema"] = _schema_of_file(schema, folder)


def _schema_of_file(path: str, folder: Path) -> str:
    where = placed(path, folder)
    try:
        text = _text_of(where).strip()
    except FileNotFoundError as e:
        raise ConfigError(
            f"{JSON_SCHEMA} = {shown(path)} leads to {where}, where no file is. Relative paths begin at the pipeline "
            "file's folder, those of --set at the current one."
        ) from e
    except (OSError, UnicodeError) as e:
        raise ConfigError(f"{JSON_SCHEMA} = {shown(path)}: {where} cannot be read: {e}.") from e
    if not text.startswith("{"):
        raise ConfigError(f"{JSON_SCHEMA} = {shown(path)}: {where} holds no JSON object, and so no schema of one.")
    return text


def _placed_catalog(catalog: str, folder: Path) -> str:
    """Raises:
    ConfigError: no catalog is there, but one is where the path led before it began at the file's folder.
    """
    if not catalog.startswith("sqlite:"):
        return catalog
    try:
        _, _, where = settled_catalog(catalog).partition(":")
    except ValueError:
        return catalog
    found, here = placed(where, folder), Path(where)
    if not Path(found).exists() and here.is_file():
        raise ConfigError(
            f"lake.catalog = {catalog!r} leads to {found}, where no lake is, for relative paths begin at the pipeline "
            f"file's folder; {here.absolute()} is there. If that is the lake, set lake.catalog = "
            f'"sqlite:{here.absolute()}".'
        )
    return f"sqlite:{found}"


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
    if not file.is_file() and not str(path).startswith(PIPES):
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


def _parsed_override(given: str) -> tuple[str, object]:
    dotted, sign, value = given.partition("=")
    if not sign or not dotted:
        raise ConfigError(f"--set {shown(shown_override(given))} is not key.path=value.")
    try:
        return dotted, _parsed_value(value)
    except ValueError as e:
        raise _no_value(given, e) from e


def _apply_override(raw: dict[str, Any], dotted: str, value: object) -> str:
    """Returns the key."""
    given = f"{dotted}={value}"
    try:
        _check_values({dotted: value})
    except ValueError as e:
        raise _no_value(given, e) from e
    *sections, last = dotted.strip().split(".")
    if len(sections) > DEEPEST:
        raise ConfigError(f"--set {shown(shown_override(given))}: keys lie no more than {DEEPEST} deep.")
    table = raw
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {shown(shown_override(given))}: {section} is not a section.")
    table[last] = value
    return ".".join([*sections, last])


def _no_value(given: str, error: ValueError) -> ConfigError:
    return ConfigError(f"--set {shown(shown_override(given))} is not a value for the pipeline file: {error}.")


def _parsed_value(value: str) -> object:
    """A value in TOML, or the text itself where it is not TOML."""
    try:
        table = _parse(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return table["value"] if table.keys() == {"value"} else value
