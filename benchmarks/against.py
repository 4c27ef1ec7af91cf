"""Another checkout of Tidemill beside this one, in one run: does a change cost time or memory?

    python -m benchmarks.against FOLDER [--turns 3] [--files 2] [--set KEY=VALUE ...]

Files to table on the bundled e-mails, `tidemill --help` and a query, each in a new process, in turn. Prints medians and
this checkout's ratio to the other; peak memory is the process's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.machine import this_machine

ROOT = Path(__file__).parents[1]
PIPELINE = "data/pipelines/emails.toml"
MODEL = ROOT / "data" / "models" / "tiny-sentiment"
"""By its whole path, which every checkout takes for the same."""
QUERY = "SELECT label, count(*) FROM emails GROUP BY ALL"


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(checkout: Path, home: Path, words: Sequence[str]) -> Cost:
    """One command of the checkout's, run over this checkout's data.

    Raises:
        SystemExit: the command failed.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "TIDEMILL_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-P", "-m", "tidemill.cli.main", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{checkout}: tidemill {' '.join(words)} failed:\n{said}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def turn(checkout: Path, files: str, settings: Sequence[str]) -> dict[str, Cost]:
    with tempfile.TemporaryDirectory() as home:
        options = [
            word
            for setting in (f"dataset.path={files}", f"model.path={MODEL}", *settings)
            for word in ("--set", setting)
        ]
        return {
            "files to table": measure(checkout, Path(home), ["run", PIPELINE, "--direct", *options]),
            "nothing to do": measure(checkout, Path(home), ["run", PIPELINE, "--direct", *options]),
            "a query": measure(checkout, Path(home), ["sql", f"{home}/lake.sqlite", QUERY]),
            "--help": measure(checkout, Path(home), ["--help"]),
        }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("other", type=Path, help="the other checkout")
    asked.add_argument("--turns", type=int, default=3)
    asked.add_argument("--files", type=int, default=2, help="how many of the eight files")
    asked.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    given = asked.parse_args()
    files = f"data/emails/emails-0000[0-{given.files - 1}]-of-00008.parquet"
    checkouts = {"this": ROOT, "other": given.other.resolve()}
    for checkout in checkouts.values():  # The first commands compile, and fill the page cache.
        turn(checkout, files, given.settings)
    costs = [{name: turn(at, files, given.settings) for name, at in checkouts.items()} for _ in range(given.turns)]
    print(this_machine())
    for what in costs[0]["this"]:
        for unit, scale, digits in (("seconds", 1, 2), ("peak_bytes", 2**20, 0)):
            mine, theirs = (
                median(getattr(cost[name][what], unit) for cost in costs) / scale for name in ("this", "other")
            )
            shown = "s" if unit == "seconds" else "MiB"
            print(f"{what:<16} {mine:8.{digits}f} {shown:<3} beside {theirs:8.{digits}f}: {mine / theirs:.3f}")


if __name__ == "__main__":
    main()
