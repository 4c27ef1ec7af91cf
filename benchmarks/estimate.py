"""A backfill's estimate against what it took: made after three shards were measured, over shards of uneven sizes.

    python -m benchmarks.estimate [--shards 20] [--rows 1300] [--runs 10]
    python -m benchmarks.estimate --writes [--model FOLDER] [--rows 10000]

Prints a line a run, and how many lay within the interval: of time, which is that of cost, and with --writes of new
tokens too. A model that writes is a tiny one of random weights, unless there is another.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tiny_writers import write_gpt2
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.run import Run

ROOT = Path(__file__).parents[1]
UNEVEN = 0.85
"""A shard has so much less or more than its share of the rows."""
NUM_MEASURED = 3
MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Setting:
    folder: Path
    model: dict[str, Any]
    longest: int
    """Most tokens of a text; of each version one less."""

    def pipeline(self, max_length: int) -> Pipeline:
        return Pipeline.model_validate(
            {
                "name": "emails",
                "dataset": {"path": f"{self.folder}/data/*.parquet", "text": "text"},
                "tokenizer": {"max_length": max_length},
                "model": self.model,
                "lake": {"catalog": f"sqlite:{self.folder}/lake.sqlite", "data": f"{self.folder}/lake"},
                "store": {"path": f"{self.folder}/store"},
                "cost": {"per_hour": 3600.0, "currency": "s"},
            }
        )


def setting_of(folder: Path, *, writes: bool, model: str | None) -> Setting:
    if not writes:
        return Setting(folder, {"path": model or str(ROOT / "data" / "models" / "tiny-sentiment")}, 256)
    path = model or str(write_gpt2(folder / "model"))
    options = {"max_new_tokens": MAX_NEW_TOKENS}
    return Setting(folder, {"path": path, "task": "text-generation", "options": options}, 64)


def write_files(folder: Path, num_shards: int, num_rows: int, seed: int) -> None:
    """One file a shard, each of another size, of bundled e-mails; no row is there twice."""
    emails = pa.concat_tables(pq.read_table(path) for path in sorted((ROOT / "data" / "emails").glob("*.parquet")))
    chance, share = random.Random(seed), num_rows // num_shards
    folder.mkdir()
    for number in range(num_shards + NUM_MEASURED):
        size = chance.randint(round(share * (1 - UNEVEN)), round(share * (1 + UNEVEN)))
        start = chance.randrange(emails.num_rows - size)
        texts = [f"{number}-{i} {text}" for i, text in enumerate(emails["text"].slice(start, size).to_pylist())]
        kind = "measured" if number < NUM_MEASURED else "asked"
        pq.write_table(pa.table({"text": texts}), folder / f"{kind}-{number:03}.parquet")


def measure(setting: Setting, number: int, num_shards: int) -> bool:
    """One run: a version of its own, three shards of it, an estimate for the others, and the others."""
    pipeline = setting.pipeline(setting.longest - number)
    with Lake(pipeline.lake) as lake:
        first = request_backfill(lake, plan_backfill(pipeline, lake, Selection(files="measured-*")))
    BackfillRun(pipeline, first).execute()
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, Selection(files="asked-*"))
        asked = request_backfill(lake, plan)
    took = BackfillRun(pipeline, asked).execute()
    assert took.num_shards == num_shards
    assert took.cost is not None
    told = plan.estimate.to_json()
    within = told["cost_low"] <= took.cost <= told["cost_high"]
    line = (
        f"run {number}: {plan.num_rows:,} rows, estimated {told['cost_low']:.1f} to {told['cost_high']:.1f} s, took "
        f"{took.cost:.1f} s ({took.cost / told['cost'] - 1:+.0%}): {'within' if within else 'OUTSIDE'}"
    )
    if took.num_new_tokens is not None:
        is_told = told["new_tokens_low"] <= took.num_new_tokens <= told["new_tokens_high"]
        between = f"{told['new_tokens_low']:,} to {told['new_tokens_high']:,}"
        line += f"; new tokens {between}, wrote {took.num_new_tokens:,}: {'within' if is_told else 'OUTSIDE'}"
        within = within and is_told
    print(line, flush=True)
    return within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1300)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--writes", action="store_true")
    parser.add_argument("--model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder / "data", options.shards, options.rows, seed=1)
        setting = setting_of(folder, writes=options.writes, model=options.model)
        # The promoted version only makes the shards known; a row has two tokens of it.
        Run(setting_of(folder, writes=False, model=None).pipeline(3)).execute()
        within = sum(measure(setting, number, options.shards) for number in range(options.runs))
    print(f"{within} of {options.runs} within the interval")


if __name__ == "__main__":
    main()
