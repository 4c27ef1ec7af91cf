"""The store: intermediate Arrow files, published whole and checked when read.

A file is written under another name and renamed, or sent by one PUT, so that it
is there complete or not at all. Its footer holds the number of rows, the
fingerprint it was made for and a checksum; a file that does not match is as
good as missing, and is made again.
"""

from __future__ import annotations

import io
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.ipc
import xxhash

from tidemill import objects
from tidemill.errors import ConfigError, LimitExceeded, StoreFileInvalid
from tidemill.places import make_folder

Kind = Literal["rows", "tokens", "predictions"]
KINDS: tuple[Kind, ...] = ("rows", "tokens", "predictions")
ABANDONED_SECONDS = 24 * 3600
YOUNG_SECONDS = 600
"""Another process may be about to use a file this young."""


@dataclass(frozen=True)
class StoreFile:
    """One file of the store, named by what it was made from. `fingerprint` holds no path separator."""

    kind: Kind
    fingerprint: str

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.fingerprint}.arrow"


class Store:
    def __init__(self, path: str, *, max_bytes: int) -> None:
        self._address, self.max_bytes = path, max_bytes
        self._fs, self._root = objects.open_address(path, "store.path", ConfigError)
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        if self._local:
            for kind in KINDS:
                make_folder(Path(self._root, kind), "store.path")
        else:
            objects.check_bucket(path, "store.path", ConfigError)

    def write(self, file: StoreFile, table: pa.Table, facts: dict[str, str] | None = None) -> int:
        """Publish `table` under `file`'s name, replacing what was there; returns its size in bytes.

        `facts` lie in the footer, for whoever reads the file.
        """
        batches = table.combine_chunks().to_batches()
        metadata = {
            "rows": str(table.num_rows),
            "fingerprint": file.fingerprint,
            "checksum": _checksum(batches),
            **{f"fact:{key}": value for key, value in (facts or {}).items()},
        }
        target = self._path(file)
        if self._local:
            unpublished = f"{self._root}/.{secrets.token_hex(8)}.partial"
            with Path(unpublished).open("wb") as sink:
                _write_batches(sink, table.schema, batches, metadata)
                size = sink.tell()
            os.replace(unpublished, target)  # noqa: PTH105
            return size
        body = io.BytesIO()
        _write_batches(body, table.schema, batches, metadata)
        with self._translated():
            self._fs.pipe_file(target, body.getvalue())
        return body.tell()

    def read(self, file: StoreFile) -> pa.Table:
        """The whole table, memory-mapped where the store is a folder.

        Raises:
            StoreFileInvalid: it is missing, or its rows, fingerprint or checksum do not match.
        """
        return self.read_with_facts(file)[0]

    def read_with_facts(self, file: StoreFile) -> tuple[pa.Table, dict[str, str]]:
        """As `read`, with what `write` was given as facts."""
        reader = self._open(file)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        found = {key.decode(): value.decode() for key, value in (reader.metadata or {}).items()}
        num_rows = sum(batch.num_rows for batch in batches)
        if found.get("rows") != str(num_rows) or found.get("fingerprint") != file.fingerprint:
            raise StoreFileInvalid(f"The store file {file.name} is not what its name says. It is made again.")
        if found.get("checksum") != _checksum(batches):
            raise StoreFileInvalid(f"The store file {file.name} fails its checksum. It is made again.")
        facts = {key.removeprefix("fact:"): value for key, value in found.items() if key.startswith("fact:")}
        return pa.Table.from_batches(batches, schema=reader.schema), facts

    def has(self, file: StoreFile) -> bool:
        """Whether a whole and valid file is there."""
        try:
            self.read(file)
        except StoreFileInvalid:
            return False
        return True

    def remove(self, file: StoreFile) -> None:
        self._remove(file.name)

    def names(self, kind: Kind) -> set[str]:
        """Names of all published files of a kind, whole or not."""
        return {f"{kind}/{entry['name'].rpartition('/')[2]}" for entry in self._entries(kind)}

    def has_room(self, num_bytes: int) -> bool:
        return sum(size for _, _, size in self._listed()) + num_bytes <= self.max_bytes

    def make_room(self, num_bytes: int, *, needed: Collection[str] = (), released: Collection[str] = ()) -> bool:
        """Evict files, oldest first, until `num_bytes` more fit.

        False if those in `needed` (names) and those written minutes ago, which
        another process may need, do not leave room. Those in `released` may go
        however young they are.

        Raises:
            LimitExceeded: `num_bytes` alone is more than the store may hold.
        """
        if num_bytes > self.max_bytes:
            raise LimitExceeded(
                f"One shard's files take about {num_bytes:,} bytes, store.max_bytes is {self.max_bytes:,}. "
                "Raise store.max_bytes, or lower dataset.shard_bytes."
            )
        files = sorted(self._listed(), key=lambda listed: listed[1])
        total = sum(size for _, _, size in files)
        for name, written, size in files:
            if total + num_bytes <= self.max_bytes:
                break
            is_young = time.time() - written < YOUNG_SECONDS and name not in released
            if name not in needed and not is_young:
                self._remove(name)
                total -= size
        return total + num_bytes <= self.max_bytes

    def unneeded(self, needed: Collection[str], *, older_than_seconds: float) -> dict[str, int]:
        """Name → bytes of the published files that are not in `needed` (names) and were not written lately."""
        written_before = time.time() - older_than_seconds
        return {name: size for name, when, size in self._listed() if name not in needed and when <= written_before}

    def discard(self, names: Collection[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError), self._translated():
                self._fs.rm_file(f"{self._root}/{name}")

    def sweep(self, *, older_than_seconds: float = ABANDONED_SECONDS) -> None:
        """Remove what a killed process left unpublished, by default more than a day ago."""
        if not self._local:
            return
        for entry in self._fs.ls(self._root, detail=True):
            if entry["name"].endswith(".partial") and time.time() - _modified(entry) > older_than_seconds:
                self._fs.rm_file(entry["name"])

    def _listed(self) -> Iterator[tuple[str, float, int]]:
        """(name, time written, bytes) of every published file."""
        for kind in KINDS:
            for entry in self._entries(kind):
                yield f"{kind}/{entry['name'].rpartition('/')[2]}", _modified(entry), int(entry["size"])

    def _entries(self, kind: Kind) -> list[dict[str, Any]]:
        """A kind's files as they are now. In an object store, a folder without files is none."""
        with suppress(FileNotFoundError), self._translated():
            return [entry for entry in self._fs.ls(f"{self._root}/{kind}", detail=True) if entry["type"] == "file"]
        return []

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError), self._translated():
            self._fs.rm_file(f"{self._root}/{name}")

    def _translated(self) -> AbstractContextManager[None]:
        if self._local:
            return nullcontext()
        return objects.translated(self._address, "store.path", ConfigError)

    def _path(self, file: StoreFile) -> str:
        return f"{self._root}/{file.name}"

    def _open(self, file: StoreFile) -> Any:
        path = self._path(file)
        try:
            if self._local:
                return pa.ipc.open_file(pa.memory_map(path))
            with self._translated():
                body = self._fs.cat_file(path)
            return pa.ipc.open_file(pa.py_buffer(body))
        except FileNotFoundError as e:
            raise StoreFileInvalid(f"The store file {file.name} is missing. It is made again.") from e
        except (pa.ArrowInvalid, OSError) as e:
            raise StoreFileInvalid(f"The store file {file.name} cannot be read: {e}. It is made again.") from e


def _write_batches(sink: Any, schema: pa.Schema, batches: list[pa.RecordBatch], metadata: dict[str, str]) -> None:
    with pa.ipc.new_file(sink, schema, metadata=metadata) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _modified(entry: dict[str, Any]) -> float:
    when = entry.get("mtime", entry.get("LastModified", 0.0))
    return float(when if isinstance(when, int | float) else when.timestamp())


def _checksum(batches: list[pa.RecordBatch]) -> str:
    """Over the record batches as they are written, so a read-back that differs in any byte of data shows."""
    digest = xxhash.xxh3_128()
    for batch in batches:
        digest.update(batch.serialize())
    return digest.hexdigest()
