"""How many rows of files that changed are to be computed: known before, by reading their texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.encoding.text_hashes import row_hashes
from tidemill.errors import FAILS_ALONE, InputError
from tidemill.lake.ducklake.connection import Lake
from tidemill.results.answers.former import Former
from tidemill.results.answers.known import are_answered
from tidemill.shards import Shard, Slice, SourceFile
from tidemill.sources.dataset import Dataset, is_local
from tidemill.values.columns import TEXTS

MOST_FILES, MOST_BYTES = 64, 2**28
"""In so many local files a plan looks for rows that changed: to read and hash them takes a second or two."""

Unread = tuple[SourceFile, Callable[[], Iterable[Slice]]]
"""A file, and what cuts it."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What of a shard has no answer yet: of its rows, and of the bytes of their texts."""

    num_rows: int
    num_changed: int
    changed_bytes: float


@dataclass(frozen=True)
class _Texts:
    """A shard's texts, or pairs of them, as they were read: the hash of each, as 16 bytes, null without a text, and
    its length."""

    shard: Shard
    hashes: pa.Array
    lengths: NDArray[np.int64]


def look_at(
    lake: Lake, table: str, former: Former, dataset: Dataset, files: Sequence[Unread], *, done: Collection[str]
) -> dict[str, dict[str, Changed]]:
    """Path → shard id → what is to be computed of it, for shards that are not `done`.

    Of files that are far, many or large, or that cannot be read, nothing is said.
    """
    read = {file.path: texts for file, cut in _few(files) if (texts := _read(dataset, file, cut, done)) is not None}
    found = _count(lake, table, former, [texts for of_file in read.values() for texts in of_file])
    return {path: {(id_ := texts.shard.shard_id): found[id_] for texts in of_file} for path, of_file in read.items()}


def _few(files: Sequence[Unread]) -> Iterator[Unread]:
    left = MOST_BYTES
    for file, cut in files[:MOST_FILES]:
        if is_local(file) and file.size <= left:
            left -= file.size
            yield file, cut


def _read(
    dataset: Dataset, file: SourceFile, cut: Callable[[], Iterable[Slice]], done: Collection[str]
) -> list[_Texts] | None:
    try:
        # Of a text file, the reader holds the slice that it cut last.
        return [
            _texts(shard, dataset.reader(file).rows(piece))
            for piece in cut()
            if (shard := Shard(file, piece)).shard_id not in done
        ]
    except (InputError, *FAILS_ALONE):  # The run will tell.
        return None
    finally:
        dataset.forget(file)


def _texts(shard: Shard, rows: pa.Table) -> _Texts:
    texts = [rows[name] for name in TEXTS if name in rows.column_names]
    lengths = sum(pc.fill_null(pc.binary_length(text), 0).to_numpy().astype(np.int64) for text in texts)
    return _Texts(shard, row_hashes(rows).storage, np.asarray(lengths))


def _count(lake: Lake, table: str, former: Former, read: Sequence[_Texts]) -> dict[str, Changed]:
    if not read:
        return {}
    near = dict.fromkeys(shard_id for texts in read for shard_id in former.near(texts.shard))
    answered = are_answered(lake, table, list(near), pa.concat_arrays([texts.hashes for texts in read]))
    ends = np.cumsum([len(texts.hashes) for texts in read])
    by_shard = zip(read, np.split(answered, ends[:-1]), strict=True)
    return {texts.shard.shard_id: _changed(texts, is_answered) for texts, is_answered in by_shard}


def _changed(texts: _Texts, is_answered: NDArray[np.bool_]) -> Changed:
    is_text = texts.hashes.is_valid().to_numpy(zero_copy_only=False)
    is_changed, cut = is_text & ~is_answered, texts.shard.slice
    share = float(texts.lengths[is_changed].sum() / max(1, texts.lengths.sum()))
    return Changed(cut.num_rows, int(is_changed.sum()), cut.text_bytes * share)
