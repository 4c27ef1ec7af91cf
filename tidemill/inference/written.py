"""What a model wrote, kept in the store: ids that are there are decoded again, and nothing is computed for them.

A file has the rows of a shard that were answered, by row number. It outlives the
commit of what was decoded from it, and leaves when the store needs its room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.encoding.items import TOKEN_IDS
from tidemill.errors import StoreFileInvalid
from tidemill.inference.work import Predictions, Stats
from tidemill.models.tasks import ModelTask
from tidemill.storage.store import Store, StoreFile
from tidemill.values.rows import one_array

WRITTEN, PLACE = "_written", "_place"
"""Columns of prepared rows: what was written of a row before, null where that is not known, and which row it is."""
Predict = Callable[[pa.Table], Predictions]


@dataclass(frozen=True)
class ShardFile:
    """Where it lies what was written of a shard's rows."""

    file: StoreFile
    row_numbers: pa.Array


def keep_written(
    store: Store, shards: Sequence[ShardFile], found: Predictions, *, rows: pa.ChunkedArray | None = None
) -> None:
    """Keep what was written of the shards' rows that were answered, beside what their files have of others.

    `rows` are the places of those that were found, among the rows of all shards, where these are not all of them.
    """
    assert found.written is not None
    written, reason, start = found.written, found.reason, 0
    if rows is not None:
        every = pa.array(range(sum(len(shard.row_numbers) for shard in shards)))
        place = pc.index_in(every, one_array(rows))
        written, reason = written.take(place), reason.take(place)
    for shard in shards:
        num_rows = len(shard.row_numbers)
        _keep(store, shard, written.slice(start, num_rows), reason.slice(start, num_rows))
        start += num_rows


def _keep(store: Store, shard: ShardFile, written: pa.Array, reason: pa.Array) -> None:
    answered = pc.and_(pc.is_valid(written), pc.is_null(reason))
    if not pc.any(answered).as_py():
        return
    table = pa.table({"row_number": shard.row_numbers, WRITTEN: written}).filter(answered)
    before = _read(store, shard.file)
    if before is not None:
        of_others = pc.invert(pc.is_in(before["row_number"], one_array(table["row_number"])))
        table = pa.concat_tables([before.filter(of_others).cast(table.schema), table]).sort_by("row_number")
    store.write(shard.file, table)


def written_before(store: Store, shard: ShardFile) -> pa.Array | None:
    """What its file has of each row, null where it has nothing; None where there is no such file."""
    table = _read(store, shard.file)
    if table is None:
        return None
    index = pc.index_in(shard.row_numbers, one_array(table["row_number"]))
    return one_array(table[WRITTEN]).take(index)


def together(shards: Sequence[ShardFile], found: Sequence[pa.Array | None]) -> pa.ChunkedArray:
    """What was found of each shard's rows, of all of them in order; null where nothing was."""
    kind = next((each.type for each in found if each is not None), pa.null())
    none = (pa.nulls(len(shard.row_numbers), kind) for shard in shards)
    return pa.chunked_array([nothing if each is None else each for nothing, each in zip(none, found, strict=True)])


def with_written(prepared: pa.Table, written: pa.ChunkedArray) -> pa.Table:
    """Prepared rows beside what was written of them, and their places."""
    return prepared.append_column(WRITTEN, written).append_column(PLACE, pa.array(range(prepared.num_rows)))


def decode_others(prepared: pa.Table, task: Callable[[], ModelTask], predict: Predict) -> Predictions:
    """One value a row: what was written of it before is decoded, and `predict` makes the rest of the others.

    `predict` is called only if there are others that have token ids. The statistics are of the rows that it was given.
    """
    if WRITTEN not in prepared.column_names:
        return predict(prepared)
    written, rows = one_array(prepared[WRITTEN]), prepared.drop_columns([WRITTEN])
    is_known = written.is_valid().to_numpy(zero_copy_only=False)
    if not is_known.any():
        return predict(rows)
    decoded = _decoded(task(), rows.filter(pa.array(is_known)), written.drop_null())
    others = rows.filter(pa.array(~is_known))
    if others[TOKEN_IDS].null_count == others.num_rows:
        place = pa.array(np.cumsum(is_known) - 1, mask=~is_known)
        return replace(
            decoded,
            columns=decoded.columns.take(place),
            reason=decoded.reason.take(place),
            written=written,
        )
    return _together(is_known, decoded, predict(others))


def new_tokens_by_row(written: pa.ListArray) -> NDArray[np.int64]:
    """How many tokens were written of each row, as far as they are counted."""
    counts = pc.fill_null(written.flatten().field("num_new_tokens"), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(pc.fill_null(pc.list_value_length(written), 0).to_numpy(zero_copy_only=False))
    sums = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])[np.concatenate([[0], ends])]
    return np.asarray(np.diff(sums))


def _decoded(task: ModelTask, rows: pa.Table, written: pa.Array) -> Predictions:
    columns, reason = task.rows(written, rows)
    return Predictions(columns, reason, Stats(num_rows=0), written=written)


def _together(is_first: NDArray[np.bool_], first: Predictions, second: Predictions) -> Predictions:
    """The rows of both, in order; what is said of them is said of the second."""
    place = np.where(is_first, np.cumsum(is_first) - 1, len(first.reason) + np.cumsum(~is_first) - 1)
    columns = pa.concat_tables([first.columns, second.columns.cast(first.columns.schema)])
    reason = pa.concat_arrays([first.reason, second.reason])
    written = pa.concat_arrays([first.written, second.written])
    return replace(second, columns=columns.take(place), reason=reason.take(place), written=written.take(place))


def _read(store: Store, file: StoreFile) -> pa.Table | None:
    try:
        return store.read(file)
    except StoreFileInvalid:
        return None
