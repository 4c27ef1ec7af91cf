"""Housekeeping: small files merged, old snapshots and whatever nobody needs removed.

Each step is a function in an ordered tuple that tells what it would do, or does
it. A step holds the lake's lock for one table or one statement at a time, so
that commits can go in between. Nothing younger than a day is removed, for an
insert in progress may be about to commit it and a reader may have it open.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import duckdb

from tidemill import config
from tidemill.config import Pipeline
from tidemill.errors import InputError, LakeLocked, SourceUnavailable, first_line
from tidemill.lake.data_files import forget_removed_files, note_files
from tidemill.lake.ducklake.claims import open_claims, remove_left_over
from tidemill.lake.ducklake.connection import CATALOG, Cursor, Lake
from tidemill.lake.ducklake.data import DataFolder, is_ducklakes
from tidemill.lake.listings import remove_stale
from tidemill.lake.pipelines import target_revisions
from tidemill.lake.requests import open_requests, remove_pointless, versions_in_demand
from tidemill.lake.runs import RunRecord, record_run
from tidemill.lake.tables import identifier
from tidemill.masking import message_of
from tidemill.places import catalog_with_options
from tidemill.planning.version_tables import load_version
from tidemill.retry import retrying
from tidemill.running.stages.workspace import Workspace
from tidemill.storage.conversions import remove_conversions, unused_conversions
from tidemill.storage.features import remove_features, unused_features
from tidemill.storage.store import REMADE, Store

T = TypeVar("T")
DAY_SECONDS = 86_400.0
SMALL_FILE_BYTES = 32 * 2**20
"""A file that a merge made larger than this is not merged again."""
FLUSHED_ROWS = 1_000
"""A table with this many rows in the catalog gets a file for them."""
READER_WAIT_SECONDS = 1
REWRITTEN_SHARE = 0.25
"""A file of whose rows so many were deleted is written anew without them."""


@dataclass(frozen=True)
class Housekeeping:
    """What a step works on. A dry run only looks; `min_age_seconds` is how long everything is left alone."""

    pipeline: Pipeline
    lake: Lake
    dry_run: bool
    min_age_seconds: float

    @property
    def before(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=self.min_age_seconds)

    def write(self, body: Callable[[Cursor], Any], what: str) -> Any:
        return write_patiently(self.lake, self.pipeline, body, f"gc: {what}")


Facts = dict[str, Any]
Step = Callable[[Housekeeping], Facts]


def drop_abandoned_rewrites(work: Housekeeping) -> Facts:
    """Tables into which key and kept columns were being rewritten, which nobody has written to for a day."""
    names = [name for name in _tables(work.lake.cursor()) if name.count("__") == 2]
    abandoned = [name for name in names if not _touched_since(work.lake.cursor(), name, work.before)]
    for name in [] if work.dry_run else abandoned:
        work.write(functools.partial(_drop, name=name), f"drop {name}")
    return {"abandoned_tables": abandoned}


def remove_left_over_rows(work: Housekeeping) -> Facts:
    """Listings of dataset revisions that no pipeline aims at and no ledger row names, and requests for their shards."""
    try:
        counts = _remove_left_over(work.lake.cursor(), dry_run=True)
        if any(counts.values()) and not work.dry_run:
            counts = work.write(_remove_left_over, "remove listings of old revisions")
    except duckdb.Error as e:
        return {"left_over_rows": {}, "notes": [_unread_note("The listing of old revisions", e)]}
    return {"left_over_rows": {table: num for table, num in counts.items() if num}}


def _remove_left_over(cursor: Cursor, *, dry_run: bool = False) -> dict[str, int]:
    pointless = remove_pointless(cursor, dry_run=dry_run)
    return {"_requests": pointless, **remove_stale(cursor, dry_run=dry_run)}


def flush_inlined_rows(work: Housekeeping) -> Facts:
    """Rows of many small inserts, which live in the catalog, become a file a table."""
    counts = {table: num for table, num in _inlined_rows(work.lake.cursor()).items() if num >= FLUSHED_ROWS}
    for table in [] if work.dry_run else counts:
        work.write(functools.partial(_flush, table=table), f"flush {table}")
    return {"flushed_rows": counts}


def merge_small_files(work: Housekeeping) -> Facts:
    """Adjacent small files become larger ones, and files of which much was deleted are written without it.

    A table with a file that cannot be read is left as it is.
    """
    merged, notes = {}, []
    for table in _tables(work.lake.cursor()):
        num_small = _num_mergeable(work.lake.cursor(), table)
        if num_small and work.dry_run:
            merged[table] = num_small
        elif num_small:
            try:
                found = work.write(functools.partial(_merge, table=table), f"merge files of {table}")
            except duckdb.Error as e:
                notes.append(_unread_note(table, e))
                continue
            merged |= {table: found} if found else {}
    return {"merged_files": merged, "notes": notes}


def expire_snapshots(work: Housekeeping) -> Facts:
    """Snapshots that were no longer the latest `lake.keep_snapshots` ago, or a day ago if that is longer."""
    kept = max(work.pipeline.lake.keep_snapshots, work.min_age_seconds)
    rows = work.lake.cursor().execute(
        "SELECT snapshot_id FROM (SELECT snapshot_id, lead(snapshot_time) OVER (ORDER BY snapshot_id) AS until "
        "FROM ducklake_snapshots('lake')) WHERE until <= ? ORDER BY ALL",
        [datetime.now(UTC) - timedelta(seconds=kept)],
    )
    expired = [snapshot_id for (snapshot_id,) in rows.fetchall()]
    try:
        if expired and not work.dry_run:
            work.write(functools.partial(expire, versions=expired), "expire snapshots")
    except LakeLocked as e:
        return {"expired_snapshots": 0, "notes": [str(e)]}
    return {"expired_snapshots": len(expired)}


def remove_old_files(work: Housekeeping) -> Facts:
    """Files that merges and expired snapshots have left behind, a day after they did."""
    folder = DataFolder(work.lake)
    listed = (
        work.lake.cursor()
        .execute("CALL ducklake_cleanup_old_files('lake', dry_run => true, older_than => ?)", [work.before])
        .fetchall()
    )
    num_bytes = folder.num_bytes(path for (path,) in listed)
    if listed and not work.dry_run:
        work.write(functools.partial(remove_scheduled_files, before=work.before), "remove old files")
    return {"old_files": len(listed), "old_bytes": num_bytes}


def remove_orphans(work: Housekeeping) -> Facts:
    """Files that killed writers have left behind, a day after they were written."""
    folder = DataFolder(work.lake)
    if folder.is_shared():
        return {"orphans": 0, "orphan_bytes": 0, "notes": [shared_note(work.lake)]}
    paths = orphans(work.lake, work.before)
    num_bytes = folder.num_bytes(paths)
    if paths and not work.dry_run:
        with work.lake.locked():
            folder.remove(orphans(work.lake, work.before))
    return {"orphans": len(paths), "orphan_bytes": num_bytes}


def remove_store_files(work: Housekeeping) -> Facts:
    """Files of the store that no open request needs, a day after they were written; not what models wrote."""
    store = Store(work.pipeline.store.path, max_bytes=int(work.pipeline.store.max_bytes))
    needed = needed_store_files(work.lake, work.pipeline)
    files = store.unneeded(needed, older_than_seconds=work.min_age_seconds, kinds=REMADE)
    if not work.dry_run:
        store.discard(files)
        store.sweep()
    return {"store_files": len(files), "store_bytes": sum(files.values())}


def remove_conversions_unused(work: Housekeeping) -> Facts:
    """Models that were converted for an engine and that nobody has used for a month, or that exceed the store's bound.

    They are this machine's, for all lakes and pipelines.
    """
    most = int(work.pipeline.store.max_bytes)
    found = unused_conversions(max_bytes=most, min_age_seconds=work.min_age_seconds)
    if not work.dry_run:
        remove_conversions(found)
    return {"conversions": len(found), "conversion_bytes": sum(found.values())}


def remove_features_unused(work: Housekeeping) -> Facts:
    """What encoders made of texts for trainings, as with conversions: of this machine, unused, or more than fits."""
    most = int(work.pipeline.store.max_bytes)
    found = unused_features(max_bytes=most, min_age_seconds=work.min_age_seconds)
    if not work.dry_run:
        remove_features(found)
    return {"features": len(found), "feature_bytes": sum(found.values())}


def remove_claim_files(work: Housekeeping) -> Facts:
    """What killed runs left of their claims, beside a SQLite catalog."""
    return {"claim_files": remove_left_over(work.lake.spec, dry_run=work.dry_run)}


def note_data_files(work: Housekeeping) -> Facts:
    """The hashes of files that are new, and no longer those of files that are gone."""
    if not work.dry_run:
        work.write(forget_removed_files, "forget removed files")
        note_files(work.lake)
    return {}


STEPS: tuple[Step, ...] = (
    drop_abandoned_rewrites,
    remove_left_over_rows,
    flush_inlined_rows,
    merge_small_files,
    expire_snapshots,
    remove_old_files,
    remove_orphans,
    remove_store_files,
    remove_conversions_unused,
    remove_features_unused,
    remove_claim_files,
    note_data_files,
)


def collect_garbage(
    pipeline: Pipeline, *, dry_run: bool, why: str = "gc", min_age_seconds: float = DAY_SECONDS
) -> Facts:
    """Keep the house of a pipeline's lake and store; returns what was done, or in a dry run what would be.

    The lake is kept whole, with all its pipelines. What was done before an
    error stays done; another call goes on.

    Raises:
        LakeError: there is no lake.
    """
    started = time.monotonic()
    Lake(pipeline.lake, read_only=True).close()
    with Lake(impatient(pipeline.lake), scans=True) as lake:
        work = Housekeeping(pipeline, lake, dry_run, min_age_seconds)
        facts: Facts = {"pipeline": pipeline.name, "dry_run": dry_run, "notes": []}
        record = RunRecord(secrets.token_hex(6), pipeline.name, "gc", why=why, state="done")
        try:
            for step in STEPS:
                found = step(work)
                facts = {**facts, **found, "notes": [*facts["notes"], *found.get("notes", [])]}
        except Exception as e:
            record.state, record.message = "failed", message_of(e)
            with suppress(Exception):
                _record(lake, record, started)
            raise
        facts["seconds"] = time.monotonic() - started
        if not dry_run and has_done_something(facts):
            _record(lake, record, started)
    return facts


def _record(lake: Lake, record: RunRecord, started: float) -> None:
    record.finished_at, record.seconds = datetime.now(UTC), time.monotonic() - started
    record_run(lake, record)


def impatient(spec: config.Lake) -> config.Lake:
    """The lake, such that PostgreSQL gives up soon where a reader is in the way.

    DuckLake drops tables of the catalog when it expires snapshots; one that
    waits for a reader would hold the lake's lock, and every writer with it.
    """
    if spec.catalog.startswith("sqlite:"):
        return spec
    waiting = catalog_with_options(spec.catalog, f"-c lock_timeout={READER_WAIT_SECONDS}s")
    return spec.model_copy(update={"catalog": waiting})


def write_patiently(lake: Lake, pipeline: Pipeline, body: Callable[[Cursor], T], message: str) -> T:
    """One transaction, tried again as often as the pipeline's steps are.

    Raises:
        LakeLocked: others were in the way all the time.
    """

    def attempt() -> T:
        try:
            return lake.write(body, message=message)
        except duckdb.Error as e:
            if "lock timeout" not in str(e):
                raise
            raise LakeLocked(
                f"A session that reads an old snapshot is in the way of «{message}». Wait for it, or end it "
                "(pg_stat_activity shows it), and give the same command again: it goes on."
            ) from e

    return retrying(attempt, retries=pipeline.limits.retries)


def has_done_something(facts: Facts) -> bool:
    return any(value for key, value in facts.items() if key not in ("pipeline", "dry_run", "notes", "seconds"))


def expire(cursor: Cursor, versions: Sequence[int]) -> None:
    cursor.execute("CALL ducklake_expire_snapshots('lake', versions => ?::UBIGINT[])", [list(versions)])


def remove_scheduled_files(cursor: Cursor, before: datetime) -> None:
    """Remove the files that no snapshot has needed since then."""
    cursor.execute("CALL ducklake_cleanup_old_files('lake', older_than => ?)", [before])


def orphans(lake: Lake, before: datetime) -> list[str]:
    """Files of the lake's making that its catalog does not know, written before then."""
    found = lake.cursor().execute(
        "CALL ducklake_delete_orphaned_files('lake', dry_run => true, older_than => ?)", [before]
    )
    return [path for (path,) in found.fetchall() if is_ducklakes(path)]


