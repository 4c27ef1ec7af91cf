"""Write the tables of `pipeline-file.md` and `training.md` from the files' models, so that neither drifts.

python docs/keys.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline
from tidemill.training.given.file import Data, TrainingFile

PAGE = Path(__file__).with_name("pipeline-file.md")
TRAINING_PAGE = Path(__file__).with_name("training.md")
BEGIN, END = "<!-- keys -->", "<!-- end of keys -->"
LEAST = {"name": "x", "dataset": {"path": "x", "text": "x"}, "model": {"path": "x"}}
LEAST_TRAINING: dict[str, Any] = {"name": "x", "data": {}, "base": {}}


def page_with_tables(page: str) -> str:
    return _with(page, tables())


def training_page_with_tables(page: str) -> str:
    return _with(page, training_tables())


def _with(page: str, made: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def tables() -> str:
    """One table for the keys outside of sections, and one a section."""
    os.environ.pop("TIDEMILL_HOME", None)  # Defaults are shown as they are without it.
    schema = Pipeline.model_json_schema()
    lines = [*_table("", {"name": schema["properties"]["name"]}, schema["required"])]
    for section, facts in schema["properties"].items():
        if section == "name":
            continue
        model = _model(facts, schema)
        keys = _with_sections(model["properties"], schema)
        lines += ["", f"### [{section}]", "", *_table(f"{section}.", keys, model.get("required", []))]
    return "\n".join(lines)


def training_tables() -> str:
    """As `tables`, less the keys that are those of a pipeline's dataset and lake."""
    os.environ.pop("TIDEMILL_HOME", None)
    schema = TrainingFile.model_json_schema()
    least = TrainingFile.model_validate(LEAST_TRAINING)
    sections = {name: facts for name, facts in schema["properties"].items() if "$ref" in facts and name != "lake"}
    plain = {name: facts for name, facts in schema["properties"].items() if name not in sections and name != "lake"}
    lines = [*_table("", plain, schema["required"], least)]
    for section, facts in sections.items():
        model = _model(facts, schema)
        keys = {key: of for key, of in model["properties"].items() if section != "data" or key in OWN_KEYS_OF_DATA}
        lines += ["", f"### [{section}]", "", *_table(f"{section}.", keys, model.get("required", []), least)]
    return "\n".join(lines)


OWN_KEYS_OF_DATA = ("path", *Data.__annotations__)


def _model(facts: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][(facts.get("$ref") or facts["allOf"][0]["$ref"]).rpartition("/")[2]]
    return found


def _with_sections(keys: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The keys, each section within them followed by its own."""
    found = {}
    for key, facts in keys.items():
        found[key] = facts
        if "$ref" in facts or "allOf" in facts:
            found |= {f"{key}.{name}": inner for name, inner in _model(facts, schema)["properties"].items()}
    return found


def _table(prefix: str, keys: dict[str, Any], required: list[str], least: Any = None) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, facts in keys.items():
        dotted = prefix + key
        section = "$ref" in facts or "allOf" in facts
        default = "required" if key in required else "" if section else _shown(_default(dotted, least), facts)
        meaning = facts["description"].replace("|", "\\|").replace("\n", " ")
        yield f"| `{dotted}` | {_kind(facts)} | {default} | {meaning} |"


def _default(dotted: str, least: Any) -> Any:
    value: Any = least or Pipeline.model_validate(LEAST)
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _shown(value: Any, facts: dict[str, Any]) -> str:
    if value is None:
        return ""
    if facts.get("format") == "duration":
        return f'`"{value / 86_400:g} days"`'
    if hasattr(value, "human_readable"):
        decimal = value % 10**6 == 0
        return f'`"{value.human_readable(decimal=decimal, separator=" ").replace(".0 ", " ")}"`'
    if isinstance(value, dict):
        return "`{}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _kind(facts: dict[str, Any]) -> str:
    if "enum" in facts:
        return " or ".join(f'`"{value}"`' for value in facts["enum"])
    if "const" in facts:
        return f'`"{facts["const"]}"`'
    if "$ref" in facts or "allOf" in facts:
        return "section"
    if facts.get("format") == "duration":
        return "duration"
    if "anyOf" in facts:
        kinds = [_kind(kind) for kind in facts["anyOf"] if kind.get("type") != "null"]
        return "size" if "size" in kinds else " or ".join(kinds)
    if facts["type"] == "array" and facts.get("items", {}).get("type") in ("number", "integer"):
        return "numbers"
    if facts["type"] == "string":
        return "size" if str(facts.get("pattern", "")).startswith(r"^\s*(\d") else "string"
    names = {"array": "string or strings", "object": "table", "boolean": "bool", "number": "number", "integer": "int"}
    return names[facts["type"]]


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    made = training_page_with_tables(TRAINING_PAGE.read_text(encoding="utf-8"))
    TRAINING_PAGE.write_text(made, encoding="utf-8")
