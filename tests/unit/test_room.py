"""Room in a store that is nearly full: what a shard finds there already is not evicted for that shard."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines import make_pipeline, query, reviews, run, write_parquet
from tidemill.config import Pipeline
from tidemill.running.in_flight import STORE_BYTES_PER_TEXT_BYTE
from tidemill.running.stage_run import StageRun

HOUR = 3600.0


def age(path: Path, hours: int) -> None:
    """What was written lately is not evicted."""
    os.utime(path, (then := time.time() - hours * HOUR, then))


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """One whose rows a run has left in the store, long ago."""
    write_parquet(tmp_path / "a.parquet", reviews(0, 20))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/a.parquet")
    assert StageRun(pipeline, "ingest").execute().state == "done"
    age(rows_in(pipeline), 3)
    return pipeline


def rows_in(pipeline: Pipeline) -> Path:
    [rows] = Path(pipeline.store.path, "rows").iterdir()
    return rows


def bounded(pipeline: Pipeline, spare: int) -> Pipeline:
    """The pipeline, whose store has room for its rows and their shard, and so many bytes more."""
    [(text_bytes,)] = query(pipeline.lake, "SELECT text_bytes FROM _shards")
    most = rows_in(pipeline).stat().st_size + STORE_BYTES_PER_TEXT_BYTE * text_bytes + spare
    store: dict[str, Any] = {"path": pipeline.store.path, "max_bytes": most}
    return make_pipeline(Path(pipeline.store.path).parent, pipeline.dataset.path, store=store)


@pytest.mark.slow
def test_others_are_evicted_though_they_are_younger(pipeline):
    rows = rows_in(pipeline)
    before, other = rows.stat(), rows.with_name("another.arrow")
    tight = bounded(pipeline, spare=0)
    other.write_bytes(b"of another shard")
    age(other, 2)
    assert run(tight).state == "done"
    assert (rows.stat().st_mtime_ns, other.exists()) == (before.st_mtime_ns, False)


def test_where_nothing_else_can_go_it_is_made_again(pipeline):
    before = rows_in(pipeline).stat()
    assert run(bounded(pipeline, spare=-1)).state == "done"
    assert rows_in(pipeline).stat().st_mtime_ns != before.st_mtime_ns
