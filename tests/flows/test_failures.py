"""What failed before the engine wrote of it: its row in `_runs`, whatever state the lake is in."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas import FlowRun

from tests.pipelines import make_pipeline, query
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, DatasetError
from tidemill.flows.failures import failed, record_failure, told_plainly
from tidemill.flows.flow_run import read_pipeline
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.runs import RunRecord, record_run

LOGGER = logging.getLogger("tests.failures")
FLOW_RUN = FlowRun(flow_id=uuid4())


def record(pipeline: Pipeline, run_id: str) -> None:
    record_failure(pipeline.lake, "reviews", "run", FLOW_RUN, DatasetError("it is gone"), LOGGER, run_id=run_id)


def told(error: Exception, said: str) -> str:
    """What a log says where Prefect logs an error."""
    try:
        raise error
    except type(error):
        record = LOGGER.makeRecord("x", logging.ERROR, "x", 1, said, (), sys.exc_info())
    assert told_plainly(record)
    return logging.Formatter().format(record)


def test_an_error_of_ours_is_told_by_its_message_and_of_another_by_a_traceback_without_secrets():
    assert told(DatasetError("it is\n  gone"), "Engine execution exited") == "DatasetError: it is; gone"
    assert told(DatasetError("gone"), "Task run failed with exception: DatasetError('gone') - Retry 1/5") == (
        "Task run failed with exception: DatasetError('gone') - Retry 1/5"
    )
    unforeseen = told(ValueError("postgresql://me:swordfish@db/x"), "Encountered postgresql://me:swordfish@db/x")
    assert "Traceback (most recent call last)" in unforeseen
    assert ("ValueError: postgresql://" in unforeseen, "swordfish" in unforeseen) == (True, False)


def test_a_failed_state_is_one_line_without_secrets():
    state = failed(ConfigError("a.toml: x is missing.\na.toml: postgresql://me:swordfish@db/x is wrong.\n"))
    assert state.message == "ConfigError: a.toml: x is missing.; a.toml: postgresql://me:***@db/x is wrong."


def test_what_a_flow_run_is_given_is_read_as_a_pipeline_file_is(tmp_path):
    given = make_pipeline(tmp_path, "nowhere").model_dump(mode="json", exclude_unset=True)
    assert read_pipeline(given, ["limits.retries=3"]).limits.retries == 3
    with pytest.raises(ConfigError, match=r"^The parameter pipeline: limits\.retries = -1: Input should be"):
        read_pipeline(given, ["limits.retries=-1"])
    assert read_pipeline(given, []).limits.retries != 3


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
