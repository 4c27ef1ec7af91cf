"""Each stage by itself, the others absent: whatever the order and number of its runs, the table comes out right."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.pipelines import (
    MODEL,
    assert_same_tables,
    make_pipeline,
    problems_of,
    quarantine_of,
    query,
    reviews,
    run,
    table_of,
    write_parquet,
)
from tests.processes import Process
from tidemill.config import STAGES, Pipeline, Stage
from tidemill.errors import LakeError, LimitExceeded
from tidemill.lake import Lake
from tidemill.lake.requests import Request
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.running import stages
from tidemill.running.executor import Call, Future, ThreadExecutor
from tidemill.running.stage_run import StageRun
from tidemill.running.stages.workspace import Workspace

NUM_ROWS = 12


@pytest.fixture(params=["csv", pytest.param("parquet", marks=pytest.mark.soak)], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Text files, which are cut as they are read, or Parquet, whose slices are known before."""
    return str(request.param)


@pytest.fixture
def data(tmp_path: Path, kind: str) -> Path:
    return write_two(tmp_path / "data", kind)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Pipeline:
    """What one run makes of the two files, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    pipeline = pipeline_over(folder, write_two(folder / "data", kind))
    run(pipeline)
    return pipeline


def write_two(folder: Path, kind: str) -> Path:
    for number in range(2):
        write(folder, kind, f"{number}", number * 100)
    return folder


def write(folder: Path, kind: str, name: str, start: int) -> Path:
    rows = reviews(start, NUM_ROWS)
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        return write_parquet(path, rows, row_group_size=NUM_ROWS // 2)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_pandas().to_csv(path, index=False)
    return path


def pipeline_over(folder: Path, data: Path, **sections: dict[str, Any]) -> Pipeline:
    kind = next(data.iterdir()).suffix
    dataset = {"shard_bytes": 1200, **sections.pop("dataset", {})}
    return make_pipeline(folder, f"{data}/*{kind}", dataset=dataset, **sections)


def stage(pipeline: Pipeline, name: Any) -> int:
    result = StageRun(pipeline, name).execute()
    assert result.state == "done", result.failures
    return result.num_shards


def stage_in_process(pipeline: Pipeline, name: str) -> int:
    return stage(pipeline, name)


def test_the_four_stages_in_turn_do_each_its_part_and_once_more_nothing(data, tmp_path, whole):
    pipeline = pipeline_over(tmp_path / "stages", data)

    first = {name: Process(stage_in_process, pipeline, name).result() for name in STAGES}
    again = {name: stage(pipeline, name) for name in STAGES}

    assert_same_tables(pipeline, whole)
    assert problems_of(pipeline) == []
    assert set(first.values()) == {len(query(whole.lake, "SELECT * FROM _ledger"))}
    assert set(again.values()) == {0}


@pytest.mark.slow
def test_in_any_order_the_table_comes_out_right(data, tmp_path, whole):
    pipeline = pipeline_over(tmp_path / "stages", data)
    stage(pipeline, "ingest")
    done: list[int] = []
    order = random.Random(9)
    while sum(done) < len(query(pipeline.lake, "SELECT * FROM _requests")):
        name = order.choice(STAGES)
        done.append(stage(pipeline, name) if name == "materialize" else stage(pipeline, name) * 0)

    assert_same_tables(pipeline, whole)


@pytest.mark.slow
def test_a_new_revision_goes_through_the_stages_and_its_files_are_swapped_whole(data, tmp_path, kind):
    pipeline = pipeline_over(tmp_path / "stages", data)
    for name in STAGES:
        stage(pipeline, name)
    write(data, kind, "0", 300)
    (data / f"1.{kind}").rename(data / f"moved.{kind}")
    write(data, kind, "repeat", 100)
    for name in ("materialize", *STAGES):
        stage(pipeline, name)

    whole = pipeline_over(tmp_path / "whole", data)
    run(whole)
    assert_same_tables(pipeline, whole)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_files_that_vanished_leave_with_the_last_stage_and_too_many_are_refused_by_the_first(data, tmp_path, kind):
    write(data, kind, "2", 200)
    pipeline = pipeline_over(tmp_path / "stages", data, limits={"max_removed": 0.4})
    for name in STAGES:
        stage(pipeline, name)
    (data / f"1.{kind}").unlink()
    for name in STAGES:
        stage(pipeline, name)
    assert query(pipeline.lake, "SELECT DISTINCT path FROM _ledger ORDER BY 1") == [(f"0.{kind}",), (f"2.{kind}",)]

    (data / f"0.{kind}").unlink()
    with pytest.raises(LimitExceeded, match=r"limits\.max_removed"):
        stage(pipeline, "ingest")


@pytest.mark.slow
def test_a_damaged_store_file_is_made_again_by_the_stage_that_made_it(data, tmp_path, whole):
    pipeline = pipeline_over(tmp_path / "stages", data)
    stage(pipeline, "ingest")
    stage(pipeline, "tokenize")
    for kind in ("rows", "tokens"):
        path = min((tmp_path / "stages" / "store" / kind).iterdir())
        path.write_bytes(path.read_bytes()[:-200])
    for name in (*reversed(STAGES), *STAGES, *STAGES):
        stage(pipeline, name)

    assert_same_tables(pipeline, whole)


@pytest.mark.slow
def test_stages_work_on_a_backfill_of_a_new_version_beside_the_promoted_one(data, tmp_path):
    pipeline = pipeline_over(tmp_path / "stages", data)
    run(pipeline)
    changed = pipeline_over(tmp_path / "stages", data, tokenizer={"max_length": 8})
    with Lake(changed.lake) as lake:
        made = plan_backfill(changed, lake, Selection())
        request_backfill(lake, made)
    for name in STAGES:
        assert stage(pipeline, name) in (0, made.num_shards)

    done = query(pipeline.lake, "SELECT version, count(*) FROM _ledger GROUP BY ALL")
    assert sorted(count for _, count in done) == [made.num_shards, made.num_shards]
    assert problems_of(pipeline) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [(["domain"], ["rating"]), pytest.param(["domain", "rating"], ["domain"], marks=pytest.mark.slow)],
)
def test_kept_columns_may_change_before_anything_is_committed(data, tmp_path, first, then):
    stage(pipeline_over(tmp_path / "lake", data, dataset={"keep": first}), "ingest")
    pipeline = pipeline_over(tmp_path / "lake", data, dataset={"keep": then})

    run(pipeline)

    assert set(then) < set(next(iter(table_of(pipeline).values())))
    assert not set(first) - set(then) & set(next(iter(table_of(pipeline).values())))
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_what_was_copied_is_not_asked_for_any_more(data, tmp_path, kind):
    write(data, kind, "repeat", 0)
    pipeline = pipeline_over(tmp_path / "lake", data)

    run(pipeline)

    assert [stage(pipeline, name) for name in STAGES] == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_version_whose_model_is_gone_keeps_no_other_from_its_work(data, tmp_path, kind):
    shutil.copytree(MODEL, tmp_path / "model")
    pipeline = pipeline_over(tmp_path / "lake", data, model={"path": str(tmp_path / "model")})
    stage(pipeline, "ingest")
    run(pipeline)
    write(data, kind, "new", 300)
    stage(pipeline, "ingest")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    with Lake(pipeline.lake) as lake:
        made = plan_backfill(pipeline, lake, Selection())
        request_backfill(lake, made)

    for name in STAGES:
        StageRun(pipeline, name).execute()

    assert query(pipeline.lake, f"SELECT count(*) FROM _ledger WHERE version = '{made.version.spec.version}'") == [
        (made.num_shards,)
    ]


def pipeline_with_a_bad_row(tmp_path: Path) -> Pipeline:
    rows = reviews(0, NUM_ROWS).to_pandas()
    rows.loc[3, "text"] = None
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "0.parquet")
    return pipeline_over(tmp_path / "stages", tmp_path / "data", limits={"max_quarantine": 1.0})


@pytest.mark.slow
def test_a_row_that_cannot_be_processed_is_in_quarantine_after_the_last_stage(tmp_path):
    pipeline = pipeline_with_a_bad_row(tmp_path)
    for name in STAGES:
        stage(pipeline, name)

    assert list(quarantine_of(pipeline)) == [("0.parquet", 3)]


class Overtaken(StageRun):
    """A model stage that looks what is pending, and while it does another one does all of it, and perhaps the last.

    And perhaps what went to quarantine is asked for.
    """

    also: tuple[Stage, ...] = ()
    asks: Selection | None = None

    def _unpredicted(self, workspace: Workspace, *, tokenized: bool) -> Iterator[Request]:
        found = list(super()._unpredicted(workspace, tokenized=tokenized))
        also: tuple[Stage, ...] = ("infer", *self.also)
        for stage in also:
            StageRun(self.pipeline, stage, executor=Counted).execute()
        if self.asks:
            with Lake(self.pipeline.lake) as lake:
                request_backfill(lake, plan_backfill(self.pipeline, lake, self.asks))
        return iter(found)


class Counted(ThreadExecutor):
    """Counts the shards whose answers the model was asked for."""

    computed: ClassVar[list[str]] = []

    def submit(self, call: Call, label: str, *args: Any, **kwargs: Any) -> Future:
        if call is stages.infer:
            self.computed.extend(item.ingested.request.shard.shard_id for item in args[0])
        return super().submit(call, label, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "also", [(), pytest.param(("materialize",), marks=pytest.mark.slow)], ids=["lies in the store", "is committed"]
)
def test_what_another_stage_did_meanwhile_is_not_computed_again(data, tmp_path, monkeypatch, also):
    pipeline = pipeline_over(tmp_path, data)
    StageRun(pipeline, "ingest").execute()
    StageRun(pipeline, "tokenize").execute()
    monkeypatch.setattr(Overtaken, "also", also)
    monkeypatch.setattr(Counted, "computed", [])
    late = Overtaken(pipeline, "infer", executor=Counted).execute()
    assert (late.state, late.num_shards) == ("done", 0)
    assert len(Counted.computed) == len(set(Counted.computed)) > 1
    StageRun(pipeline, "materialize").execute()
    assert len(table_of(pipeline)) == 2 * NUM_ROWS


@pytest.mark.slow
def test_who_listed_a_shard_leaves_rows_that_are_asked_for_from_quarantine_meanwhile_to_the_next(tmp_path, monkeypatch):
    pipeline = pipeline_with_a_bad_row(tmp_path)
    StageRun(pipeline, "ingest").execute()
    StageRun(pipeline, "tokenize").execute()
    monkeypatch.setattr(Overtaken, "also", ("materialize",))
    monkeypatch.setattr(Overtaken, "asks", Selection(quarantined=True))
    monkeypatch.setattr(Counted, "computed", [])
    late = Overtaken(pipeline, "infer", executor=Counted).execute()
    assert (late.state, late.num_shards) == ("done", 0)
    assert len(Counted.computed) == 1

    for name in STAGES:
        StageRun(pipeline, name).execute()

    assert query(pipeline.lake, "SELECT count(*), count(DISTINCT row_number) FROM reviews") == [(NUM_ROWS - 1,) * 2]
    assert list(quarantine_of(pipeline)) == [("0.parquet", 3)]
    assert query(pipeline.lake, "SELECT count(*) FROM _ledger JOIN _requests USING (request_id)") == [(1,)]
    assert problems_of(pipeline) == []


def test_a_stage_before_anything_was_read_says_which_stage_comes_first(data, tmp_path):
    pipeline = pipeline_over(tmp_path / "stages", data)
    with pytest.raises(LakeError, match="The ingest stage makes it"):
        stage(pipeline, "infer")
