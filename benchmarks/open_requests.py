"""What it takes to read what is asked for: seconds and the most memory, over many open requests.

    python -m benchmarks.open_requests [--requests 100000 500000]

Nothing is computed: a revision whose files and shards are made up is adopted, so that each of its shards is asked for.
Then each of these is done in a process of its own: all open requests are read as the stages read them, page by page;
and the last stage looks for what is pending. Beside each is the memory of the same process before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.machine import this_machine
from tidemill import config
from tidemill.lake import Cursor, Lake, ResultTable, ensure_system_tables
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import open_requests
from tidemill.planning.pending import pending_copies, pending_files, pending_requests
from tidemill.results.adoption import Adoption, adopt
from tidemill.shards import Shard, Slice, SourceFile

SHARDS_PER_FILE, ROWS = 100, 500
TARGET = Target("reviews", "0a1b2c3d", "r1", "made-up", ResultTable("reviews", "0a1b2c3d", (), ()), "kept")


def spec_of(folder: str) -> config.Lake:
    return config.Lake(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")


def fill(folder: str, num_requests: int) -> None:
    """A lake in which so many shards are asked for, and none is done."""
    files = [
        SourceFile(f"data/part-{number:06}.parquet", f"/data/part-{number:06}.parquet", 2**20, f"content-{number}")
        for number in range(-(-num_requests // SHARDS_PER_FILE))
    ]
    shards = [
        Shard(
            files[number // SHARDS_PER_FILE],
            Slice(ROWS * (number % SHARDS_PER_FILE), ROWS, 0, 0, f"slice-{number}", 200 * ROWS),
        )
        for number in range(num_requests)
    ]
    adoption = Adoption(
        files=[(file, SHARDS_PER_FILE) for file in files],
        shards=shards,
        requests=[(shard.shard_id, "new") for shard in shards],
        spec={},
        kept=[],
        dataset={},
        expected_target=None,
    )
    with Lake(spec_of(folder)) as lake:
        ensure_system_tables(lake)
        assert adopt(lake, TARGET, adoption)


def read(cursor: Cursor) -> Iterable[object]:
    return open_requests(cursor, TARGET.pipeline, TARGET.version)


def look(cursor: Cursor) -> Iterable[object]:
    yield from pending_requests(cursor, TARGET)
    yield from pending_files(cursor, TARGET)
    yield from pending_copies(cursor, TARGET)[0]


def measure(folder: str, what: str, call: Callable[[Cursor], Iterable[object]]) -> None:
    with Lake(spec_of(folder)) as lake:
        before, wall, cpu = _most_megabytes(), time.perf_counter(), time.process_time()
        count = sum(1 for _ in call(lake.cursor()))
        spent = time.process_time() - cpu, time.perf_counter() - wall
        print(
            f"{count:8,} {what:<28} {spent[0]:6.1f} CPU s {spent[1]:6.1f} s, {_most_megabytes():5.0f} MB at most, "
            f"{before:.0f} MB before",
            flush=True,
        )


def _most_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[100_000])
    print(this_machine(), flush=True)
    apart = multiprocessing.get_context("spawn")
    for num_requests in parser.parse_args().requests:
        with tempfile.TemporaryDirectory() as name:
            folder = str(Path(name))
            for call, args in (
                (fill, (folder, num_requests)),
                (measure, (folder, "open requests are read", read)),
                (measure, (folder, "are pending at the last stage", look)),
            ):
                process = apart.Process(target=call, args=args)
                process.start()
                process.join()
                assert process.exitcode == 0


if __name__ == "__main__":
    main()
