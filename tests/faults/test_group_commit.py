"""SIGKILL while shards are committed together: each is there whole or not at all, and is committed once in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, ask_for_rows, lake_at
from tests.pipelines import query
from tests.processes import Process
from tests.variants import variants
from tidemill import config
from tidemill.lake import Lake
from tidemill.results.commit import CommitQueue
from tidemill.results.verify import verify_pipeline

NUM_SHARDS, SIZE = 24, 40
KEPT = pa.table({"id": pa.array(range(NUM_SHARDS * SIZE), pa.int64())})
SEED = 11


def commit_all(spec: config.Lake) -> int:
    """Commit all shards from as many threads at once; returns how many were not there already."""
    with Lake(spec) as lake, ThreadPoolExecutor(NUM_SHARDS) as pool:
        target, items = ask_for_rows(lake, KEPT, [SIZE] * NUM_SHARDS)
        queue = CommitQueue(lake, target, lambda _: None, most=64)
        start = threading.Barrier(NUM_SHARDS)

        def commit(item: Any) -> int:
            start.wait()
            return queue.commit([item]).num_committed

        return sum(pool.map(commit, items))


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def looked_at(spec: config.Lake) -> tuple[int, int]:
    """(shards, rows) that are done; nothing of them is wrong."""
    with Lake(spec, read_only=True, scans=True) as lake:
        assert verify_pipeline(lake, PIPELINE).problems == []
    ((num_shards, num_rows),) = query(
        spec,
        f"SELECT (SELECT count(*) FROM _ledger), (SELECT count(*) FROM {TABLE})",
    )
    return num_shards, num_rows


@pytest.mark.parametrize("catalog", variants(["sqlite", "postgres"], ["postgres"]))
@pytest.mark.parametrize("num_kills", [3, pytest.param(60, marks=pytest.mark.soak)])
def test_shards_that_were_being_committed_together_when_the_process_was_killed_are_committed_once(
    tmp_path, request, catalog, num_kills
):
    draw = random.Random(SEED)
    place = request.getfixturevalue("postgres_catalog") if catalog == "postgres" else None
    duration = seconds_of(lambda: Process(commit_all, lake_at(tmp_path / "undisturbed")).result())
    spec = lake_at(tmp_path, place)
    num_done = 0
    for _ in range(num_kills):
        process = Process(commit_all, spec)
        time.sleep(draw.uniform(0.0, duration))
        process.kill()
        if list(tmp_path.glob("lake.sqlite")) or (place and (tmp_path / "lake").exists()):
            num_done = _check_killed(spec, num_done)
    left = Process(commit_all, spec).result()
    assert num_done + left == NUM_SHARDS
    assert looked_at(spec) == (NUM_SHARDS, NUM_SHARDS * SIZE)


def _check_killed(spec: config.Lake, num_done: int) -> int:
    """How many shards are done now: no fewer than before, and each with all its rows."""
    with Lake(spec) as lake:
        if not lake.cursor().execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [TABLE]).fetchall():
            return num_done
    num_shards, num_rows = looked_at(spec)
    assert num_shards >= num_done
    assert num_rows == num_shards * SIZE
    return num_shards
