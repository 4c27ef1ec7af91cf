"""Claims beside a SQLite catalog and in PostgreSQL: one holder at a time, and none once its process is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Process, wait_until
from tidemill import config
from tidemill.lake import claims as claims_module
from tidemill.lake.claims import CLAIM_DIGITS, is_alive, open_claims, run_claim
from tidemill.shards import fingerprint


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

    wait_until(lambda: claims.hold("shard"), seconds=20)
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
    assert not list(Path(f"{tmp_path}/lake.sqlite.claims").glob("run-*"))


def test_claims_that_cannot_be_kept_are_done_without_and_told_once(tmp_path, caplog):
    """They save work and protect nothing, so a run is not to fail for them."""
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
