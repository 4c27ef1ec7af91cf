"""Tidemill from Python: `tidemill.run`, `plan`, `status`, `verify` and `sql`, each what the command of that name does.

Every function takes a pipeline file's path or a `Pipeline`, and `overrides`:
values by key, `{"limits.retries": 1}`, or texts as the command line's `--set`
takes them. What goes wrong is a `TidemillError`, which says `retryable`, whether
the same call may succeed later, and `exit_code`, 2 where the input is wrong and
1 where the work failed; only what nobody foresaw is raised as it is.

They work in this process and thread, without Prefect: in a thread of one's own,
and where an event loop runs, which waits meanwhile (`asyncio.to_thread`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.api.facts import Facts
from tidemill.errors import LakeError, PlaceUnusable
from tidemill.pipeline_file import Overrides

if TYPE_CHECKING:
    from tidemill.api.result import Result
    from tidemill.config import Pipeline
    from tidemill.progress import Progress
    from tidemill.running.recording import RunResult

__all__ = ["plan", "run", "sql", "status", "verify"]

DATABASES = ("duckdb", "_duckdb", "sqlite3")


def run(
    pipeline: str | Path | Pipeline,
    *,
    overrides: Overrides = (),
    yes: bool = False,
    progress: bool | Progress | None = None,
) -> RunResult:
    """Bring the pipeline's table up to date, here and now; only what changed is computed.

    What was committed stays, whatever becomes of the rest: a result whose `state`
    is "failed" has it in `failures`, and one that was interrupted is "stopped";
    the same call goes on from there. `num_rows` are the rows that were committed,
    `num_quarantined` those set aside, `seconds` the wall time, `notes` what else
    there is to know. With `yes`, the rows of vanished files go however many they
    are. `progress` writes a line to stderr, by default in notebooks alone and there to
    their output, or is a `tidemill.progress.Progress` of your own, called from several threads.

    Raises:
        InputError: the pipeline file, the dataset or the model is at fault; nothing was written.
        LimitExceeded: vanished files would take more rows than `limits.max_removed`; nothing was written.
        RetryableError: the Hub, a source or the lake did not answer; `LakeLocked` is one.
        PlaceUnusable: no space on a disk, or no right to a folder.
    """
    from tidemill.api.progress import shown_progress
    from tidemill.running.run import Run

    with _as_ours(), shown_progress(progress) as shown:
        return Run(_loaded(pipeline, overrides), progress=shown, yes=yes).execute()


def plan(pipeline: str | Path | Pipeline, *, overrides: Overrides = ()) -> Facts:
    """What `run` would do, and why. Computes and writes nothing.

    `up_to_date` says that there is nothing to do, `files` which are new, changed
    or gone, `rows` how many would be computed, `seconds` and `cost` what that
    should take (None where nothing was measured); all of it is what
    `tidemill plan --json` prints.

    Raises:
        InputError: the pipeline file, the dataset, the model or the lake is at fault.
        RetryableError: the Hub, a source or the lake did not answer.
    """
    from tidemill.lake import Lake, catalog_exists
    from tidemill.planning.plan import make_plan

    with _as_ours():
        loaded = _loaded(pipeline, overrides)
        there = catalog_exists(loaded.lake)
        with Lake(loaded.lake, read_only=True) if there else nullcontext() as lake:
            return Facts(make_plan(loaded, lake)[0].to_json())


def status(pipeline: str | Path | Pipeline, *, overrides: Overrides = ()) -> Facts:
    """Where the table stands, as `tidemill status --json` prints it; zeros and nothing where it was never made.

    `rows` and `rows_quarantined` are those of the promoted version, `shards` counts
    them by state, `freshness.age_seconds` is how long ago a run last succeeded,
    `runs` has the last few.

    Raises:
        InputError: the pipeline file or the lake is at fault.
        RetryableError: the lake's catalog did not answer.
    """
    from tidemill.reports.status import pipeline_status

    with _as_ours():
        return Facts(pipeline_status(_loaded(pipeline, overrides)))


def verify(pipeline: str | Path | Pipeline, *, overrides: Overrides = ()) -> Facts:
    """Recheck every invariant of the pipeline's tables from their rows and files.

    `problems` says what is wrong, one line each, and is empty if all holds;
    `num_rows` and `num_shards` were checked. A problem is not raised.

    Raises:
        LakeError: there is no such lake or pipeline, or its data may not be read.
        RetryableError: the lake's catalog or the place of its data did not answer.
    """
    from tidemill.lake import Lake
    from tidemill.results.verify import verify_pipeline

    with _as_ours():
        loaded = _loaded(pipeline, overrides)
        with Lake(loaded.lake, read_only=True, scans=True) as lake:
            return Facts(verify_pipeline(lake, loaded.name).to_json())


def sql(
    source: str | Path | Pipeline, query: str, *, overrides: Overrides = (), allow: Sequence[str | Path] = ()
) -> Result:
    """The rows that a query gives, of one snapshot of the lake, which is closed again: the result is yours to keep.

    `source` is a pipeline file, of which only the section `lake` has to be right,
    a `Pipeline`, or a lake's catalog: `sqlite:FILE`, `postgres:...`, a SQLite file's
    path. The query only reads; of files only those in the folders of `allow`. Of
    several statements the last one's result is given. All of it is held in memory.

    Raises:
        InputError: the SQL is wrong or would write, there is no lake, or `allow` names no folder.
        RetryableError: the lake's catalog did not answer.
    """
    from tidemill.api.result import Result
    from tidemill.reports.query import find_lake, reading

    with _as_ours():
        is_named = isinstance(source, str | Path)
        spec = find_lake(str(source), overrides) if is_named else _loaded(source, overrides).lake
        with reading(spec, query, [str(folder) for folder in allow]) as (cursor, last):
            return Result(cursor.execute(last).to_arrow_table())


def _loaded(pipeline: str | Path | Pipeline, overrides: Overrides) -> Pipeline:
    from tidemill.config import load_pipeline, with_overrides

    if isinstance(pipeline, str | Path):
        return load_pipeline(pipeline, overrides)
    return with_overrides(pipeline, overrides) if overrides else pipeline


@contextmanager
def _as_ours() -> Iterator[None]:
    """What the system or a database refuses is an error of Tidemill's too.

    Raises:
        TidemillError: in place of theirs.
    """
    try:
        yield
    except OSError as e:
        from tidemill.places import system_error

        if e.errno is None:
            raise
        raise PlaceUnusable(system_error(e)) from e
    except Exception as e:
        if type(e).__module__ not in DATABASES:
            raise
        if "InterruptException" in type(e).__name__:  # DuckDB takes a Ctrl-C within a query for itself.
            raise KeyboardInterrupt from e
        raise LakeError(f"The lake cannot be read or written: {e}") from e
