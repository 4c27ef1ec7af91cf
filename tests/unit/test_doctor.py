"""What `tidemill doctor` says, of this machine and of machines that lack something."""

from __future__ import annotations

import json
import threading
from importlib import metadata
from pathlib import Path

import huggingface_hub.utils
import pytest

from tests.commands import write_toml
from tests.hub.server import Failure, Faults, HubServer
from tests.pipelines import make_pipeline, reviews, write_parquet
from tidemill.cli import start
from tidemill.cli.main import main
from tidemill.config import load_pipeline
from tidemill.diagnosis import engines, machine, packages, probe
from tidemill.diagnosis import hub as hubs
from tidemill.diagnosis import pipeline as pipelines
from tidemill.diagnosis.finding import Check, Finding, examine
from tidemill.engines.contest import finding as contests
from tidemill.engines.contest import gain
from tidemill.engines.contest.candidates import candidates
from tidemill.planning.versions import declared

never = threading.Event()


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_check_that_never_ends_is_a_finding_and_holds_up_no_other():
    asked = Check("hub", "hub", lambda: [Finding("hub", str(never.wait()), "works", "")], "check it", True, 0.01)
    others = Check("disk", "home", lambda: [Finding("disk", "home", "works", "there")])
    assert examine([asked, others]) == [
        Finding("hub", "hub", "fails", "no answer within 0 s", "check it", needed=True),
        Finding("disk", "home", "works", "there"),
    ]


def test_what_a_check_raises_is_told_without_secrets():
    def fail() -> list[Finding]:
        raise OSError("postgresql://ann:hunter2@db/lake is gone")

    (found,) = examine([Check("pipeline", "lake", fail, needed=True)])
    assert (found.state, found.needed) == ("fails", True)
    assert "hunter2" not in found.said
    assert "is gone" in found.said


def test_a_package_of_a_version_that_is_not_taken_is_told_with_the_command_that_mends_it(monkeypatch):
    versions = {"fastapi": "0.151.0", "sqlalchemy": "2.1.0"}
    monkeypatch.setattr(packages, "installed", lambda name: versions.get(name, metadata.version(name)))
    found = by_name(packages.versions())
    assert found["fastapi"].said == "0.151.0 is installed, and <0.151 is needed"
    assert found["sqlalchemy"].remedy == "pip install 'sqlalchemy[asyncio]<2.1'"
    assert found["fastapi"].needed


def test_an_engine_that_ends_its_process_does_not_end_ours(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = engines.torch()
    assert (found.state, found.said, found.needed) == ("fails", "ends the process by SIGILL", True)


def test_an_engine_that_cannot_be_loaded_says_why(tmp_path, monkeypatch):
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12 is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(engines, "installed", lambda name: "1")
    (found,) = engines.openvino()
    assert (found.state, found.said) == ("fails", "ImportError: libtbb.so.12 is missing")
    assert not found.needed


def test_where_int8_cannot_be_measured_that_is_said_of_int8_alone(monkeypatch):
    def measure():
        raise RuntimeError("Exception from src/inference/src/core.cpp:1: no such kernel.")

    monkeypatch.setattr(gain, "measure_gain", measure)

    found = engines._int8(probe._int8())

    assert (found.name, found.state, found.needed) == ("int8", "fails", False)
    assert found.said == "could not be measured: Exception from src/inference/src/core.cpp:1: no such kernel"


def test_the_processors_products_are_told_and_which_it_has_none_of():
    assert engines._products({"float32": 70e9, "bfloat16": None, "int8": 156e9}).said == (
        "70 in float32, 156 in int8 GFLOP/s on one CPU; none in bfloat16"
    )
    assert engines._products({"float32": 1e11, "bfloat16": 2e11, "int8": 4e11}).said.endswith(
        "400 in int8 GFLOP/s on one CPU"
    )


def test_what_auto_takes_is_told_of_a_pipeline_that_leaves_something_open(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 5))
    left_open = make_pipeline(
        tmp_path, f"{tmp_path}/data/*.parquet", inference={"dtype": "float32", "engine": "auto", "device": "cpu"}
    )
    spec = declared(left_open)
    (unknown,) = pipelines._auto(left_open, spec)
    assert unknown.said == "was not measured for this model on this machine: a long run does it"
    among = candidates(left_open.inference)
    contests.keep_finding(contests.Finding({among[0]: 11_900.0, among[1]: 7_000.0}), Path(spec.model_path), among)

    (found,) = pipelines._auto(left_open, spec)

    assert found.said == (
        "takes openvino float32, by trial: openvino float32 11,900 tokens/s, torch float32 7,000 tokens/s"
    )
    settled = make_pipeline(tmp_path, f"{tmp_path}/data/*.parquet", inference={"dtype": "float32", "engine": "torch"})
    assert pipelines._auto(settled, spec) == []


