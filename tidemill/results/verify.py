"""Every invariant of a pipeline's tables, rechecked from the rows and the files themselves.

What is damaged keeps nothing else from being checked: a file that is not as it
was written is left unread, and all shards but those that it may hold are asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import duckdb

from tidemill.errors import LakeError, counted, first_line
from tidemill.lake.checksums import METHOD, checksum_of
from tidemill.lake.data_files import DataFile, Noted, data_files, hash_of, noted_files, shards_in
from tidemill.lake.ducklake.connection import CATALOG, Cursor, Lake
from tidemill.lake.listings import target_shards
from tidemill.lake.pipelines import load_results, load_state
from tidemill.lake.records.checks import marks_without_rows, problems_of_marks
from tidemill.lake.tables import SYSTEM_TABLES, identifier, is_shown, result_tables, table_name
from tidemill.results.soundness import kept_text, unsound_values

MAX_EXAMPLES = 3
MAX_SHARDS_NAMED = 20

SHARD_CHECKS = {
    "a shard is in the ledger more than once": """
        SELECT shard_id FROM ledger GROUP BY shard_id HAVING count(*) > 1""",
    "the table has rows of a shard that the ledger does not have": """
        SELECT DISTINCT shard_id FROM results ANTI JOIN ledger USING (shard_id)""",
    "a shard has not the number of rows that the ledger says": """
        SELECT l.shard_id
        FROM ledger l LEFT JOIN (SELECT shard_id, count(*) AS n FROM results GROUP BY ALL) r USING (shard_id)
        WHERE l.num_rows <> coalesce(r.n, 0)""",
    "a row is there more than once": """
        SELECT shard_id FROM results GROUP BY shard_id, row_number HAVING count(*) > 1""",
    "a row is both in the table and in quarantine": """
        SELECT shard_id FROM results SEMI JOIN quarantine USING (shard_id, row_number)""",
    "a shard has not the number of quarantined rows that the ledger says": """
        SELECT l.shard_id
        FROM ledger l LEFT JOIN (SELECT shard_id, count(*) AS n FROM quarantine GROUP BY ALL) q USING (shard_id)
        WHERE l.num_quarantined <> coalesce(q.n, 0)""",
    "quarantine has rows of a shard that the ledger does not have": """
        SELECT DISTINCT shard_id FROM quarantine ANTI JOIN ledger USING (shard_id)""",
    "rows read are not results, quarantine and forgotten rows": """
        SELECT l.shard_id FROM ledger l JOIN shards s USING (shard_id)
        WHERE s.num_rows <> l.num_rows + l.num_quarantined + coalesce(l.num_forgotten, 0)""",
    "a row that was forgotten is there": """
        SELECT r.shard_id
        FROM (SELECT shard_id, row_number FROM results UNION ALL SELECT shard_id, row_number FROM quarantine) r
        JOIN shards s USING (shard_id)
        JOIN forgotten f ON f.content = s.content AND f.row_offset = r.row_number - s.first_row""",
    "a row number lies outside of its shard": """
        SELECT r.shard_id
        FROM (SELECT shard_id, min(row_number) AS low, max(row_number) AS high FROM results GROUP BY ALL) r
        JOIN shards s USING (shard_id)
        WHERE r.low < s.first_row OR r.high >= s.first_row + s.num_rows""",
    "a result has no prediction": """
        SELECT shard_id FROM results WHERE num_tokens IS NULL OR truncated IS NULL""",
}
"""What must never be found of a shard. The names are of one version's rows, at the target revision: `_name_version`."""

FILE_CHECKS = {
    "the shards of a file leave a gap or overlap": """
        SELECT path
        FROM (SELECT path, first_row,
                     lag(first_row + num_rows, 1, 0) OVER (PARTITION BY path ORDER BY first_row) AS expected
              FROM shards)
        WHERE first_row <> expected""",
    "a file has not the number of shards that was recorded": """
        SELECT f.path FROM files f LEFT JOIN (SELECT path, count(*) AS n FROM shards GROUP BY ALL) s USING (path)
        WHERE f.num_shards <> coalesce(s.n, 0)""",
}
"""What must never be found of a source file's listing; the names are the same."""

GONE = "is gone"
CHANGED = "a shard's rows are not those that were committed"


@dataclass(frozen=True)
class Damage:
    """A data file that is gone, or is not as it was written. No shards are known of a system table's."""

    file: DataFile
    why: str
    shard_ids: frozenset[str]

    def __str__(self) -> str:
        shards = f"; its shards: {_named(self.shard_ids, MAX_SHARDS_NAMED)}" if self.shard_ids else ""
        return f"{self.file.table}: the data file {self.file.path} {self.why}{shards}"


