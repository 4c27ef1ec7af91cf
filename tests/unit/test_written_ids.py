"""What a model wrote is kept, found again row by row, and decoded without the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoConfig

from tests.pipelines import MODEL
from tests.toy_tasks import ToyWriter
from tidemill.engines.writing.generation.written import STOP, Written, answers_of, outputs_of
from tidemill.inference.work import Every, Predictions, Stats
from tidemill.inference.written import (
    PLACE,
    WRITTEN,
    ShardFile,
    decode_others,
    keep_written,
    new_tokens_by_row,
    together,
    with_written,
    written_before,
)
from tidemill.storage.store import Store, StoreFile


def answers(*lengths: int | None, first_id: int = 0) -> pa.ListArray:
    """One answer a row of so many ids, null where there is none."""
    written = [Written([first_id + i] * n, STOP, 3, n) for i, n in enumerate(lengths) if n is not None]
    offsets = np.concatenate([[0], np.cumsum([n is not None for n in lengths])])
    mask = pa.array([n is None for n in lengths])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), answers_of(outputs_of(written)), mask=mask)


def of_rows(*rows: int, name: str = "made-up") -> ShardFile:
    return ShardFile(StoreFile("written", name), pa.array(rows, pa.int64()))


def found(written: pa.ListArray, *reasons: str | None) -> Predictions:
    values = reasons or [None] * len(written)
    return Predictions(pa.table({}), pa.array(values, pa.string()), Stats(), written=written)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path), max_bytes=10**6)


def test_answered_rows_are_found_by_number_and_others_are_not(store):
    keep_written(store, [of_rows(7, 8, 9)], found(answers(2, None, 4), None, None, "the answer is refused"))
    before = written_before(store, of_rows(9, 8, 7))
    assert before is not None
    assert before.is_valid().to_pylist() == [False, False, True]
    assert before[2].as_py() == answers(2)[0].as_py()


def test_rows_that_are_tried_again_come_beside_those_that_are_there(store):
    keep_written(store, [of_rows(0, 1, 2)], found(answers(1, None, 3)))
    keep_written(store, [of_rows(1, 2)], found(answers(5, 6)))
    assert new_tokens_by_row(written_before(store, of_rows(0, 1, 2))).tolist() == [1, 5, 6]


def test_rows_that_are_not_through_yet_take_nothing_from_what_is_there(store):
    keep_written(store, [of_rows(0, 1)], found(answers(1, 2)))
    keep_written(store, [of_rows(0, 1)], found(answers(None, 7)))
    assert new_tokens_by_row(written_before(store, of_rows(0, 1))).tolist() == [1, 7]


def test_of_several_shards_each_has_its_rows_though_only_some_were_computed(store):
    shards = [of_rows(0, 1), of_rows(0, 1, 2, name="another")]
    prepared = with_written(pa.table({"text": list("abcde")}), together(shards, [None, None]))
    some = prepared.filter(pa.array([False, True, False, True, True]))
    keep_written(store, shards, found(answers(4, None, 6)), rows=some[PLACE])
    assert new_tokens_by_row(written_before(store, shards[0])).tolist() == [0, 4]
    assert new_tokens_by_row(written_before(store, shards[1])).tolist() == [0, 0, 6]
    known = together(shards, [written_before(store, shard) for shard in shards])
    assert known.is_valid().to_pylist() == [False, True, False, False, True]
    assert together(shards, [None, written_before(store, shards[1])]).null_count == 4


def test_nothing_is_kept_where_no_row_was_answered(store):
    keep_written(store, [of_rows(0)], found(answers(None), "failed"))
    assert store.names("written") == set()
    assert written_before(store, of_rows(0)) is None


def test_a_damaged_file_is_as_good_as_none(store, tmp_path):
    keep_written(store, [of_rows(0)], found(answers(1)))
    (tmp_path / of_rows(0).file.name).write_bytes(b"no Arrow")
    assert written_before(Store(str(tmp_path), max_bytes=10**6), of_rows(0)) is None


def test_new_tokens_are_those_of_all_that_a_row_has():
    two = pa.array([answers(2, 3).flatten().to_pylist(), None], type=pa.list_(answers(1).type.value_type))
    assert new_tokens_by_row(two).tolist() == [5, 0]
    assert new_tokens_by_row(two.slice(1)).tolist() == [0]


def toy() -> ToyWriter:
    return ToyWriter(AutoConfig.from_pretrained(MODEL))


def prepared(written: pa.Array, token_ids: list[list[int] | None]) -> pa.Table:
    texts = [f"text {i}" for i in range(len(token_ids))]
    rows = pa.table({"token_ids": pa.array(token_ids, pa.list_(pa.int32())), "text": texts})
    return with_written(rows, pa.chunked_array([written]))


def computed(rows: pa.Table) -> Predictions:
    """As a model would write nine tokens of each row."""
    assert WRITTEN not in rows.column_names
    written = answers(*[9] * rows.num_rows)
    columns, reason = toy().rows(written, rows)
    return Predictions(
        columns, reason, Stats(num_rows=rows.num_rows, num_new_tokens=9 * rows.num_rows), written=written
    )


def test_rows_that_were_written_are_decoded_and_the_others_computed_in_order():
    made = decode_others(prepared(answers(1, None, 3), [[5], [6], [7]]), toy, computed)
    assert made.columns["text"].to_pylist() == ["word0", " ".join(["word0"] * 9), " ".join(["word2"] * 3)]
    assert new_tokens_by_row(made.written).tolist() == [1, 9, 3]
    assert (made.stats.num_rows, made.stats.num_new_tokens) == (1, 9)


def test_no_model_is_asked_where_only_rows_without_tokens_are_left():
    def refuse(rows: pa.Table) -> Predictions:
        raise AssertionError("the model was asked")

    made = decode_others(prepared(answers(1, None, 3), [[5], None, [7]]), toy, refuse)
    assert made.columns["text"].to_pylist() == ["word0", None, " ".join(["word2"] * 3)]
    assert made.columns["num_new_tokens"].to_pylist() == [1, None, 3]
    assert made.reason.null_count == 3
    assert made.stats.num_new_tokens is None


def test_what_nothing_is_known_of_is_computed_as_it_is():
    made = decode_others(prepared(pa.nulls(2), [[5], [6]]), toy, computed)
    assert new_tokens_by_row(made.written).tolist() == [9, 9]


def test_somebody_is_told_now_and_then_and_at_the_end_of_what_is_new():
    told: list[str] = []
    seldom, often = Every(1e9, lambda: told.append("seldom")), Every(0.0, lambda: told.append("often"))
    seldom.at_the_end()
    assert told == []
    seldom()
    often()
    often()
    assert told == ["often", "often"]
    seldom.at_the_end()
    seldom.at_the_end()
    often.at_the_end()
    assert told == ["often", "often", "seldom"]
