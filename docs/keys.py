"""Write the tables of `pipeline-file.md` from the pipeline file's model, so that neither drifts.

python docs/keys.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline

PAGE = Path(__file__).with_name("pipeline-file.md")
BEGIN, END = "<!-- keys -->", "<!-- end of keys -->"


def page_with_tables(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


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


def _table(prefix: str, keys: dict[str, Any], required: list[str]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, facts in keys.items():
        dotted = prefix + key
        section = "$ref" in facts or "allOf" in facts
        default = "required" if key in required else "" if section else _shown(_default(dotted), facts)
        meaning = facts["description"].replace("|", "\\|").replace("\n", " ")
        yield f"| `{dotted}` | {_kind(facts)} | {default} | {meaning} |"


def _default(dotted: str) -> Any:
    value: Any = Pipeline.model_validate({"name": "x", "dataset": {"path": "x", "text": "x"}, "model": {"path": "x"}})
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
    if facts["type"] == "string":
        return "size" if str(facts.get("pattern", "")).startswith(r"^\s*(\d") else "string"
    names = {"array": "string or strings", "object": "table", "boolean": "bool", "number": "number", "integer": "int"}
    return names[facts["type"]]


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