@dataclass
class Verification:
    """What a check of a pipeline found. `damages` are of its own tables and of the system tables."""

    pipeline: str
    num_rows: int = 0
    num_shards: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    wrong_shards: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Version → its shards of which something is wrong."""
    is_listing_wrong: bool = False
    """Whether files and shards are not listed as they must be."""

    def to_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline,
            "num_rows": self.num_rows,
            "num_shards": self.num_shards,
            "problems": self.problems,
            "notes": self.notes,
            "damaged_files": [damage.file.path for damage in self.damages],
            "wrong_shards": {version: sorted(ids) for version, ids in self.wrong_shards.items() if ids},
        }


def verify_pipeline(lake: Lake, pipeline: str) -> Verification:
    """Check every version of a pipeline; there are no `problems` if all invariants hold.

    Work that is pending is not a problem, and is noted.

    Raises:
        LakeError: the lake has no such pipeline, or may not read its data.
        SourceUnavailable: the place of its data does not answer.
    """
    found = Verification(pipeline)
    cursor = lake.cursor()
    cursor.execute("BEGIN")  # One snapshot for all checks, whatever is written meanwhile.
    try:
        _check_files(cursor, found)
        _check_tables(cursor, pipeline, found)
    except duckdb.Error as e:
        found.problems.append(f"not all could be checked: {first_line(e)}")
    _end(cursor)
    return found


def find_damages(
    cursor: Cursor, tables: Collection[str], *, shard_ids: Collection[str] | None = None
) -> tuple[list[Damage], int]:
    """What is damaged of the data files of some tables, and how many had no hash to be held against.

    Those are read instead. With `shard_ids`, only files that may hold one of these shards are looked at.
    """
    damages, num_new = [], 0
    reader = cursor.cursor()  # What fails ends the transaction in which it was tried.
    reader.execute("USE lake")
    try:
        noted = noted_files(reader)
    except duckdb.Error:  # One of the files that hold the hashes is damaged itself, which reading it will tell.
        noted = {}
    for file in data_files(cursor):
        known, rows = noted.get(file.name), noted.get(file.rows_path.rpartition("/")[2])
        if file.table not in tables or (shard_ids is not None and rows and rows.shard_ids.isdisjoint(shard_ids)):
            continue
        num_new += known is None
        if why := _what_is_wrong(reader, file, known):
            damages.append(Damage(file, why, frozenset(rows.shard_ids if rows else _possible_shards(reader, file))))
    return damages, num_new


def _what_is_wrong(cursor: Cursor, file: DataFile, known: Noted | None) -> str | None:
    try:
        size, digest = hash_of(file.path)
    except FileNotFoundError:
        return GONE
    if known is None:
        return _why_unreadable(cursor, file)
    return None if (known.num_bytes, known.hash) == (size, digest) else "is not as it was written"


def _why_unreadable(cursor: Cursor, file: DataFile) -> str | None:
    try:
        cursor.execute("SELECT count(COLUMNS(*)) FROM read_parquet(?)", [file.path]).fetchall()
    except duckdb.Error as e:
        return f"cannot be read ({first_line(e)})"
    return None


def _possible_shards(cursor: Cursor, file: DataFile) -> Iterable[str]:
    """The shards of a file that was not noted: those that it says itself, or all between the catalog's bounds."""
    try:
        return shards_in(cursor, file)
    except duckdb.Error:
        pipeline, _, version = file.table.partition("__")
        rows = cursor.execute(
            "SELECT l.shard_id FROM _ledger l, "
            f"(SELECT min_value AS low, max_value AS high FROM {CATALOG}.ducklake_file_column_stats "
            f"JOIN {CATALOG}.ducklake_data_file USING (data_file_id, table_id) "
            f"JOIN {CATALOG}.ducklake_column USING (table_id, column_id) "
            "WHERE column_name = 'shard_id' AND parse_filename(path) = parse_filename($path)) "
            "WHERE l.pipeline = $pipeline AND l.version = $version AND l.shard_id BETWEEN low AND high",
            {"path": file.rows_path, "pipeline": pipeline, "version": version},
        ).fetchall()
        return [shard_id for (shard_id,) in rows]


def _check_files(cursor: Cursor, found: Verification) -> None:
    found.damages, num_new = find_damages(cursor, {*SYSTEM_TABLES, *result_tables(cursor, found.pipeline)})
    found.problems += [str(damage) for damage in found.damages]
    if num_new:
        found.notes.append(
            f"{num_new:,} data files were read and not held against a hash: theirs is noted by the next run."
        )


