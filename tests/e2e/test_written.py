"""What a model writes, from its counts in the lake to the ids that outlive the commit, and two prompts side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.pipelines import make_pipeline, problems_of, query, reviews, run, table_of, write_parquet
from tests.toy_tasks import REFUSED, ToyWriter, toys
from tidemill.cli import render
from tidemill.cli.backfill import show_plan
from tidemill.cli.comparison import comparison
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, CostReached
from tidemill.inference import opening, runner
from tidemill.inference.written import keep_written
from tidemill.lake import Lake
from tidemill.models.tasks import MODEL_TASKS
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.plan import make_plan
from tidemill.reports.compare import compare_versions
from tidemill.reports.status import pipeline_status
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.stages import predicting
from tidemill.storage.store import Store
from tidemill.upkeep.forget import forget

__all__ = ["toys"]

pytestmark = pytest.mark.usefixtures("toys")
NUM_ROWS = 12
ROW_BY_ROW: dict[str, Any] = {"inference": {"token_budget": 75}, "tokenizer": {"max_length": 32}}
"""A budget for one row and what is written behind it."""
COUNTS = "SELECT sum(num_new_tokens)::BIGINT, count(device) FROM _ledger"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_parquet(tmp_path / "data" / f"{i}.parquet", reviews(40 * i, NUM_ROWS))
    return tmp_path


def writer(folder: Path, at: str = "one", **sections: Any) -> Pipeline:
    """A pipeline of its own lake in `at`, and of a store that all share."""
    model = {"task": "toy-writer", **sections.pop("model", {})}
    return make_pipeline(
        folder / at,
        f"{folder}/data/*",
        model=model,
        store={"path": f"{folder}/store", **sections.pop("store", {})},
        cost={"per_hour": 3600.0},
        **sections,
    )


def written_files(folder: Path) -> set[str]:
    return Store(f"{folder}/store", max_bytes=10**9).names("written")


@pytest.mark.slow
def test_new_tokens_are_counted_in_the_lake_planned_as_an_interval_and_priced(folder):
    pipeline = writer(folder)
    before = make_plan(pipeline, None)[0].to_json()
    assert (before["new_tokens"], before["new_tokens_low"], before["new_tokens_high"]) == (None, 0, 36 * 40)

    result = run(pipeline)
    in_rows = query(pipeline.lake, "SELECT sum(num_new_tokens)::BIGINT FROM reviews")[0][0]
    assert result.num_new_tokens == in_rows
    assert in_rows > 0
    assert query(pipeline.lake, COUNTS) == [(in_rows, 3)]
    assert query(pipeline.lake, "SELECT num_new_tokens FROM _runs") == [(in_rows,)]
    assert problems_of(pipeline) == []

    write_parquet(folder / "data" / "3.parquet", reviews(150, NUM_ROWS))
    with Lake(pipeline.lake, read_only=True) as lake:
        told = make_plan(pipeline, lake)[0].to_json()
    assert 0 < told["new_tokens_low"] < told["new_tokens"] < told["new_tokens_high"] <= NUM_ROWS * 40
    assert 0 <= told["cost_low"] < told["cost"] < told["cost_high"]
    assert f"{told['new_tokens_low']:,} to {told['new_tokens_high']:,} new tokens" in " ".join(
        render.plan(told).split()
    )

    status = pipeline_status(pipeline)
    (throughput,) = status["throughput"]
    assert throughput["new_tokens"] == in_rows
    assert throughput["cost_per_thousand_rows"] == pytest.approx(1000 / throughput["rows_per_second"])
    assert "per 1,000 rows" in render.status(status)
    assert f"{in_rows:,}" in next(line for line in render.status(status).splitlines() if " run " in line)


@pytest.mark.slow
def test_ids_outlive_the_commit_and_are_decoded_without_the_model(folder):
    first = writer(folder)
    run(first)
    assert len(written_files(folder)) == 3

    second = writer(folder, "two")
    again = run(second)
    assert (again.num_rows, again.num_unchanged, again.num_new_tokens) == (36, 36, None)
    assert query(second.lake, COUNTS) == [(None, 0)]
    assert table_of(second) == table_of(first)
    assert problems_of(second) == []

    with Lake(first.lake) as lake:
        backfill_id = request_backfill(lake, plan_backfill(first, lake, Selection()))
    asked_for = BackfillRun(first, backfill_id).execute()
    assert asked_for.num_new_tokens == query(first.lake, COUNTS)[0][0]
    assert asked_for.num_new_tokens

    forget(first, "row_number = 0")
    assert written_files(folder) == set()


class LouderWriter(ToyWriter):
    """As a later release might make texts of the same ids."""

    def rows(self, answers: pa.ListArray, prepared: pa.Table) -> tuple[pa.Table, pa.StringArray]:
        table, reason = super().rows(answers, prepared)
        return table.set_column(0, "text", pc.utf8_upper(table["text"])), reason


@pytest.mark.slow
def test_texts_are_made_again_of_what_was_written_and_the_model_writes_only_what_is_gone(folder, monkeypatch):
    pipeline = writer(folder)
    run(pipeline)
    before = table_of(pipeline)
    monkeypatch.setitem(MODEL_TASKS, "toy-writer", LouderWriter)
    monkeypatch.setattr(opening, "_loaded", {})
    (gone, *_) = sorted(Path(folder, "store", "written").iterdir())
    gone.unlink()
    selection = Selection(decode_again=True)
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, selection)
        backfill_id = request_backfill(lake, plan)
    assert "make texts again of what was written: 3 shards" in show_plan(plan.to_json())

    made = BackfillRun(pipeline, backfill_id).execute()

    assert (made.state, made.num_rows, made.num_unchanged) == ("done", 3 * NUM_ROWS, 2 * NUM_ROWS)
    assert query(pipeline.lake, COUNTS)[0][1] == 1
    texts = {place: row["text"] for place, row in table_of(pipeline).items()}
    assert texts == {place: row["text"].upper() for place, row in before.items()}
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_texts_are_made_again_only_of_a_model_that_writes_and_of_rows_that_have_answers(folder):
    pipeline, other = writer(folder), make_pipeline(folder / "labels", f"{folder}/data/*")
    for each in (pipeline, other):
        run(each)
    with Lake(other.lake) as lake, pytest.raises(ConfigError, match=r"--decode-again.*writes none\. Leave it out"):
        plan_backfill(other, lake, Selection(decode_again=True))
    with Lake(pipeline.lake) as lake, pytest.raises(ConfigError, match="one of --decode-again and --quarantined"):
        plan_backfill(pipeline, lake, Selection(decode_again=True, quarantined=True))


@pytest.mark.slow
def test_rows_that_were_refused_are_computed_again_alone_and_the_others_keep_their_ids(folder, monkeypatch):
    pipeline = writer(folder, limits={"max_quarantine": 1.0})
    monkeypatch.setenv(REFUSED, "the")
    num_refused = run(pipeline).num_quarantined
    assert 0 < num_refused < 36
    monkeypatch.delenv(REFUSED)
    with Lake(pipeline.lake) as lake:
        backfill_id = request_backfill(lake, plan_backfill(pipeline, lake, Selection(quarantined=True)))
    tried = BackfillRun(pipeline, backfill_id).execute()
    assert (tried.state, tried.num_rows, tried.num_quarantined) == ("done", num_refused, 0)
    assert tried.num_new_tokens
    assert tried.num_new_tokens < query(pipeline.lake, "SELECT sum(num_new_tokens)::BIGINT FROM reviews")[0][0]

    elsewhere = writer(folder, "two")
    assert run(elsewhere).num_unchanged == 36
    assert problems_of(pipeline) == []


def test_a_run_that_reaches_its_cost_in_mid_shard_goes_on_where_it_was(folder, monkeypatch):
    pipeline = writer(folder, **ROW_BY_ROW)
    spent = iter([False] * 6)

    def reach(limit: CostLimit) -> None:
        if next(spent, True):
            raise CostReached("no more")

    with monkeypatch.context() as patch:
        patch.setattr(CostLimit, "check_spent", reach)
        stopped = run(pipeline, max_cost=1000.0)
    assert (stopped.state, stopped.stopped_at_cost, stopped.num_shards) == ("stopped", "no more", 0)
    assert len(written_files(folder)) == 1

    gone_on = run(pipeline)
    assert (gone_on.state, gone_on.num_rows) == ("done", 36)
    assert 0 < gone_on.num_unchanged < NUM_ROWS
    undisturbed = writer(folder, "two", **ROW_BY_ROW, store={"path": str(folder / "another store")})
    run(undisturbed)
    assert table_of(pipeline) == table_of(undisturbed)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_what_is_computed_is_shown_though_a_run_with_other_options_was_stopped_before_it_had_a_row(folder, monkeypatch):
    def reach(limit: CostLimit) -> None:
        raise CostReached("no more")

    with monkeypatch.context() as patch:
        patch.setattr(CostLimit, "check_spent", reach)
        assert run(writer(folder), max_cost=1000.0).num_shards == 0
    other = writer(folder, model={"options": {"word": "other"}})
    assert run(other).num_rows == 3 * NUM_ROWS
    shown = query(other.lake, "SELECT count(*), bool_and(text LIKE 'other%') FROM reviews")
    assert shown == [(3 * NUM_ROWS, True)]


@pytest.mark.slow
def test_what_is_written_is_kept_while_it_is_written(folder, monkeypatch):
    monkeypatch.setattr(runner, "KEPT_SECONDS", 0.0)
    kept: list[bool] = []

    def keep(*args: Any, rows: Any = None) -> None:
        kept.append(rows is not None)
        keep_written(*args, rows=rows)

    monkeypatch.setattr(predicting, "keep_written", keep)
    run(writer(folder, **ROW_BY_ROW))
    assert kept.count(True) > kept.count(False) == 3


@pytest.mark.slow
def test_two_prompts_are_shown_side_by_side(folder):
    pipeline = writer(folder)
    first = run(pipeline).version
    other = writer(folder, model={"options": {"word": "\x1b[31mred"}})
    with Lake(other.lake) as lake:
        plan = plan_backfill(other, lake, Selection())
        backfill_id = request_backfill(lake, plan)
    BackfillRun(other, backfill_id).execute()
    with Lake(pipeline.lake, read_only=True) as lake:
        report = compare_versions(lake, "reviews", first, plan.version.spec.version, num_examples=2)

    found = report["texts"]["text"]
    assert (found["same"], found["different"], found["agreement"]) == (0, 36, 0.0)
    assert report["scores"]["num_new_tokens"]["absolute"]["max"] == 0
    shown = comparison(report)
    assert f"text {first}" in shown
    assert "\x1b" not in shown
    assert "│ \\x1b[31mred" in shown
