"""Shards are read before those in front of them are computed: of a server's files several at one time."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.hub.faults import Faults
from tests.pipelines import make_pipeline, problems_of, reviews, run, table_of
from tidemill.lake.requests import Request
from tidemill.planning.plan import make_plan
from tidemill.running import stages
from tidemill.running.executor import Call, Future, ThreadExecutor
from tidemill.shards import Slice

NUM_FILES, ROWS = 2, 60
GROUP = ROWS // 3
"""Rows of a row group, which makes a shard."""


class Watch:
    """Which shards are being read; the first `meet` of them wait for each other."""

    def __init__(self, meet: int) -> None:
        self.order: list[tuple[str, int]] = []
        self.most = 0
        self._now = 0
        self._meet, self._met = meet, threading.Barrier(meet)
        self._lock = threading.Lock()

    def ingest(self, workspace: Any, requests: Sequence[Request]) -> list[stages.Ingested]:
        with self._lock:
            self.order += [(request.shard.file.path, request.shard.slice.first_row) for request in requests]
            self._now += 1
            self.most = max(self.most, self._now)
            is_first = len(self.order) <= self._meet
        if is_first:
            self._met.wait(timeout=60)
        found = stages.ingest(workspace, requests)
        with self._lock:
            self._now -= 1
        return found


def executor_with(watch: Watch) -> type[ThreadExecutor]:
    class Watched(ThreadExecutor):
        def submit(self, call: Call, label: str, *args: Any, **kwargs: Any) -> Future:
            return super().submit(watch.ingest if call is stages.ingest else call, label, *args, **kwargs)

    return Watched


def body(number: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(reviews(ROWS * number, ROWS), sink, row_group_size=GROUP)
    return sink.getvalue()


def group_bytes() -> int:
    texts = reviews(0, NUM_FILES * ROWS)["text"]
    return sum(len(text.encode()) for text in texts.to_pylist()) * GROUP // (NUM_FILES * ROWS)


@pytest.mark.slow
def test_shards_behind_a_server_are_read_several_at_a_time_also_those_of_one_file(hub, tmp_path):
    hub.add_dataset("org/ahead").commit({f"train/{number}.parquet": body(number) for number in range(NUM_FILES)})
    pipeline = make_pipeline(tmp_path, "org/ahead", dataset={"shard_bytes": group_bytes()})
    watch = Watch(meet=3)
    result = run(pipeline, executor=executor_with(watch))
    assert (result.state, result.num_rows) == ("done", NUM_FILES * ROWS)
    assert {path for path, _ in sorted(watch.order)[:3]} == {"train/0.parquet"}
    assert watch.most == pipeline.limits.shards_in_flight == 3
    assert problems_of(pipeline) == []
    assert len(table_of(pipeline)) == NUM_FILES * ROWS


@pytest.mark.slow
def test_local_shards_are_read_one_by_one_in_their_order(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(NUM_FILES):
        (tmp_path / "data" / f"{number}.parquet").write_bytes(body(number))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/data/*", dataset={"shard_bytes": group_bytes()})
    watch = Watch(meet=1)
    assert run(pipeline, executor=executor_with(watch)).state == "done"
    assert (watch.most, watch.order) == (1, sorted(watch.order))
    assert len(watch.order) == NUM_FILES * ROWS // GROUP


@pytest.mark.parametrize(("first_row", "apart"), [(0, True), (GROUP, True), (GROUP + 1, False)])
def test_a_slice_that_begins_within_a_row_group_is_read_after_the_one_before_it(tmp_path, first_row, apart):
    (tmp_path / "a.parquet").write_bytes(body(0))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/a.parquet")
    _, dataset = make_plan(pipeline, None)
    assert dataset.reads_apart(dataset.files[0], Slice(first_row, 1, 0, 0, "", 1)) is apart


def test_a_server_that_is_away_for_a_moment_is_left_to_whoever_reads_the_rows(hub, tmp_path):
    hub.add_dataset("org/away").commit({"train/0.parquet": body(0)})
    _, dataset = make_plan(make_pipeline(tmp_path, "org/away"), None)
    [file] = dataset.files
    dataset.forget(file)
    hub.faults = Faults(rate=1, kinds=["503"])
    assert dataset.reads_apart(file, Slice(GROUP, 1, 0, 0, "", 1)) is False
    hub.faults = Faults()
    assert dataset.reads_apart(file, Slice(GROUP, 1, 0, 0, "", 1)) is True


def test_a_file_that_is_read_in_one_pass_is_read_by_one_at_a_time(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/a.txt", dataset={"key": [], "keep": []})
    _, dataset = make_plan(pipeline, None)
    assert dataset.reads_apart(dataset.files[0], Slice(0, 1, 0, 4, "", 4)) is False
