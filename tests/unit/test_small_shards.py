"""Small shards go through the stages together: one transaction commits them, and one that fails, fails alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipelines import make_pipeline, query, reviews, run, table_of
from tidemill.inference.work import Stats
from tidemill.lake import Lake
from tidemill.progress import Quiet
from tidemill.results.verify import verify_pipeline
from tidemill.running import stages
from tidemill.running.executor import Call, Future, ThreadExecutor
from tidemill.running.stage_run import StageRun
from tidemill.shards import TOGETHER_BYTES, small_together

NUM_FILES = 8
TEXTS = reviews(0, 2 * NUM_FILES)["text"].to_pylist()
COMMITS = "SELECT count(*) FROM ducklake_snapshots('lake') WHERE commit_message LIKE 'reviews %'"


def write_lines(path: Path, first: int, num_rows: int = 2) -> None:
    rows = [{"id": number, "text": TEXTS[number]} for number in range(first, first + num_rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def pipeline(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(NUM_FILES):
        write_lines(tmp_path / "data" / f"{number:02}.jsonl", 2 * number)
    return make_pipeline(tmp_path, f"{tmp_path}/data/*.jsonl", dataset={"keep": []}, limits={"shards_together": 64})


def rows_of(pipeline) -> list[tuple[Any, ...]]:
    return query(pipeline.lake, "SELECT id, label, round(score, 4), num_tokens FROM reviews ORDER BY id")


def problems_of(pipeline) -> Sequence[Any]:
    with Lake(pipeline.lake, read_only=True, scans=True) as lake:
        return verify_pipeline(lake, pipeline.name).to_json()["problems"]


def test_tiny_files_are_committed_together_and_give_the_rows_of_one_file(pipeline, tmp_path):
    result = run(pipeline)
    assert (result.state, result.num_shards, result.num_rows) == ("done", NUM_FILES, 2 * NUM_FILES)
    assert query(pipeline.lake, COMMITS) == [(1,)]
    assert query(pipeline.lake, "SELECT count(*) FROM _ledger") == [(NUM_FILES,)]
    assert problems_of(pipeline) == []
    write_lines(tmp_path / "one.jsonl", 0, 2 * NUM_FILES)
    (tmp_path / "other").mkdir()
    whole = make_pipeline(
        tmp_path / "other", f"{tmp_path}/one.jsonl", dataset={"keep": []}, limits={"shards_together": 64}
    )
    run(whole)
    assert rows_of(pipeline) == rows_of(whole)
    assert run(pipeline).num_shards == 0


@pytest.mark.slow
def test_a_file_that_cannot_be_read_fails_alone_among_the_others(pipeline, tmp_path):
    (tmp_path / "data" / "05.jsonl").write_text('[{"id": 1}]')
    result = run(pipeline)
    assert (result.state, result.num_shards) == ("failed", NUM_FILES - 1)
    assert [failure["path"] for failure in result.failures] == ["05.jsonl"]
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_files_that_are_appended_to_or_change_are_swapped_whole(pipeline, tmp_path):
    run(pipeline)
    write_lines(tmp_path / "data" / "03.jsonl", 4)
    (tmp_path / "data" / "07.jsonl").unlink()
    with (tmp_path / "data" / "00.jsonl").open("a") as file:
        file.write(json.dumps({"id": 99, "text": "one more"}) + "\n")
    result = run(pipeline, yes=True)
    assert result.state == "done"
    assert len(table_of(pipeline)) == 2 * NUM_FILES - 1
    assert problems_of(pipeline) == []


NUM_ROWS = "SELECT count(*), count(DISTINCT shard_id) FROM reviews"


def test_small_files_that_changed_are_swapped_in_one_transaction(pipeline, tmp_path):
    run(pipeline)
    for number in (1, 2, 5):
        write_lines(tmp_path / "data" / f"{number:02}.jsonl", 2 * number + 1)
    result = run(pipeline)
    assert (result.state, result.num_shards) == ("done", 3)
    assert query(pipeline.lake, COMMITS) == [(2,)]
    assert query(pipeline.lake, NUM_ROWS) == [(2 * NUM_FILES, NUM_FILES)]
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_of_small_files_that_changed_one_that_cannot_be_read_fails_alone(pipeline, tmp_path):
    run(pipeline)
    for number in (1, 2, 5):
        write_lines(tmp_path / "data" / f"{number:02}.jsonl", 2 * number + 1)
    (tmp_path / "data" / "02.jsonl").write_text('[{"id": 1}]')
    result = run(pipeline)
    assert (result.state, result.num_shards) == ("failed", 2)
    assert [failure["path"] for failure in result.failures] == ["02.jsonl"]
    assert query(pipeline.lake, NUM_ROWS) == [(2 * NUM_FILES, NUM_FILES)]
    assert problems_of(pipeline) == []


class Failing(ThreadExecutor):
    """Whose calls of one stage fail where they are given several shards."""

    stage: Call = stages.ingest

    def submit(self, call: Call, label: str, *args: Any, **kwargs: Any) -> Future:
        def failing(workspace: Any, items: Sequence[Any], **options: Any) -> Any:
            if len(items) > 1:
                raise ValueError("not together")
            return call(workspace, items, **options)

        return super().submit(failing if call is type(self).stage else call, label, *args, **kwargs)


class Counting(Quiet):
    num_read = 0

    def ingested(self, path: str, *, rows: int) -> None:
        self.num_read += rows


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stages.ingest, stages.infer, stages.materialize])
def test_a_group_that_fails_in_any_stage_is_taken_apart(pipeline, stage):
    executor = type("FailingThere", (Failing,), {"stage": staticmethod(stage)})
    counting = Counting()
    result = run(pipeline, executor=executor, progress=counting)
    assert (result.state, result.num_shards, result.failures) == ("done", NUM_FILES, [])
    assert counting.num_read == 2 * NUM_FILES
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_files_that_could_not_be_swapped_together_are_told_to_be_read_once(pipeline, tmp_path):
    run(pipeline)
    for number in (1, 2, 5):
        write_lines(tmp_path / "data" / f"{number:02}.jsonl", 2 * number + 1)
    executor = type("FailingThere", (Failing,), {"stage": staticmethod(stages.infer)})
    counting = Counting()
    result = run(pipeline, executor=executor, progress=counting)
    assert (result.state, result.num_shards, counting.num_read) == ("done", 3, 2 * 3)
    assert problems_of(pipeline) == []


@pytest.mark.slow
@pytest.mark.parametrize("executor", [ThreadExecutor, Failing])
def test_the_last_stage_by_itself_commits_what_waits_in_one_transaction_and_takes_it_apart_if_it_fails(
    pipeline, executor
):
    for stage in ("ingest", "tokenize", "infer"):
        assert StageRun(pipeline, stage).execute().state == "done"
    failing = type("FailingAtTheEnd", (executor,), {"stage": staticmethod(stages.materialize)})
    result = StageRun(pipeline, "materialize", executor=failing).execute()
    assert (result.state, result.num_shards, result.failures) == ("done", NUM_FILES, [])
    assert query(pipeline.lake, COMMITS) == [(1 if executor is ThreadExecutor else NUM_FILES,)]
    assert problems_of(pipeline) == []


@given(st.lists(st.integers(0, 2 * TOGETHER_BYTES), max_size=200), st.integers(1, 64))
def test_groups_keep_the_order_and_are_never_larger_than_they_may_be(sizes, most):
    groups = list(small_together(sizes, text_bytes=int, most=most))
    assert [size for group in groups for size in group] == sizes
    assert all(len(group) == 1 or sum(group) <= TOGETHER_BYTES for group in groups)
    assert all(1 <= len(group) <= most for group in groups)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_what_shards_have_of_their_groups_numbers_adds_up_to_them(amount, weights):
    stats = Stats(
        num_rows=amount,
        num_distinct=amount // 3,
        num_tokens=7 * amount,
        num_padded_tokens=9 * amount,
        seconds=amount / 7,
    )
    shares = stats.shares(weights)
    assert len(shares) == len(weights)
    for name in ("num_rows", "num_distinct", "num_tokens", "num_padded_tokens"):
        assert sum(getattr(share, name) for share in shares) == getattr(stats, name)
        assert all(getattr(share, name) >= 0 for share in shares)
    assert sum(share.seconds for share in shares) == pytest.approx(stats.seconds)
