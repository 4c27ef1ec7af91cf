"""A row that somebody types, taken through the very engine of the table: its version, options and promoted model."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.config import Pipeline
from tidemill.encoding.text_hashes import row_hashes
from tidemill.errors import ConfigError
from tidemill.inference.opening import load_preparer, load_runner
from tidemill.planning.columns import read_columns
from tidemill.planning.versions import VersionSpec
from tidemill.reports.sample import answers_to
from tidemill.sources.dataset import open_dataset

MAX_CHARACTERS = 1_000_000
LABELS = "candidate_labels"
OF_READING = (
    "type",
    "delimiter",
    "quote",
    "escape",
    "encoding",
    "config",
    "split",
    "revision",
    "key",
    "keep",
    "text_pair",
)
"""Keys of [dataset] that say where the table's rows are, and how files are read; a typed row has neither."""


@dataclass(frozen=True)
class Tried:
    """What the table would hold of a row: its result columns, or why it would be in quarantine."""

    results: dict[str, Any]
    stage: str | None
    reason: str | None
    text_hash: str | None
    version: str
    facts: dict[str, Any]
    """How it was computed."""


class Trying:
    """One row at a time: a model has one device."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._lock = pipeline, threading.Lock()

    def row(self, spec: VersionSpec, values: Mapping[str, str], labels: Sequence[str] = ()) -> Tried:
        """What the version answers to the values of its text columns; with other labels, it is another version.

        Raises:
            InputError: a value cannot be read, or the model cannot be opened.
        """
        if labels and list(labels) != list((spec.options or {}).get(LABELS, ())):
            spec = replace(spec, options={**(spec.options or {}), LABELS: list(labels)})
        with self._lock, tempfile.TemporaryDirectory(prefix="tidemill-try-") as folder:
            rows = self._read(spec, values, Path(folder))
            preparer, runner = load_preparer(spec), load_runner(spec, self._pipeline.inference)
            (found,) = answers_to(rows, preparer, runner).to_pylist(maps_as_pydicts="strict")
            (text_hash,) = row_hashes(rows).to_pylist()
        stage, reason, _ = (found.pop(name) for name in ("stage", "reason", "row_number"))
        facts = {name: runner.resolved.get(name) for name in ("engine", "device", "dtype")}
        return Tried(found, stage, reason, None if text_hash is None else str(text_hash), spec.version, facts)

    def _read(self, spec: VersionSpec, values: Mapping[str, str], folder: Path) -> pa.Table:
        """The row as a file's reader gives it: texts joined, chats parsed, or the reason why not."""
        if any(len(value) > MAX_CHARACTERS for value in values.values()):
            raise ConfigError(f"A text may have {MAX_CHARACTERS:,} characters here. `tidemill run` takes longer ones.")
        file = folder / "row.jsonl"
        row = {name: _parsed(value, spec) for name, value in values.items()}
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        own = self._pipeline.dataset.model_dump(exclude_unset=True, exclude=set(OF_READING))
        texts = {"text": list(spec.text), **({"text_pair": list(spec.text_pair)} if spec.text_pair else {})}
        section = type(self._pipeline.dataset).model_validate({**own, **texts, "path": str(file)})
        dataset = open_dataset(self._pipeline.model_copy(update={"dataset": section}), spec.joined_text)
        dataset.use(read_columns(dataset, (), 0))
        reader = dataset.reader(dataset.files[0])
        return reader.rows(next(iter(reader.slices(shard_bytes=dataset.shard_bytes))))


def _parsed(value: str, spec: VersionSpec) -> Any:
    """A chat is written as JSON; everything else is a text."""
    if spec.joined_text.as_parts and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError as e:
            raise ConfigError(f"The messages are no JSON: {e}. Write a list of objects with role and content.") from e
    return value
