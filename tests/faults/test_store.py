"""Damaged files of the store cost their making again, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest

from tests.damage import damages
from tests.pipelines import assert_same_tables, make_pipeline, problems_of, reviews, run, write_parquet
from tidemill.config import Stage
from tidemill.running.stage_run import StageRun


@pytest.mark.parametrize(
    ("by", "num_files"),
    [
        ("run", 4),
        pytest.param("stages", 4, marks=pytest.mark.slow),
        *(pytest.param(by, 34, marks=pytest.mark.soak) for by in ("run", "stages")),
    ],
)
def test_damaged_store_files_are_all_made_again(tmp_path, by, num_files):
    """Three files a shard, each damaged in another way; the long version has more than a hundred."""
    for i in range(num_files):
        write_parquet(tmp_path / "data" / f"{i:02}.parquet", reviews(8 * i, 8))
    dataset = f"{tmp_path}/data/*"
    pipeline = make_pipeline(tmp_path / "damaged", dataset)
    for stage in ("ingest", "tokenize", "infer"):
        StageRun(pipeline, stage).execute()
    chance = random.Random(by)
    files = sorted(Path(pipeline.store.path).glob("*/*.arrow"))
    assert len(files) == 3 * num_files
    for i, path in enumerate(files):
        every = list(damages(path.read_bytes(), chance).values())
        path.write_bytes(every[i % len(every)])

    if by == "run":
        assert run(pipeline).state == "done"
    else:
        # A stage throws away what is damaged: the next round finds it missing, and makes it again.
        for _ in range(3):
            states = [StageRun(pipeline, stage).execute().state for stage in get_args(Stage)]
            assert states == ["done"] * 4

    undisturbed = make_pipeline(tmp_path / "undisturbed", dataset)
    run(undisturbed)
    assert_same_tables(pipeline, undisturbed)
    assert problems_of(pipeline) == []
