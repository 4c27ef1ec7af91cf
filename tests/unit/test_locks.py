"""Nobody waits in silence, or for ever, for a lock that another process holds."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from tests.pipelines import make_pipeline, problems_of, query, reviews, run, write_parquet
from tests.processes import Process, wait_until
from tidemill import config, retry
from tidemill.errors import PlaceUnusable
from tidemill.fingerprints import fingerprint
from tidemill.lake.ducklake.claims import open_claims
from tidemill.lake.ducklake.locks import held_by, open_lock
from tidemill.running.stage_run import StageRun


@pytest.fixture(params=["sqlite", "postgres"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> config.Lake:
    if request.param == "sqlite":
        return config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    return config.Lake(catalog=str(request.getfixturevalue("postgres_catalog")))


def hold(spec: config.Lake, held: Path) -> None:
    with open_lock(spec).held():
        held.write_text(str(os.getpid()))
        wait_until(lambda: False, seconds=300)


class Heard(logging.Handler):
    """The first message about a lock, and that there was one."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.event = "", threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "lock" in record.getMessage():
            self.message = self.message or record.getMessage()
            self.event.set()


def test_a_wait_for_the_lakes_lock_is_told_with_its_holder_and_ends_with_it(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "QUIET_SECONDS", 0.001)
    holder = Process(hold, spec, tmp_path / "held")
    wait_until(lambda: (tmp_path / "held").exists() and (tmp_path / "held").read_text() != "")
    heard, got = Heard(), threading.Event()

    def take() -> None:
        with open_lock(spec).held():
            got.set()

    logging.getLogger("tidemill").addHandler(heard)
    try:
        threading.Thread(target=take, daemon=True).start()
        assert heard.event.wait(60)
        assert f"process {(tmp_path / 'held').read_text()}" in heard.message
        assert "lake.lock_timeout_seconds" in heard.message
        assert not got.is_set()
        holder.kill()
        assert got.wait(60)
    finally:
        logging.getLogger("tidemill").removeHandler(heard)


def test_who_holds_a_file_that_nobody_holds_is_not_told(tmp_path):
    assert held_by(tmp_path / "nothing") == ""
    (tmp_path / "free").touch()
    assert held_by(tmp_path / "free") == ""


def test_a_lock_file_that_cannot_be_used_is_named_with_the_option(tmp_path):
    (tmp_path / "lake.sqlite.lock").mkdir()
    lock = open_lock(config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite"))
    with pytest.raises(PlaceUnusable, match=r"lake\.sqlite\.lock cannot be used.*lake\.catalog"), lock.held():
        pass


@pytest.mark.slow
def test_a_claim_that_its_holder_keeps_for_ever_is_not_waited_for_for_ever(tmp_path):
    for i in range(2):
        write_parquet(tmp_path / "data" / f"{i}.parquet", reviews(8 * i, 8))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/data/*", lake={"lock_timeout_seconds": 0.2})
    StageRun(pipeline, "ingest").execute()
    stopped = open_claims(pipeline.lake)
    for version, shard_id in query(pipeline.lake, "SELECT version, shard_id FROM _requests"):
        assert stopped.hold(fingerprint("claim", pipeline.name, version, shard_id))

    result = run(pipeline)

    assert (result.state, result.num_shards) == ("done", 2)
    assert problems_of(pipeline) == []
    stopped.close()
