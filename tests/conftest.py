"""Every test has a home of its own; all share one loopback Hub, each with its own repositories."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.hub.server import Faults, HubServer

if TYPE_CHECKING:
    from tests.s3 import Bucket, S3Server

pytest_plugins = ["tests.costs"]

# huggingface_hub reads its environment when it is imported, so the Hub is there before any test is collected.
SERVER = HubServer()
for name in [name for name in os.environ if name.startswith("HF_")]:
    del os.environ[name]
os.environ["HF_ENDPOINT"] = SERVER.url
# With Xet, huggingface_hub sends large files by a protocol that no small server speaks.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="tidemill-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "true"
# As the engines have it, for tests that import OpenVINO before them: none sends usage statistics.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# Several test processes share the cores: threads that spin while they wait would take them from each other.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Examples may take any time: others may keep all cores busy.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> None:
    """A million objects of imported modules take half a second to look through, and each model opened has it done.

    Once: what is frozen later may be a model of a file of tests, and is never given back.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _hub_server() -> Iterator[HubServer]:
    with SERVER:
        yield SERVER
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The loopback Hub, without faults and with an empty log."""
    SERVER.faults = Faults()
    SERVER.reset()
    yield SERVER
    SERVER.faults = Faults()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL on a free loopback port; its conninfo, less the database."""
    from tests.postgres import find_initdb, running_server

    if find_initdb() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running_server() as conninfo:
        yield conninfo


@pytest.fixture
def postgres_catalog(postgres_server: str) -> str:
    """The catalog address of a new, empty database."""
    from tests.postgres import create_database

    return f"postgres:{postgres_server} dbname={create_database(postgres_server)}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on a free loopback port, which refuses whom it does not know."""
    from tests.s3 import running_server

    with running_server(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new, empty bucket; this process's environment says how to use it."""
    from s3fs import S3FileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return s3_server.create_bucket()
