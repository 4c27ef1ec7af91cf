"""What a commit costs: milliseconds a shard for 1, 16 and 64 shards a transaction, beside a bare DuckLake's.

    python -m benchmarks.commits [--rows 500] [--turns 12] [--statements] [--catalog postgres:...]

The engine commits shards of made-up predictions. Beside it, in turns of the same process and with the same rows, a
lake of its own takes the two inserts of which a commit consists at least: the rows, and the shards' ledger rows. Both
hold the lake's lock. With `--statements` it prints what each of the engine's statements took; that costs a little by
itself. Of each number the median of the turns is shown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import this_machine
from tidemill import config
from tidemill.formats import KEPT_PREFIX
from tidemill.lake import Cursor, Lake, ResultTable, ensure_system_tables
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import request_ids
from tidemill.lake.tables import create_result_table, insert_records, insert_rows
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.commit import Computed, commit_shards
from tidemill.shards import Shard, Slice, SourceFile

TOGETHER = (1, 16, 64)
TABLE = ResultTable(
    "values", "0a1b2c3d", (("id", "VARCHAR"), ("rating", "DOUBLE")), (("label", "VARCHAR"), ("score", "FLOAT")), 1
)
TARGET = Target("values", "0a1b2c3d", "r1", "made-up", TABLE, "kept")
FACTS = {"num_tokens": 33_000, "device": "none: made up"}


@dataclass
class Spent:
    """CPU and wall milliseconds a shard, a pair a turn."""

    turns: list[tuple[float, float]] = field(default_factory=list)

    def time(self, call: Callable[[], Any], num_shards: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        spent = time.process_time() - cpu, time.perf_counter() - wall
        self.turns.append((1000 * spent[0] / num_shards, 1000 * spent[1] / num_shards))

    def __str__(self) -> str:
        cpu, wall = (statistics.median(column) for column in zip(*self.turns, strict=True))
        return f"{cpu:6.1f} CPU ms {wall:7.1f} ms"


class Watched:
    """A cursor that notes how often each statement was made, and its CPU milliseconds."""

    def __init__(self, cursor: Cursor, statements: dict[str, list[float]]) -> None:
        self._cursor, self._statements = cursor, statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, *values: Any) -> Any:
        started = time.process_time()
        try:
            return self._cursor.execute(query, *values)
        finally:
            spent = 1000 * (time.process_time() - started)
            self._statements.setdefault(" ".join(query.split()), []).append(spent)


def make_shards(count: int, num_rows: int) -> list[Shard]:
    return [
        Shard(
            SourceFile(f"part-{number:05}", f"part-{number:05}", 200 * num_rows, f"content-{number}"),
            Slice(0, num_rows, 0, 0, f"slice-{number}", 200 * num_rows),
        )
        for number in range(count)
    ]


@cache
def made_up(number: int, num_rows: int) -> tuple[pa.Table, pa.Table]:
    """A shard's rows and its predictions."""
    chance = np.random.default_rng(number)
    ids = [f"review-{number:05}-{row:05}" for row in range(num_rows)]
    rows = {
        "row_number": np.arange(num_rows),
        KEPT_PREFIX + "id": ids,
        KEPT_PREFIX + "rating": chance.normal(0, 2, num_rows),
    }
    predictions = {
        "row_number": rows["row_number"],
        "label": pa.array(["NEGATIVE", "POSITIVE"]).take(pa.array(chance.integers(2, size=num_rows))),
        "score": pa.array(chance.uniform(0.5, 1, num_rows), pa.float32()),
        "num_tokens": pa.array(chance.integers(3, 129, num_rows), pa.int32()),
        "truncated": pa.repeat(False, num_rows),
        "stage": pa.nulls(num_rows, pa.string()),
        "reason": pa.nulls(num_rows, pa.string()),
    }
    return pa.table(rows), pa.table(predictions)


def adopted(lake: Lake, shards: Sequence[Shard]) -> dict[str, str]:
    """A lake in which all of the shards are asked for; shard id → request id."""
    ensure_system_tables(lake)
    adoption = Adoption(
        files=[(shard.file, 1) for shard in shards],
        shards=shards,
        requests=[(shard.shard_id, "new") for shard in shards],
        spec={},
        kept=[],
        dataset={},
        expected_target=None,
    )
    assert adopt(lake, TARGET, adoption)
    return request_ids(lake.cursor(), TARGET, [shard.shard_id for shard in shards])


