"""How many rows of a file that changed are to be computed: known before, by reading its texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding.text_hashes import text_hashes
from tidemill.lake.ducklake.connection import Lake
from tidemill.results.answers.former import Former
from tidemill.results.answers.known import are_answered
from tidemill.shards import Shard, Slice, SourceFile
from tidemill.sources.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Changed:
    """What of a shard has no answer yet: of its rows, and of the bytes of their texts."""

    num_rows: int
    num_changed: int
    changed_bytes: float


def count_changed(
    lake: Lake,
    table: str,
    former: Former,
    dataset: Dataset,
    file: SourceFile,
    slices: Iterable[Slice],
    *,
    but_not: Collection[str],
) -> dict[str, Changed]:
    """Shard id → what is to be computed of it, of the slices that are not among `but_not`. Reads them, one at a time.

    Raises:
        FormatError, FileUnreadable, FileChanged: the file cannot be read, or not as it was cut.
    """
    found: dict[str, Changed] = {}
    for cut in slices:
        shard = Shard(file, cut)
        if shard.shard_id not in but_not:
            texts = dataset.reader(file).rows(cut)["text"]
            found[shard.shard_id] = _count(lake, table, former.near(shard), cut, texts)
    return found


def _count(lake: Lake, table: str, shard_ids: list[str], cut: Slice, texts: pa.ChunkedArray) -> Changed:
    is_text = texts.is_valid().to_numpy()
    with lake.reached():
        is_answered = are_answered(lake.cursor(), table, shard_ids, text_hashes(texts).storage)
    is_changed = is_text & ~is_answered
    lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy()
    share = float(lengths[is_changed].sum() / max(1, lengths.sum()))
    return Changed(cut.num_rows, int(is_changed.sum()), cut.text_bytes * share)
