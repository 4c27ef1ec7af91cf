"""Claims beside a SQLite catalog and in PostgreSQL: one holder at a time, and none once its process is gone."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

import pytest

from tests.processes import Process, wait_until
from tidemill import config
from tidemill.fingerprints import fingerprint
from tidemill.lake.ducklake import claims as claims_module
from tidemill.lake.ducklake.claims import (
    CLAIM_DIGITS,
    AdvisoryClaims,
    is_alive,
    open_claims,
    remove_left_over,
    run_claim,
)


@pytest.fixture(params=["sqlite", "postgres"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> config.Lake:
    if request.param == "sqlite":
        return config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    return config.Lake(catalog=str(request.getfixturevalue("postgres_catalog")))


def hold_and_wait(spec: config.Lake, held: Path) -> None:
    claims = open_claims(spec)
    assert claims.hold("shard")
    assert claims.hold(run_claim("r1"))
    held.touch()
    wait_until(lambda: False, seconds=300)


def test_a_claim_has_one_holder_until_it_is_released(spec):
    mine, other = open_claims(spec), open_claims(spec)

    assert mine.hold("shard")
    assert not mine.hold("shard")
    assert not other.hold("shard")
    assert other.hold("another")
    mine.release("shard")
    assert other.hold("shard")
    other.close()
    wait_until(lambda: mine.hold("another"))


def test_a_claim_dies_with_its_holder(spec, tmp_path):
    holder = Process(hold_and_wait, spec, tmp_path / "held")
    wait_until((tmp_path / "held").exists)
    claims = open_claims(spec)
    assert not claims.hold("shard")
    assert is_alive(claims, "r1")

    assert holder.kill()

    wait_until(lambda: claims.hold("shard"))
    assert not is_alive(claims, "r1")
    assert not is_alive(claims, "never was")


def test_a_shard_never_waits_for_the_claim_of_its_own_run(tmp_path):
    """Shards share files, runs do not: a run that waited for itself would wait for ever."""
    spec = config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    claims = open_claims(spec)
    assert claims.hold(run_claim("r1"))
    same = next(
        name
        for name in map(str, range(10**7))
        if fingerprint(name)[:CLAIM_DIGITS] == fingerprint(run_claim("r1"))[:CLAIM_DIGITS]
    )

    assert claims.hold(same)
    claims.close()
    assert not list(Path(f"{tmp_path}/lake.sqlite.claims").iterdir())


def test_a_file_that_was_removed_before_it_was_locked_holds_nothing(tmp_path, monkeypatch):
    """The holder lets go, and another takes the claim, between one's opening of the file and its locking."""
    spec = config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    first, second, late = (open_claims(spec) for _ in range(3))
    assert first.hold("shard")
    flock = fcntl.flock

    def lock_late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release("shard")
        assert second.hold("shard")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    assert not late.hold("shard")
    second.release("shard")
    assert late.hold("shard")


def test_who_asks_for_a_holder_when_its_session_is_lost_keeps_its_own_claims(postgres_catalog):
    spec = config.Lake(catalog=postgres_catalog)
    mine, other = open_claims(spec), open_claims(spec)
    assert isinstance(mine, AdvisoryClaims)
    assert mine.hold("shard")
    mine._session.lose()

    assert mine.holder("another") == ""
    assert mine.hold("another")

    assert not other.hold("shard")


def take_turns(spec: config.Lake, counted: Path, num_turns: int) -> None:
    claims = open_claims(spec)
    for _ in range(num_turns):
        wait_until(lambda: claims.hold("shard"), seconds=100)
        counted.write_text(str(int(counted.read_text()) + 1))
        claims.release("shard")


def test_processes_that_take_and_remove_one_claim_never_hold_it_together(tmp_path):
    spec, counted = config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite"), tmp_path / "counted"
    counted.write_text("0")

    for process in [Process(take_turns, spec, counted, 100) for _ in range(3)]:
        process.result()

    assert counted.read_text() == "300"
    assert not list(Path(f"{tmp_path}/lake.sqlite.claims").iterdir())


def test_claims_that_killed_holders_left_are_removed_and_held_ones_are_not(tmp_path):
    spec = config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    holder = Process(hold_and_wait, spec, tmp_path / "held")
    wait_until((tmp_path / "held").exists)
    assert remove_left_over(spec, dry_run=False) == 0
    assert holder.kill()
    wait_until(lambda: remove_left_over(spec, dry_run=True) == 2)
    claims = open_claims(spec)
    assert claims.hold("another")

    assert remove_left_over(spec, dry_run=False) == 2

    assert len(list(Path(f"{tmp_path}/lake.sqlite.claims").iterdir())) == 1
    assert not open_claims(spec).hold("another")


def test_claims_that_cannot_be_kept_are_done_without_and_told_once(tmp_path, caplog):
    """They save work and protect nothing, so a run is not to fail for them."""
    caplog.set_level(logging.WARNING, logger="tidemill")
    spec = config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    Path(f"{tmp_path}/lake.sqlite.claims").write_text("a file in the folder's place")
    claims = open_claims(spec)
    claims_module._tell.cache_clear()

    assert claims.hold("shard")
    assert not claims.hold("shard")
    assert claims.hold(run_claim("r1"))
    claims.release("shard")
    assert claims.hold("shard")
    claims.close()
    assert len(caplog.records) == 1
    assert "lake.sqlite.claims" in caplog.text


def test_a_folder_in_the_place_of_a_claims_file_is_done_without(tmp_path):
    spec = config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite")
    Path(f"{tmp_path}/lake.sqlite.claims", fingerprint("shard")[:CLAIM_DIGITS]).mkdir(parents=True)
    claims = open_claims(spec)
    assert claims.hold("shard")
    claims.close()
