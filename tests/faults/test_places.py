"""No right and no space: one message with the place, an exit code, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.commands import TIDEMILL, environment, write_toml
from tests.pipelines import ROOT, query, reviews, write_parquet
from tidemill import config
from tidemill.cli.main import _meaning
from tidemill.lake import Lake, ensure_system_tables

WITHOUT_ROOTS_RIGHTS = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search,-fowner",
    "--inh-caps=-dac_override,-dac_read_search,-fowner",
]
NO_FILE_OVER_A_MB = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1000; exec "$0" "$@"']
"""A write fails in its middle, as on a full disk, whoever the user is."""


def told(
    words: Sequence[str | Path], *, folder: Path, under: Sequence[str] = WITHOUT_ROOTS_RIGHTS
) -> subprocess.CompletedProcess[str]:
    command = [*under, *TIDEMILL, *map(str, words)]
    return subprocess.run(
        command, env=environment(folder / "home"), cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def assert_one_message(done: subprocess.CompletedProcess[str], *said: str, exit_code: int = 1) -> None:
    [line] = [line for line in done.stderr.splitlines() if line.startswith("tidemill: ")]
    assert "Traceback" not in done.stderr
    for part in said:
        assert part in line
    assert done.returncode == exit_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    probe = tmp_path / "probe"
    probe.touch(mode=0)
    try:
        if subprocess.run([*WITHOUT_ROOTS_RIGHTS, "cat", probe], capture_output=True, check=False).returncode == 0:
            pytest.skip("This user reads what nobody may read")
    except OSError:
        pytest.skip("setpriv is not installed (Debian: apt-get install util-linux)")
    return tmp_path


@pytest.mark.slow
def test_a_source_that_may_not_be_read_is_named_with_the_option(folder):
    write_parquet(folder / "data" / "a.parquet", reviews(0, 8))
    toml = write_toml(folder, "data/*")
    (folder / "data" / "a.parquet").chmod(0)
    told_of_file = told(["plan", toml], folder=folder)
    assert_one_message(told_of_file, "a.parquet may not be read: permission denied", exit_code=2)
    (folder / "data").chmod(0)
    assert_one_message(told(["plan", toml], folder=folder), "data", "Permission denied", "dataset.path", exit_code=2)
    (folder / "data").chmod(0o755)


def write_into(spec: config.Lake) -> list[str]:
    """A program that appends many rows to a system table."""
    statement = "INSERT INTO _quarantine (pipeline, reason) SELECT 'x', md5(range::VARCHAR) FROM range(100000)"
    program = (
        "from tidemill import config; from tidemill.lake import Lake\n"
        f"with Lake(config.Lake(catalog={spec.catalog!r}, data={spec.data!r})) as lake:\n"
        f"    lake.write(lambda cursor: cursor.execute({statement!r}), message='many rows')\n"
    )
    return [sys.executable, "-c", program]


@pytest.mark.parametrize("refused", ["data", "catalog", "space"])
def test_a_lake_that_cannot_be_written_is_named_and_stays_as_it_was(folder, refused):
    spec = config.Lake(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")
    with Lake(spec) as lake:
        ensure_system_tables(lake)
    closed = {"data": [path for path in (folder / "lake").rglob("*") if path.is_dir()], "space": []}
    closed["catalog"] = [folder / "lake.sqlite"]
    for path in closed[refused]:
        path.chmod(0o555)
    under = NO_FILE_OVER_A_MB if refused == "space" else WITHOUT_ROOTS_RIGHTS
    done = subprocess.run([*under, *write_into(spec)], cwd=ROOT, capture_output=True, text=True, check=False)
    for path in closed[refused]:
        path.chmod(0o755)
    assert f"PlaceUnusable: The lake at sqlite:{folder}/lake.sqlite" in done.stderr
    assert "lake.data" in done.stderr
    assert query(spec, "SELECT count(*) FROM _quarantine") == [(0,)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(13, "Permission denied", "/x/y"),
            "/x/y cannot be used: Permission denied. Give this user the",
        ),
        (OSError(28, "No space left on device"), "No space left on device. Free space."),
        (OSError(24, "Too many open files", "/x"), "/x cannot be used: Too many open files. Raise the limit on open"),
        (OSError(30, "Read-only file system", "/x"), "/x cannot be used: Read-only file system. Check it."),
    ],
)
def test_what_the_system_refuses_anywhere_ends_in_a_message(error, message):
    assert (_meaning(error) or "").startswith(message)


def test_an_error_of_tidemills_own_keeps_its_traceback():
    assert _meaning(KeyError("a bug")) is None
    assert _meaning(OSError("of a library")) is None
