"""Where published rows come from, in words: the part of a dataset's card that each publication writes anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tidemill.errors import counted
from tidemill.publishing.columns import Column
from tidemill.publishing.licences import Origin

DEFAULT = "default"
"""The config of a dataset that names none, as on the Hub."""

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
    sections = {
        "dataset": {
            **_place_of(source),
            **{key: dataset[key] for key in ("config", "split", "key", "keep") if dataset.get(key)},
            "text": spec["text"],
            "text_separator": spec["text_separator"],
            "text_pair": spec.get("text_pair"),
        },
        "model": {
            "task": spec["task"],
            **_place_of(model),
            "subfolder": spec["model"].partition("/")[2],
            "all_scores": spec["all_scores"] or None,
            "trust_remote_code": spec["trust_remote_code"] or None,
            "pad_token_id": spec.get("pad_token_id"),
            "options": spec.get("options"),
        },
        "tokenizer": {
            **_tokenizer_of(spec),
            **{key: spec.get(key) for key in ("max_length", "long_text", "overlap", "aggregate", "truncation")},
        },
        "inference": {"dtype": spec["dtype"]},
    }
    lines = [f"name = {_toml(name)}"]
    for section, keys in sections.items():
        lines += [
            "",
            f"[{section}]",
            *(f"{key} = {_toml(value)}" for key, value in keys.items() if value not in (None, "")),
        ]
    return "\n".join(lines)


def _place_of(origin: Origin) -> dict[str, Any]:
    return {"path": origin.repo or origin.name, "revision": origin.revision if origin.repo else None}


def _tokenizer_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Where the tokenizer is, if it is not the model's own."""
    kind, _, commit = spec["tokenizer"].partition(":")
    if spec["tokenizer"] == spec["model"]:
        return {}
    if kind != "commit":
        return {"path": f"a local folder ({PurePath(spec['tokenizer_path']).name})"}
    revision, _, subfolder = commit.partition("/")
    return {"path": spec["tokenizer_path"], "revision": revision, "subfolder": subfolder}


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def card_part(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The marked part of a dataset's card, of the facts of each config and split, by `config/split`."""
    return "\n\n".join(_section(name, facts) for name, facts in sorted(parts.items()))


def _section(name: str, facts: Mapping[str, Any]) -> str:
    config, _, split = name.partition("/")
    title = f"## Split {split}" if config == DEFAULT else f"## Config {config}, split {split}"
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
