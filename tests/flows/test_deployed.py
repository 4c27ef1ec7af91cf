"""What is deployed, run by a real worker: schedules, stages, crashes, cancellations, alerts."""

from __future__ import annotations

import logging
import os
import re
import signal
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from tests.flows.conftest import Deployed
from tests.markings import marked
from tests.pipelines import assert_same_tables, make_pipeline, problems_of, query, reviews, run, write_parquet
from tests.processes import eventually
from tests.trainings import save_base
from tests.webhooks import webhook
from tidemill.config import STAGES, Pipeline
from tidemill.flows.cancel import cancel_pipeline
from tidemill.lake import catalog_exists
from tidemill.lake.ducklake.locks import open_lock

NUM_FILES, NUM_ROWS = 3, 25


def small(folder: Path, name: str, **sections: Any) -> Pipeline:
    for i in range(NUM_FILES):
        write_parquet(folder / name / f"part-{i}.parquet", reviews(i * NUM_ROWS, NUM_ROWS))
    return make_pipeline(folder, str(folder / name / "*.parquet"), name=name, **sections)


def slow(folder: Path, name: str, *, num_rows: int = 1200) -> Pipeline:
    """Enough shards, of 75 rows each, to be met in the middle."""
    write_parquet(folder / "slow.parquet", reviews(0, num_rows), row_group_size=75)
    one_by_one = {"dataset": {"shard_bytes": 6000}, "limits": {"shards_in_flight": 1}}
    return make_pipeline(folder, str(folder / "slow.parquet"), name=name, **one_by_one)


def undisturbed(pipeline: Pipeline, folder: Path) -> Pipeline:
    own = {
        "lake": {"catalog": f"sqlite:{folder}/direct.sqlite", "data": f"{folder}/direct"},
        "store": {"path": f"{folder}/direct-store"},
    }
    direct = Pipeline.model_validate(pipeline.model_dump(mode="json") | own)
    run(direct)
    return direct


def log_of(deployed: Deployed, flow_run: FlowRun) -> list[str]:
    mine = LogFilter.model_validate({"flow_run_id": {"any_": [flow_run.id]}})
    return [f"{logging.getLevelName(one.level)} {one.message}" for one in deployed.client.read_logs(mine)]


def has_tables(pipeline: Pipeline) -> bool:
    """Whether the lake has those of the system: for a moment a new catalog has none."""
    listed = "SELECT 1 FROM information_schema.tables WHERE table_name = '_runs'"
    return catalog_exists(pipeline.lake) and query(pipeline.lake, listed) != []


