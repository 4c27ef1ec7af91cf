"""What `deploy` makes of a pipeline at a real server, and what it refuses."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect import flow
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.commands import write_toml
from tests.flows.conftest import Deployed, free_port
from tests.pipelines import make_pipeline
from tidemill.cli import operate
from tidemill.config import STAGES, Pipeline
from tidemill.errors import ConfigError
from tidemill.flows.client import configured_server
from tidemill.flows.deploy import Change, deploy, remove, start_now
from tidemill.flows.wanted import resolve

KINDS = ("run", *STAGES, "backfill", "gc")


def counts(changes: list[Change]) -> Counter[str]:
    return Counter(f"{one.change} {one.object}" for one in changes)


def pipeline_of(tmp_path: Path, name: str = "reviews", **sections: Any) -> Pipeline:
    return make_pipeline(tmp_path, "someone/reviews", name=name, **sections)


def test_deploying_again_writes_what_changed_and_nothing_else(deployed: Deployed, tmp_path):
    first = pipeline_of(tmp_path, schedule={"cron": "0 2 * * *"}, alerts={"webhook": "http://127.0.0.1:9/"})
    assert counts(deployed.deploy(first))["created deployment"] == len(KINDS)
    assert set(counts(deployed.deploy(first))) == {"unchanged deployment", "unchanged automation", "unchanged webhook"}

    moved = pipeline_of(tmp_path, schedule={"cron": "0 2 * * *"}, alerts={"webhook": "http://127.0.0.1:10/"})
    assert counts(deployed.deploy(moved))["updated webhook"] == 1
    stored = deployed.client.read_deployment_by_name("tidemill-run/reviews-chain").parameters["pipeline"]["alerts"]
    assert stored["webhook"] == "prefect-block:tidemill-reviews"


def test_what_is_deployed_says_what_it_does_and_when_and_what_it_brings_is_named_by_the_due_time(
    deployed: Deployed, tmp_path
):
    schedule = {"cron": "0 2 * * *", "timezone": "Asia/Kolkata", "gc": {"cron": "30 4 * * 0"}}
    changes = {one.name: one for one in deployed.deploy(pipeline_of(tmp_path, schedule=schedule))}
    chain = deployed.client.read_deployment_by_name("tidemill-run/reviews-chain")
    assert (chain.description or "").startswith("Every day at 02:00 Asia/Kolkata, the whole chain of reviews: ingest, ")
    assert [one.slug for one in chain.schedules] == ["Every day at 02:00 Asia/Kolkata"]
    due = changes["tidemill-run/reviews-chain"].next_due
    assert due is not None
    assert (f"{due:%H:%M}", str(due.tzinfo), changes["tidemill-gc/reviews-gc"].when) == (
        "02:00",
        "Asia/Kolkata",
        "Every Sunday at 04:30 Asia/Kolkata",
    )
    names = [one.name for one in deployed.flow_runs("run", pipeline_of(tmp_path))]
    assert f"reviews {due:%Y-%m-%d} 02:00" in names
    assert all(name.startswith("reviews 20") and name.endswith(" 02:00") for name in names)
    assert changes["tidemill-infer/reviews-infer"].when == "When someone starts it"
    by_stages = deployed.deploy(pipeline_of(tmp_path, schedule={"ingest": {"cron": "0 * * * *"}}))
    whens = {one.name.partition("/")[2]: one.when for one in by_stages}
    assert (whens["reviews-infer"], whens["reviews-ingest"]) == ("After tokenize", "Every hour at :00")


@pytest.mark.slow
def test_a_chain_is_started_once_however_often_it_is_asked_for_before_it_ends(deployed: Deployed, tmp_path):
    deployed.client.update_work_pool("tidemill", WorkPoolUpdate(is_paused=True))  # Nobody takes it.
    try:
        chain, staged = (
            pipeline_of(tmp_path),
            pipeline_of(tmp_path, "staged", schedule={"infer": {"cron": "0 2 * * *"}}),
        )
        for pipeline, name in ((chain, "reviews 20"), (staged, "staged ingest 20")):
            deployed.deploy(pipeline)
            first, again = (start_now(deployed.client, pipeline) for _ in range(2))
            assert (first.change, again.change, again.url) == ("started", "under way", first.url)
            assert first.name == again.name
            assert first.name.startswith(name)
    finally:
        deployed.client.update_work_pool("tidemill", WorkPoolUpdate(is_paused=False))


@pytest.mark.slow
def test_a_new_cron_concerns_one_deployment(deployed: Deployed, tmp_path):
    for cron, expected in (("0 2 * * *", "created"), ("0 3 * * *", "updated"), (None, "updated")):
        changes = deployed.deploy(pipeline_of(tmp_path, schedule={"cron": cron}))
        assert [one.change for one in changes if one.name == "tidemill-run/reviews-chain"] == [expected]
        if expected == "updated":
            assert counts(changes)["unchanged deployment"] == len(KINDS) - 1
        schedules = deployed.client.read_deployment_by_name("tidemill-run/reviews-chain").schedules
        assert [vars(one.schedule)["cron"] for one in schedules] == ([cron] if cron else [])


@pytest.mark.slow
def test_a_schedule_that_an_operator_paused_stays_paused(deployed: Deployed, tmp_path):
    deployed.deploy(pipeline_of(tmp_path, schedule={"cron": "0 2 * * *"}))
    deployment = deployed.client.read_deployment_by_name("tidemill-run/reviews-chain")
    deployed.client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
    deployed.deploy(pipeline_of(tmp_path, schedule={"cron": "0 2 * * *", "limit": 1}))
    deployment = deployed.client.read_deployment_by_name("tidemill-run/reviews-chain")
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1
    assert [schedule.active for schedule in deployment.schedules] == [False]
    changes = deployed.deploy(pipeline_of(tmp_path, schedule={"cron": "0 3 * * *", "limit": 1}))
    deployment = deployed.client.read_deployment_by_name("tidemill-run/reviews-chain")
    assert [schedule.active for schedule in deployment.schedules] == [False]
    assert [(one.when, one.next_due) for one in changes if one.name == "tidemill-run/reviews-chain"] == [
        ("Paused", None)
    ]


def test_stages_are_chained_by_events_where_one_has_a_schedule_of_its_own(deployed: Deployed, tmp_path):
    def chained(**schedule: Any) -> set[str]:
        changes = deployed.deploy(pipeline_of(tmp_path, schedule=schedule))
        return {one.name.partition(": ")[2] for one in changes if " after " in one.name and one.change != "removed"}

    assert chained(cron="0 2 * * *") - {"run again after a crash"} == set()
    links = {"tokenize after ingest", "infer after tokenize", "materialize after infer"}
    assert chained(ingest={"cron": "0 * * * *"}) - {"run again after a crash"} == links
    assert chained() - {"run again after a crash"} == set()
    assert not [found.name for found in deployed.client.read_automations() if "tokenize after" in found.name]


def test_removing_takes_away_all_of_it_and_nothing_of_anybody_else(deployed: Deployed, tmp_path):
    @flow
    def theirs() -> None: ...

    client = deployed.client
    their_id = client.create_deployment(client.create_flow(theirs), "theirs", tags=["nightly"])
    other = AutomationCore.model_validate(
        {"name": "theirs", "trigger": {"type": "event", "expect": ["theirs"]}, "actions": []}
    )
    their_automation = client.create_automation(other)
    for name in ("reviews", "emails"):
        deployed.deploy(pipeline_of(tmp_path, name, schedule={"ingest": {"cron": "0 * * * *"}}))
    former = client.create_flow_from_name("tidemill-run")
    client.create_deployment(former, "reviews", tags=["tidemill", "pipeline:reviews"])
    changes = deployed.deploy(pipeline_of(tmp_path, schedule={"ingest": {"cron": "0 * * * *"}}))
    assert [one.name for one in changes if one.change == "removed"] == ["tidemill-run/reviews"]
    assert counts(remove(client, ["reviews"])) == {"removed deployment": len(KINDS), "removed automation": 3}
    assert counts(remove(client, ["emails"])) == {"removed deployment": len(KINDS), "removed automation": 3 + 3}
    assert remove(client, ["emails"]) == []
    assert [found.name for found in client.read_deployments()] == ["theirs"]
    assert [found.name for found in client.read_automations()] == ["theirs"]
    client.delete_deployment(their_id)
    client.delete_automation(their_automation)


def test_what_is_deployed_means_the_same_in_any_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEMILL_HOME", "kept")
    found = resolve(
        Pipeline.model_validate({"name": "x", "dataset": {"path": "data", "text": "t"}, "model": {"path": "model"}})
    )
    assert found.lake.catalog == f"sqlite:{tmp_path}/kept/lake.sqlite"
    assert (found.lake.data, found.store.path) == (f"{tmp_path}/kept/lake", f"{tmp_path}/kept/store")
    assert (found.dataset.path, found.model.path) == (f"{tmp_path}/data", f"{tmp_path}/model")
    remote = {"dataset": {"path": "s3://bucket/*.csv", "text": "t"}, "model": {"path": "someone/model"}}
    found = resolve(Pipeline.model_validate({"name": "x", **remote, "lake": {"catalog": "postgres:dbname=x"}}))
    assert (found.dataset.path, found.model.path) == ("s3://bucket/*.csv", "someone/model")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"schedule": {"pool": "absent"}}, r"no work pool 'absent'.*prefect work-pool create absent --type process"),
        ({"lake": {"catalog": "postgres:dbname=x password=p"}}, r"holds a password.*PGPASSWORD"),
        ({"lake": {"catalog": "postgres:postgresql://me:p@there/x"}}, r"holds a password.*PGPASSFILE"),
        ({"schedule": {"infer": {"pool": "gpu"}}}, r"pools gpu, tidemill.*store\.shared = true"),
        ({"schedule": {"gc": {"pool": "night"}}}, r"SQLite catalog is for one machine.*postgres:"),
        ({"alerts": {"webhook": "$NOWHERE"}}, r"the environment has no NOWHERE"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(client, tmp_path, sections, message):
    with pytest.raises(ConfigError, match=message):
        deploy(client, [(pipeline_of(tmp_path, **sections), tmp_path / "reviews.toml")])
    assert client.read_deployments() == []


@pytest.mark.slow
def test_two_pipelines_of_one_name_are_refused(deployed: Deployed, tmp_path):
    mine = pipeline_of(tmp_path)
    with pytest.raises(ConfigError, match="Several of these pipeline files have name = 'reviews'"):
        deploy(deployed.client, [(mine, tmp_path / "a.toml"), (mine, tmp_path / "b.toml")])
    deployed.deploy(mine)
    other_lake = pipeline_of(tmp_path, lake={"catalog": f"sqlite:{tmp_path}/other.sqlite"})
    with pytest.raises(ConfigError, match=r"of another lake .*Rename this pipeline, or .*--yes"):
        deployed.deploy(other_lake)
    with pytest.raises(ConfigError, match="of another pipeline file"):
        deploy(deployed.client, [(mine, tmp_path / "moved.toml")])
    assert counts(deployed.deploy(other_lake, yes=True))["updated deployment"] == len(KINDS)


def test_changes_are_printed_with_the_next_due_time_or_what_starts_it():
    due = datetime(2026, 11, 27, 2, tzinfo=ZoneInfo("Europe/Berlin"))
    changes = [
        Change("deployment", "tidemill-run/a-chain", "created", "Every day at 02:00 Europe/Berlin", due),
        Change("deployment", "tidemill-infer/a-infer", "unchanged", "After tokenize"),
        Change("deployment", "tidemill-gc/a-gc", "updated", "Paused"),
        Change("automation", "tidemill: run again after a crash", "unchanged"),
        Change("flow run", "a 2026-11-26 09:00", "started", url="http://127.0.0.1:4200/runs/flow-run/1"),
    ]
    assert operate._changes([vars(change) for change in changes]).splitlines() == [
        "created    deployment  tidemill-run/a-chain    due 2026-11-27 02:00 Europe/Berlin",
        "unchanged  deployment  tidemill-infer/a-infer  after tokenize",
        "updated    deployment  tidemill-gc/a-gc        paused",
        "unchanged  automation  tidemill: run again after a crash",
        "started    flow run    a 2026-11-26 09:00      http://127.0.0.1:4200/runs/flow-run/1",
    ]


def test_what_is_taken_away_is_not_started(tmp_path):
    with pytest.raises(ConfigError, match="--remove takes away what --run-now would start"):
        operate.deploy([str(write_toml(tmp_path, "data/*.parquet"))], remove=True, run_now=True)


def test_without_a_server_the_way_to_one_is_told(no_prefect_server):
    with pytest.raises(ConfigError, match=r"tidemill up.*prefect server start.*PREFECT_API_URL"), configured_server():
        pass
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(ConfigError, match="does not answer"),
        configured_server(),
    ):
        pass
