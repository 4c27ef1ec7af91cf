"""Tables of made-up answers of any model task, in a lake as a run leaves it, without a model or a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.lakes import PIPELINE, commit_rows, lake_at
from tidemill.config import Pipeline

ENTITY = pa.struct(
    [
        ("entity", pa.string()),
        ("score", pa.float32()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)


def made_table(folder: Path, task: str, kept: dict[str, Any], results: pa.Table, **sections: Any) -> Pipeline:
    """A pipeline whose table has these kept columns beside these results; its text is the column `text`, its key `id`.

    Rows lie in shards of at most 100.
    """
    columns = pa.table(kept)
    sizes = [min(100, columns.num_rows - first) for first in range(0, columns.num_rows, 100)]
    spec = lake_at(folder)
    commit_rows(spec, columns, sizes, results=results)
    raw: dict[str, Any] = {
        "name": PIPELINE,
        "dataset": {
            "path": f"{folder}/none/*.parquet",
            "text": "text",
            "key": ["id"],
            "keep": [name for name in columns.column_names if name != "id"],
        },
        "model": {"task": task, "path": f"{folder}/no-model"},
        "lake": {"catalog": spec.catalog, "data": spec.data},
        **sections,
    }
    return Pipeline.model_validate(raw)
