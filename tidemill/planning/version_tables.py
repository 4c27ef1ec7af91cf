"""A version, and what its table looks like: as the lake recorded it, or as it is to be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.config import Pipeline
from tidemill.errors import LakeError
from tidemill.lake import Cursor, ResultTable
from tidemill.lake.pipelines import recorded_versions
from tidemill.planning import versions
from tidemill.planning.columns import KeptColumn
from tidemill.planning.versions import VersionSpec


@dataclass(frozen=True)
class Version:
    """A version, and what its table looks like."""

    spec: VersionSpec
    kept: tuple[KeptColumn, ...]
    table: ResultTable


def load_version(cursor: Cursor, pipeline: Pipeline, name: str) -> Version:
    """A version as the lake recorded it.

    Raises:
        LakeError: there is none of this name; the message lists those there are.
    """
    known = recorded_versions(cursor, pipeline.name)
    if name not in known:
        raise LakeError(f"{pipeline.name} has no version {name}. It has: {', '.join(known) or 'none'}.")
    recorded = known[name]
    spec = versions.relocated(VersionSpec.from_json(recorded.spec), pipeline)
    return make_version(pipeline, spec, [KeptColumn.from_json(facts) for facts in recorded.kept], recorded.results)


def make_version(
    pipeline: Pipeline, spec: VersionSpec, kept: Sequence[KeptColumn], results: Sequence[Sequence[str]]
) -> Version:
    columns = tuple((column.name, column.type) for column in kept)
    found = tuple((name, kind) for name, kind in results)
    key = pipeline.dataset.kept[: len(pipeline.dataset.key)]
    # A version whose columns are not rewritten yet may not begin with the key that is declared now.
    num_keys = len(key) if [(column.source, column.name) for column in kept[: len(key)]] == key else 0
    table = ResultTable(pipeline.name, spec.version, columns, found, num_keys)
    return Version(spec, tuple(kept), table)