def shared_note(lake: Lake) -> str:
    return (
        f"Another lake keeps its data in {lake.data} as well, so files that killed writers left there cannot be told "
        "from the other lake's and stay. Give each lake a folder of its own: lake.data."
    )


def needed_store_files(lake: Lake, pipeline: Pipeline, *, but_not_of: frozenset[str] = frozenset()) -> set[str]:
    """Names of the store files that open requests of the lake's pipelines need; less those of some contents."""
    cursor, claims = lake.cursor(), open_claims(lake.spec)
    needed: set[str] = set()
    for name, revision in target_revisions(cursor):
        asking = pipeline.model_copy(update={"name": name})
        for version in versions_in_demand(cursor, name):
            workspace = Workspace(
                asking, load_version(cursor, asking, version), lake, claims, revision=revision, run_id="gc"
            )
            for request in open_requests(cursor, name, version):
                if request.shard.slice.content not in but_not_of:
                    needed |= {workspace.rows_file(request.shard).name, workspace.predictions_file(request).name}
                    needed |= _tokens_name(workspace, request.shard)
    return needed


def _tokens_name(workspace: Workspace, shard: Any) -> set[str]:
    try:
        return {workspace.tokens_file(shard).name}
    except (InputError, SourceUnavailable):  # Without its tokenizer nobody can use the file here, and it is made again.
        return set()


