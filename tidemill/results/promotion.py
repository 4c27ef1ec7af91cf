"""The versions of a pipeline in the lake: how complete each is, which one the view shows, and the end of one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tidemill.errors import LakeError
from tidemill.lake.backfills import cancel_of_version
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.pipelines import PipelineState, load_kept, load_results, load_state
from tidemill.lake.records.marks import carry_marks
from tidemill.lake.requests import withdraw
from tidemill.lake.runs import RunRecord
from tidemill.lake.tables import ResultTable, identifier, insert_records, point_view, table_name
from tidemill.results.retirement import retire_elsewhere

PROMOTED = "promoted"
"""What names the promoted version, whichever it is, where a version is asked for."""


@dataclass(frozen=True)
class Standing:
    """One version's ledger, held against the target revision."""

    version: str
    created_at: datetime
    num_done: int
    """Shards of the target revision that the ledger has."""
    num_missing: int
    num_outdated: int
    """Shards that the ledger has and the target revision has not: their files have changed or gone."""
    num_unread_files: int
    """Text files of the target revision that nobody has read to their end, so that more shards may be missing."""
    num_rows: int
    num_quarantined: int

    @property
    def is_complete(self) -> bool:
        """Whether the ledger is exactly the target's shards."""
        return not (self.num_missing or self.num_outdated or self.num_unread_files)

    @property
    def lacking(self) -> str:
        """What keeps it from being complete, in words; empty if it is."""
        counts = (
            (self.num_missing, "shard", "missing"),
            (self.num_outdated, "shard", "outdated"),
            (self.num_unread_files, "file", "not read to the end"),
        )
        return ", ".join(
            f"{count:,} {noun}{'' if count == 1 else 's'} {state}" for count, noun, state in counts if count
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "created_at": self.created_at,
            "complete": self.is_complete,
            "lacking": self.lacking,
            "shards_done": self.num_done,
            "shards_missing": self.num_missing,
            "shards_outdated": self.num_outdated,
            "unread_files": self.num_unread_files,
            "rows": self.num_rows,
            "rows_quarantined": self.num_quarantined,
        }


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion: the version is promoted now, was so already, or lacks something and is not."""

    pipeline: str
    version: str
    previous_version: str
    state: Literal["promoted", "unchanged", "incomplete"]
    standing: Standing

    def to_json(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline,
            "version": self.version,
            "previous_version": self.previous_version,
            "state": self.state,
            "standing": self.standing.to_json(),
        }


def standings(cursor: Cursor, pipeline: str) -> list[Standing]:
    """Every version of a pipeline against the shards of the target revision, oldest first."""
    facts = {"pipeline": pipeline}
    listed, unread = cursor.execute(
        "SELECT (SELECT count(*) FROM _target_shards WHERE pipeline = $pipeline), "
        "(SELECT count(*) FROM _target_files WHERE pipeline = $pipeline AND num_shards IS NULL)",
        facts,
    ).fetchall()[0]
    rows = cursor.execute(
        "WITH target AS (SELECT shard_id, true AS listed FROM _target_shards WHERE pipeline = $pipeline), "
        "done AS (SELECT version, count(listed) AS num_done, count(*) AS num_shards, "
        "sum(num_rows)::BIGINT AS num_rows, sum(num_quarantined)::BIGINT AS num_quarantined "
        "FROM (SELECT * FROM _ledger WHERE pipeline = $pipeline) LEFT JOIN target USING (shard_id) GROUP BY version) "
        "SELECT v.version, v.created_at, coalesce(num_done, 0), coalesce(num_shards, 0), coalesce(num_rows, 0), "
        "coalesce(num_quarantined, 0) FROM _versions v LEFT JOIN done USING (version) "
        "WHERE v.pipeline = $pipeline ORDER BY v.created_at, v.version",
        facts,
    ).fetchall()
    return [
        Standing(version, created, done, listed - done, shards - done, unread, num_rows, quarantined)
        for version, created, done, shards, num_rows, quarantined in rows
    ]


def find_version(known: Sequence[str], asked: str, promoted: str) -> str:
    """The version that a word names: `promoted`, or the beginning of one version's name.

    Raises:
        LakeError: none or several begin so; the message lists those there are.
    """
    found = [promoted] if asked == PROMOTED else [version for version in known if asked and version.startswith(asked)]
    if len(found) == 1:
        return found[0]
    raise LakeError(
        f"{asked!r} names {'several versions' if found else 'no version'}. Give the beginning of one of these, or "
        f"the word {PROMOTED}: {', '.join(f'{v} ({PROMOTED})' if v == promoted else v for v in found or known)}."
    )


def existing_state(cursor: Cursor, pipeline: str) -> PipelineState:
    """As `load_state`, for what cannot go on without.

    Raises:
        LakeError: the lake has no such pipeline.
    """
    state = load_state(cursor, pipeline)
    if state is None:
        raise LakeError(f"The lake has no pipeline {pipeline}. `tidemill run` makes it.")
    return state


def find_standing(cursor: Cursor, pipeline: str, asked: str) -> Standing:
    """The standing of the version that a word names, as `find_version` reads it.

    Raises:
        LakeError: there is no such pipeline or version.
    """
    state = existing_state(cursor, pipeline)
    by_name = {standing.version: standing for standing in standings(cursor, pipeline)}
    return by_name[find_version(list(by_name), asked, state.promoted_version)]


def load_table(cursor: Cursor, pipeline: str, version: str) -> ResultTable:
    """The version's table with the columns that it has now."""
    kept = tuple((column["name"], column["type"]) for column in load_kept(cursor, pipeline, version) or [])
    return ResultTable(pipeline, version, kept, load_results(cursor, pipeline, version) or ())


