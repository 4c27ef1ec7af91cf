"""Rows forgotten for good: from every version, the quarantine, the past, and the files that hold them.

One transaction takes the rows out of all tables and notes them as forgotten, so
that nothing computed later brings them back. Then the tables are written anew,
every older snapshot is expired, and the files that they needed are removed.
That second part erases whatever the tables no longer show, so it is repeated
whole where it was interrupted.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, counted
from tidemill.lake.data_files import note_files
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.ducklake.data import DataFolder
from tidemill.lake.ducklake.reading import check_condition
from tidemill.lake.runs import RunRecord, record_run, settle_forgets, was_forget_interrupted
from tidemill.lake.tables import limit_inlining, result_tables
from tidemill.results.damage import set_aside
from tidemill.results.erasure import BY_PLACE, Erasure, find_rows, take_out, write_anew
from tidemill.results.forgotten import forgotten_contents
from tidemill.results.promotion import existing_state
from tidemill.results.verify import find_damages
from tidemill.storage.store import Store
from tidemill.upkeep.housekeeping import (
    expire,
    impatient,
    needed_store_files,
    orphans,
    remove_scheduled_files,
    shared_note,
    write_patiently,
)
from tidemill.upkeep.vacuum import vacuum_catalog

T = TypeVar("T")
UNPUBLISHED_SECONDS = 60.0
"""An unpublished store file this old belongs to no process that still writes it."""
WHENEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""Later than whatever a clock said when a file was written."""


def preview(pipeline: Pipeline, condition: str, *, history: bool = False) -> Erasure:
    """What `forget` would erase.

    Raises:
        ConfigError: the condition cannot be read, or is not over this table; or no row
            matches, the past is not asked for, and no `forget` was interrupted.
        LakeError: there is no such lake or pipeline, or matching rows are in shards that it does not list.
    """
    check_condition(condition)
    with Lake(pipeline.lake, read_only=True, scans=True) as lake:
        cursor = lake.cursor()
        existing_state(cursor, pipeline.name)
        found = find_rows(cursor, pipeline, condition)
        if was_forget_interrupted(cursor, pipeline.name):
            found.notes.append("An earlier `tidemill forget` was interrupted: this one finishes it.")
        elif not (found.num_rows or history or found.has_unreadable_tables):
            raise ConfigError(
                f"No row of {pipeline.name} matches now, in any version or in quarantine. Correct --where; or, if the "
                "rows have left the table already, add --history: it erases every older snapshot, which may show them."
            )
    return found


def forget(pipeline: Pipeline, condition: str, *, why: str = "forget", history: bool = False) -> Erasure:
    """Erase the rows for which `condition` holds, and every older snapshot of the lake.

    With `history`, the past is erased even if no row matches now. The condition
    is recorded nowhere. Readers that are on an older snapshot lose it.

    Raises:
        InputError: as `preview`.
        LakeLocked: a reader was in the way, on PostgreSQL. The rows are out of the tables; the same call goes on.
    """
    started = time.monotonic()
    preview(pipeline, condition, history=history)
    with Lake(impatient(pipeline.lake), scans=True) as lake:

        def write(body: Callable[[Cursor], T]) -> T:
            return write_patiently(lake, pipeline, body, f"forget rows of {pipeline.name}")

        record = RunRecord(secrets.token_hex(6), pipeline.name, "forget", why=why)
        record_run(lake, record)
        damages, _ = find_damages(lake.cursor(), {*result_tables(lake.cursor(), pipeline.name), *BY_PLACE})
        left = set_aside(lake, damages)
        erasure = write(functools.partial(take_out, pipeline=pipeline, condition=condition, who=record.who))
        erasure.unreached += _unread(pipeline, left)
        for table in [*result_tables(lake.cursor(), pipeline.name), *BY_PLACE]:
            write(functools.partial(write_anew, pipeline=pipeline.name, table=table))
        write(limit_inlining)
        note_files(lake)
        write(_expire_the_past)
        write(lambda cursor: remove_scheduled_files(cursor, WHENEVER))
        erasure.unreached += [*_remove_orphans(lake), *vacuum_catalog(lake), *_clean_store(lake, pipeline)]
        erasure.unreached += out_of_reach(pipeline)
        erasure.erased = True
        record.state, record.finished_at, record.seconds = "done", datetime.now(UTC), time.monotonic() - started
        record.num_rows_removed = sum(version["rows"] for version in erasure.versions)
        write(functools.partial(settle_forgets, pipeline=pipeline.name))
        record_run(lake, record)
    return erasure


def _unread(pipeline: Pipeline, left: Mapping[str, Collection[str]]) -> list[str]:
    """What to say of shards that left the tables with damaged files, unread."""
    if not (num_shards := sum(map(len, left.values()))):
        return []
    return [
        f"{counted(num_shards, 'shard')} in damaged files: not asked, and out of the tables with those files. "
        f"`tidemill repair` computes them again; then give this command again for {pipeline.name}"
    ]


def out_of_reach(pipeline: Pipeline) -> list[str]:
    """What may hold the rows still, whatever this does."""
    dataset = pipeline.dataset
    archives = "" if pipeline.lake.catalog.startswith("sqlite:") else ", PostgreSQL's archived WAL and its replicas"
    return [
        f"the source, {dataset.path} at revision {dataset.revision}: take the rows out there too; until then a stage "
        "that reads their shard again puts its text into the store, though never into a table",
        f"backups and copies of the lake, the store or their disks{archives}",
        "other pipelines and other lakes over the same dataset: forget there too",
        "files that were exported, and datasets that were published: publish again, and squash the history on the Hub",
        "what a process that is running now holds in memory",
    ]


def _expire_the_past(cursor: Cursor) -> None:
    """All snapshots but the latest: each may show a row, and keeps the files of its time."""
    rows = cursor.execute("SELECT snapshot_id FROM ducklake_snapshots('lake') ORDER BY ALL").fetchall()
    if past := [snapshot_id for (snapshot_id,) in rows[:-1]]:
        expire(cursor, past)


def _remove_orphans(lake: Lake) -> list[str]:
    """Files of inserts that were killed before they could commit; returns what was not reached."""
    folder = DataFolder(lake)
    if folder.is_shared():
        return [shared_note(lake)]
    with lake.locked():
        folder.remove(orphans(lake, WHENEVER))
    return []


def _clean_store(lake: Lake, pipeline: Pipeline) -> list[str]:
    """Everything but what open requests for other shards need; returns what was not reached."""
    contents = forgotten_contents(lake.cursor(), pipeline.name)
    store = Store(pipeline.store.path, max_bytes=int(pipeline.store.max_bytes))
    needed = needed_store_files(lake, pipeline, but_not_of=contents)
    store.discard(store.unneeded(needed, older_than_seconds=0))
    store.sweep(older_than_seconds=UNPUBLISHED_SECONDS)
    if not (num_unpublished := store.unpublished()):
        return []
    return [
        f"{counted(num_unpublished, 'file')} of the store, being written within the last minute. When no process works "
        "on the pipeline any more, give the command again with --history"
    ]
