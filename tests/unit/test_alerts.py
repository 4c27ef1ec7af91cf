"""Alerts, to a real HTTP server on loopback."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.pipelines import make_pipeline, reviews, run, write_parquet
from tests.webhooks import webhook
from tidemill.alerts import alert, last_fresh, staleness
from tidemill.lake import Lake
from tidemill.lake.runs import RunRecord, record_run


def test_an_alert_is_json_with_a_text(tmp_path, monkeypatch):
    with webhook() as (url, posted):
        monkeypatch.setenv("ALERTS_URL", url)
        pipeline = make_pipeline(tmp_path, "nowhere", alerts={"webhook": "$ALERTS_URL", "on": ["failed"]})
        assert alert(pipeline, "failed", "It failed.", rows=3) is None
        assert alert(pipeline, "recovered", "It works again.") is None
    assert posted == [{"text": "It failed.", "kind": "failed", "pipeline": "reviews", "rows": 3}]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("$NOWHERE", "the environment has no NOWHERE"),
        ("file:///etc/hostname", "no http:// or https:// address"),
        ("http://127.0.0.1:9/", "could not be sent"),
    ],
)
def test_a_webhook_that_fails_is_told_and_raises_nothing(tmp_path, address, told):
    wrong = alert(make_pipeline(tmp_path, "nowhere", alerts={"webhook": address}), "failed", "It failed.")
    assert wrong is not None
    assert told in wrong


def test_a_webhook_that_refuses_is_told(tmp_path):
    with webhook(status=500) as (url, _):
        wrong = alert(make_pipeline(tmp_path, "nowhere", alerts={"webhook": url}), "failed", "It failed.")
    assert "500" in (wrong or "")


def test_a_table_is_fresh_from_the_end_of_a_run_and_stale_after_max_age(tmp_path):
    write_parquet(tmp_path / "one.parquet", reviews(0, 20))
    pipeline = make_pipeline(tmp_path, str(tmp_path / "one.parquet"), alerts={"max_age": "1 h"})
    run(pipeline)
    with Lake(pipeline.lake) as lake:
        fresh = last_fresh(lake.cursor(), pipeline.name)
        assert fresh is not None
        assert staleness(lake.cursor(), pipeline) is None
        failed = RunRecord("later", pipeline.name, "run", "test", state="failed")
        failed.finished_at = datetime.now(UTC) + timedelta(hours=1)
        record_run(lake, failed)
        assert last_fresh(lake.cursor(), pipeline.name) == fresh
        never = make_pipeline(tmp_path, "nowhere", name="never", alerts={"max_age": "1 h"})
        assert "was never up to date" in (staleness(lake.cursor(), never) or "")