def _check_tables(cursor: Cursor, pipeline: str, found: Verification) -> None:
    state = load_state(cursor, pipeline)
    if state is None:
        raise LakeError(f"The lake has no pipeline {pipeline}. `tidemill run` makes it.")
    names = [
        name for (name,) in cursor.execute("SELECT version FROM _versions WHERE pipeline = ?", [pipeline]).fetchall()
    ]
    found.problems += _check_view(cursor, pipeline, state.promoted_version)
    # What is damaged of them is met by the check that reads it, and not by all.
    copied = not any(damage.file.table in SYSTEM_TABLES for damage in found.damages)
    _name_listing(cursor, pipeline, state.target_revision, copied=copied)
    for version in [*(name for name in names if name != state.promoted_version), state.promoted_version]:
        damaged = [damage for damage in found.damages if damage.file.table == table_name(pipeline, version)]
        wrong = found.wrong_shards[version]
        wrong |= {shard_id for damage in damaged for shard_id in damage.shard_ids}
        _name_version(cursor, pipeline, version, copied=copied)
        if damaged:
            found.notes += _leave_out(cursor, pipeline, version, damaged, copied=copied)
        found.problems += [f"{version}: {problem}" for problem in _check_version(cursor, pipeline, version, wrong)]
        found.notes += [f"{version}: {note}" for note in _unsummed(cursor)]
        found.num_rows += cursor.execute("SELECT count(*) FROM results").fetchall()[0][0]
        found.num_shards += cursor.execute("SELECT count(*) FROM ledger").fetchall()[0][0]
        if damaged:
            _name_version(cursor, pipeline, version, copied=copied)
    listing = list(_check_listing(cursor, pipeline, state.target_revision))
    found.is_listing_wrong = bool(listing)
    found.problems += listing
    found.notes += _pending(cursor)
    _check_marks(cursor, pipeline, table_name(pipeline, state.promoted_version), found)


def _check_marks(cursor: Cursor, pipeline: str, table: str, found: Verification) -> None:
    damaged = {damage.file.table for damage in found.damages}
    if not damaged & {"_marks", "_shards", "_forgotten"}:
        found.problems += problems_of_marks(cursor, pipeline)
        found.notes += [] if table in damaged else marks_without_rows(cursor, pipeline, table)


def _name_listing(cursor: Cursor, pipeline: str, revision: str, *, copied: bool) -> None:
    """Name the pipeline's part of the tables that no version is of, for this connection alone."""
    of_revision = f"WHERE pipeline = '{pipeline}' AND revision = '{revision}'"
    _name(cursor, "shards", f"SELECT * FROM lake._revision_shards {of_revision}", copied=copied)
    _name(cursor, "files", f"SELECT * FROM lake._revision_files {of_revision}", copied=copied)
    _name(cursor, "forgotten", f"SELECT * FROM lake._forgotten WHERE pipeline = '{pipeline}'", copied=copied)


def _name_version(cursor: Cursor, pipeline: str, version: str, shards: str = "true", *, copied: bool) -> None:
    """Name one version's part of the others; of some `shards`, by a condition."""
    of_version = f"WHERE pipeline = '{pipeline}' AND version = '{version}' AND {shards}"
    table = identifier(table_name(pipeline, version))
    _name(cursor, "results", f"SELECT * FROM lake.{table} WHERE {shards}", copied=False)
    _name(cursor, "ledger", f"SELECT * FROM lake._ledger {of_version}", copied=copied)
    _name(cursor, "quarantine", f"SELECT shard_id, row_number FROM lake._quarantine {of_version}", copied=copied)


def _name(cursor: Cursor, name: str, query: str, *, copied: bool) -> None:
    """DuckLake takes longer to find the rows of a system table than DuckDB to check them: what is asked again and again
    is `copied`, else it is a view."""
    cursor.execute(f"CREATE OR REPLACE TEMP {'TABLE' if copied else 'VIEW'} {name} AS {query}")


def _leave_out(cursor: Cursor, pipeline: str, version: str, damages: Iterable[Damage], *, copied: bool) -> list[str]:
    """Narrow what is named to shards that no query looks for in a damaged file; returns a note about the others.

    DuckLake opens a file for each shard whose id lies between the least and the greatest in there.
    """
    ranges = [(min(damage.shard_ids), max(damage.shard_ids)) for damage in damages if damage.shard_ids]
    done = [shard_id for (shard_id,) in cursor.execute("SELECT shard_id FROM ledger").fetchall()]
    sound = [shard_id for shard_id in done if not any(low <= shard_id <= high for low, high in ranges)]
    named = ", ".join(f"'{shard_id}'" for shard_id in sound) or "NULL"
    _name_version(cursor, pipeline, version, f"shard_id IN ({named})", copied=copied)
    num_left_out = len(done) - len(sound)
    return [
        f"{version}: {counted(num_left_out, 'shard')} in damaged files or beside those that are: not checked further."
    ]


