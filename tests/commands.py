"""The command line in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.pipelines import MODEL, ROOT
from tests.processes import PATIENCE_SECONDS, Process, run_command

TIDEMILL = [sys.executable, "-m", "tidemill.cli.main"]
READ_AT_IMPORT = ("HF_", "PREFECT_", "PYTHON")
"""How variables begin that libraries read when they are imported, and not again."""


def write_toml(folder: Path, dataset: str, *, name: str = "reviews", extra: str = "", model: str = str(MODEL)) -> Path:
    """A pipeline file over `dataset`; `extra` is appended to the [dataset] section."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\n[model]\npath = "{model}"\n'
        '[inference]\nengine = "torch"\ndtype = "float32"\ntoken_budget = 1024\n'
        f'[dataset]\npath = "{dataset}"\ntext = "text"\nkey = ["id"]\nkeep = ["rating"]\n{extra}'
    )
    return path


def environment(home: Path, *, hub: str | None = None, **extra: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PREFECT_"))}
    own = {"TIDEMILL_HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT)}
    own |= {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1"} if hub else {"HF_HUB_OFFLINE": "1"}
    return {**inherited, **own, **extra}


def heed_ctrl_c() -> None:
    """For a child process: a shell that runs the tests in the background has it ignore Ctrl-C, and with it its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def held_after(num_shards: int, folder: Path, go: Path | None = None) -> str:
    """A PYTHONPATH with which a run waits once it committed so many shards: for the file `go`, or for Ctrl-C."""
    folder.mkdir()
    go = go or folder / "never"
    (folder / "sitecustomize.py").write_text(
        "import itertools, pathlib, time\n"
        "from tidemill.cli.live import LineProgress\n"
        f"told, numbers, go = LineProgress.committed, itertools.count(1), pathlib.Path({str(go)!r})\n"
        "def committed(self, *args, **kwargs):\n"
        "    told(self, *args, **kwargs)\n"
        f"    while next(numbers) >= {num_shards} and not go.exists():\n"
        "        time.sleep(0.05)\n"
        "LineProgress.committed = committed\n"
    )
    return f"{folder}:{ROOT}"


def tidemill(
    *args: str | Path,
    home: Path,
    hub: str | None = None,
    cwd: Path | None = None,
    absent: Sequence[str] = (),
    **extra: str,
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; in a new Python where it has to import libraries under other variables.

    Those of other commands were imported with the tests' Hub and its cache.
    """
    words, where, own = list(map(str, args)), cwd or home.parent, environment(home, hub=hub, **extra)
    at_import = [name for name in extra if name.startswith(READ_AT_IMPORT) and name != "HF_TOKEN"]
    if hub not in (None, os.environ["HF_ENDPOINT"]) or at_import:
        return subprocess.run(
            [*TIDEMILL, *words],
            env=own,
            cwd=where,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        code = Process(run_command, words, own, where, output, absent).result()
        return subprocess.CompletedProcess(
            words, code, (output / "stdout").read_text(), (output / "stderr").read_text()
        )


def answer(*args: str | Path, home: Path, hub: str | None = None) -> Any:
    """What a command prints as JSON; it has to succeed."""
    done = tidemill(*args, "--json", home=home, hub=hub)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows_by_place(
    pipeline: Path, *, home: Path, hub: str | None = None, name: str = "reviews"
) -> dict[tuple[str, int], Any]:
    """(path, row in file) → label and kept columns, through `tidemill sql`."""
    query = (
        f"SELECT s.path, t.row_number, t.id, t.rating, t.label, round(t.score, 3) AS score FROM {name} t "
        "JOIN (SELECT DISTINCT shard_id, path FROM _shards) s USING (shard_id)"
    )
    found = answer("sql", pipeline, query, home=home, hub=hub)
    keyed = {(row.pop("path"), row.pop("row_number")): row for row in found}
    assert len(keyed) == len(found), "a row is there twice"
    return keyed
