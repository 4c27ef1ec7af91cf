"""What failed before the engine wrote of it: its row in `_runs`, whatever state the lake is in."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas import FlowRun

from tests.pipelines import make_pipeline, query
from tidemill.config import Pipeline
from tidemill.errors import DatasetError
from tidemill.flows.failures import record_failure
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.runs import RunRecord, record_run

LOGGER = logging.getLogger("tests.failures")
FLOW_RUN = FlowRun(flow_id=uuid4())


def record(pipeline: Pipeline, run_id: str) -> None:
    record_failure(pipeline.lake, "reviews", "run", FLOW_RUN, DatasetError("it is gone"), LOGGER, run_id=run_id)


def test_a_run_without_a_row_gets_one_and_a_row_that_is_there_stays(tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere")
    with Lake(pipeline.lake) as lake:
        ensure_system_tables(lake)
    record(pipeline, "first")
    record(pipeline, "first")
    found = query(pipeline.lake, "SELECT run_id, state, message, flow_run_id, finished_at >= started_at FROM _runs")
    assert found == [("first", "failed", "DatasetError: it is gone", str(FLOW_RUN.id), True)]


def test_what_housekeeping_recorded_itself_is_not_recorded_twice(tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere")
    with Lake(pipeline.lake) as lake:
        ensure_system_tables(lake)
        began = datetime.now(UTC)
        record_run(lake, RunRecord("own", "reviews", "gc", why="gc", state="failed", message="it is gone"))
    record_failure(pipeline.lake, "reviews", "gc", FLOW_RUN, DatasetError("it is gone"), LOGGER, since=began)
    assert query(pipeline.lake, "SELECT run_id FROM _runs") == [("own",)]
    later = datetime.now(UTC)
    record_failure(pipeline.lake, "reviews", "gc", FLOW_RUN, DatasetError("it is gone"), LOGGER, since=later)
    assert query(pipeline.lake, "SELECT count(*) FROM _runs") == [(2,)]


def test_a_lake_that_is_not_there_is_not_made(tmp_path):
    pipeline = make_pipeline(tmp_path, "nowhere")
    record(pipeline, "first")
    assert not Path(pipeline.lake.catalog.removeprefix("sqlite:")).exists()


def test_a_lake_that_cannot_be_opened_is_told_of_and_hides_no_other_failure(tmp_path, caplog: pytest.LogCaptureFixture):
    pipeline = make_pipeline(tmp_path, "nowhere")
    catalog = Path(pipeline.lake.catalog.removeprefix("sqlite:"))
    catalog.parent.mkdir(parents=True, exist_ok=True)
    catalog.write_bytes(b"this is no database" * 100)
    record(pipeline, "first")
    assert "could not be recorded in the lake" in caplog.text
