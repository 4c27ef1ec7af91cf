"""What each dataset revision lists: a revision costs what it has other than the one before.

`_revisions` numbers a pipeline's revisions in the order in which they became the
target; one that becomes it again gets the next number. A row of `_files` holds
for the revisions from `since` on and before `until`, and so do all its rows of
`_shards`: what is found of a file by reading is known of each of these
revisions. Views spell out what the target and what every revision lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import insert_records, insert_rows
from tidemill.shards import Shard, SourceFile

_IN_DEMAND = """
    SELECT pipeline, number FROM _revisions
    WHERE (pipeline, revision) IN (SELECT (pipeline, target_revision) FROM _pipelines)
    OR (pipeline, revision) IN (SELECT (pipeline, revision) FROM _ledger)"""


def _unlisted(table: str) -> str:
    return (
        f"(pipeline, path, since) NOT IN (SELECT (t.pipeline, t.path, t.since) FROM {table} t JOIN ({_IN_DEMAND}) r "
        "ON t.pipeline = r.pipeline AND t.since <= r.number AND (t.until IS NULL OR r.number < t.until))"
    )


LEFT_OVER = {
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


def mark_cut(cursor: Cursor, pipeline: str, path: str, shards: Sequence[Shard]) -> None:
    """Note that these are all the shards of a file that the target revision lists."""
    list_shards(cursor, pipeline, shards)
    cursor.execute(
        "UPDATE _files SET num_shards = ? WHERE pipeline = ? AND path = ? AND until IS NULL "
        "AND num_shards IS DISTINCT FROM ?",
        [len(shards), pipeline, path, len(shards)],
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