def runs_of(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    if not has_tables(pipeline):
        return []
    return query(
        pipeline.lake,
        f"SELECT kind, state, worker, pid, message FROM _runs WHERE pipeline = '{pipeline.name}' ORDER BY started_at",
    )


def num_written(pipeline: Pipeline) -> int:
    """Files of rows in the lake: of shards that are committed, but for the last of them."""
    return len(list(Path(pipeline.lake.data).rglob("ducklake-*.parquet")))


def num_committed(pipeline: Pipeline) -> int:
    return len(query(pipeline.lake, "SELECT shard_id FROM _ledger")) if has_tables(pipeline) else 0


def test_a_schedule_makes_flow_runs_that_complete_and_show_and_tell_what_they_did(deployed: Deployed, tmp_path):
    """The rows of this one are all delighted, where those of the revisions before were as reviews are."""
    page, folder = tmp_path / "page" / "report.html", tmp_path / "scheduled"
    with webhook() as (url, posted):
        pipeline = make_pipeline(
            tmp_path,
            f"{folder}/*.parquet",
            name="scheduled",
            schedule={"cron": "0 2 * * *"},
            cost={"per_hour": 1.0},
            report={"path": str(page)},
            alerts={"webhook": url},
        )
        for i in range(NUM_FILES):
            write_parquet(folder / f"earlier-{i}.parquet", reviews(i * NUM_ROWS, NUM_ROWS))
            run(pipeline)
        for i in range(NUM_FILES):
            rows = reviews(100 + i * NUM_ROWS, NUM_ROWS)
            delighted = pa.array(["A wonderful film, and a joy to watch."] * NUM_ROWS)
            write_parquet(
                folder / f"part-{i}.parquet", rows.set_column(rows.column_names.index("text"), "text", delighted)
            )
        deployed.deploy(pipeline)
        found = eventually(lambda: deployed.flow_runs("run", pipeline), bool)
        assert all(one.auto_scheduled for one in found)
        assert {one.expected_start_time and one.expected_start_time.hour for one in found} == {2}
        deployed.client.set_flow_run_state(found[0].id, Scheduled(scheduled_time=datetime.now(UTC)), force=True)
        flow_run = deployed.wait(found[0].id)
    assert flow_run.state is not None
    assert (flow_run.state_name, flow_run.name) == ("Completed", found[0].name)
    assert str(flow_run.state.message).startswith("3 shards, 75 rows, 0 quarantined, 0 removed in ")
    assert found[0].name.startswith("scheduled 20")
    assert {"tidemill", "pipeline:scheduled"} <= set(flow_run.tags)
    kind, state, worker, *_ = runs_of(pipeline)[-1]
    assert (kind, state, worker.partition("@")[0]) == ("run", "done", "tidemill")
    assert_same_tables(pipeline, undisturbed(pipeline, tmp_path))
    artifacts = {one.key: one for one in deployed.client.read_artifacts() if one.flow_run_id == flow_run.id}
    assert artifacts["scheduled-run-progress"].data == 100
    assert "| rows | 75 |" in str(artifacts["scheduled-run-result"].data)
    assert "scheduled-run-report" in artifacts, log_of(deployed, flow_run)
    shown = str(artifacts["scheduled-run-report"].data)
    assert (f"`{page}`" in shown, "| POSITIVE | " in shown, "█" in shown) == (True, True, True), shown
    assert "<title>scheduled: report</title>" in page.read_text()
    where = str(artifacts["scheduled-run-data"].data)
    assert (str(tmp_path) in where, "tidemill sql" in where, "file://" in where) == (True, True, False)
    assert [(one["kind"], one["flow_run_id"]) for one in posted] == [("changed", str(flow_run.id))]
    assert re.fullmatch(
        r"scheduled: Of the 75 new rows, shares of labels moved more than usual: "
        r"NEGATIVE 0\.0%, usually \d+\.\d% ± \d+\.\d%; POSITIVE 100\.0%, usually \d+\.\d% ± \d+\.\d%\.",
        posted[0]["text"],
    ), posted


@pytest.mark.soak  # In one process, by tests/e2e/test_stages.py, the suite has it.
@pytest.mark.parametrize("early", [["infer"], ["materialize", "infer", "tokenize"]], ids=["one", "all"])
def test_stages_started_in_any_order_end_in_the_right_table(deployed: Deployed, tmp_path, early):
    """Those that come too early find nothing to do; what ingest brings in goes on by events."""
    pipeline = small(tmp_path, "staged", schedule={"infer": {"cron": "0 2 * * *"}})
    deployed.deploy(pipeline)
    started = [deployed.start(stage, pipeline) for stage in early]
    assert {deployed.wait(one).state_name for one in started} == {"Completed"}
    deployed.wait(deployed.start("ingest", pipeline))
    last = 1 + early.count("materialize")
    ended = eventually(
        lambda: deployed.flow_runs("materialize", pipeline), lambda found: len(found) >= last and all_ended(found)
    )
    assert num_committed(pipeline) == NUM_FILES
    assert {one.name[: len("staged materialize 20")] for one in ended} == {"staged materialize 20"}
    assert_same_tables(pipeline, undisturbed(pipeline, tmp_path))
    assert [(kind, state) for kind, state, *_ in runs_of(pipeline)] == [(stage, "done") for stage in STAGES]


def all_ended(flow_runs: list[FlowRun]) -> bool:
    return all(one.state is not None and one.state.is_final() for one in flow_runs if not one.auto_scheduled)


def test_a_killed_flow_run_is_run_again_by_itself(deployed: Deployed, tmp_path):
    pipeline = slow(tmp_path, "killed")
    deployed.deploy(pipeline)
    flow_run_id = deployed.start("run", pipeline)
    eventually(lambda: num_written(pipeline), lambda found: found > 2)
    with closing(open_lock(pipeline.lake)) as lock, lock.held():  # Which the run needs to come any further.
        [(_, _, _, pid, _)] = runs_of(pipeline)
        os.kill(pid, signal.SIGKILL)
    flow_run = deployed.wait(flow_run_id, "Completed", "Failed", "Cancelled")
    assert (flow_run.state_name, flow_run.run_count) == ("Completed", 2)
    assert_same_tables(pipeline, undisturbed(pipeline, tmp_path))
    assert problems_of(pipeline) == []


@pytest.mark.soak
def test_each_stage_that_is_killed_is_run_again_by_itself(deployed: Deployed, tmp_path):
    pipeline = slow(tmp_path, "stagewise", num_rows=7500)
    deployed.deploy(pipeline)
    for stage in STAGES:
        flow_run_id = deployed.start(stage, pipeline)
        [pid] = eventually(partial(living, pipeline, stage), bool)
        os.kill(pid, signal.SIGKILL)
        flow_run = deployed.wait(flow_run_id, "Completed", "Failed", "Cancelled")
        assert (stage, flow_run.state_name, flow_run.run_count) == (stage, "Completed", 2)
    assert_same_tables(pipeline, undisturbed(pipeline, tmp_path))
    assert problems_of(pipeline) == []


@pytest.mark.soak
def test_a_flow_run_that_is_killed_with_its_worker_is_run_again_by_itself(deployed: Deployed, tmp_path):
    pipeline = slow(tmp_path, "orphaned")
    deployed.deploy(pipeline)
    flow_run_id = deployed.start("run", pipeline)
    [pid] = eventually(lambda: living(pipeline, "run"), bool)
    worker = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    flow_run = deployed.wait(flow_run_id, "Completed", "Failed", "Cancelled")
    assert (flow_run.state_name, flow_run.run_count) == ("Completed", 2)
    assert_same_tables(pipeline, undisturbed(pipeline, tmp_path))


def living(pipeline: Pipeline, kind: str) -> list[int]:
    """Process ids of the runs of a kind that are under way."""
    return [pid for found, state, _, pid, _ in runs_of(pipeline) if (found, state) == (kind, "running")]


@pytest.mark.slow
def test_cancelling_stops_the_flow_run_and_what_was_committed_stays(deployed: Deployed, tmp_path):
    pipeline = slow(tmp_path, "cancelled", num_rows=7500)
    deployed.deploy(pipeline)
    flow_run_id = deployed.start("run", pipeline)
    eventually(lambda: num_written(pipeline), lambda found: found > 2)
    assert [one["how"] for one in cancel_pipeline(pipeline)["runs"]] == ["flow run"]
    assert deployed.wait(flow_run_id, "Cancelled", "Crashed", "Completed").state_name == "Cancelled"
    [(_, state, *_, message)] = runs_of(pipeline)
    assert (state, message) == ("stopped", None)
    assert problems_of(pipeline) == []


@pytest.mark.soak
def test_a_changed_option_is_computed_beside_the_promoted_version(deployed: Deployed, tmp_path):
    deployed.deploy(first := small(tmp_path, "followed"))
    deployed.wait(deployed.start("run", first))
    changed = small(tmp_path, "followed", schedule={"on_model_change": "backfill"}, tokenizer={"max_length": 16})
    deployed.deploy(changed)
    deployed.wait(deployed.start("run", changed))
    eventually(lambda: num_committed(changed), lambda found: found == 2 * NUM_FILES)
    eventually(lambda: deployed.flow_runs("backfill", changed), lambda found: bool(found) and all_ended(found))
    versions = query(changed.lake, "SELECT version, count(*) FROM _ledger GROUP BY version")
    assert sorted(count for _, count in versions) == [NUM_FILES, NUM_FILES]
    [(promoted,)] = query(changed.lake, "SELECT promoted_version FROM _pipelines")
    assert promoted == query(changed.lake, "SELECT arg_min(version, committed_at) FROM _ledger")[0][0]


@pytest.mark.soak
def test_a_flow_run_that_fails_before_anything_is_computed_is_in_the_history_with_its_reason(
    deployed: Deployed, tmp_path
):
    pipeline = small(tmp_path, "failing")
    run(pipeline)
    deployed.deploy(pipeline)
    facts = pipeline.model_dump(mode="json")
    wrong = {
        "moddel": facts | {"moddel": {}},
        "elsewhere.parquet": facts | {"dataset": facts["dataset"] | {"path": str(tmp_path / "elsewhere.parquet")}},
    }
    for reason, given in wrong.items():
        flow_run_id = deployed.start("run", pipeline, pipeline=given)
        assert deployed.wait(flow_run_id).state_name == "Failed"
        [(state, message)] = query(
            pipeline.lake, f"SELECT state, message FROM _runs WHERE flow_run_id = '{flow_run_id}'"
        )
        assert (state, reason in message) == ("failed", True), message


@pytest.mark.slow
def test_failures_recoveries_and_a_table_that_nobody_refreshes_are_told(deployed: Deployed, tmp_path):
    with webhook() as (url, posted):
        pipeline = small(tmp_path, "alarmed", alerts={"webhook": url, "max_age": "10 s"})
        moved = (tmp_path / "alarmed").rename(tmp_path / "elsewhere")
        deployed.deploy(pipeline)
        failed = deployed.wait(deployed.start("run", pipeline))
        assert failed.state is not None
        assert (failed.state_name, str(failed.state.message)[:14]) == ("Failed", "DatasetError: ")
        told = eventually(lambda: log_of(deployed, failed), lambda lines: any("ERROR" in line for line in lines))
        assert [line for line in told if "Traceback" in line or "\n" in line] == []
        assert told[-1] == f"ERROR {failed.state.message}"
        moved.rename(tmp_path / "alarmed")
        assert deployed.wait(deployed.start("run", pipeline)).state_name == "Completed"
        assert [state for _, state, *_ in runs_of(pipeline)] == ["done"]
        by_runs = [one for one in posted if "run_id" in one or "flow_run_id" in one]
        assert [one["kind"] for one in by_runs] == ["failed", "recovered"]
        assert "alarmed failed: " in by_runs[0]["text"]
        [stale, *_] = eventually(lambda: [one for one in posted if one["kind"] == "stale"], bool)
        assert stale["text"] == "alarmed was not brought up to date within alerts.max_age."


@pytest.mark.soak
def test_enough_marks_train_a_model_that_is_promoted_as_promote_if_says(deployed: Deployed, tmp_path):
    pipeline = marked(
        tmp_path, save_base(tmp_path / "base"), num_rows=30, name="learning", promote_if="f1 >= current - 1"
    )
    deployed.deploy(pipeline)
    flow_run = deployed.wait(deployed.start("retrain", pipeline))
    assert flow_run.state is not None
    assert (flow_run.state_name, flow_run.state.message) == ("Completed", "30 new marks: promoted."), log_of(
        deployed, flow_run
    )
    of_training = query(
        pipeline.lake,
        "SELECT v.spec->>'model' = t.model FROM _pipelines p JOIN _versions v ON v.version = p.promoted_version, "
        "_trainings t WHERE t.is_best",
    )
    assert of_training == [(True,)]
