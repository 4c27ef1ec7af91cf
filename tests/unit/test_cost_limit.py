"""What a run may cost is counted over all that it sends, and each shard once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines import make_pipeline
from tidemill.errors import CostReached
from tidemill.lake.requests import Request
from tidemill.lake.runs import RunRecord
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.estimates import Rate
from tidemill.shards import Shard, Slice, SourceFile

MAX_COST, SHARD_COST = 10_000, 6_000
"""In seconds, at a price of one a second: far more than this test takes."""


def request(name: str) -> Request:
    return Request(Shard(SourceFile(name, name, 9, name), Slice(0, 1, 0, 0, name, SHARD_COST)), name)


@pytest.fixture
def limit(tmp_path: Path) -> CostLimit:
    pipeline = make_pipeline(tmp_path, "nowhere", cost={"per_hour": 3600})
    return CostLimit(pipeline, MAX_COST, rate=Rate(seconds_per_token=1.0, bytes_per_token=1.0))


def test_the_shard_that_would_pass_it_is_not_sent(limit):
    record = RunRecord("r", "reviews")
    limit.check(request("a"), record)
    with pytest.raises(CostReached):
        limit.check(request("b"), record)


def test_a_shard_that_is_sent_again_counts_once(limit):
    record = RunRecord("r", "reviews")
    for _ in range(3):
        limit.check(request("a"), record)


def test_what_is_spent_in_mid_shard_counts_with_what_others_had_spent(tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere", cost={"per_hour": 3600})
    elsewhere = 9_000.0
    limit = CostLimit(
        pipeline, MAX_COST, rate=Rate(seconds_per_token=1e-9, bytes_per_token=1.0), spent_elsewhere=lambda: elsewhere
    )
    limit.check(request("a"), RunRecord("r", "reviews"))
    limit.check_spent()
    elsewhere = 10_001.0
    with pytest.raises(CostReached):
        limit.check(request("b"), RunRecord("r", "reviews"))
    with pytest.raises(CostReached, match="in mid-shard"):
        limit.check_spent()


def test_what_failed_is_not_waited_for_and_may_be_sent_again(limit):
    record = RunRecord("r", "reviews")
    for name in ("a", "b", "a"):
        limit.check(request(name), record)
        limit.settle(record)
    limit.check(request("b"), record)
    with pytest.raises(CostReached):
        limit.check(request("a"), record)
