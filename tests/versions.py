"""A second version of a table, computed beside the promoted one."""

from __future__ import annotations

from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.running.backfill_run import BackfillRun


def compute_version(pipeline: Pipeline, selection: Selection | None = None) -> str:
    """Backfill what the pipeline file asks for now; returns the version."""
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, selection or Selection())
        backfill_id = request_backfill(lake, plan)
    result = BackfillRun(pipeline, backfill_id).execute()
    assert result.state == "done", result.notes
    return result.version
