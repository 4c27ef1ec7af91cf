"""What each dataset revision lists: a revision costs what it has other than the one before.

`_revisions` numbers a pipeline's revisions in the order in which they became the
target; one that becomes it again gets the next number. A row of `_files` holds
for the revisions from `since` on and before `until`, and so do all its rows of
`_shards`: what is found of a file by reading is known of each of these
revisions. Views spell out what the target and what every revision lists.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import delete_where, insert_records, insert_rows
from tidemill.shards import Shard, Slice, SourceFile

_IN_DEMAND = """
    SELECT pipeline, number FROM _revisions
    WHERE (pipeline, revision) IN (SELECT (pipeline, target_revision) FROM _pipelines)
    OR (pipeline, revision) IN (SELECT (pipeline, revision) FROM _ledger)"""


def _unlisted(table: str) -> str:
    return (
        f"(pipeline, path, since) NOT IN (SELECT (t.pipeline, t.path, t.since) FROM {table} t JOIN ({_IN_DEMAND}) r "
        "ON t.pipeline = r.pipeline AND t.since <= r.number AND (t.until IS NULL OR r.number < t.until))"
    )


_LEFT_OVER = {
    "_shards": f"{_unlisted('_shards')} AND (pipeline, shard_id) NOT IN (SELECT (pipeline, shard_id) FROM _ledger)",
    "_files": _unlisted("_files"),
    "_revisions": f"(pipeline, number) NOT IN (SELECT (pipeline, number) FROM ({_IN_DEMAND}))",
}
"""Table → which of its rows nobody needs: of revisions that no pipeline aims at and no ledger row names.

A file goes with all its shards, or its row would say that it has none; a shard
that the ledger names stays, whatever lists it.
"""


def list_revision(
    cursor: Cursor, pipeline: str, revision: str, files: Sequence[tuple[SourceFile, int | None]], *, now: datetime
) -> None:
    """Make `files` what `revision` lists, and `revision` the pipeline's latest.

    The number is how many shards a file has, None while it is not cut to its
    end. Of a file that is listed already, what is known of its shards stays.
    """
    rows = cursor.execute("SELECT path, content, url FROM _target_files WHERE pipeline = ?", [pipeline]).fetchall()
    listed = {path: (content, url) for path, content, url in rows}
    number = _number(cursor, pipeline, revision, now)
    contents = {file.path: file.content for file, _ in files}
    gone = [path for path, (content, _) in listed.items() if contents.get(path) != content]
    for table in ("_files", "_shards") if gone else ():
        cursor.execute(
            f"UPDATE {table} SET until = ? WHERE pipeline = ? AND until IS NULL "
            "AND path IN (SELECT unnest(?::VARCHAR[]))",
            [number, pipeline, gone],
        )
    stay = listed.keys() - set(gone)
    insert_rows(cursor, "_files", _files_table(pipeline, number, [item for item in files if item[0].path not in stay]))
    _move(
        cursor,
        pipeline,
        [file for file, _ in files if file.path in stay and _place(file.url) != _place(listed[file.path][1])],
    )


def list_shards(cursor: Cursor, pipeline: str, shards: Sequence[Shard]) -> None:
    """Add to the shards of files that the target revision lists; those that are known already stay as they are."""
    if not shards:
        return
    cursor.register("_incoming", _shards_table(pipeline, shards))
    cursor.execute(
        "INSERT INTO _shards BY NAME SELECT i.*, f.since FROM _incoming i JOIN _target_files f USING (pipeline, path) "
        "ANTI JOIN _target_shards s USING (pipeline, path, shard_id)"
    )
    cursor.unregister("_incoming")


def mark_cut(cursor: Cursor, pipeline: str, cut: Sequence[tuple[str, Sequence[Shard]]]) -> None:
    """Note of files that the target revision lists, by path, that these are all their shards."""
    if not cut:
        return
    list_shards(cursor, pipeline, [shard for _, shards in cut for shard in shards])
    cursor.execute(
        "UPDATE _files f SET num_shards = c.num_shards FROM (SELECT unnest($paths::VARCHAR[]) AS path, "
        "unnest($counts::INTEGER[]) AS num_shards) c WHERE f.pipeline = $pipeline AND f.path = c.path "
        "AND until IS NULL AND f.num_shards IS DISTINCT FROM c.num_shards",
        {
            "pipeline": pipeline,
            "paths": [path for path, _ in cut],
            "counts": [len(shards) for _, shards in cut],
        },
    )


def unlist_target(cursor: Cursor, pipeline: str) -> None:
    """Take away what the target revision lists, so that it can be listed anew; earlier revisions keep theirs."""
    at = {"pipeline": pipeline, "latest": _latest(cursor, pipeline)}
    for table in ("_files", "_shards"):
        at_target = "pipeline = $pipeline AND until IS NULL AND since"
        cursor.execute(f"DELETE FROM {table} WHERE {at_target} = $latest", at)
        cursor.execute(f"UPDATE {table} SET until = $latest WHERE {at_target} < $latest", at)


def _move(cursor: Cursor, pipeline: str, files: Sequence[SourceFile]) -> None:
    """Note where files lie now."""
    moved = [(file.path, file.url) for file in files]
    if moved:
        cursor.execute(
            "UPDATE _files f SET url = m.url FROM (SELECT unnest($paths::VARCHAR[]) AS path, "
            "unnest($urls::VARCHAR[]) AS url) m WHERE f.pipeline = $pipeline AND f.path = m.path AND until IS NULL",
            {"pipeline": pipeline, "paths": [path for path, _ in moved], "urls": [url for _, url in moved]},
        )


def _place(url: str) -> str:
    """Where a file lies, at whichever commit of the Hub's: that follows from the revision, as in `address_at`."""
    return re.sub(r"^(hf://[^@]*)@[^/]*/", r"\1@/", url)


