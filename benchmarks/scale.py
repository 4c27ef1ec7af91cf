"""What the commands take over 100,000 shards: seconds, and the most memory, each in a process of its own.

    python -m benchmarks.scale [--files 1000] [--shards-per-file 100] [--hub] [--one-transaction]

The files are real Parquet files whose row groups are shards (one row each, and
`dataset.shard_bytes = 1`), so the planner reads footers as long as those of
files of 100 row groups are; with `--hub` they are listed and read from a Hub on
loopback. Computing 100,000 shards would take a day, so the lake is filled
instead: the plan is adopted as a run adopts it, and the ledger and the table
get their rows in transactions of 50, which leaves them inlined in the catalog
as that many small commits do. `--one-transaction` fills them as housekeeping
would leave them: in Parquet files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.config import load_pipeline
from tidemill.lake import Cursor, Lake, ensure_system_tables
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import identifier
from tidemill.planning.plan import make_plan
from tidemill.results.adoption import adopt
from tidemill.running.run import adoption_of

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "data" / "models" / "tiny-sentiment"
ROWS_PER_TRANSACTION = 50


@dataclass(frozen=True)
class Measured:
    what: str
    seconds: float
    cpu_seconds: float
    megabytes: float

    def __str__(self) -> str:
        return (
            f"{self.what:<34} {self.seconds:6.1f} s {self.cpu_seconds:6.1f} s of CPU {self.megabytes:6.0f} MB at most"
        )


def write_files(folder: Path, num_files: int, shards_per_file: int) -> None:
    folder.mkdir(parents=True)
    for number in range(num_files):
        start = number * shards_per_file
        ids = range(start, start + shards_per_file)
        table = pa.table({"id": pa.array(ids, pa.int64()), "text": [f"Review number {i}." for i in ids]})
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=1)


def write_pipeline(folder: Path, dataset: str) -> Path:
    path = folder / "reviews.toml"
    path.write_text(
        f'name = "reviews"\n[dataset]\npath = "{dataset}"\ntext = "text"\nkey = ["id"]\nshard_bytes = 1\n'
        f'[model]\npath = "{MODEL}"\n'
    )
    return path


def fill_lake(pipeline: Path, *, one_transaction: bool = False) -> None:
    """A lake in which every shard of the pipeline's dataset is done, though no model saw a row."""
    loaded = load_pipeline(pipeline)
    plan, _ = make_plan(loaded, None)
    target = Target(loaded.name, plan.version, plan.revision, "filled", plan.table, plan.kept_fingerprint)
    with Lake(loaded.lake) as lake:
        ensure_system_tables(lake)
        assert adopt(lake, target, adoption_of(plan))
        shards = lake.cursor().execute("SELECT shard_id FROM _target_shards ORDER BY path, first_row").fetchall()
        size = len(shards) if one_transaction else ROWS_PER_TRANSACTION
        for start in range(0, len(shards), size):
            ids = [shard_id for (shard_id,) in shards[start : start + size]]
            lake.write(lambda cursor, ids=ids: _fill(cursor, target, ids), message=target.message)  # type: ignore[misc]
        lake.write(lambda cursor: _finish(cursor, target), message=target.message)


def _fill(cursor: Cursor, target: Target, ids: list[str]) -> None:
    cursor.execute(
        "INSERT INTO _ledger BY NAME SELECT s.pipeline, $version AS version, s.shard_id, path, content, r.request_id, "
        "$run AS run_id, s.revision, $kept AS kept, num_rows, 0 AS num_quarantined, num_rows AS num_distinct, "
        "6 AS num_tokens, 6 AS num_computed_tokens, 8 AS num_padded_tokens, 0.01 AS ingest_seconds, "
        "0.01 AS tokenize_seconds, 0.02 AS infer_seconds, 'cpu' AS device, now() AS committed_at "
        "FROM (SELECT * FROM _revision_shards WHERE shard_id IN (SELECT unnest($ids::VARCHAR[]))) s "
        "JOIN (SELECT shard_id, request_id FROM _requests WHERE shard_id IN (SELECT unnest($ids::VARCHAR[]))) r "
        "USING (shard_id)",
        {"version": target.version, "run": target.run_id, "kept": target.kept, "ids": ids},
    )
    cursor.execute(
        f"INSERT INTO {identifier(target.table.name)} BY NAME SELECT hash(shard_id) // 2 AS id, 'POSITIVE' AS label, "
        "0.9 AS score, 6 AS num_tokens, false AS truncated, shard_id, first_row AS row_number, "
        "revision AS dataset_revision FROM _revision_shards WHERE shard_id IN (SELECT unnest($ids::VARCHAR[]))",
        {"ids": ids},
    )


def _finish(cursor: Cursor, target: Target) -> None:
    cursor.execute(
        "INSERT INTO _runs BY NAME SELECT $run AS run_id, $pipeline AS pipeline, $version AS version, "
        "$revision AS revision, 'run' AS kind, 'run' AS why, 'done' AS state, now() AS started_at, "
        "now() AS finished_at, 3600.0 AS seconds",
        {
            "run": target.run_id,
            "pipeline": target.pipeline,
            "version": target.version,
            "revision": target.revision,
        },
    )


def measured(what: str, *args: str | Path, environment: dict[str, str]) -> Measured:
    """A command of ours, in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "tidemill.cli.main", *map(str, args)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert os.waitstatus_to_exitcode(status) == 0, f"{what} failed"
    return Measured(what, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextmanager
def published(folder: Path, *, on_hub: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """The dataset's path for a pipeline file, and the environment in which it is found."""
    if not on_hub:
        yield f"{folder}/*.parquet", {"HF_HUB_OFFLINE": "1"}
        return
    from tests.hub.server import HubServer, files_in

    with HubServer() as hub:
        files = {f"data/{path}": file for path, file in files_in(folder).items()}
        hub.add_dataset("org/reviews").commit(files)
        yield "org/reviews", {"HF_ENDPOINT": hub.url}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the commands take over many shards.")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--shards-per-file", type=int, default=100)
    parser.add_argument("--hub", action="store_true", help="list and read the files from a Hub on loopback")
    parser.add_argument("--one-transaction", action="store_true", help="fill the ledger as housekeeping leaves it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemill-scale-") as name:
        folder = Path(name)
        write_files(folder / "data", asked.files, asked.shards_per_file)
        with published(folder / "data", on_hub=asked.hub) as (dataset, found):
            os.environ |= {"TIDEMILL_HOME": str(folder / "home"), **found}
            pipeline = write_pipeline(folder, dataset)
            environment = dict(os.environ)
            print(f"{asked.files * asked.shards_per_file:,} shards of {asked.files:,} files")
            print(measured("plan, no lake yet", "plan", pipeline, environment=environment), flush=True)
            print(measured("plan --json, no lake yet", "plan", pipeline, "--json", environment=environment), flush=True)
            started = time.perf_counter()
            # What this process holds counts as its children's memory, so another one does the large things.
            filling = multiprocessing.get_context("spawn").Process(
                target=fill_lake, args=(pipeline,), kwargs={"one_transaction": asked.one_transaction}
            )
            filling.start()
            filling.join()
            assert filling.exitcode == 0, "the lake could not be filled"
            print(f"(the lake was filled in {time.perf_counter() - started:.0f} s)", flush=True)
            for what, command, *options in (
                ("plan, up to date", "plan"),
                ("status", "status"),
                ("run with nothing to do", "run"),
                ("run --direct with nothing to do", "run", "--direct"),
                ("verify", "verify"),
            ):
                print(measured(what, command, pipeline, *options, environment=environment), flush=True)


if __name__ == "__main__":
    main()
