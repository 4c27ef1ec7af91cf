"""A backfill's estimate against what it took: made after three shards were measured, over shards of uneven sizes.

    python -m benchmarks.estimate [--shards 20] [--runs 10]

Prints a line a run, and how many lay within the interval.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.run import Run

ROOT = Path(__file__).parents[1]
FEWEST_ROWS, MOST_ROWS = 10, 120
NUM_MEASURED = 3


def write_files(folder: Path, num_shards: int, seed: int) -> None:
    """One file a shard, each of another size, of bundled e-mails."""
    emails = pa.concat_tables(pq.read_table(path) for path in sorted((ROOT / "data" / "emails").glob("*.parquet")))
    chance = random.Random(seed)
    folder.mkdir()
    for number in range(num_shards + NUM_MEASURED):
        num_rows = chance.randint(FEWEST_ROWS, MOST_ROWS)
        start = chance.randrange(emails.num_rows - num_rows)
        kind = "measured" if number < NUM_MEASURED else "asked"
        pq.write_table(emails.slice(start, num_rows), folder / f"{kind}-{number:03}.parquet")


def pipeline_over(folder: Path, max_length: int) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "emails",
            "dataset": {"path": f"{folder}/data/*.parquet", "text": "text"},
            "tokenizer": {"max_length": max_length},
            "model": {"path": str(ROOT / "data" / "models" / "tiny-sentiment")},
            "lake": {"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"},
            "store": {"path": f"{folder}/store"},
        }
    )


def measure(folder: Path, number: int, num_shards: int) -> bool:
    """One run: a version of its own, three shards of it, an estimate for the others, and the others."""
    pipeline = pipeline_over(folder, 256 - number)
    with Lake(pipeline.lake) as lake:
        first = request_backfill(lake, plan_backfill(pipeline, lake, Selection(files="measured-*")))
    BackfillRun(pipeline, first).execute()
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, Selection(files="asked-*"))
        asked = request_backfill(lake, plan)
    took = BackfillRun(pipeline, asked).execute()
    expected = plan.estimate
    assert expected.seconds is not None
    assert took.num_shards == num_shards
    within = expected.seconds * (1 - expected.margin) <= took.seconds <= expected.seconds * (1 + expected.margin)
    print(
        f"run {number}: {expected.num_tokens:,} tokens, estimated {expected.seconds:.1f} s ±{expected.margin:.0%}, "
        f"took {took.seconds:.1f} s ({took.seconds / expected.seconds - 1:+.0%}): {'within' if within else 'OUTSIDE'}",
        flush=True,
    )
    return within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder / "data", options.shards, seed=1)
        # The promoted version only makes the shards known; a row has two tokens of it.
        Run(pipeline_over(folder, 3)).execute()
        within = sum(measure(folder, number, options.shards) for number in range(options.runs))
    print(f"{within} of {options.runs} within the interval")


if __name__ == "__main__":
    main()
