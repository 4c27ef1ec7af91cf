"""Pipelines whose rows people have marked, and training files that learn from the marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pipelines import make_pipeline, query, run, write_parquet
from tests.trainings import labelled, write_training
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.lake.records.marks import Place, set_marks


def marked(folder: Path, base: Path, *, num_rows: int = 60, name: str = "reviews", **retrain: Any) -> Pipeline:
    """A table of reviews by a tiny model, all of whose rows are marked by what people rated."""
    write_parquet(folder / "data" / "rows.parquet", labelled(num_rows))
    ask = f"SELECT r.id, r.text, m.label FROM {name} r JOIN {name}_marks m USING (shard_id, row_number)"
    pipeline = make_pipeline(
        folder,
        f"{folder}/data/*.parquet",
        name=name,
        model={"path": str(base)},
        dataset={"keep": ["text", "label as said"]},
        schedule={"retrain": {"file": str(folder / "training" / "train.toml"), "every_marks": num_rows, **retrain}},
    )
    data = {"sql": ask, "lakes": pipeline.lake.catalog, "key": ["id"]}
    write_training(folder / "training", None, base, {"data": data, "method": {"type": "head", "epochs": 2}})
    run(pipeline)
    mark(pipeline)
    return pipeline


def mark(pipeline: Pipeline, num_rows: int | None = None) -> None:
    """Mark rows anew, all if no number is given."""
    rows = query(pipeline.lake, f"SELECT shard_id, row_number, said FROM {pipeline.name} ORDER BY row_number")
    labels: dict[Place, str | None] = {Place(shard, number): said for shard, number, said in rows[:num_rows]}
    with Lake(pipeline.lake) as lake:
        set_marks(lake, pipeline.name, labels, keys=["id"], who="ann")
