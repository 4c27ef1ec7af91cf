"""Without a configured server: one for the run, of which nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.pipelines import ROOT, assert_same_tables, make_pipeline, reviews, run, write_parquet
from tests.processes import PATIENCE_SECONDS, wait_until
from tidemill.flows.local import run_under_prefect
from tidemill.flows.server import temporary_server
from tidemill.progress import Quiet


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=PATIENCE_SECONDS).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """Other tests start such servers at the same time."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("tidemill-prefect-*"))


def test_the_table_is_the_direct_one(no_prefect_server, tmp_path):
    for i in range(3):
        write_parquet(tmp_path / "data" / f"part-{i}.parquet", reviews(i * 20, 20))
    dataset = str(tmp_path / "data" / "*.parquet")
    pipeline, direct = make_pipeline(tmp_path / "prefect", dataset), make_pipeline(tmp_path / "direct", dataset)
    assert run_under_prefect(pipeline, progress=Quiet()).state == "done"
    run(direct)
    assert_same_tables(pipeline, direct)


@pytest.mark.soak
def test_servers_started_at_once_are_servers_of_their_own_and_leave_nothing():
    before = folders()
    with temporary_server() as first, temporary_server() as second, ThreadPoolExecutor() as pool:
        assert first != second
        assert list(pool.map(answers, [first.url, second.url])) == [True, True]
        assert len(folders() - before) == 2
    assert not answers(first.url)
    assert not answers(second.url)
    assert folders() == before


def test_a_server_ends_when_its_run_is_killed():
    before = folders()
    script = (
        "import time\nfrom tidemill.flows.server import temporary_server\n"
        "with temporary_server() as server:\n    print(server.url, flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert answers(url)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not answers(url) and folders() == before)