def test_without_openvino_a_cpu_is_slow_and_the_command_is_named(monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda name: None)
    monkeypatch.setattr(engines, "NVIDIA", Path("/none"))
    (found,) = engines.openvino()
    assert (found.state, found.remedy) == ("slow", "pip install 'tidemill[openvino]'")


def test_every_extension_of_duckdb_is_loaded(monkeypatch):
    assert {name: found.state for name, found in by_name(engines.duckdb_extensions()).items()} == dict.fromkeys(
        ["ducklake", "sqlite", "postgres", "httpfs"], "works"
    )
    monkeypatch.setattr(engines, "EXTENSIONS", {"spatial": "maps"})
    (missing,) = engines.duckdb_extensions()
    assert missing.state == "fails"
    assert missing.remedy.startswith("pip install duckdb-extension-spatial==")


def test_the_hub_that_answers_and_a_token_that_it_knows_are_told_and_the_token_is_not(hub_with_token):
    found = by_name(hubs.hub())
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(
        ["hub", "token", "clock", "cache"], "works"
    )
    assert hub_with_token.token not in repr(found)


def test_a_token_that_the_hub_refuses_is_told(hub_with_token, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    token = by_name(hubs.hub()).get("token")
    assert token is None or token.state == "fails"


@pytest.fixture
def hub_with_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


def test_a_hub_that_answers_no_more_is_told(hub):
    hub.faults = Faults(script=[Failure("/api/models")])
    assert by_name(hubs.hub())["hub"].said.endswith("answers 503")


def test_the_hub_is_asked_also_where_the_client_that_others_use_was_closed(hub):
    huggingface_hub.utils.get_session().close()
    try:
        assert by_name(hubs.hub())["hub"].state == "works"
    finally:
        huggingface_hub.close_session()


def test_offline_the_hub_is_not_asked(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = by_name(hubs.hub())
    assert (found["hub"].state, found["hub"].remedy) == ("absent", "unset HF_HUB_OFFLINE")
    assert hub.log == []


def test_a_clock_that_is_off_is_told():
    assert machine.clock(0.0).state == "fails"
    assert machine.clock(None).state == "works"


def test_a_disk_that_is_full_or_smaller_than_the_store_is_told(tmp_path, monkeypatch):
    (found,) = machine.disk("store", tmp_path / "not" / "there", "store.path", most_bytes=2**80)
    assert (found.state, found.remedy) == ("slow", "lower store.path")
    monkeypatch.setattr(machine, "LEAST_FREE", 2**80)
    (found,) = machine.disk("lake", tmp_path, "lake.data")
    assert (found.state, found.needed) == ("fails", True)


def test_of_a_pipeline_the_dataset_the_model_and_the_lake_are_tried(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 5))
    pipeline = make_pipeline(tmp_path, str(tmp_path / "data"))
    found = examine(pipelines.checks(pipeline))
    assert [(one.name, one.state) for one in found] == [("dataset", "works"), ("model", "works"), ("lake", "works")]
    assert not pipelines.needs_hub(pipeline)
    broken = make_pipeline(tmp_path, str(tmp_path / "data"), dataset={"text": "words"}, model={"path": "./none"})
    found = examine(pipelines.checks(broken))
    assert [(one.name, one.state) for one in found] == [("dataset", "fails"), ("model", "fails"), ("lake", "works")]
    assert "no column 'words'" in found[0].said


def test_a_pipeline_over_the_hub_needs_it_and_one_with_a_schedule_needs_a_server(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    pipeline = load_pipeline(write_toml(tmp_path, "org/reviews"))
    assert pipelines.needs_hub(pipeline)
    assert not pipelines.needs_server(pipeline)
    assert pipelines.needs_server(load_pipeline(write_toml(tmp_path, "org/reviews"), ["schedule.gc.cron=0 3 * * *"]))


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_the_command_ends_with_1_if_something_needed_does_not_work(monkeypatch, capsys, needed, code):
    found = Finding("hub", "hub", "fails", "it does not answer", "check the network", needed)
    monkeypatch.setattr(start, "_checks", lambda _: [Check("hub", "hub", lambda: [found])])
    monkeypatch.setattr("sys.argv", ["tidemill", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    told = capsys.readouterr().out
    assert "does not  hub         it does not answer" in told
    assert "→ check the network" in told
    assert told.endswith("Needed, and does not work: hub.\n" if needed else "What is needed works.\n")


def test_the_command_prints_json(monkeypatch, capsys):
    found = Finding("disk", "home", "works", "4 GiB free")
    monkeypatch.setattr(start, "_checks", lambda _: [Check("disk", "home", lambda: [found])])
    monkeypatch.setattr("sys.argv", ["tidemill", "doctor", "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out) == [vars(found)]
