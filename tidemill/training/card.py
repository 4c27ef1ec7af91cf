"""The README of a trained model: what it was made of, how good it is and how sure that is, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CARD = "README.md"
LIBRARIES = {"sentence-similarity": "sentence-transformers"}
KEYS = ("library_name", "pipeline_tag", "base_model", "tags")
"""What the card's front matter says, where it is known; the licence is for whoever publishes to name."""
NOT_SAID = "not said; ask whoever made it before you hand the model on"
PARTS = ("path", "revision", "files", "query", "lakes", "snapshots")
"""What is told of the data, in order."""


def write_card(folder: Path, report: dict[str, Any]) -> None:
    text = "\n".join([*_front_matter(report), *_about(report), *_measures(report), *_again(report)])
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def _front_matter(report: dict[str, Any]) -> Iterator[str]:
    base = report["base"]
    values: dict[str, Any] = {
        "library_name": LIBRARIES.get(report["task"], "transformers"),
        "pipeline_tag": report["task"],
        "base_model": base["path"] if base["model"].startswith("commit:") else None,
        "tags": ["tidemill"],
    }
    yield "---"
    yield from (f"{key}: {json.dumps(values[key])}" for key in KEYS if values[key] is not None)
    yield "---"


def _about(report: dict[str, Any]) -> Iterator[str]:
    base, rows = report["base"], report["rows"]
    yield f"\n# {report['name']}\n"
    yield (
        f"A model for {report['task']}, trained by `tidemill train` ({report['method']}) from `{_name(base['path'])}` "
        f"(`{base['model']}`)."
    )
    if rows["labels"]:
        yield "\n| label | rows to learn from | held out |\n|---|---|---|"
        yield from (f"| {_cell(row['label'])} | {row['train']:,} | {row['held_out']:,} |" for row in rows["labels"])
    yield f"\n## Data\n\n- {rows['train']:,} rows to learn from, {rows['held_out']:,} held out and never learned from"
    for part in PARTS:
        if (value := report["data"].get(part)) is not None:
            yield f"- {part}: `{json.dumps(_named(value)) if isinstance(value, list) else _name(value)}`"
    left_out = [f"{rows[name]:,} {name.replace('_', ' ')}" for name in ("null", "unreadable") if rows[name]]
    if left_out:
        yield f"- left out: {', '.join(left_out)}"
    if rows["contradictions"]["texts"]:
        yield f"- {rows['contradictions']['texts']:,} texts have two labels"
    licences = report.get("licences") or {}
    yield f"- licence of the data: {licences.get('data') or NOT_SAID}"
    yield f"- licence of the base model: {licences.get('base') or NOT_SAID}"


def _named(values: list[Any]) -> list[Any]:
    return [_name(value) if isinstance(value, str) else value for value in values]


def _name(path: Any) -> str:
    """An address or a Hub id as it is; of a path of this machine, its last parts."""
    text = str(path)
    kind = "sqlite:" if text.startswith("sqlite:/") else ""
    place = text.removeprefix(kind)
    return kind + "/".join(Path(place).parts[-2:]) if place.startswith("/") else text


def _measures(report: dict[str, Any]) -> Iterator[str]:
    metrics = report["metrics"]
    yield f"\n## Measures\n\nOn {metrics['rows']:,} held-out rows, with 95% intervals.\n"
    yield "| measure | this model | interval | baselines |\n|---|---|---|---|"
    for name, value in metrics.items():
        if not isinstance(value, dict | float):
            continue
        found = value if isinstance(value, dict) else {"value": value}
        between = f"{found['low']:.4f} to {found['high']:.4f}" if "low" in found else ""
        yield f"| {name.replace('_', ' ')} | {found['value']:.4f} | {between} | {_baselines(report, name)} |"
    if metrics.get("labels"):
        yield "\n| label | rows | precision | recall | F1 |\n|---|---|---|---|---|"
        for label in metrics["labels"]:
            shares = (_share(label[name]) for name in ("precision", "recall", "f1"))
            yield f"| {_cell(label['label'])} | {label['rows']:,} | {' | '.join(shares)} |"
    if report["temperature"] is not None:
        yield f"\nA temperature of {report['temperature']:.4f} is divided into the weights of the last layer."


def _baselines(report: dict[str, Any], name: str) -> str:
    found = {whose: measures[name] for whose, measures in report["baselines"].items() if name in measures}
    values = {whose: value["value"] if isinstance(value, dict) else value for whose, value in found.items()}
    return ", ".join(f"{whose} {value:.4f}" for whose, value in values.items())


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _again(report: dict[str, Any]) -> Iterator[str]:
    cost = f", cost {report['cost']:.4f} {report['currency']}" if report["cost"] is not None else ""
    yield f"\n## How to make it again\n\nIt took {report['seconds']:.0f} s{cost}. With this as `train.toml`:\n"
    yield "```toml"
    yield from _toml(_portable(report["declared"]))
    yield "```\n\n```\ntidemill train train.toml -o MODEL\n```"


def _portable(declared: dict[str, Any]) -> dict[str, Any]:
    """The training file without this machine's folders."""
    return {
        key: {name: _portable_value(value) for name, value in section.items()} if isinstance(section, dict) else section
        for key, section in declared.items()
    }


def _portable_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_portable_value(part) for part in value]
    return _name(value) if isinstance(value, str) else value


def _toml(declared: dict[str, Any]) -> Iterator[str]:
    plain = {key: value for key, value in declared.items() if not isinstance(value, dict)}
    yield from (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items())
    for section, values in declared.items():
        if isinstance(values, dict) and values:
            yield f"\n[{section}]"
            yield from (f"{key} = {_value(value)}" for key, value in values.items() if value is not None)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
