"""Small pipelines over real text, and tables as values that can be compared."""

from __future__ import annotations

import functools
import math
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.small_sentiment import small_sentiment
from tidemill import config
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.running.run import Run, RunResult

ROOT = Path(__file__).parent.parent
MODEL = small_sentiment(ROOT / "data" / "models" / "tiny-sentiment", ROOT / ".pytest_cache")
REVIEWS = ROOT / "data" / "reviews"

RUN_COLUMNS = {"shard_id", "dataset_revision", "row_number"}
Table = dict[tuple[str, int], dict[str, Any]]


def reviews(start: int, num_rows: int) -> pa.Table:
    """Real review snippets, from row `start` of the bundled ones."""
    return _all_reviews().slice(start, num_rows)


@functools.cache
def _all_reviews() -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(REVIEWS.glob("*.parquet"))[:3])


def write_parquet(path: Path, table: pa.Table, *, row_group_size: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def make_pipeline(folder: Path, dataset: str, /, **sections: Any) -> Pipeline:
    """A pipeline over `dataset` whose lake and store lie in `folder`; sections override keys.

    Its shards, which are all small, go one by one, so that a test knows what is committed when.
    """
    raw: dict[str, Any] = {
        "name": "reviews",
        "dataset": {"path": dataset, "text": "text", "key": ["id"], "keep": ["domain", "rating"]},
        "model": {"path": str(MODEL)},
        "inference": {"engine": "torch", "dtype": "float32", "token_budget": 1024},
        "lake": {"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"},
        "store": {"path": f"{folder}/store"},
        "limits": {"retries": 2, "shards_together": 1},
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
    return Pipeline.model_validate(raw)


def run(pipeline: Pipeline, **options: Any) -> RunResult:
    return Run(pipeline, **options).execute()


def table_of(pipeline: Pipeline) -> Table:
    """(path, row in file) → the row's kept and result columns."""
    with Lake(pipeline.lake, read_only=True) as lake, lake.snapshot() as cursor:
        return _table(cursor, pipeline)


def quarantine_of(pipeline: Pipeline) -> dict[tuple[str, int], tuple[str, str]]:
    """(path, row in file) → (stage, reason)."""
    with Lake(pipeline.lake, read_only=True) as lake:
        return _quarantine(lake.cursor())


def shards_of(pipeline: Pipeline) -> set[tuple[Any, ...]]:
    with Lake(pipeline.lake, read_only=True) as lake, lake.snapshot() as cursor:
        return _shards(cursor, pipeline)


def assert_same_tables(found: Pipeline, expected: Pipeline, *, tolerance: float = 1e-4) -> None:
    """Rows by place, kept columns, labels, quarantine reasons and shards are the same, numbers within `tolerance`."""
    (mine, *others), (theirs, *their_others) = _all_of(found), _all_of(expected)
    assert mine.keys() == theirs.keys()
    for place, row in mine.items():
        for name, value in row.items():
            assert _is_same(value, theirs[place][name], tolerance), (place, name, value, theirs[place][name])
    assert others == their_others


def _is_same(value: Any, other: Any, tolerance: float) -> bool:
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_is_same, value, other, repeat(tolerance)))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_is_same(value[key], other[key], tolerance) for key in value)
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, abs_tol=tolerance)
    return bool(value == other)


def _all_of(pipeline: Pipeline) -> tuple[Table, dict[tuple[str, int], tuple[str, str]], set[tuple[Any, ...]]]:
    with Lake(pipeline.lake, read_only=True) as lake, lake.snapshot() as cursor:
        return _table(cursor, pipeline), _quarantine(cursor), _shards(cursor, pipeline)


def _table(cursor: Any, pipeline: Pipeline) -> Table:
    result = cursor.execute(
        f'SELECT s.path, t.* FROM "{pipeline.name}" t JOIN _revision_shards s ON s.shard_id = t.shard_id '
        "AND s.pipeline = ? AND s.revision = ?",
        [pipeline.name, _target(cursor, pipeline)],
    )
    names = [column[0] for column in result.description]
    rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    total = cursor.execute(f'SELECT count(*) FROM "{pipeline.name}"').fetchone()
    assert total == (len(rows),), "the table has rows of shards that the target revision does not list"
    keyed = {(row["path"], row["row_number"]): row for row in rows}
    assert len(keyed) == len(rows), "a row is there twice"
    return {place: {k: v for k, v in row.items() if k not in RUN_COLUMNS} for place, row in keyed.items()}


def _quarantine(cursor: Any) -> dict[tuple[str, int], tuple[str, str]]:
    rows = cursor.execute("SELECT path, row_number, stage, reason FROM _quarantine").fetchall()
    return {(path, number): (stage, reason) for path, number, stage, reason in rows}


def _shards(cursor: Any, pipeline: Pipeline) -> set[tuple[Any, ...]]:
    listed = cursor.execute(
        "SELECT path, shard_id, content, first_row, num_rows, start_byte, stop_byte FROM _revision_shards "
        "WHERE pipeline = ? AND revision = ?",
        [pipeline.name, _target(cursor, pipeline)],
    )
    return set(listed.fetchall())


def query(spec: config.Lake, statement: str) -> list[tuple[Any, ...]]:
    with Lake(spec, read_only=True) as lake:
        return lake.cursor().execute(statement).fetchall()


def problems_of(pipeline: Pipeline) -> list[str]:
    from tidemill.results.verify import verify_pipeline

    with Lake(pipeline.lake, read_only=True) as lake:
        return verify_pipeline(lake, pipeline.name).problems


def _target(cursor: Any, pipeline: Pipeline) -> str:
    return str(
        cursor.execute("SELECT target_revision FROM _pipelines WHERE pipeline = ?", [pipeline.name]).fetchone()[0]
    )
