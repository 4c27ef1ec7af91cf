"""The store: intermediate Arrow files, published whole and checked when read.

A file is written under another name and renamed, or sent by one PUT, so that it
is there complete or not at all. Its last 16 bytes are a checksum of its name and
of every byte before them, which is held against them before Arrow looks at any;
a file that does not match is as good as missing, and is made again. What was found
whole is read once: it is in memory until whoever asked for it reads it.
"""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.ipc
import xxhash

from tidemill.errors import ConfigError, LimitExceeded, StoreFileInvalid
from tidemill.places import make_folder, make_folders, published, usable
from tidemill.storage import addresses

Kind = Literal["rows", "tokens", "written", "predictions"]
KINDS: tuple[Kind, ...] = ("rows", "tokens", "written", "predictions")
REMADE: tuple[Kind, ...] = ("rows", "tokens", "predictions")
"""What is soon made again. What a model wrote is not, and stays while there is room."""
ABANDONED_SECONDS = 24 * 3600
YOUNG_SECONDS = 600
"""Another process may be about to use a file this young."""
CHECKSUM_BYTES = 16
SMALL_BYTES = 2**16
"""A file this small is in memory once it is written or read, for what comes next needs it."""
KEPT_BYTES = 64 * 2**20
"""What lies in memory of files that were found whole, all together."""
LISTED_SECONDS = 10.0
"""How long a listing is good to say that there is room, while less than half of the store is taken."""


@dataclass(frozen=True)
class StoreFile:
    """One file of the store, named by what it was made from. `fingerprint` holds no path separator."""

    kind: Kind
    fingerprint: str

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.fingerprint}.arrow"


