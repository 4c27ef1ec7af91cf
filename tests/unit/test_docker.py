"""docker/: what compose.yaml starts is what is run and tested without containers, and it keeps its secrets."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.compose import COMPOSE, ENTRYPOINT, OWN, SERVICES
from tests.pipelines import ROOT
from tidemill.config import STAGES, load_pipeline
from tidemill.flows import stack

DOCKER = ROOT / "docker"
WORKERS = {name: service for name, service in SERVICES.items() if name.startswith("worker-")}
SECRETS = Path("/run/secrets")


def native(command: list[str]) -> list[str]:
    """A command of `tidemill up` as a container has it."""
    return ["python", *command[1:]]


def option(service: dict[str, Any], name: str) -> str:
    command = service["command"]
    return str(command[command.index(name) + 1])


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize("profile", ["gpu", "cli", "demo", "serve"])
def test_compose_finds_nothing_wrong_in_its_file(profile):
    command = ["docker-compose", "--file", str(DOCKER / "compose.yaml"), "--profile", profile, "config", "--quiet"]

    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""


def test_the_server_is_the_one_that_tidemill_up_starts(tmp_path):
    started = stack._server(tmp_path, 4200)

    assert SERVICES["prefect-server"]["command"] == native(started.command)
    assert SERVICES["prefect-server"]["environment"].items() >= stack.SETTINGS.items()
    assert SERVICES["prefect-server"]["environment"]["PREFECT_SERVER_API_PORT"] == "4200"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_the_one_that_tidemill_up_starts(tmp_path, name, monkeypatch):
    worker = WORKERS[name]
    monkeypatch.setattr(socket, "gethostname", lambda: worker["hostname"])
    started = stack._worker(tmp_path, 4200, option(worker, "--pool"), int(option(worker, "--limit")))

    assert worker["command"] == native(started.command)
    assert worker["environment"].items() >= stack.SETTINGS.items()


def test_a_gpu_has_one_worker_that_runs_one_flow_run_at_a_time():
    gpu = SERVICES["worker-gpu"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]

    assert option(gpu, "--limit") == "1"
    assert (device["driver"], len(device["device_ids"]), device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert gpu["profiles"] == ["gpu"]
    assert gpu["image"] != SERVICES["worker-cpu"]["image"]


def test_only_the_servers_ports_are_published_and_on_loopback_alone():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"prefect-server": ["127.0.0.1:4200:4200"], "serve": ["127.0.0.1:8321:8321"]}


def test_images_of_others_are_pinned_to_a_release():
    base = re.search(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert base

    for image in [base[1], *(service["image"] for name, service in SERVICES.items() if name not in OWN)]:
        assert re.search(r":\d+\.\d+", image), image


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_restarts_by_itself_and_says_how_it_is(name):
    service = SERVICES[name]
    stays = name not in {"setup", "cli", "demo"}

    assert ("healthcheck" in service, service.get("restart") == "unless-stopped") == (stays, stays)


def test_every_secret_is_a_file_with_an_example_and_none_is_in_the_repository():
    files = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    kept = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(f"docker/secrets/{name}{end}" for name in files for end in ("", ".example")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert {path.stem for path in (DOCKER / "secrets").glob("*.example")} == files
    if (ROOT / ".git").exists():
        assert set(kept.stdout.split()) == {f"docker/secrets/{name}" for name in files}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_given_the_secrets_that_its_environment_names(name):
    environment = SERVICES[name].get("environment", {})
    named = {Path(value).name for variable, value in environment.items() if variable.endswith("_FILE")}

    assert named == set(SERVICES[name].get("secrets", []))
    assert all(Path(value).parent == SECRETS for key, value in environment.items() if key.endswith("_FILE"))
    assert not [variable for variable in environment if re.search(r"PASSWORD$|SECRET.*KEY$|AUTH_STRING$", variable)]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "postgres"])
def test_the_entrypoint_knows_every_secret_that_a_service_names(name):
    """PostgreSQL's image reads its own."""
    known = re.findall(r"[A-Z_]{6,}", ENTRYPOINT.read_text().partition("for name in")[2].partition("; do")[0])
    environment = SERVICES[name].get("environment", {})

    assert {variable.removesuffix("_FILE") for variable in environment if variable.endswith("_FILE")} <= set(known)


def test_the_pipeline_that_comes_with_it_names_its_pools_bucket_and_catalog():
    pipeline = load_pipeline(DOCKER / "pipelines" / "reviews.toml")
    _, _, script, bucket, *pools = SERVICES["setup"]["command"]
    own = [getattr(pipeline.schedule, stage).pool for stage in (*STAGES, "backfill", "gc")]

    assert (ROOT / script).is_file()
    assert {pipeline.schedule.pool, *filter(None, own)} == set(pools)
    assert set(pools) == {option(worker, "--pool") for worker in WORKERS.values()}
    assert {pipeline.lake.data.split("/")[2], pipeline.store.path.split("/")[2]} == {bucket}
    assert "host=postgres dbname=lake user=tidemill" in pipeline.lake.catalog
    for local in (pipeline.dataset.path, pipeline.model.path):
        assert (ROOT / Path(local).relative_to("/app")).parent.is_dir()
    assert "CREATE DATABASE lake;" in (DOCKER / "databases.sql").read_text()
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "tidemill"


def test_what_the_image_is_made_of_is_sent_to_the_build_and_secrets_are_not():
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)

    for source in " ".join(copied).split():
        assert [line for line in sent if line.startswith(f"!{source}")], source
    assert sent[1] == "*"
    assert not [line for line in sent if "secrets" in line or line == "!docker"]


def enter(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ENTRYPOINT), *command],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_entrypoint_turns_files_into_variables_for_its_command_alone(tmp_path):
    (tmp_path / "password").write_text("pass word $HOME 'quoted'\n")
    (tmp_path / "hook").write_text("https://example.org/hook\n")
    shown = enter(
        "python3",
        "-c",
        "import os, sys; print(dict(os.environ), sys.argv[1:])",
        "an argument",
        PGPASSWORD_FILE=str(tmp_path / "password"),
        HOOK_FILE=str(tmp_path / "hook"),
        SSL_CERT_FILE="/etc/cert.pem",
        TIDEMILL_SECRETS="HOOK",
    )
    environment, args = ast.literal_eval(shown.stdout.replace("} [", "}, ["))

    assert shown.stderr == ""
    assert args == ["an argument"]
    assert environment["PGPASSWORD"] == "pass word $HOME 'quoted'"
    assert environment["HOOK"] == "https://example.org/hook"
    assert environment["SSL_CERT_FILE"] == "/etc/cert.pem"
    assert not {"PGPASSWORD_FILE", "HOOK_FILE", "SSL_CERT"} & environment.keys()


@pytest.mark.parametrize("content", [None, ""])
def test_the_entrypoint_refuses_a_secret_that_is_missing_or_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "password").write_text(content)
    refused = enter("echo", "started", PGPASSWORD_FILE=str(tmp_path / "password"))

    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.search(r"PGPASSWORD is to come from .*/password.*docs/machines\.md", refused.stderr)


def test_the_entrypoint_ends_as_its_command_does():
    assert enter("sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize("pool", ["cpu", "gpu"])
def test_a_kubernetes_pool_uses_each_of_its_variables_and_no_others(pool):
    template = json.loads((DOCKER / "kubernetes" / f"{pool}-pool.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))

    assert used == template["variables"]["properties"].keys()
    assert ("nvidia.com/gpu" in json.dumps(template)) == (pool == "gpu")