def _check_version(cursor: Cursor, pipeline: str, version: str, wrong: set[str]) -> Iterator[str]:
    """What is wrong with the version that is named; adds the shards to `wrong`."""
    checks = SHARD_CHECKS | {CHANGED: _changed_rows(cursor)}
    asked = ((problem, {str(row[0]) for row in cursor.execute(query).fetchall()}) for problem, query in checks.items())
    results = load_results(cursor, pipeline, version) or ()
    values = unsound_values(cursor, results, kept_text(cursor, pipeline, version))
    for problem, shard_ids in chain(asked, values):
        if shard_ids:
            wrong |= shard_ids
            yield f"{problem}: {len(shard_ids)} found ({_named(shard_ids, MAX_EXAMPLES)})"


def _check_listing(cursor: Cursor, pipeline: str, revision: str) -> Iterator[str]:
    for problem, query in FILE_CHECKS.items():
        paths = {str(row[0]) for row in cursor.execute(query).fetchall()}
        if paths:
            yield f"{problem}: {len(paths)} found ({_named(paths, MAX_EXAMPLES)})"
    yield from _check_shard_ids(cursor, pipeline, revision)
    # As a repair leaves it that was killed before it had listed it anew.
    if not cursor.execute("SELECT 1 FROM files LIMIT 1").fetchall():
        yield f"the target revision {revision} lists no file"


def _changed_rows(cursor: Cursor) -> str:
    columns = cursor.execute("DESCRIBE results").fetchall()
    actual = checksum_of([(name, kind) for name, kind, *_ in columns])
    return f"""
        SELECT l.shard_id
        FROM ledger l LEFT JOIN (SELECT shard_id, {actual} AS actual FROM results GROUP BY shard_id) r USING (shard_id)
        WHERE l.checksum_by = '{METHOD}' AND l.checksum <> coalesce(r.actual, 0)"""


def _unsummed(cursor: Cursor) -> Iterator[str]:
    num = cursor.execute(f"SELECT count(*) FROM ledger WHERE checksum_by IS DISTINCT FROM '{METHOD}'").fetchall()[0][0]
    if num:
        yield f"{counted(num, 'shard')} without a checksum of this release of DuckDB: `tidemill repair` adds it."


def _check_view(cursor: Cursor, pipeline: str, promoted: str) -> Iterator[str]:
    if not is_shown(cursor, pipeline, table_name(pipeline, promoted)):
        yield f"the view {pipeline} does not show the promoted version {promoted}"


def _check_shard_ids(cursor: Cursor, pipeline: str, revision: str) -> Iterator[str]:
    recorded = {row[0] for row in cursor.execute("SELECT shard_id FROM shards").fetchall()}
    wrong = recorded ^ {shard.shard_id for shard in target_shards(cursor, pipeline, revision)}
    if wrong:
        yield f"a shard's id does not follow from its place and content: {len(wrong)} found"


def _pending(cursor: Cursor) -> Iterator[str]:
    pending = cursor.execute("SELECT count(*) FROM shards ANTI JOIN ledger USING (shard_id)").fetchall()[0][0]
    outdated = cursor.execute("SELECT count(*) FROM ledger ANTI JOIN shards USING (shard_id)").fetchall()[0][0]
    without_columns = cursor.execute("SELECT count(*) FROM ledger WHERE kept IS NULL").fetchall()[0][0]
    unread = cursor.execute("SELECT count(*) FROM files WHERE num_shards IS NULL").fetchall()[0][0]
    if pending or outdated or unread:
        yield (
            f"shards pending: {pending:,}, outdated: {outdated:,}; files not read to their end: {unread:,}. "
            "`tidemill run` goes on."
        )
    if without_columns:
        yield (
            f"{counted(without_columns, 'shard')} without key or kept columns, which are NULL: the content was not "
            "there to be read. `tidemill run` reads them once it is."
        )


def _named(names: Iterable[str], limit: int) -> str:
    shown = sorted(names)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit:,} more" if len(shown) > limit else "")


def _end(cursor: Cursor) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:  # What failed has ended the transaction, or the database with it.
        return