def commit(lake: Lake, ids: dict[str, str], shards: Sequence[tuple[int, Shard]]) -> None:
    items = [
        Computed(shard, ids[shard.shard_id], partial(made_up, number, shard.slice.num_rows), FACTS)
        for number, shard in shards
    ]
    assert commit_shards(lake, TARGET, items).num_committed == len(items)


def insert(lake: Lake, shards: Sequence[tuple[int, Shard]]) -> None:
    """What is the least that a commit has to do, by DuckLake alone."""
    rows = pa.concat_tables([_whole_rows(number, shard) for number, shard in shards])
    ledger = [
        {
            "pipeline": TARGET.pipeline,
            "version": TARGET.version,
            "shard_id": shard.shard_id,
            "path": shard.file.path,
            "num_rows": shard.slice.num_rows,
            **FACTS,
        }
        for _, shard in shards
    ]

    def body(cursor: Cursor) -> None:
        insert_rows(cursor, TABLE.name, rows)
        insert_records(cursor, "_ledger", ledger)

    lake.write(body, message=TARGET.message)


def _whole_rows(number: int, shard: Shard) -> pa.Table:
    rows, predictions = made_up(number, shard.slice.num_rows)
    columns: dict[str, Any] = {name: rows[KEPT_PREFIX + name] for name, _ in TABLE.kept}
    columns |= {name: predictions[name] for name in ("label", "score", "num_tokens", "truncated", "row_number")}
    for name, value in (("shard_id", shard.shard_id), ("dataset_revision", TARGET.revision)):
        columns[name] = pa.repeat(pa.scalar(value), shard.slice.num_rows)
    return pa.table(columns)


def measure(
    engine: Lake, bare: Lake, num_rows: int, num_turns: int, statements: dict[str, list[float]]
) -> dict[int, tuple[Spent, Spent]]:
    """By shards a transaction, what the engine spent and what the bare DuckLake; `statements` has the engine's own."""
    numbered = list(enumerate(make_shards((num_turns + 1) * sum(TOGETHER), num_rows)))
    ids = adopted(engine, [shard for _, shard in numbered])
    ensure_system_tables(bare)
    bare.write(lambda cursor: create_result_table(cursor, TABLE), message="the same table")
    found = {together: (Spent(), Spent()) for together in TOGETHER}
    statements.clear()
    for _ in range(num_turns + 1):
        for together, (ours, least) in found.items():
            shards, numbered = numbered[:together], numbered[together:]
            for number, shard in shards:
                made_up(number, shard.slice.num_rows)
            ours.time(lambda shards=shards: commit(engine, ids, shards), together)  # type: ignore[misc]
            least.time(lambda shards=shards: insert(bare, shards), together)  # type: ignore[misc]
            made_up.cache_clear()
    for both in found.values():
        for spent in both:
            spent.turns = spent.turns[1:]  # The first turn opens what the others find open.
    return found


def watch(lake: Lake) -> dict[str, list[float]]:
    statements: dict[str, list[float]] = {}
    cursor = lake.cursor
    lake.cursor = lambda: Watched(cursor(), statements)  # type: ignore[method-assign,assignment,return-value]
    return statements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500, help="of a shard")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--statements", action="store_true")
    parser.add_argument(
        "--catalog", nargs=2, metavar=("ENGINE", "BARE"), help="two empty catalogs, instead of SQLite's"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        catalogs = asked.catalog or [f"sqlite:{folder}/{name}.sqlite" for name in ("engine", "bare")]
        specs = [config.Lake(catalog=one, data=str(Path(folder) / f"data-{i}")) for i, one in enumerate(catalogs)]
        with Lake(specs[0]) as engine, Lake(specs[1]) as bare:
            statements = watch(engine) if asked.statements else {}
            found = measure(engine, bare, asked.rows, asked.turns, statements)
    print(this_machine())
    print(
        f"Shards of {asked.rows:,} rows, {specs[0].catalog.partition(':')[0]} catalog, median of {asked.turns} turns."
    )
    for together, (ours, least) in found.items():
        print(f"{together:3} shards a transaction, each: {ours}, bare DuckLake {least}", flush=True)
    for statement, spent in sorted(statements.items(), key=lambda item: -sum(item[1])):
        print(f"{len(spent):5} times {statistics.median(spent):7.2f} CPU ms  {statement[:100]}")


if __name__ == "__main__":
    main()