def _number(cursor: Cursor, pipeline: str, revision: str, now: datetime) -> int:
    """The number of the revision, which is given the next one unless it is the latest."""
    latest = _latest(cursor, pipeline)
    ((before,),) = cursor.execute(
        "SELECT max(number) FROM _revisions WHERE pipeline = ? AND revision = ?", [pipeline, revision]
    ).fetchall()
    if latest is not None and latest == before:
        return latest
    number = 1 + (latest or 0)
    if before is not None:
        cursor.execute("DELETE FROM _revisions WHERE pipeline = ? AND revision = ?", [pipeline, revision])
    row = {"pipeline": pipeline, "number": number, "revision": revision, "adopted_at": now}
    insert_records(cursor, "_revisions", [row])
    return number


def _latest(cursor: Cursor, pipeline: str) -> int | None:
    """The number of the target revision. What it lists tells as well, where its row was lost with a damaged file."""
    named = " UNION ALL ".join(
        f"SELECT max({column}) AS number FROM {table} WHERE pipeline = $pipeline"
        for table, column in (("_revisions", "number"), ("_files", "since"), ("_files", "until"), ("_shards", "since"))
    )
    latest: int | None = cursor.execute(f"SELECT max(number) FROM ({named})", {"pipeline": pipeline}).fetchall()[0][0]
    return latest


def _files_table(pipeline: str, number: int, files: Sequence[tuple[SourceFile, int | None]]) -> pa.Table:
    return pa.table(
        {
            "pipeline": [pipeline] * len(files),
            "path": [file.path for file, _ in files],
            "since": pa.array([number] * len(files), pa.int64()),
            "url": [file.url for file, _ in files],
            "size": pa.array([file.size for file, _ in files], pa.int64()),
            "content": [file.content for file, _ in files],
            "num_shards": pa.array([num_shards for _, num_shards in files], pa.int32()),
        }
    )


def _shards_table(pipeline: str, shards: Sequence[Shard]) -> pa.Table:
    return pa.table(
        {
            "pipeline": [pipeline] * len(shards),
            "path": [shard.file.path for shard in shards],
            "shard_id": [shard.shard_id for shard in shards],
            "content": [shard.slice.content for shard in shards],
            "first_row": pa.array([shard.slice.first_row for shard in shards], pa.int64()),
            "num_rows": pa.array([shard.slice.num_rows for shard in shards], pa.int64()),
            "start_byte": pa.array([shard.slice.start for shard in shards], pa.int64()),
            "stop_byte": pa.array([shard.slice.stop for shard in shards], pa.int64()),
            "text_bytes": pa.array([shard.slice.text_bytes for shard in shards], pa.int64()),
        }
    )


def cut_files(cursor: Cursor, pipeline: str) -> dict[str, list[Slice]]:
    """File content → the slices it was cut into, for every file that was once cut to its end.

    One of whose shards some were lost, with a damaged file of the lake, is not among them: it is cut anew.
    """
    rows = cursor.execute(
        "WITH listed AS (SELECT path, since, count(*) AS n FROM _shards WHERE pipeline = $pipeline GROUP BY ALL), "
        "whole AS (SELECT content, any_value({'path': path, 'since': since}) AS place "
        "FROM _files LEFT JOIN listed USING (path, since) "
        "WHERE pipeline = $pipeline AND num_shards = coalesce(n, 0) GROUP BY content) "
        "SELECT w.content, s.first_row, s.num_rows, s.start_byte, s.stop_byte, s.content, s.text_bytes "
        "FROM whole w LEFT JOIN _shards s ON s.pipeline = $pipeline AND s.path = w.place.path "
        "AND s.since = w.place.since ORDER BY w.content, s.first_row",
        {"pipeline": pipeline},
    ).fetchall()
    slices: dict[str, list[Slice]] = defaultdict(list)
    for content, *cut in rows:
        slices[content] += [] if cut[0] is None else [Slice(*cut)]
    return dict(slices)