def _unread_note(table: str, error: duckdb.Error) -> str:
    return (
        f"{table} is left as it is, for not all of its files can be read: {first_line(error)}. "
        "`tidemill verify` names them, and `tidemill repair` computes what they held again."
    )


def _tables(cursor: Cursor) -> list[str]:
    rows = cursor.execute("SELECT table_name FROM ducklake_table_info('lake') ORDER BY ALL").fetchall()
    return [name for (name,) in rows]


def _touched_since(cursor: Cursor, table: str, since: datetime) -> bool:
    """Whether a snapshot since then made the table or put rows into it."""
    found = cursor.execute(
        "SELECT count(*) FROM ducklake_snapshots('lake') s, ducklake_table_info('lake') t "
        "WHERE t.table_name = $table AND s.snapshot_time > $since AND ("
        "list_contains(flatten(map_values(s.changes)), t.table_id::VARCHAR) "
        "OR list_contains(flatten(map_values(s.changes)), 'main.' || t.table_name))",
        {"table": table, "since": since},
    ).fetchall()
    return bool(found[0][0])


def _drop(cursor: Cursor, name: str) -> None:
    cursor.execute(f"DROP TABLE IF EXISTS {identifier(name)}")


def _flush(cursor: Cursor, table: str) -> None:
    cursor.execute("CALL ducklake_flush_inlined_data('lake', table_name => ?)", [table])


