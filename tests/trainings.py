"""Small trainings on real review snippets: their files, their rows and what they begin with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.checkpoints import save_checkpoint
from tests.pipelines import reviews, write_parquet
from tidemill.training.given.file import TrainingFile, load_training


def labelled(num_rows: int, start: int = 0) -> pa.Table:
    """Reviews that people rated, with what they thought in a word, a number, and two words."""
    table = reviews(start, 3 * num_rows)
    ratings = table["rating"].to_pylist()
    some = [i for i, rating in enumerate(ratings) if rating][:num_rows]
    rows = table.take(some).select(["id", "text", "domain"])
    ratings = [ratings[i] for i in some]
    opinions = ["POSITIVE" if rating > 0 else "NEGATIVE" for rating in ratings]
    several = [
        [word, *(["strong"] if abs(rating) > 0.5 else [])] for word, rating in zip(opinions, ratings, strict=True)
    ]
    columns = {"label": opinions, "rating": [float(rating) for rating in ratings], "several": several}
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values))
    return rows


def write_training(
    folder: Path, rows: pa.Table | None, base: Path | str, sections: Mapping[str, Mapping[str, Any]], **top: Any
) -> Path:
    """A training file beside its rows; `sections` beside what it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"key": ["id"]} if rows is not None and "id" in rows.column_names else {}
    if rows is not None:
        data["path"] = str(write_parquet(folder / "rows.parquet", rows))
    whole: dict[str, Any] = {
        "data": {**data, **sections.get("data", {})},
        "base": {"path": str(base), **sections.get("base", {})},
        "method": {"type": "full", "epochs": 1, **sections.get("method", {})},
        "lake": {"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"},
    }
    whole |= {name: values for name, values in sections.items() if name not in whole}
    path = folder / "train.toml"
    path.write_text("\n".join(_toml({"name": "trained", **top}, whole)), encoding="utf-8")
    return path


def _toml(top: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def training(folder: Path, rows: pa.Table, base: Path, /, **sections: Any) -> TrainingFile:
    top = {name: sections.pop(name) for name in ("task", "kind", "seed") if name in sections}
    return load_training(write_training(folder, rows, base, sections, **top))


def save_base(folder: Path, head: str = "two labels", architecture: str = "bert") -> Path:
    return save_checkpoint(folder, architecture, head)