class Store:
    def __init__(self, path: str, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self.max_bytes, self._clock = path, max_bytes, clock
        self._listed_at, self._taken = float("-inf"), 0
        """When the store was listed last, and the bytes that it had then, with those that were made room for since."""
        self._whole = _Whole()
        self._fs, self._root = addresses.open_address(path, "store.path", ConfigError)
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        if self._local:
            for kind in KINDS:
                make_folder(Path(self._root, kind), "store.path")
        else:
            addresses.check_bucket(path, "store.path", ConfigError)

    def write(self, file: StoreFile, table: pa.Table, facts: dict[str, str] | None = None) -> None:
        """Publish `table` under `file`'s name, replacing what was there.

        `facts` lie in the footer, for whoever reads the file.
        """
        self._whole.drop(file.name)
        is_small = table.nbytes <= SMALL_BYTES
        if is_small or not self._local:
            content, checksum = _in_memory(file, table, facts or {})
            self._publish(file, lambda sink: sink.write(b"".join((content, checksum))))
            if is_small:
                self._whole.keep(file.name, content)
        else:
            self._publish(file, lambda sink: _write(sink, file, table, facts or {}))

    def _publish(self, file: StoreFile, write: Callable[[BinaryIO], object]) -> None:
        if not self._local:
            body = io.BytesIO()
            write(body)
            with self._translated():
                self._fs.pipe_file(self._path(file), body.getvalue())
            return
        with usable(self._root, "store.path"):
            target = Path(self._path(file))
            try:
                self._put(target, write)
            except (FileNotFoundError, NotADirectoryError):
                make_folders(target.parent)
                self._put(target, write)

    def _put(self, target: Path, write: Callable[[BinaryIO], object]) -> None:
        # Beside its kind's files it would be listed as one of them.
        with published(target, Path(self._root)) as unpublished:
            with unpublished.open("wb") as sink:
                write(sink)
            if target.is_dir():
                _unlink(target)

    def read(self, file: StoreFile) -> pa.Table:
        """The whole table.

        Raises:
            StoreFileInvalid: it is missing, cannot be read, or is not what was written under its name.
        """
        return self.read_with_facts(file)[0]

    def read_with_facts(self, file: StoreFile) -> tuple[pa.Table, dict[str, str]]:
        """As `read`, with what `write` was given as facts."""
        content = self._whole.take(file.name)
        if content is None:
            content = _content(file, self._body(file))
            if content.size <= SMALL_BYTES:
                self._whole.keep(file.name, content)
        try:
            with pa.ipc.open_file(content) as reader:
                found = {key.decode(): value.decode() for key, value in (reader.metadata or {}).items()}
                return reader.read_all(), found
        except (pa.ArrowException, OSError, ValueError) as e:
            raise StoreFileInvalid(f"The store file {file.name} cannot be read: {e}. It is made again.") from e

    def has(self, file: StoreFile) -> bool:
        """Whether a whole and valid file is there; then it is in memory until it is read, as far as there is room."""
        if file.name in self._whole:
            if self._is_there(file):
                return True
            self._whole.drop(file.name)
            return False
        try:
            self._whole.keep(file.name, _content(file, self._body(file)))
        except StoreFileInvalid:
            return False
        return True

    def remove(self, file: StoreFile) -> None:
        self._remove(file.name)

    def names(self, kind: Kind) -> set[str]:
        """Names of all published files of a kind, whole or not."""
        return {f"{kind}/{entry['name'].rpartition('/')[2]}" for entry in self._entries(kind)}

    def has_room(self, num_bytes: int) -> bool:
        return self._surely_has_room(num_bytes) or self._count(self._listed()) + num_bytes <= self.max_bytes

    def _surely_has_room(self, num_bytes: int) -> bool:
        """Without looking: other processes fill the store too, so only of one that was not half full just now."""
        is_fresh = self._clock() - self._listed_at < LISTED_SECONDS
        return is_fresh and self._taken + num_bytes <= self.max_bytes // 2

    def _count(self, listed: Iterable[tuple[str, float, int]]) -> int:
        self._listed_at, self._taken = self._clock(), sum(size for _, _, size in listed)
        return self._taken

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
        if self._surely_has_room(num_bytes):
            self._taken += num_bytes
            return True
        files = sorted(self._listed(), key=lambda listed: listed[1])
        total = self._count(files)
        for name, written, size in files:
            if total + num_bytes <= self.max_bytes:
                break
            is_young = _seconds_from_now(written) < YOUNG_SECONDS and name not in released
            if name not in needed and not is_young:
                self._remove(name)
                total -= size
        self._taken = total + num_bytes
        return total + num_bytes <= self.max_bytes

    def unneeded(
        self, needed: Collection[str], *, older_than_seconds: float, kinds: Collection[Kind] = KINDS
    ) -> dict[str, int]:
        """Name → bytes of the published files that are not in `needed` (names) and were not written lately."""
        return {
            name: size
            for name, when, size in self._listed(kinds)
            if name not in needed and _seconds_from_now(when) >= older_than_seconds
        }

    def discard(self, names: Collection[str]) -> None:
        for name in names:
            self._remove(name)

    def unpublished(self) -> int:
        """How many files are being written, or were when their process was killed; in an object store none."""
        return len(list(Path(self._root).glob("*.partial"))) if self._local else 0

    def sweep(self, *, older_than_seconds: float = ABANDONED_SECONDS) -> None:
        """Remove what a killed process left unpublished, by default more than a day ago."""
        if not self._local:
            return
        for entry in self._fs.ls(self._root, detail=True):
            if entry["name"].endswith(".partial") and _seconds_from_now(_modified(entry)) > older_than_seconds:
                Path(entry["name"]).unlink(missing_ok=True)

    def _listed(self, kinds: Collection[Kind] = KINDS) -> Iterator[tuple[str, float, int]]:
        """(name, time written, bytes) of every published file of some kinds."""
        for kind in kinds:
            for entry in self._entries(kind):
                yield f"{kind}/{entry['name'].rpartition('/')[2]}", _modified(entry), int(entry["size"])

    def _entries(self, kind: Kind) -> list[dict[str, Any]]:
        """A kind's files as they are now. In an object store, a folder without files is none."""
        with suppress(FileNotFoundError), self._translated():
            return [entry for entry in self._fs.ls(f"{self._root}/{kind}", detail=True) if entry["type"] == "file"]
        return []

    def _remove(self, name: str) -> None:
        self._whole.drop(name)
        with suppress(FileNotFoundError), self._translated():
            if self._local:
                _unlink(Path(self._root, name))
            else:
                self._fs.rm_file(f"{self._root}/{name}")

    def _translated(self) -> AbstractContextManager[None]:
        if self._local:
            return usable(self._root, "store.path")
        return addresses.translated(self._address, "store.path", ConfigError)

    def _path(self, file: StoreFile) -> str:
        return f"{self._root}/{file.name}"

    def _is_there(self, file: StoreFile) -> bool:
        """Whether nobody has removed it: what one process remembers, another needs too."""
        if self._local:
            return Path(self._path(file)).is_file()
        with self._translated():
            return bool(self._fs.exists(self._path(file)))

    def _body(self, file: StoreFile) -> bytes:
        """All bytes of a file. They are not mapped: a disk that fails under a mapping ends the whole process."""
        path = self._path(file)
        try:
            if self._local:
                return Path(path).read_bytes()
            with self._translated():
                return bytes(self._fs.cat_file(path))
        except FileNotFoundError as e:
            raise StoreFileInvalid(f"The store file {file.name} is missing. It is made again.") from e
        except OSError as e:
            raise StoreFileInvalid(f"The store file {file.name} cannot be read: {e}. It is made again.") from e


class _Whole:
    """What files hold that were found whole: the small ones until they are pushed out, others until they are read."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, pa.Buffer] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._contents

    def keep(self, name: str, content: pa.Buffer) -> None:
        with self._lock:
            self._drop(name)
            self._contents[name] = content
            self._num_bytes += content.size
            while self._num_bytes > KEPT_BYTES:
                self._drop(next(iter(self._contents)))

    def take(self, name: str) -> pa.Buffer | None:
        with self._lock:
            content = self._contents.get(name)
            if content is not None and content.size > SMALL_BYTES:
                self._drop(name)
            return content

    def drop(self, name: str) -> None:
        with self._lock:
            self._drop(name)

    def _drop(self, name: str) -> None:
        if (content := self._contents.pop(name, None)) is not None:
            self._num_bytes -= content.size


class _Summed(io.RawIOBase):
    """A sink that sums up what goes through it to another."""

    def __init__(self, sink: BinaryIO, digest: Any) -> None:
        self._sink, self._digest = sink, digest

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._sink.tell()

    def write(self, block: Any) -> int:
        self._digest.update(block)
        return self._sink.write(block)


def _write(sink: BinaryIO, file: StoreFile, table: pa.Table, facts: dict[str, str]) -> None:
    digest = _digest(file)
    with pa.ipc.new_file(_Summed(sink, digest), table.schema, metadata=facts) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    sink.write(digest.digest())


def _in_memory(file: StoreFile, table: pa.Table, facts: dict[str, str]) -> tuple[pa.Buffer, bytes]:
    """What `_write` writes: the content, and its checksum."""
    sink, digest = pa.BufferOutputStream(), _digest(file)
    with pa.ipc.new_file(sink, table.schema, metadata=facts) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    content = sink.getvalue()
    digest.update(content)
    return content, digest.digest()


def _content(file: StoreFile, body: bytes) -> pa.Buffer:
    """A file's bytes without the checksum that they bear out.

    Raises:
        StoreFileInvalid: they do not; an older Tidemill's file, whose checksum lay elsewhere, is one of these.
    """
    content, digest = memoryview(body)[:-CHECKSUM_BYTES], _digest(file)
    digest.update(content)
    if body[-CHECKSUM_BYTES:] != digest.digest():
        raise StoreFileInvalid(
            f"The store file {file.name} is not what was written under its name: its checksum differs. "
            "It is made again."
        )
    return pa.py_buffer(content)


def _unlink(path: Path) -> None:
    """Remove what lies in a store file's place, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _seconds_from_now(when: float) -> float:
    """How far away a time is, past or to come: what the clock has not reached yet was not written lately either."""
    return abs(time.time() - when)


def _modified(entry: dict[str, Any]) -> float:
    when = entry.get("mtime", entry.get("LastModified", 0.0))
    return float(when if isinstance(when, int | float) else when.timestamp())


def _digest(file: StoreFile) -> Any:
    """The checksum of a file whose content is still to come."""
    return xxhash.xxh3_128(file.name.encode())
