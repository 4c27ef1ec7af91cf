"""Where published rows come from, in words: the part of a dataset's card that each publication writes anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.errors import counted
from tidemill.publishing.columns import Column
from tidemill.publishing.licences import Origin

PLACES = {"dataset": "datasets/", "model": ""}


def facts_of(
    name: str,
    version: str,
    spec: Mapping[str, Any],
    *,
    dataset: Mapping[str, Any],
    source: Origin,
    model: Origin,
    columns: Sequence[Column],
    query: str | None,
    num_rows: int,
    num_quarantined: int,
) -> dict[str, Any]:
    """What a publication says of itself, as the manifest keeps it: nothing that changes while the rows do not."""
    return {
        "pipeline": name,
        "version": version,
        "task": spec["task"],
        "source": _origin(source),
        "model": _origin(model),
        "columns": [{"name": column.name, "meaning": column.meaning} for column in columns],
        "query": query,
        "rows": num_rows,
        "rows_quarantined": num_quarantined,
        "pipeline_file": pipeline_text(name, spec, dataset, source, model),
    }


def _origin(origin: Origin) -> dict[str, Any]:
    return {
        "name": origin.name,
        "repo": origin.repo,
        "revision": origin.revision,
        "licence": origin.licence,
        "gated": origin.is_gated,
    }


def pipeline_text(name: str, spec: Mapping[str, Any], dataset: Mapping[str, Any], source: Origin, model: Origin) -> str:
    """A pipeline file that computes the same rows, less what is of one machine."""
    lines = [f"name = {_toml(name)}", "", "[dataset]"]
    lines += [f"path = {_toml(source.repo or source.name)}"]
    lines += [f"revision = {_toml(source.revision)}"] if source.repo and source.revision else []
    lines += [f"{key} = {_toml(dataset[key])}" for key in ("config", "split", "key", "keep") if dataset.get(key)]
    lines += [f"text = {_toml(list(spec['text']))}"]
    lines += [f"text_pair = {_toml(list(spec['text_pair']))}"] if spec.get("text_pair") else []
    lines += ["", "[model]", f"task = {_toml(spec['task'])}", f"path = {_toml(model.repo or model.name)}"]
    lines += [f"revision = {_toml(model.revision)}"] if model.repo and model.revision else []
    lines += [f"options = {_inline(spec['options'])}"] if spec.get("options") else []
    lines += ["", "[tokenizer]", f"max_length = {_toml(spec['max_length'])}", f"long_text = {_toml(spec['long_text'])}"]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _inline(options: Mapping[str, Any]) -> str:
    given = {key: _inline(value) if isinstance(value, Mapping) else _toml(value) for key, value in options.items()}
    return "{ " + ", ".join(f"{key} = {value}" for key, value in given.items()) + " }"


def card_part(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The marked part of a dataset's card, of the facts of each config and split, by `config/split`."""
    return "\n\n".join(_section(name, facts) for name, facts in sorted(parts.items()))


def _section(name: str, facts: Mapping[str, Any]) -> str:
    config, _, split = name.partition("/")
    title = f"## Split {split}" if config == "default" else f"## Config {config}, split {split}"
    quarantined = facts["rows_quarantined"]
    left_out = f" {counted(quarantined, 'row')} of the source could not be processed." if quarantined else ""
    asked = ["What was asked of its table:", "", "```sql", facts["query"], "```", ""] if facts["query"] else []
    return "\n".join(
        [
            title,
            "",
            f"{counted(facts['rows'], 'row')} that [Tidemill](https://pypi.org/project/tidemill/) computed by the "
            f"pipeline `{facts['pipeline']}`, version `{facts['version']}`.{left_out}",
            "",
            "| | | revision | licence |",
            "|---|---|---|---|",
            _origin_row("source", "dataset", facts["source"]),
            _origin_row(f"model for {facts['task']}", "model", facts["model"]),
            "",
            "| column | |",
            "|---|---|",
            *(f"| `{_cell(column['name'])}` | {_cell(column['meaning'])} |" for column in facts["columns"]),
            "",
            *asked,
            "To compute it again, write this to `pipeline.toml`, and `tidemill run pipeline.toml`:",
            "",
            "```toml",
            facts["pipeline_file"],
            "```",
        ]
    )


def _origin_row(what: str, kind: str, origin: Mapping[str, Any]) -> str:
    repo, name = origin["repo"], _cell(origin["name"])
    shown = f"[{repo}](https://huggingface.co/{PLACES[kind]}{repo})" if repo else name
    revision = f"`{_cell(origin['revision'])}`" if origin["revision"] else "not known"
    gated = ", gated" if origin["gated"] else ""
    return f"| {what} | {shown} | {revision} | {_cell(origin['licence'] or 'not said')}{gated} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
