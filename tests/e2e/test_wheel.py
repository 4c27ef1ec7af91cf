"""The wheel as it is built: one package, and all that its commands import is in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import environment, write_toml
from tests.pipelines import ROOT, reviews, write_parquet

FOR_DEVELOPERS = ("hypothesis", "moto", "mypy", "pytest", "xdist", "tests", "flows", "tasks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for a build writes beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("tidemill", "flows", "tasks"):
        shutil.copytree(ROOT / name, folder / "copy" / name, symlinks=True, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "copy")
    built = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*built, str(folder / "copy")], check=True, capture_output=True, text=True)
    [found] = folder.glob("*.whl")
    return found


def test_nothing_but_tidemill_lands_in_site_packages(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"tidemill"}
    for name in ("tidemill/flows/run.py", "tidemill/tasks/infer.py", "tidemill/engines/calibration.txt"):
        assert name in names


@pytest.mark.slow
def test_it_runs_where_nothing_of_the_developers_is_installed(wheel, tmp_path):
    """From a folder that has a `flows` and a `tasks` of its own, which are nobody's business."""
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "installed")
    (tmp_path / "installed" / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({FOR_DEVELOPERS}))\n"
    )
    work = tmp_path / "work"
    for name in ("flows", "tasks"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise SystemExit('somebody else is here')")
    write_parquet(work / "data" / "0.parquet", reviews(0, 10))
    pipeline = write_toml(work, str(work / "data" / "*.parquet"))
    own = environment(tmp_path / "home", PYTHONPATH=str(tmp_path / "installed"))
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    script = "import os, tidemill; print(os.path.dirname(tidemill.__file__))"
    found = subprocess.run(
        [sys.executable, "-c", script], env=own, cwd=work, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == tmp_path / "installed" / "tidemill"
    done = subprocess.run(
        [sys.executable, "-m", "tidemill.cli.main", "run", str(pipeline), "--direct"],
        env=own,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "10 rows" in done.stdout + done.stderr) == (0, True), done.stderr
