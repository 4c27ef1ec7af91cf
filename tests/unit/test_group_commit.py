"""Shards that wait for the lake's lock together share a transaction; each is committed, dropped or fails by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, ask_for_rows, lake_at
from tests.processes import wait_until
from tidemill.errors import InvariantBroken, LakeLocked
from tidemill.lake import Lake
from tidemill.lake.ducklake.locks import open_lock
from tidemill.results.commit import CommitQueue, Computed, Outcome, commit_shards, queue, writing
from tidemill.results.commit.transaction import commit_lots
from tidemill.results.verify import verify_pipeline

NUM_SHARDS, SIZE = 6, 5
COMMITS = f"SELECT count(*) FROM ducklake_snapshots('lake') WHERE commit_message LIKE '{PIPELINE} %'"


class Bench:
    """Shards that are asked for, and a queue to commit them by."""

    def __init__(self, lake: Lake, *, most: int = 64) -> None:
        kept = pa.table({"id": pa.array(range(NUM_SHARDS * SIZE), pa.int64())})
        self.lake = lake
        self.target, self.items = ask_for_rows(lake, kept, [SIZE] * NUM_SHARDS)
        self.counted: list[Outcome] = []
        self.queue = CommitQueue(lake, self.target, self.counted.append, most=most)
        self._adopted = self.query(COMMITS)

    def query(self, statement: str) -> Any:
        return self.lake.cursor().execute(statement).fetchall()[0][0]

    @property
    def num_transactions(self) -> int:
        return int(self.query(COMMITS) - self._adopted)

    def commit_at_once(self, lots: Sequence[Sequence[Computed]]) -> list[Future[Outcome]]:
        """Let each lot be committed in a thread of its own, while another writer holds the lock until all wait."""
        other = open_lock(self.lake.spec)
        with ThreadPoolExecutor(len(lots)) as pool, other.held():
            futures = [pool.submit(self.queue.commit, lot) for lot in lots]
            wait_until(lambda: self.queue.num_waiting == len(lots))
        other.close()
        assert self.queue.num_waiting == 0
        return futures

    def verified(self) -> tuple[int, int]:
        """Rows and shards that are there; nothing of them is wrong."""
        with Lake(self.lake.spec, read_only=True, scans=True) as lake:
            assert verify_pipeline(lake, PIPELINE).problems == []
        return self.query(f"SELECT count(DISTINCT id) FROM {TABLE}"), self.query("SELECT count(*) FROM _ledger")


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Bench]:
    catalog = request.getfixturevalue("postgres_catalog") if getattr(request, "param", "") == "postgres" else None
    with Lake(lake_at(tmp_path, catalog)) as lake:
        yield Bench(lake)


on_both_catalogs = pytest.mark.parametrize("bench", ["sqlite", "postgres"], indirect=True)


def broken() -> tuple[pa.Table, pa.Table]:
    raise InvariantBroken("not the rows of this shard")


@pytest.mark.slow
@on_both_catalogs
def test_shards_that_wait_at_one_time_share_a_transaction_and_each_learns_what_became_of_it(bench):
    outcomes = [future.result() for future in bench.commit_at_once([[item] for item in bench.items])]
    assert [outcome.committed for outcome in outcomes] == [(item.shard.shard_id,) for item in bench.items]
    assert [outcome.num_rows for outcome in outcomes] == [SIZE] * NUM_SHARDS
    assert sorted(bench.counted, key=outcomes.index) == outcomes
    assert bench.num_transactions == 1
    assert bench.verified() == (NUM_SHARDS * SIZE, NUM_SHARDS)


@pytest.mark.slow
def test_a_shard_that_finds_nobody_at_work_is_committed_alone(bench):
    for item in bench.items:
        assert bench.queue.commit([item]).num_committed == 1
    assert bench.num_transactions == NUM_SHARDS


@pytest.mark.slow
@on_both_catalogs
def test_a_shard_that_cannot_be_committed_fails_alone_among_those_that_wait(bench):
    wrong = replace(bench.items[2], load=broken)
    futures = bench.commit_at_once([[wrong if item is bench.items[2] else item] for item in bench.items])
    failed = [number for number, future in enumerate(futures) if future.exception() is not None]
    assert failed == [2]
    with pytest.raises(InvariantBroken, match="not the rows"):
        futures[2].result()
    assert len(bench.counted) == NUM_SHARDS - 1
    assert bench.verified() == ((NUM_SHARDS - 1) * SIZE, NUM_SHARDS - 1)
    assert bench.queue.commit([bench.items[2]]).num_committed == 1


@pytest.mark.slow
def test_a_lake_that_stays_locked_is_told_to_each_and_each_may_be_tried_again(tmp_path):
    with Lake(lake_at(tmp_path).model_copy(update={"lock_timeout_seconds": 0.2})) as lake:
        bench = Bench(lake)
        other = open_lock(lake.spec)
        with other.held(), ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(bench.queue.commit, [item]) for item in bench.items[:3]]
            errors = [future.exception() for future in futures]
        assert all(isinstance(error, LakeLocked) and error.retryable for error in errors)
        assert len({id(error) for error in errors}) == 3
        assert [bench.queue.commit([item]).num_committed for item in bench.items[:3]] == [1, 1, 1]


def test_who_waited_as_long_as_the_first_for_a_locked_lake_is_told_so_with_it(tmp_path, monkeypatch):
    with Lake(lake_at(tmp_path)) as lake:
        bench = Bench(lake, most=1)
        tries: list[int] = []

        def locked_after_the_first(*args: Any) -> list[Outcome]:
            tries.append(len(tries))
            if len(tries) > 1:
                raise LakeLocked("another writer holds it")
            wait_until(lambda: bench.queue.num_waiting == NUM_SHARDS)
            return commit_lots(*args)

        monkeypatch.setattr(queue, "commit_lots", locked_after_the_first)
        with ThreadPoolExecutor(NUM_SHARDS) as pool:
            futures = [pool.submit(bench.queue.commit, [item]) for item in bench.items]
            errors = [future.exception() for future in futures]
        assert [type(error) for error in errors if error is not None] == [LakeLocked] * (NUM_SHARDS - 1)
        assert len(tries) == 2
        assert bench.queue.num_waiting == 0


@pytest.mark.slow
def test_a_lot_that_was_told_of_its_error_is_committed_by_nobody_else(bench, monkeypatch):
    """However late its owner hears of it: here none of them ever does."""
    wrong = replace(bench.items[0], load=broken)
    lots = [queue._Waiting([item]) for item in (bench.items[1], wrong, bench.items[2])]
    monkeypatch.setattr(bench.queue, "_waiting", list(lots))
    bench.queue._commit_waiting(lots[0])
    assert [type(lot.error) for lot in lots] == [type(None), InvariantBroken, type(None)]
    assert bench.queue.num_waiting == 0
    assert bench.verified() == (2 * SIZE, 2)


def test_a_lake_that_is_locked_while_lots_are_tried_one_by_one_is_not_waited_for_by_each(bench, monkeypatch):
    tries: list[Any] = []

    def locked_after_the_first(lake: Lake, target: Any, take: Any) -> list[Outcome]:
        tries.append(take())
        raise LakeLocked("another writer holds it") if len(tries) > 1 else InvariantBroken("one of them is wrong")

    monkeypatch.setattr(queue, "commit_lots", locked_after_the_first)
    lots = [queue._Waiting([item]) for item in bench.items]
    monkeypatch.setattr(bench.queue, "_waiting", list(lots))
    bench.queue._commit_waiting(lots[0])
    assert [type(lot.error) for lot in lots] == [LakeLocked] * NUM_SHARDS
    assert len(tries) == 2


def test_a_shard_that_comes_twice_is_committed_once(bench):
    same = [bench.items[0]]
    outcomes = [future.result() for future in bench.commit_at_once([same, same, [bench.items[1]]])]
    assert sorted(outcome.num_committed for outcome in outcomes) == [0, 1, 1]
    assert sum(outcome.num_dropped for outcome in outcomes) == 1
    assert bench.verified() == (2 * SIZE, 2)


@pytest.mark.slow
def test_a_transaction_has_no_more_shards_than_it_may(tmp_path):
    with Lake(lake_at(tmp_path)) as lake:
        bench = Bench(lake, most=2)
        bench.commit_at_once([[item] for item in bench.items])
        assert bench.num_transactions == NUM_SHARDS // 2
        assert bench.verified() == (NUM_SHARDS * SIZE, NUM_SHARDS)


def test_a_transaction_has_no_more_text_than_it_may_but_for_one_lot(bench, monkeypatch):
    monkeypatch.setattr(queue, "COMMITTED_BYTES", 1)
    bench.commit_at_once([bench.items[:3], bench.items[3:]])
    assert bench.num_transactions == 2


def test_what_is_known_of_one_shard_is_written_whatever_is_known_of_those_with_it(bench):
    known: list[dict[str, Any]] = [{}, {"num_unchanged": 2}, {"num_tokens": 7}]
    items = [replace(item, facts=facts) for item, facts in zip(bench.items[:3], known, strict=True)]
    commit_shards(bench.lake, bench.target, items)
    written = bench.lake.cursor().execute("SELECT num_unchanged, num_tokens FROM _ledger ORDER BY path").fetchall()
    assert written == [(None, None), (2, None), (None, 7)]


@pytest.mark.slow
def test_rows_that_do_not_fit_in_memory_together_are_one_transaction_still(bench, monkeypatch):
    monkeypatch.setattr(writing, "INSERTED_BYTES", 1)
    bench.commit_at_once([[item] for item in bench.items])
    assert bench.num_transactions == 1
    assert bench.verified() == (NUM_SHARDS * SIZE, NUM_SHARDS)