def slices_at(cursor: Cursor, pipeline: str, revision: str, paths: Sequence[str]) -> dict[str, tuple[str, list[Slice]]]:
    """path → (file content, slices known so far) at one revision, in file order; slices of `paths` alone."""
    rows = cursor.execute(
        "SELECT f.path, f.content, s.first_row, s.num_rows, s.start_byte, s.stop_byte, s.content, s.text_bytes "
        "FROM _revision_files f LEFT JOIN (SELECT * FROM _shards WHERE path IN (SELECT unnest(?::VARCHAR[]))) s "
        "USING (pipeline, path, since) WHERE f.pipeline = ? AND f.revision = ? ORDER BY f.path, s.first_row",
        [list(paths), pipeline, revision],
    ).fetchall()
    found: dict[str, tuple[str, list[Slice]]] = {}
    for path, content, *cut in rows:
        known = found.setdefault(path, (content, []))[1]
        known += [] if cut[0] is None else [Slice(*cut)]
    return found


def listed_first_rows(cursor: Cursor, pipeline: str) -> dict[str, int]:
    """shard id → the number of its first row, of every shard that a revision lists or the ledger has."""
    rows = cursor.execute(
        "SELECT shard_id, any_value(first_row) FROM _shards WHERE pipeline = ? GROUP BY shard_id", [pipeline]
    ).fetchall()
    return dict(rows)


def files_at(cursor: Cursor, pipeline: str, revision: str) -> list[SourceFile]:
    """Every file listed at a revision, by path."""
    rows = cursor.execute(
        "SELECT path, url, size, content FROM _revision_files WHERE pipeline = ? AND revision = ? ORDER BY path",
        [pipeline, revision],
    ).fetchall()
    return [SourceFile(*row) for row in rows]


def target_shards(cursor: Cursor, pipeline: str, revision: str, paths: Sequence[str] | None = None) -> list[Shard]:
    """Every shard listed at a revision, of some files or of all, by path and row."""
    only = "" if paths is None else "AND f.path IN (SELECT unnest($paths::VARCHAR[])) "
    facts: dict[str, object] = {"pipeline": pipeline, "revision": revision}
    rows = cursor.execute(
        "SELECT f.path, f.url, f.size, f.content, s.first_row, s.num_rows, s.start_byte, s.stop_byte, s.content, "
        "s.text_bytes FROM _revision_files f JOIN _shards s USING (pipeline, path, since) "
        f"WHERE f.pipeline = $pipeline AND f.revision = $revision {only}ORDER BY f.path, s.first_row",
        facts if paths is None else facts | {"paths": list(paths)},
    ).fetchall()
    return [Shard(SourceFile(*row[:4]), Slice(*row[4:])) for row in rows]


def num_unread_files(cursor: Cursor, pipeline: str) -> int:
    """How many of the target revision's files are not cut to their end."""
    found: int = cursor.execute(
        "SELECT count(*) FROM _target_files WHERE pipeline = ? AND num_shards IS NULL", [pipeline]
    ).fetchall()[0][0]
    return found


def num_shards_by_path(cursor: Cursor, pipeline: str, revision: str) -> dict[str, int | None]:
    """path → how many shards a revision's file has, None while it is not cut to its end."""
    rows = cursor.execute(
        "SELECT path, num_shards FROM _revision_files WHERE pipeline = ? AND revision = ?", [pipeline, revision]
    ).fetchall()
    return dict(rows)


def remove_stale(cursor: Cursor, *, dry_run: bool = False) -> dict[str, int]:
    """Remove what only revisions list that no pipeline aims at and no ledger row names; table → rows of it."""
    counts = {table: delete_where(cursor, table, condition, dry_run=True) for table, condition in _LEFT_OVER.items()}
    for table, condition in _LEFT_OVER.items():
        if counts[table] and not dry_run:
            delete_where(cursor, table, condition)
    return counts


def query_of_shards(pipeline: str) -> str:
    """What a user may ask to see the ids of the target revision's shards."""
    return f"SELECT shard_id, path FROM _target_shards WHERE pipeline = '{pipeline}'"
