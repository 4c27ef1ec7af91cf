"""A request that another takes the place of, after it was listed: no row is written twice, and none is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, VERSION, ask_for_rows, lake_at
from tidemill.lake import Lake
from tidemill.lake.requests import (
    AGAIN,
    ONLY_QUARANTINED,
    Request,
    ask_for_backfill,
    asked_again,
    open_requests,
    still_open,
)
from tidemill.results.commit import Computed, Outcome, commit_shards
from tidemill.results.verify import verify_pipeline

SIZE = 6


class Bench:
    """A shard that is asked for, and what several runs do with it in turn."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.target, [self.item] = ask_for_rows(lake, pa.table({"id": pa.array(range(SIZE), pa.int64())}), [SIZE])
        self._num_backfills = 0

    def listed(self) -> Request:
        [request] = open_requests(self.lake.cursor(), PIPELINE, VERSION)
        return request

    def now(self, request: Request) -> Request | None:
        """What a stage goes on with that has listed the request."""
        return still_open(self.lake.cursor(), self.target, [request]).get(request.shard.shard_id)

    def ask(self, reason: str) -> Request:
        self._num_backfills += 1
        name, shard_id = f"b{self._num_backfills}", self.item.shard.shard_id
        now = datetime.now(UTC)
        self.lake.write(
            lambda cursor: ask_for_backfill(cursor, PIPELINE, VERSION, [shard_id], reason, name, now), message="ask"
        )
        return self.listed()

    def commit(self, request: Request, *, bad: Sequence[int] = (), rows: Sequence[int] | None = None) -> Outcome:
        """Commit what was computed for a request, of its rows or of others; the `bad` ones go to quarantine."""
        rows = request.rows if rows is None else rows
        item = replace(
            self.item,
            request_id=request.request_id,
            load=lambda: predicted(self.item, range(SIZE) if rows is None else rows, bad),
            only_rows=request.rows is not None,
        )
        return commit_shards(self.lake, self.target, [item])

    def rows(self) -> tuple[list[int], list[int]]:
        """The ids that the table has and the rows in quarantine; ledger and checksums say the same."""
        with Lake(self.lake.spec, read_only=True, scans=True) as lake:
            assert verify_pipeline(lake, PIPELINE).problems == []
        good = self._column(f"SELECT id FROM {TABLE} ORDER BY id")
        bad = self._column("SELECT row_number FROM _quarantine ORDER BY row_number")
        counted = self.lake.cursor().execute("SELECT num_rows, num_quarantined FROM _ledger").fetchall()
        assert counted == [(len(good), len(bad))]
        return good, bad

    def _column(self, statement: str) -> list[int]:
        return [value for (value,) in self.lake.cursor().execute(statement).fetchall()]


def predicted(item: Computed, numbers: Sequence[int], bad: Sequence[int]) -> tuple[pa.Table, pa.Table]:
    rows, predictions = item.load()
    predictions = predictions.take(list(numbers))
    reasons = pa.array(["too long" if number in bad else None for number in numbers], pa.string())
    for name in ("stage", "reason"):
        predictions = predictions.set_column(predictions.column_names.index(name), name, reasons)
    return rows, predictions


@pytest.fixture
def bench(tmp_path: Any) -> Iterator[Bench]:
    with Lake(lake_at(tmp_path)) as lake:
        yield Bench(lake)


@pytest.mark.slow
def test_who_listed_a_whole_shard_does_not_compute_it_where_only_its_quarantine_is_asked_for_now(bench):
    listed = bench.listed()
    bench.commit(listed, bad=[5])
    asked = bench.ask(ONLY_QUARANTINED)
    assert bench.now(listed) is None
    assert (bench.now(asked), asked.rows) == (asked, (5,))


@pytest.mark.slow
def test_of_predictions_of_a_whole_shard_only_rows_in_quarantine_are_written_for_them(bench):
    bench.commit(bench.listed(), bad=[5])
    outcome = bench.commit(bench.ask(ONLY_QUARANTINED), rows=range(SIZE))
    assert (outcome.num_rows, outcome.num_quarantined) == (1, 0)
    assert bench.rows() == (list(range(SIZE)), [])


def test_a_row_that_another_run_has_mended_is_not_computed_and_not_written_once_more(bench):
    bench.commit(bench.listed(), bad=[3, 5])
    listed = bench.ask(ONLY_QUARANTINED)
    assert listed.rows == (3, 5)
    bench.commit(listed, bad=[5])
    asked = bench.ask(ONLY_QUARANTINED)
    assert bench.now(listed) == asked
    assert asked.rows == (5,)
    outcome = bench.commit(asked, rows=listed.rows)
    assert (outcome.num_rows, outcome.num_quarantined) == (1, 0)
    assert bench.rows() == (list(range(SIZE)), [])


@pytest.mark.slow
def test_a_row_that_came_into_quarantine_after_the_listing_is_computed_with_the_others(bench):
    bench.commit(bench.listed(), bad=[5])
    listed = bench.ask(ONLY_QUARANTINED)
    bench.commit(bench.ask(AGAIN), bad=[2, 4])
    asked = bench.ask(ONLY_QUARANTINED)
    assert bench.now(listed) == asked
    assert asked.rows == (2, 4)


@pytest.mark.slow
def test_who_listed_rows_in_quarantine_leaves_a_shard_that_is_asked_for_whole_to_the_next_listing(bench):
    bench.commit(bench.listed(), bad=[5])
    listed = bench.ask(ONLY_QUARANTINED)
    asked = bench.ask(AGAIN)
    assert bench.now(listed) is None
    assert bench.now(asked) == asked == bench.listed()
    assert bench.commit(listed).num_dropped == 1
    bench.commit(asked)
    assert bench.rows() == (list(range(SIZE)), [])


@pytest.mark.slow
def test_predictions_of_no_row_in_quarantine_change_no_row_and_end_their_request(bench):
    bench.commit(bench.listed(), bad=[5])
    request = bench.ask(ONLY_QUARANTINED)
    assert bench.commit(request, rows=[1, 2]).num_committed == 1
    assert bench.now(request) is None
    assert bench.rows() == ([0, 1, 2, 3, 4], [5])


def test_a_whole_shard_that_is_asked_for_again_takes_the_place_of_the_request_that_was_listed(bench):
    listed = bench.listed()
    bench.commit(listed)
    asked = bench.ask(AGAIN)
    assert bench.now(listed) == asked
    assert asked.rows is None


def test_an_open_request_that_a_backfill_takes_over_is_computed_again_if_that_is_asked_for(bench):
    listed = bench.listed()
    known = partial(asked_again, bench.lake.cursor(), bench.target, [listed.request_id])
    assert (bench.ask("missing"), known()) == (listed, set())
    assert (bench.ask(AGAIN), known()) == (listed, {listed.request_id})
    assert (bench.ask("missing"), known()) == (listed, {listed.request_id})
