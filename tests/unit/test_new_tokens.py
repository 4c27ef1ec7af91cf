"""What a model will write: an interval from what its shards have written, and a bound where nothing was measured."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.lakes import lake_at
from tidemill.config import Cost
from tidemill.inference.work import Stats
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.runs import RunRecord, known_sum, record_run
from tidemill.lake.tables import insert_records
from tidemill.planning.estimates import NewTokens, PerRow, Rate, estimate, measured_rate

NUM_DRAWS, NUM_MEASURED, NUM_AHEAD = 400, 3, 18
NEW_TOKENS = 60.0
PRICE = Cost(per_hour=3600.0)


def share_within(spread: float, *, seconds_spread: float = 0.0) -> tuple[float, float]:
    """Of many draws of shards, in which share new tokens and cost of the rest lay within what three of them said."""
    chance = np.random.default_rng(7)
    within = np.zeros(2)
    for _ in range(NUM_DRAWS):
        rows = chance.integers(300, 700, NUM_MEASURED + NUM_AHEAD)
        new = rows * NEW_TOKENS * skewed(chance, spread, len(rows))
        seconds = new * 0.01 * skewed(chance, seconds_spread, len(rows))
        known, ahead = slice(NUM_MEASURED), slice(NUM_MEASURED, None)
        per_row = [PerRow.of(amounts[known].tolist(), rows[known].tolist()) for amounts in (new, seconds)]
        rate = Rate(seconds_per_token=1.0, new_tokens=per_row[0], seconds=per_row[1])
        found = estimate(rate, 1000, PRICE, num_rows=int(rows[ahead].sum()), max_new_tokens=1000)
        told = found.to_json()
        assert found.new_tokens is not None
        within += [
            found.new_tokens.low <= new[ahead].sum() <= found.new_tokens.high,
            told["cost_low"] <= seconds[ahead].sum() <= told["cost_high"],
        ]
    return tuple(within / NUM_DRAWS)


def skewed(chance: np.random.Generator, spread: float, size: int) -> np.ndarray:
    """Factors of mean 1 and this standard deviation, a few of which are large."""
    sigma = math.sqrt(math.log(1 + spread**2))
    return np.exp(chance.normal(-(sigma**2) / 2, sigma, size))


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_in_nine_of_ten_cases_three_shards_tell_new_tokens_and_cost_of_the_others(spread):
    tokens, cost = share_within(spread, seconds_spread=0.1)
    assert tokens >= 0.9
    assert cost >= 0.9


def test_more_shards_that_agree_tell_it_closer():
    margins = [PerRow.of([60.0 * 500] * n, [500] * n).margin(10_000) for n in (1, 3, 10, 100)]
    assert margins == sorted(margins, reverse=True)
    assert margins[1] < 0.3
    assert margins[3] < 0.05


def test_few_rows_are_told_less_closely_than_many():
    measured = PerRow.of([30_000.0, 31_000.0, 29_000.0], [500, 500, 500])
    assert measured.margin(50) > measured.margin(5_000) > measured.margin(500_000)
    assert measured.margin(0) < math.inf


def test_before_anything_is_measured_the_limit_of_new_tokens_is_the_upper_bound():
    found = estimate(Rate(), 9_000, PRICE, num_rows=100, max_new_tokens=256).to_json()
    assert (found["new_tokens"], found["new_tokens_low"], found["new_tokens_high"]) == (None, 0, 25_600)
    assert (found["seconds"], found["cost_high"]) == (None, None)


def test_no_more_is_expected_than_the_limit_lets_a_model_write():
    per_row = PerRow(mean=250.0, spread=0.5, num_shards=1, shard_rows=100)
    assert NewTokens.of(per_row, 100, most=256) == NewTokens(25_000, 0, 25_600)


def test_of_texts_in_windows_nothing_is_said_until_it_is_measured():
    assert estimate(Rate(), 9_000, PRICE, num_rows=100, max_new_tokens=math.inf).new_tokens is None
    assert NewTokens.of(PerRow(50.0, 0.1, 3, 100), 100, most=math.inf) is not None


def test_a_model_that_writes_nothing_has_no_new_tokens_and_its_time_follows_its_tokens():
    found = estimate(Rate(seconds_per_token=0.5, start_seconds=2.0), 10, PRICE, num_rows=3)
    assert (found.seconds, found.new_tokens) == (7.0, None)
    assert found.to_json()["new_tokens_high"] is None


def test_nothing_to_compute_takes_no_time():
    assert estimate(Rate(), 0, PRICE, num_rows=0, max_new_tokens=9).seconds == 0.0


def test_the_ledger_tells_what_a_row_gets_and_takes(tmp_path):
    rows = [(100, 0, 6_000), (50, 50, 6_200), (110, 0, None)]
    with Lake(lake_at(tmp_path)) as lake:
        ensure_system_tables(lake)
        lake.write(
            lambda cursor: insert_records(cursor, "_ledger", [ledger_row(i, *row) for i, row in enumerate(rows)]),
            message="shards",
        )
        rate = measured_rate(lake.cursor(), "stories", "0a1b2c3d")
    assert rate.num_shards == 3
    assert rate.new_tokens is not None
    assert rate.seconds is not None
    assert rate.new_tokens.num_shards == 2
    assert rate.new_tokens.mean == pytest.approx(12_200 / 150)
    assert rate.seconds.mean == pytest.approx(40.0 / 150)


def test_shards_that_were_computed_at_one_time_share_what_their_run_took(tmp_path):
    began = datetime(2026, 1, 1, tzinfo=UTC)
    ended = [began + timedelta(seconds=seconds) for seconds in (20, 25, 32)]
    shards = [ledger_row(i, 100, 0, 6_000) | {"run_id": "one", "committed_at": at} for i, at in enumerate(ended)]
    made = RunRecord(run_id="one", pipeline="stories", version="0a1b2c3d", state="done", seconds=35.0)
    with Lake(lake_at(tmp_path)) as lake:
        ensure_system_tables(lake)
        lake.write(lambda cursor: insert_records(cursor, "_ledger", shards), message="shards")
        record_run(lake, made)
        rate = measured_rate(lake.cursor(), "stories", "0a1b2c3d")
    assert rate.seconds is not None
    assert rate.seconds.mean == pytest.approx(32.0 / 300)
    assert rate.seconds_per_token == pytest.approx(32.0 / 3_000)
    assert rate.start_seconds == pytest.approx(3.0)


def ledger_row(number: int, num_rows: int, num_unchanged: int, num_new_tokens: int | None) -> dict[str, object]:
    """A shard in which half of `num_rows` may be unchanged: those are in it, and took nothing."""
    return {
        "pipeline": "stories",
        "version": "0a1b2c3d",
        "shard_id": f"shard {number}",
        "run_id": f"run {number}",
        "num_rows": num_rows + num_unchanged - 1,
        "num_quarantined": 1,
        "num_unchanged": num_unchanged,
        "num_tokens": 1_000,
        "num_unchanged_tokens": 0,
        "num_new_tokens": num_new_tokens,
        "tokenize_seconds": 0.5,
        "infer_seconds": 19.5,
        "device": "a processor",
        "committed_at": datetime.now(UTC),
    }


def test_of_shards_that_were_computed_together_each_has_the_time_of_what_was_written_for_it():
    stats = Stats(num_rows=4, num_tokens=100, num_new_tokens=30, seconds=6.0)
    mine, theirs = stats.shares([50, 50], [10, 20])
    assert (mine.num_tokens, mine.num_new_tokens) == (50, 10)
    assert (theirs.num_tokens, theirs.num_new_tokens) == (50, 20)
    assert (mine.seconds, theirs.seconds) == pytest.approx((2.0, 4.0))
    assert [share.num_new_tokens for share in Stats(num_rows=4).shares([1, 1])] == [None, None]


def test_counts_that_nobody_knows_are_none_and_not_zero():
    assert (known_sum([]), known_sum([None, None]), known_sum([None, 0])) == (None, None, 0)
