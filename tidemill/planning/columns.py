"""Key and kept columns: where they come from, what they are called in the table, and their types there."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tidemill.config import Pipeline
from tidemill.errors import SchemaError
from tidemill.fingerprints import fingerprint
from tidemill.formats import Columns, check_fields, without_nulls
from tidemill.lake import Cursor
from tidemill.lake.ledger import has_done_shards
from tidemill.lake.pipelines import PipelineState, load_kept
from tidemill.lake.tables import RESERVED_NAMES, ROW_COLUMNS, duckdb_type, lake_type
from tidemill.planning.versions import VersionSpec
from tidemill.retry import retrying
from tidemill.sources import dataset as sources


@dataclass(frozen=True)
class KeptColumn:
    """A key or kept column: where it comes from, its name in the table and its type there.

    `converted` says that its cells become the type as well as they can. Else
    they must come back as they were written; columns recorded before that was
    asked of them go on as they were.
    """

    source: str
    name: str
    arrow_type: Any
    converted: bool = False

    @property
    def type(self) -> str:
        """
        Raises:
            SchemaError: the lake has no type for it.
        """
        return str(self._in_lake(duckdb_type))

    @property
    def settled_type(self) -> Any:
        """The Arrow type that its cells are given before they go into the table.

        Raises:
            SchemaError: the lake has no type for it.
        """
        return self._in_lake(lake_type)

    def _in_lake(self, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(self.arrow_type)
        except (SchemaError, NotImplementedError) as e:
            raise SchemaError(
                f"The column {self.source!r} has type {self.arrow_type}, which the lake cannot keep. Take it out of "
                "dataset.key and dataset.keep, or write the files with another type."
            ) from e

    def to_json(self) -> dict[str, str]:
        schema = pa.schema([pa.field(self.source, self.arrow_type)])
        arrow = base64.b64encode(schema.serialize().to_pybytes()).decode()
        facts = {"source": self.source, "name": self.name, "type": self.type, "arrow": arrow}
        # Only where it is so: what older lakes say of their columns stays word for word, or all would be rewritten.
        return facts if self.converted else {**facts, "cells": "exact"}

    @classmethod
    def from_json(cls, facts: Mapping[str, str]) -> KeptColumn:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(facts["arrow"])))
        return cls(facts["source"], facts["name"], schema.field(0).type, facts.get("cells") != "exact")


def kept_fingerprint(kept: Sequence[KeptColumn]) -> str:
    return fingerprint(*(part for column in kept for part in (column.source, column.name, column.type)))[:8]


def settle_columns(
    pipeline: Pipeline,
    spec: VersionSpec,
    dataset: sources.Dataset,
    cursor: Cursor | None,
    state: PipelineState | None,
) -> tuple[tuple[KeptColumn, ...], Columns]:
    """Give every kept column its type: what the pipeline file says, else the table's, else what the files show.

    A version that has no table yet takes after the promoted one, so that promoting it changes no type.

    Raises:
        SchemaError: a column is missing or there twice, the files do not agree on its type, or the lake has none.
    """
    recorded = _recorded_columns(cursor, pipeline, spec, state) if cursor and state else None
    pairs, num_keys = pipeline.dataset.kept, len(pipeline.dataset.key)
    known = recorded or {}
    if recorded is None or any(source not in recorded for source, _ in pairs):
        known = _shown_columns(dataset, pairs, num_keys) | known
    known |= _declared_columns(pipeline)
    kept = [replace(known[source], name=name) for source, name in pairs]
    for column in kept:
        check_fields(column.source, column.arrow_type, _way_out(dataset, column.source))
    return tuple(kept), read_columns(dataset, kept, num_keys)


def read_columns(dataset: sources.Dataset, kept: Sequence[KeptColumn], num_keys: int) -> Columns:
    """What is to be read of the dataset, so that the kept columns have their types."""
    return dataset.columns(
        [(column.source, column.name) for column in kept],
        {column.source: column.settled_type for column in kept},
        converted=[column.source for column in kept if column.converted],
        num_keys=num_keys,
    )


def _recorded_columns(
    cursor: Cursor, pipeline: Pipeline, spec: VersionSpec, state: PipelineState
) -> dict[str, KeptColumn] | None:
    """Source column → as the version's table has it, or else the promoted version's; None if there is neither."""
    recorded = load_kept(cursor, pipeline.name, spec.version)
    if recorded is None and has_done_shards(cursor, pipeline.name, state.promoted_version):
        recorded = load_kept(cursor, pipeline.name, state.promoted_version)
    return None if recorded is None else {facts["source"]: KeptColumn.from_json(facts) for facts in recorded}


def _shown_columns(dataset: sources.Dataset, pairs: Sequence[tuple[str, str]], num_keys: int) -> dict[str, KeptColumn]:
    """Source column → as the files show it."""
    columns = dataset.columns(pairs, {}, num_keys=num_keys)
    dataset.use(columns)
    schema: pa.Schema = retrying(dataset.schema, retries=dataset.retries)
    dataset.check(schema, columns)
    return {source: KeptColumn(source, name, without_nulls(schema.field(source).type)) for source, name in pairs}


def _declared_columns(pipeline: Pipeline) -> dict[str, KeptColumn]:
    types = {name: sources.arrow_type_named(name, kind) for name, kind in pipeline.dataset.types.items()}
    return {source: KeptColumn(source, source, type_, converted=True) for source, type_ in types.items()}


def _way_out(dataset: sources.Dataset, name: str) -> str:
    if dataset.cut_from_footer:
        return f"Write the files otherwise, or leave {name!r} out of dataset.keep and dataset.key."
    return f'Set dataset.types.{name} = "string" to keep its JSON as text, or leave {name!r} out of dataset.keep.'


def check_names(pipeline: Pipeline) -> None:
    names = [name for _, name in pipeline.dataset.kept]
    for name in names:
        if not name:
            raise SchemaError('A column without a name needs one in the table: keep = [" as index"].')
        if name.lower() in RESERVED_NAMES:
            raise SchemaError(
                f"The kept column {name!r} has the name of a column of the result table. "
                f'Rename it: keep = ["{name} as my_{name}"].'
            )
    folded = [name.lower() for name in names]
    for name in names:
        if folded.count(name.lower()) > 1:
            raise SchemaError(f'The column {name!r} is kept twice. Rename one: keep = ["{name} as other_{name}"].')


def check_collisions(kept: Sequence[KeptColumn], results: Sequence[tuple[str, str]]) -> None:
    taken = {name.lower() for name, _ in (*results, *ROW_COLUMNS.items())}
    for column in kept:
        if column.name.lower() in taken:
            raise SchemaError(
                f"The kept column {column.name!r} has the name of a result column. "
                f'Rename it: keep = ["{column.source} as {_other_name(column.name, taken)}"].'
            )


def _other_name(name: str, taken: set[str]) -> str:
    suggestion = {"score": "rating", "label": "true_label"}.get(name.lower(), f"source_{name}")
    return suggestion if suggestion not in taken else f"source_{name}"
