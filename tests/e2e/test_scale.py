"""The commands over a ledger that nobody computed: the benchmark's lake, small. How long they take is not tested."""

from __future__ import annotations

import pytest

from benchmarks.scale import fill_lake, write_files, write_pipeline
from tests.pipelines import problems_of, run
from tidemill.config import Pipeline, load_pipeline
from tidemill.lake import Lake
from tidemill.planning.plan import make_plan
from tidemill.reports.status import pipeline_status

NUM_FILES, SHARDS_PER_FILE = 20, 10
NUM_SHARDS = NUM_FILES * SHARDS_PER_FILE


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    write_files(tmp_path / "data", NUM_FILES, SHARDS_PER_FILE)
    return load_pipeline(write_pipeline(tmp_path, f"{tmp_path}/data/*.parquet"))


def test_the_plan_has_every_shard_of_every_file(pipeline):
    facts = make_plan(pipeline, None)[0].to_json()
    assert (len(facts["files"]["new"]), facts["num_shards_computed"], facts["rows"]) == (
        NUM_FILES,
        NUM_SHARDS,
        NUM_SHARDS,
    )
    assert len({shard["shard_id"] for shard in facts["shards"]}) == NUM_SHARDS


@pytest.mark.parametrize(
    "one_transaction",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["inlined in the catalog", "in Parquet files"],
)
def test_on_a_full_ledger_nothing_is_left_to_do(tmp_path, pipeline, one_transaction):
    fill_lake(tmp_path / "reviews.toml", one_transaction=one_transaction)
    status = pipeline_status(pipeline)
    assert status["shards"] == {"done": NUM_SHARDS, "pending": 0, "outdated": 0, "unread_files": 0}
    assert (status["rows"], status["open_requests"], status["versions"][0]["complete"]) == (NUM_SHARDS, [], True)
    with Lake(pipeline.lake, read_only=True) as lake:
        assert make_plan(pipeline, lake)[0].is_up_to_date
    assert run(pipeline).num_shards == 0
    assert problems_of(pipeline) == []
