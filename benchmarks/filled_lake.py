"""A lake with millions of result rows, filled by the engine's own plan, reader, commits and housekeeping.

Only the predictions are made up, for no machine here predicts millions of rows
in minutes: labels and scores are drawn at random, the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import TINY_SENTIMENT
from tidemill.config import Pipeline, load_pipeline
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import request_ids
from tidemill.planning.plan import Plan, make_plan
from tidemill.results.adoption import adopt
from tidemill.results.commit import Computed, commit_shards
from tidemill.running.run import adoption_of
from tidemill.shards import Shard
from tidemill.upkeep.housekeeping import collect_garbage

ROWS_PER_FILE = 100_000
DOMAINS = ("movie", "news", "product", "tweet")
LABELS = ("NEGATIVE", "POSITIVE")


def fill(home: Path, num_rows: int, keep: Sequence[str] = ("domain", "rating")) -> Path:
    """Make the dataset, a pipeline file and its lake in `home`; returns the pipeline file."""
    write_dataset(home / "data", num_rows)
    path = home / "reviews.toml"
    path.write_text(
        f'name = "reviews"\n[dataset]\npath = "{home}/data/*.parquet"\ntext = "text"\nkey = ["id"]\n'
        f"keep = {json.dumps(list(keep))}\n"
        f'[model]\npath = "{TINY_SENTIMENT}"\n'
        f'[lake]\ncatalog = "sqlite:{home}/lake.sqlite"\ndata = "{home}/lake"\n[store]\npath = "{home}/store"\n',
        encoding="utf-8",
    )
    pipeline = load_pipeline(path)
    commit_all(pipeline)
    collect_garbage(pipeline, dry_run=False)
    return path


def write_dataset(folder: Path, num_rows: int) -> None:
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number, start in enumerate(range(0, num_rows, ROWS_PER_FILE)):
        ids = np.arange(start, min(start + ROWS_PER_FILE, num_rows))
        table = pa.table(
            {
                "id": [f"review-{i:08}" for i in ids.tolist()],
                "domain": pa.array(DOMAINS).take(pa.array(chance.integers(len(DOMAINS), size=len(ids)))),
                "rating": np.round(chance.normal(0, 2, len(ids)), 2),
                "text": [f"Review number {i}." for i in ids.tolist()],
            }
        )
        pq.write_table(table, folder / f"part-{number:05}.parquet")


def commit_all(pipeline: Pipeline) -> None:
    """Plan, adopt, and commit each shard in a transaction of its own, as a run does."""
    plan, dataset = make_plan(pipeline, None)
    target = Target(pipeline.name, plan.version, plan.revision, "filled", plan.table, plan.kept_fingerprint)
    with Lake(pipeline.lake) as lake:
        ensure_system_tables(lake)
        assert adopt(lake, target, adoption_of(plan))
        shards = list(_shards(plan))
        ids = request_ids(lake.cursor(), target, [shard.shard_id for shard in shards])
        for number, shard in enumerate(shards):
            load = _loader(dataset, shard, number)
            outcome = commit_shards(lake, target, [Computed(shard, ids[shard.shard_id], load, _ledger_facts(shard))])
            assert outcome.num_rows == shard.slice.num_rows
            dataset.forget(shard.file)


def _shards(plan: Plan) -> Iterator[Shard]:
    for file in plan.files:
        yield from file.shards


def _loader(dataset: Any, shard: Shard, number: int) -> Callable[[], tuple[pa.Table, pa.Table]]:
    def load() -> tuple[pa.Table, pa.Table]:
        rows = dataset.reader(shard.file).rows(shard.slice)
        return rows, _predictions(rows, number)

    return load


def _predictions(rows: pa.Table, number: int) -> pa.Table:
    chance, num_rows = np.random.default_rng(number), rows.num_rows
    return pa.table(
        {
            "row_number": rows["row_number"],
            "label": pa.array(LABELS).take(pa.array(chance.integers(len(LABELS), size=num_rows))),
            "score": pa.array(chance.uniform(0.5, 1, num_rows), pa.float32()),
            "num_tokens": pa.array(chance.integers(3, 129, num_rows), pa.int32()),
            "truncated": pa.repeat(False, num_rows),
            "stage": pa.nulls(num_rows, pa.string()),
            "reason": pa.nulls(num_rows, pa.string()),
        }
    )


def _ledger_facts(shard: Shard) -> dict[str, Any]:
    num_rows = shard.slice.num_rows
    return {
        "num_distinct": num_rows,
        "num_tokens": 66 * num_rows,
        "num_computed_tokens": 66 * num_rows,
        "num_padded_tokens": 70 * num_rows,
        "device": "none: made up",
    }