def promote(lake: Lake, pipeline: str, asked: str) -> Promotion:
    """Let the pipeline's view show another version, in one transaction that also records it in `_runs`.

    Nothing is written for a version that is incomplete, or is promoted already.

    Raises:
        LakeError: there is no such pipeline or version.
    """

    def body(cursor: Cursor) -> Promotion:
        state, standing = existing_state(cursor, pipeline), find_standing(cursor, pipeline, asked)
        version, previous = standing.version, state.promoted_version
        if version == previous:
            return Promotion(pipeline, version, previous, "unchanged", standing)
        if not standing.is_complete:
            return Promotion(pipeline, version, previous, "incomplete", standing)
        now = datetime.now(UTC)
        cursor.execute(
            "UPDATE _pipelines SET promoted_version = ?, updated_at = ? WHERE pipeline = ?", [version, now, pipeline]
        )
        table = load_table(cursor, pipeline, version)
        point_view(cursor, table)
        carry_marks(cursor, pipeline, version)
        retire_elsewhere(cursor, pipeline, version)
        _record(cursor, "promote", pipeline, version, f"in place of {previous}")
        return Promotion(pipeline, version, previous, "promoted", standing)

    return lake.write(body, message=f"promote {pipeline} {asked}")


def drop(lake: Lake, pipeline: str, asked: str) -> None:
    """Remove a version for good: its table, ledger, requests and quarantine, in one transaction.

    Its backfills that are open are cancelled. Snapshots that are kept still show it.

    Raises:
        LakeError: there is no such version, or it is the promoted one.
    """

    def body(cursor: Cursor) -> None:
        version = find_standing(cursor, pipeline, asked).version
        refuse_promoted(cursor, pipeline, version)
        for name in _tables_of(cursor, table_name(pipeline, version)):
            cursor.execute(f"DROP TABLE {identifier(name)}")
        withdraw(cursor, pipeline, version)
        for name in ("_ledger", "_quarantine", "_versions"):
            cursor.execute(f"DELETE FROM {name} WHERE pipeline = ? AND version = ?", [pipeline, version])
        cancel_of_version(cursor, pipeline, version)
        _record(cursor, "drop", pipeline, version, "drop")

    lake.write(body, message=f"drop {pipeline} {asked}")


def refuse_promoted(cursor: Cursor, pipeline: str, version: str) -> None:
    """
    Raises:
        LakeError: the version is what the pipeline's view shows.
    """
    if version == existing_state(cursor, pipeline).promoted_version:
        raise LakeError(
            f"{version} is promoted: it is what {pipeline} shows. `tidemill promote` another version first."
        )


def _tables_of(cursor: Cursor, table: str) -> list[str]:
    """The version's table, and those in which its columns were being rewritten."""
    rows = cursor.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' "
        "AND (table_name = $table OR starts_with(table_name, $table || '__'))",
        {"table": table},
    ).fetchall()
    return [name for (name,) in rows]


def _record(cursor: Cursor, kind: str, pipeline: str, version: str, why: str) -> None:
    """A row of `_runs` for what is done at once, in the transaction that does it."""
    revision = existing_state(cursor, pipeline).target_revision
    run = RunRecord(secrets.token_hex(6), pipeline, kind, why=why, version=version, revision=revision, state="done")
    insert_records(cursor, "_runs", [{**vars(run), "finished_at": run.started_at, "seconds": 0.0}])
