"""What checksums cost: of a commit, and of a verification, beside the same work without them.

    python -m benchmarks.checksums [--rows 1000000]

A lake is filled by the engine's own commits with made-up predictions. The share
of a commit is measured within it, around the one call that sums up a shard's
rows; noting the files' hashes follows all commits. Of `tidemill verify`, both
are set against the whole, and beside reading every value once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.filled_lake import commit_all, write_dataset
from tidemill.config import Pipeline, load_pipeline
from tidemill.lake import Lake
from tidemill.lake.checksums import checksums_in
from tidemill.lake.data_files import data_files, hash_of, note_files
from tidemill.lake.tables import identifier, result_tables
from tidemill.results.commit import writing
from tidemill.results.verify import verify_pipeline

MODEL = Path(__file__).parents[1] / "data" / "models" / "tiny-sentiment"
NUM_TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        pipeline = _pipeline(Path(folder), rows)
        summing, committing = _fill(pipeline)
        num_shards = verified(pipeline)
        print(f"{rows:,} rows in {num_shards} shards, SQLite catalog, local files")
        print(f"commit of a shard      {1000 * committing / num_shards:8.1f} ms")
        print(f"  its checksum         {1000 * summing / num_shards:8.1f} ms {summing / committing:7.1%} of the commit")
        with Lake(pipeline.lake) as lake:
            noting = _seconds(lambda: note_files(lake))
            print(f"  its file's hash      {1000 * noting / num_shards:8.1f} ms {noting / committing:7.1%}, after it")
            reading = min(_seconds(lambda: _read(lake, pipeline)) for _ in range(NUM_TURNS))
            hashing = min(
                _seconds(lambda: [hash_of(file.path) for file in data_files(lake.cursor())]) for _ in range(NUM_TURNS)
            )
            summing_up = min(_seconds(lambda: _sum_up(lake, pipeline)) for _ in range(NUM_TURNS))
            verifying = min(_seconds(lambda: verify_pipeline(lake, pipeline.name)) for _ in range(NUM_TURNS))
        print(f"reading every value    {1000 * reading:8.1f} ms")
        print(f"summing up every row   {1000 * summing_up:8.1f} ms {summing_up / verifying:7.1%} of tidemill verify")
        print(f"hashing every file     {1000 * hashing:8.1f} ms {hashing / verifying:7.1%}")
        print(f"tidemill verify        {1000 * verifying:8.1f} ms")


def verified(pipeline: Pipeline) -> int:
    with Lake(pipeline.lake, read_only=True) as lake:
        found = verify_pipeline(lake, pipeline.name)
    assert found.problems == []
    return found.num_shards


def _pipeline(home: Path, num_rows: int) -> Pipeline:
    write_dataset(home / "data", num_rows)
    path = home / "reviews.toml"
    path.write_text(
        f'name = "reviews"\n[dataset]\npath = "{home}/data/*.parquet"\ntext = "text"\nkey = ["id"]\n'
        f'keep = ["domain", "rating"]\n[model]\npath = "{MODEL}"\n'
        f'[lake]\ncatalog = "sqlite:{home}/lake.sqlite"\ndata = "{home}/lake"\n[store]\npath = "{home}/store"\n'
    )
    return load_pipeline(path)


def _fill(pipeline: Pipeline) -> tuple[float, float]:
    """Seconds spent on checksums, and in committing, those included."""
    spent = {"checksums_of_shards": 0.0, "_write_loaded": 0.0}
    for name in spent:
        setattr(writing, name, _timed(getattr(writing, name), name, spent))
    commit_all(pipeline)
    return spent["checksums_of_shards"], spent["_write_loaded"]


def _timed(call: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            spent[name] += time.perf_counter() - started

    return timed


def _read(lake: Lake, pipeline: Pipeline) -> None:
    for table in result_tables(lake.cursor(), pipeline.name):
        lake.cursor().execute(f"SELECT count(COLUMNS(*)), max(COLUMNS(*)) FROM {identifier(table)}").fetchall()


def _sum_up(lake: Lake, pipeline: Pipeline) -> None:
    for table in result_tables(lake.cursor(), pipeline.name):
        lake.cursor().execute(checksums_in(lake.cursor(), table)).fetchall()


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
