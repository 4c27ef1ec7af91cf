"""`tidemill train` beside a script of Transformers' Trainer: the same rows, base, seed and settings, in one run.

    python -m benchmarks.training [--rows 3000] [--epochs 3] [--turns 3]

The base is the bundled model in float32, the rows are bundled reviews of which every fifth is held out. Each turn is
both whole commands in new processes, imports and reading included, and every second one begins with the other. Printed
are what both measured, the medians of their times, and the ratios. Where other work keeps the cores busy, set
OMP_NUM_THREADS=1: threads that wait for each other take CPU seconds too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import transformers

from benchmarks.machine import this_machine
from benchmarks.processes import busy_seconds

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "data" / "models" / "tiny-sentiment"
TRAINING = """name = "reviews"
seed = {seed}
[data]
path = "{folder}/rows.parquet"
label = "label"
held_out = "held_out"
[base]
path = "{folder}/base"
[method]
type = "full"
epochs = {epochs}
[lake]
catalog = "sqlite:{out}/lake.sqlite"
data = "{out}/lake"
"""


@dataclass
class Contender:
    """`train` is told where the rows and the base lie, and into which folder the rest goes."""

    name: str
    train: Callable[[Path, Path], dict[str, Any]]
    measures: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def take_turn(self, folder: Path) -> float:
        """Returns the CPU seconds that others took meanwhile."""
        with tempfile.TemporaryDirectory(dir=folder) as out:
            started, cpu, busy = time.perf_counter(), _cpu_seconds(), busy_seconds()
            self.measures = self.train(folder, Path(out))
            self.seconds.append(time.perf_counter() - started)
            self.cpu_seconds.append(_cpu_seconds() - cpu)
            others = busy_seconds() - busy - self.cpu_seconds[-1]
        print(f"{self.name:<16} {self.seconds[-1]:.1f} s, {self.cpu_seconds[-1]:.1f} CPU s", flush=True)
        return others


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=3_000)
    asked.add_argument("--epochs", type=float, default=3)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--turns", type=int, default=3)
    given = asked.parse_args()

    def tidemill(folder: Path, out: Path) -> dict[str, Any]:
        file = out / "train.toml"
        facts = {"folder": folder, "out": out, "seed": given.seed, "epochs": given.epochs}
        file.write_text(TRAINING.format(**facts), encoding="utf-8")
        run("-P", "-m", "tidemill.cli.main", "train", file, "-o", out / "model", home=out)
        return by_report(json.loads((out / "model" / "training.json").read_text(encoding="utf-8")))

    def plain(folder: Path, out: Path) -> dict[str, Any]:
        words = ("--epochs", given.epochs, "--seed", given.seed)
        run("-m", "benchmarks.plain_training", folder / "rows.parquet", folder / "base", out, *words, home=out)
        found: dict[str, Any] = json.loads((out / "measures.json").read_text(encoding="utf-8"))
        return found

    both = Contender("tidemill train", tidemill), Contender("plain Trainer", plain)
    with tempfile.TemporaryDirectory(prefix="tidemill-training-") as folder:
        prepare(Path(folder), given.rows)
        compare(both, Path(folder), given.turns)


def compare(both: Sequence[Contender], folder: Path, turns: int) -> None:
    print(this_machine(), flush=True)
    others = sum(one.take_turn(folder) for turn in range(turns) for one in (both if turn % 2 == 0 else both[::-1]))
    for one in both:
        losses = ", ".join(f"{loss:.5f}" for loss in one.measures["losses"])
        print(
            f"{one.name:<16} accuracy {one.measures['accuracy']:.4f}, macro F1 {one.measures['f1']:.4f}, losses "
            f"{losses}; {median(one.seconds):.1f} s, {median(one.cpu_seconds):.1f} CPU s"
        )
    ours, theirs = both
    times = (ours.seconds, theirs.seconds), (ours.cpu_seconds, theirs.cpu_seconds)
    ratios = [median(own) / median(other) for own, other in times]
    share = others / sum(sum(one.seconds) for one in both)
    print(
        f"Tidemill takes {ratios[0]:.3f} times the time, {ratios[1]:.3f} times the CPU seconds; medians of {turns} "
        f"turns, other work on {share:.2f} cores"
    )


def prepare(folder: Path, num_rows: int) -> None:
    """The rows, no text of them twice, and the base in float32."""
    files = sorted((ROOT / "data" / "reviews").glob("*.parquet"))
    found = pa.concat_tables([pq.read_table(path, columns=["text", "rating"]) for path in files]).to_pylist()
    rated = {row["text"].strip().casefold(): row for row in found if row["text"] and row["rating"]}
    rows = [
        {"text": row["text"], "label": "POSITIVE" if row["rating"] > 0 else "NEGATIVE", "held_out": number % 5 == 0}
        for number, row in enumerate(list(rated.values())[:num_rows])
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    base: Any = transformers.AutoModelForSequenceClassification.from_pretrained(MODEL, dtype="float32")
    base.save_pretrained(folder / "base")
    transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder / "base")


def by_report(report: dict[str, Any]) -> dict[str, Any]:
    measures = {name: report["metrics"][name]["value"] for name in ("accuracy", "f1")}
    return {**measures, "losses": [found["loss"] for found in report["trials"][0]["history"]]}


def run(*words: object, home: Path) -> None:
    """
    Raises:
        SystemExit: it failed.
    """
    environment = os.environ | {"TIDEMILL_HOME": str(home / "home"), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


if __name__ == "__main__":
    main()
