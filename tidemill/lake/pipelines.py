"""Each pipeline and its versions, as the lake recorded them: `_pipelines` and `_versions`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import ResultTable, existing_columns


@dataclass(frozen=True)
class PipelineState:
    """Where a pipeline stands, once it has run."""

    target_revision: str
    promoted_version: str


def load_state(cursor: Cursor, pipeline: str) -> PipelineState | None:
    """None if the pipeline never ran, or the lake was made a moment ago and has no tables yet."""
    if not existing_columns(cursor, "_pipelines"):
        return None
    found = cursor.execute(
        "SELECT target_revision, promoted_version FROM _pipelines WHERE pipeline = ?", [pipeline]
    ).fetchone()
    return PipelineState(*found) if found else None


def load_dataset(cursor: Cursor, pipeline: str) -> dict[str, Any]:
    """What was said of the dataset when the target revision was taken up: path, config, split and revision."""
    found = cursor.execute("SELECT dataset FROM _pipelines WHERE pipeline = ?", [pipeline]).fetchone()
    return json.loads(found[0]) if found else {}


def load_spec(cursor: Cursor, pipeline: str, version: str) -> dict[str, Any] | None:
    """What `_versions` recorded when the version was made."""
    found = cursor.execute(
        "SELECT spec FROM _versions WHERE (pipeline, version) = (?, ?)", [pipeline, version]
    ).fetchone()
    return json.loads(found[0]) if found else None


def load_kept(cursor: Cursor, pipeline: str, version: str) -> list[dict[str, str]] | None:
    """The key and kept columns that the version's table holds now: source, name, type."""
    found = cursor.execute(
        "SELECT kept FROM _versions WHERE (pipeline, version) = (?, ?)", [pipeline, version]
    ).fetchone()
    return json.loads(found[0]) if found else None


def load_results(cursor: Cursor, pipeline: str, version: str) -> tuple[tuple[str, str], ...] | None:
    """Names and types of the model task's columns in the version's table."""
    found = cursor.execute(
        "SELECT results FROM _versions WHERE (pipeline, version) = (?, ?)", [pipeline, version]
    ).fetchone()
    return tuple((name, kind) for name, kind in json.loads(found[0])) if found else None


@dataclass(frozen=True)
class Target:
    """What a run brings up to date: one version of one pipeline, at one dataset revision."""

    pipeline: str
    version: str
    revision: str
    run_id: str
    table: ResultTable
    kept: str

    @property
    def message(self) -> str:
        return f"{self.pipeline} {self.version} at {self.revision[:12]}, run {self.run_id}"


class RecordedVersion(NamedTuple):
    """What `_versions` recorded when a version was made; `kept` are the key and kept columns that it has now."""

    spec: dict[str, Any]
    kept: list[dict[str, str]]
    results: list[list[str]]


def recorded_versions(cursor: Cursor, pipeline: str) -> dict[str, RecordedVersion]:
    """Every version of a pipeline by its name, oldest first."""
    rows = cursor.execute(
        "SELECT version, spec, kept, results FROM _versions WHERE pipeline = ? ORDER BY created_at", [pipeline]
    ).fetchall()
    return {version: RecordedVersion(*map(json.loads, facts)) for version, *facts in rows}


def target_revisions(cursor: Cursor) -> list[tuple[str, str]]:
    """(pipeline, target revision) of every pipeline in the lake."""
    return cursor.execute("SELECT pipeline, target_revision FROM _pipelines").fetchall()