def _inlined_rows(cursor: Cursor) -> dict[str, int]:
    """Table → its rows that live in the catalog."""
    found = cursor.execute(
        f"SELECT t.table_name, i.table_name FROM {CATALOG}.ducklake_inlined_data_tables i "
        f"JOIN {CATALOG}.ducklake_table t USING (table_id) WHERE t.end_snapshot IS NULL"
    ).fetchall()
    counts: dict[str, int] = {}
    for table, inlined in found:
        (num,) = cursor.execute(f"SELECT count(*) FROM {CATALOG}.{identifier(inlined)}").fetchall()[0]
        counts[table] = counts.get(table, 0) + num
    return counts


def _num_mergeable(cursor: Cursor, table: str) -> int:
    """How many files a merge or a rewrite would take up, about; none if it would take up only one as it is."""
    sizes = cursor.execute(
        "SELECT count(*) FILTER (delete_file IS NULL), count(*) FILTER (delete_file IS NOT NULL) "
        "FROM ducklake_list_files('lake', ?) WHERE data_file_size_bytes < ?",
        [table, SMALL_FILE_BYTES],
    ).fetchall()
    num_whole, num_deleted_from = sizes[0]
    return int(num_deleted_from + (num_whole if num_whole + num_deleted_from > 1 else 0))


def _merge(cursor: Cursor, table: str) -> int:
    """Returns how many files were taken up."""
    rewritten = cursor.execute(
        "CALL ducklake_rewrite_data_files('lake', ?, delete_threshold => ?)", [table, REWRITTEN_SHARE]
    ).fetchall()
    merged = cursor.execute(
        "CALL ducklake_merge_adjacent_files('lake', ?, max_file_size => ?)", [table, SMALL_FILE_BYTES]
    ).fetchall()
    return sum(int(row[2]) for row in (*rewritten, *merged))
