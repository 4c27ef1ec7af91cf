"""Tables of made-up answers of any model task, in a lake as a run leaves it, without a model or a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.lakes import PIPELINE, TABLE, VERSION, commit_rows, lake_at
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.lake.tables import existing_columns

ENTITY = pa.struct(
    [
        ("entity", pa.string()),
        ("score", pa.float32()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)


def made_table(
    folder: Path, task: str, kept: dict[str, Any], results: pa.Table, *, dataset_text: str = "text", **sections: Any
) -> Pipeline:
    """A pipeline whose table has these kept columns beside these results. Its key is `id`.

    The model reads the column `dataset_text`. Rows lie in shards of at most 100.
    """
    columns = pa.table(kept)
    sizes = [min(100, columns.num_rows - first) for first in range(0, columns.num_rows, 100)]
    spec = lake_at(folder)
    commit_rows(spec, columns, sizes, results=results)
    raw: dict[str, Any] = {
        "name": PIPELINE,
        "dataset": {
            "path": f"{folder}/none/*.parquet",
            "text": dataset_text,
            "key": ["id"],
            "keep": [name for name in columns.column_names if name != "id"],
        },
        "model": {"task": task, "path": f"{folder}/no-model"},
        "lake": {"catalog": spec.catalog, "data": spec.data},
        **sections,
    }
    return Pipeline.model_validate(raw)


SPEC = {
    "model_path": "a",
    "tokenizer_path": "a",
    "tokenizer": "sha256:0",
    "text": ["text"],
    "text_separator": " ",
    "max_length": "auto",
    "long_text": "truncate",
    "all_scores": False,
    "trust_remote_code": False,
}
SECOND = "0b2c3d4e"


def second_version(pipeline: Pipeline, **columns: str) -> str:
    """Another version of a made table, beside the promoted one: the same rows, with these columns by SQL of its own."""
    task = pipeline.model.task
    specs = {
        VERSION: {**SPEC, "task": task, "model": "sha256:1", "dtype": "float32"},
        SECOND: {**SPEC, "task": task, "model": "sha256:2", "dtype": "bfloat16"},
    }
    changed = ", ".join(f"({sql})::{kind} AS {name}" for name, (sql, kind) in _typed(pipeline, columns).items())

    def body(cursor: Any) -> None:
        cursor.execute(f"CREATE TABLE {PIPELINE}__{SECOND} AS SELECT * REPLACE ({changed}) FROM {TABLE}")
        for table in ("_versions", "_ledger"):
            cursor.execute(f"INSERT INTO {table} SELECT * REPLACE ('{SECOND}' AS version) FROM {table}")
        for version, spec in specs.items():
            cursor.execute("UPDATE _versions SET spec = ? WHERE version = ?", [json.dumps(spec), version])

    with Lake(pipeline.lake) as lake:
        lake.write(body, message="another version")
    return SECOND


def _typed(pipeline: Pipeline, columns: dict[str, str]) -> dict[str, tuple[str, str]]:
    with Lake(pipeline.lake, read_only=True) as lake:
        kinds = dict(existing_columns(lake.cursor(), TABLE))
    return {name: (sql, kinds[name]) for name, sql in columns.items()}
