"""Key and kept columns: where they come from, what they are called in the table, and their types there."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tidemill import sources
from tidemill.config import Pipeline
from tidemill.errors import SchemaError
from tidemill.formats import Columns
from tidemill.lake import Cursor
from tidemill.lake import ledger as lake_ledger
from tidemill.lake.tables import RESERVED_NAMES, ROW_COLUMNS, duckdb_type
from tidemill.retry import retrying
from tidemill.shards import fingerprint
from tidemill.versions import VersionSpec


@dataclass(frozen=True)
class KeptColumn:
    """A key or kept column: where it comes from, its name in the table and its type there."""

    source: str
    name: str
    arrow_type: Any

    @property
    def type(self) -> str:
        return duckdb_type(self.arrow_type)

    def to_json(self) -> dict[str, str]:
        schema = pa.schema([pa.field(self.source, self.arrow_type)])
        arrow = base64.b64encode(schema.serialize().to_pybytes()).decode()
        return {"source": self.source, "name": self.name, "type": self.type, "arrow": arrow}

    @classmethod
    def from_json(cls, facts: Mapping[str, str]) -> KeptColumn:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(facts["arrow"])))
        return cls(facts["source"], facts["name"], schema.field(0).type)


def kept_fingerprint(kept: Sequence[KeptColumn]) -> str:
    return fingerprint(*(part for column in kept for part in (column.source, column.name, column.type)))[:8]


def parse_kept(pipeline: Pipeline) -> list[tuple[str, str]]:
    """(source column, name in the table) of the key and kept columns, keys first."""
    pairs = []
    for declaration in (*pipeline.dataset.key, *pipeline.dataset.keep):
        source, _, name = re.sub(r"\s+as\s+", "\0", declaration.strip(), flags=re.IGNORECASE).partition("\0")
        pair = (source.strip(), (name or source).strip())
        if pair not in pairs:
            pairs.append(pair)
    return pairs


def settle_columns(
    pipeline: Pipeline,
    spec: VersionSpec,
    dataset: sources.Dataset,
    cursor: Cursor | None,
    state: lake_ledger.PipelineState | None,
) -> tuple[tuple[KeptColumn, ...], Columns]:
    """Give every kept column its type: the table's where it has one, else the first file's."""
    pairs = parse_kept(pipeline)
    recorded = lake_ledger.load_kept(cursor, pipeline.name, spec.version) if cursor and state else None
    known = {(column.source, column.name): column for column in map(KeptColumn.from_json, recorded or [])}
    if recorded is not None and all(pair in known for pair in pairs) and not pipeline.dataset.types:
        types = {source: known[source, name].arrow_type for source, name in pairs}
        return tuple(known[pair] for pair in pairs), dataset.columns(pairs, types)
    schema: pa.Schema = retrying(dataset.schema, retries=dataset.retries)
    types = {source: schema.field(source).type for source, _ in pairs if source in schema.names}
    columns = dataset.columns(pairs, types)
    dataset.check(schema, columns)
    return tuple(KeptColumn(source, name, types[source]) for source, name in pairs), columns


def check_names(pipeline: Pipeline) -> None:
    names = [name for _, name in parse_kept(pipeline)]
    for name in names:
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
