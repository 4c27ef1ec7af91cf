"""Queries on millions of result rows: through a lake, and by DuckDB alone on bare Parquet files of the same rows.

In one process, with everything open and warm: what a query costs. And as a
command, `tidemill sql` beside `python -c "import duckdb; ..."`: that adds
starting Python, loading DuckDB's extensions and opening the lake.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.filled_lake import fill
from benchmarks.measure import ROOT, Say
from benchmarks.report import Section, times
from tidemill.config import load_pipeline
from tidemill.lake import Cursor, Lake

QUERIES = {
    "count by label": "SELECT label, count(*) FROM reviews GROUP BY label ORDER BY label",
    "mean score by domain, filtered": (
        "SELECT domain, label, avg(score) FROM reviews WHERE rating > 0 GROUP BY ALL ORDER BY ALL"
    ),
    "median score by domain": "SELECT domain, median(score) FROM reviews GROUP BY domain ORDER BY domain",
    "ten highest scores": "SELECT id, label, score FROM reviews ORDER BY score DESC, id LIMIT 10",
    "one row by its key": "SELECT * FROM reviews WHERE id = 'review-00500000'",
    "rows by file": (
        "SELECT s.path, count(*), avg(r.score) FROM reviews r JOIN _shards s USING (shard_id) "
        "GROUP BY s.path ORDER BY s.path LIMIT 10"
    ),
}
ALL = "all of these, in one command"
NUM_QUERY_TURNS = 9
NUM_COMMAND_TURNS = 15


@dataclass(frozen=True)
class Filled:
    """A filled lake, and SQL that makes its two tables as views of bare Parquet files."""

    pipeline: Path
    num_rows: int
    num_files: int
    lakes_own: str
    rewritten: str


def sections(home: Path, num_rows: int, *, say: Say) -> list[Section]:
    say(f"SQL: filling a lake with {num_rows:,} rows ...")
    started = time.perf_counter()
    filled = _bare_files(fill(home, num_rows), home, num_rows)
    say(f"  filled in {time.perf_counter() - started:.0f} s; {filled.num_files} data files")
    return [_queries(filled), _commands(filled)]


def _bare_files(pipeline: Path, home: Path, num_rows: int) -> Filled:
    """The lake's own data files where they lie, and the same rows as DuckDB alone writes them."""
    with Lake(load_pipeline(pipeline).lake, read_only=True) as lake:
        cursor = lake.cursor()
        ((table,),) = cursor.execute("SELECT pipeline || '__' || version FROM _versions").fetchall()
        listed = cursor.execute("SELECT data_file FROM ducklake_list_files('lake', ?)", [table]).fetchall()
        files = [file for (file,) in listed]
        columns = ", ".join(name for name, *_ in cursor.execute("DESCRIBE reviews").fetchall())
        cursor.execute(f"COPY (SELECT * FROM reviews) TO '{home}/reviews.parquet'")
        cursor.execute(f"COPY (SELECT * FROM _shards) TO '{home}/shards.parquet'")
    lakes_own, rewritten = _views(files, columns, home), _views([f"{home}/reviews.parquet"], columns, home)
    return Filled(pipeline, num_rows, len(files), lakes_own, rewritten)


def _views(files: Sequence[str], columns: str, home: Path) -> str:
    return (
        f"CREATE VIEW reviews AS SELECT {columns} FROM read_parquet({list(files)}); "
        f"CREATE VIEW _shards AS SELECT * FROM read_parquet('{home}/shards.parquet')"
    )


def _queries(filled: Filled) -> Section:
    """Best times in one process, the sides in turn."""
    import duckdb

    with Lake(load_pipeline(filled.pipeline).lake, read_only=True) as lake:
        sides = {"tidemill": lake.cursor(), "same files": duckdb.connect(), "rewritten": duckdb.connect()}
        sides["same files"].execute(filled.lakes_own)
        sides["rewritten"].execute(filled.rewritten)
        seconds = {name: _query_seconds(sides, query) for name, query in QUERIES.items()}
    return Section(
        title="SQL, in one process",
        conditions=(
            f"{filled.num_rows:,} result rows in {filled.num_files} data files, everything open and warm, "
            f"the best of {NUM_QUERY_TURNS}; beside DuckDB on the same Parquet files, and on one file that DuckDB wrote"
        ),
        header=("", "lake ms", "same files ms", "rewritten ms", "× same files", "× rewritten"),
        rows=[
            (
                name,
                *(f"{1000 * each:.1f}" for each in took.values()),
                times(took["tidemill"] / took["same files"]),
                times(took["tidemill"] / took["rewritten"]),
            )
            for name, took in seconds.items()
        ],
        facts={"rows": filled.num_rows, "files": filled.num_files, "seconds": seconds},
    )


def _query_seconds(sides: dict[str, Cursor], query: str) -> dict[str, float]:
    answers = {name: cursor.execute(query).fetchall() for name, cursor in sides.items()}
    first, *others = answers.values()
    assert all(_rounded(other) == _rounded(first) for other in others), f"the sides differ on: {query}"
    return _best(
        {name: lambda cursor=cursor: cursor.execute(query).fetchall() for name, cursor in sides.items()},  # type: ignore[misc]
        NUM_QUERY_TURNS,
    )


def _rounded(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    """Sums depend on their order in the last digits."""
    return [[round(value, 6) if isinstance(value, float) else value for value in row] for row in rows]


def _commands(filled: Filled) -> Section:
    """Best times of whole processes, the sides in turn."""
    seconds = {}
    for name, queries in {**{name: [query] for name, query in QUERIES.items()}, ALL: [*QUERIES.values()]}.items():
        query = "; ".join(queries)
        run_first = "".join(f"duckdb.execute({first!r}); " for first in queries[:-1])
        alone = f"import duckdb; duckdb.execute({filled.lakes_own!r}); {run_first}duckdb.sql({queries[-1]!r}).show()"
        commands = {
            "tidemill sql": [str(Path(sys.executable).with_name("tidemill")), "sql", str(filled.pipeline), query],
            "duckdb": [sys.executable, "-c", alone],
        }
        seconds[name] = _best(
            {side: lambda command=command: _run(command) for side, command in commands.items()},  # type: ignore[misc]
            NUM_COMMAND_TURNS,
        )
    return Section(
        title="SQL, as a command",
        conditions=(
            f"{filled.num_rows:,} result rows; `tidemill sql` beside `python -c` with DuckDB on the same files, "
            f"each in a fresh process, files in the system's cache, the best of {NUM_COMMAND_TURNS}"
        ),
        header=("", "tidemill sql ms", "duckdb ms", "×", "more ms"),
        rows=[
            (
                name,
                *(f"{1000 * each:.0f}" for each in took.values()),
                times(took["tidemill sql"] / took["duckdb"]),
                f"{1000 * (took['tidemill sql'] - took['duckdb']):.0f}",
            )
            for name, took in seconds.items()
        ],
        facts={"rows": filled.num_rows, "seconds": seconds},
    )


def _best(sides: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    rounds = [{name: _seconds(run) for name, run in sides.items()} for _ in range(turns)]
    return {name: min(one[name] for one in rounds) for name in sides}


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _run(command: Sequence[str]) -> None:
    """Python keeps what it compiled, as it does where a package is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, stdout=subprocess.DEVNULL, cwd=ROOT, check=True, env=environment)
