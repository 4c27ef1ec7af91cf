"""What a model wrote is kept, found again row by row, and decoded without the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoConfig

from tests.pipelines import MODEL
from tests.toy_tasks import ToyWriter
from tidemill.engines.writing.written import STOP, Written, answers_of, outputs_of
from tidemill.inference.work import Predictions, Stats
from tidemill.inference.written import WRITTEN, decode_others, keep_written, new_tokens_by_row, written_before
from tidemill.storage.store import Store, StoreFile

FILE = StoreFile("written", "made-up")


def answers(*lengths: int | None, first_id: int = 0) -> pa.ListArray:
    """One answer a row of so many ids, null where there is none."""
    written = [Written([first_id + i] * n, STOP, 3, n) for i, n in enumerate(lengths) if n is not None]
    offsets = np.concatenate([[0], np.cumsum([n is not None for n in lengths])])
    mask = pa.array([n is None for n in lengths])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), answers_of(outputs_of(written)), mask=mask)


def numbers(*rows: int) -> pa.Array:
    return pa.array(rows, pa.int64())


def reasons(*values: str | None) -> pa.StringArray:
    return pa.array(values, pa.string())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path), max_bytes=10**6)


def test_answered_rows_are_found_by_number_and_others_are_not(store):
    keep_written(store, FILE, numbers(7, 8, 9), answers(2, None, 4), reasons(None, None, "the answer is refused"))
    found = written_before(store, FILE, numbers(9, 8, 7))
    assert found.is_valid().to_pylist() == [False, False, True]
    assert found[2].as_py() == answers(2)[0].as_py()


def test_rows_that_are_tried_again_come_beside_those_that_are_there(store):
    keep_written(store, FILE, numbers(0, 1, 2), answers(1, None, 3), reasons(None, "failed", None))
    keep_written(store, FILE, numbers(1, 2), answers(5, 6), reasons(None, None))
    assert new_tokens_by_row(written_before(store, FILE, numbers(0, 1, 2))).tolist() == [1, 5, 6]


def test_nothing_is_kept_where_no_row_was_answered(store):
    keep_written(store, FILE, numbers(0), answers(None), reasons("failed"))
    assert store.names("written") == set()
    assert written_before(store, FILE, numbers(0)) is None


def test_a_damaged_file_is_as_good_as_none(store, tmp_path):
    keep_written(store, FILE, numbers(0), answers(1), reasons(None))
    (tmp_path / FILE.name).write_bytes(b"no Arrow")
    assert written_before(Store(str(tmp_path), max_bytes=10**6), FILE, numbers(0)) is None


def test_new_tokens_are_those_of_all_that_a_row_has():
    two = pa.array([answers(2, 3).flatten().to_pylist(), None], type=pa.list_(answers(1).type.value_type))
    assert new_tokens_by_row(two).tolist() == [5, 0]
    assert new_tokens_by_row(two.slice(1)).tolist() == [0]


def toy() -> ToyWriter:
    return ToyWriter(AutoConfig.from_pretrained(MODEL))


def prepared(written: pa.Array, token_ids: list[list[int] | None]) -> pa.Table:
    texts = [f"text {i}" for i in range(len(token_ids))]
    return pa.table({"token_ids": pa.array(token_ids, pa.list_(pa.int32())), "text": texts, WRITTEN: written})


def computed(rows: pa.Table) -> Predictions:
    """As a model would write nine tokens of each row."""
    written = answers(*[9] * rows.num_rows)
    columns, reason = toy().rows(written, rows)
    return Predictions(
        columns, reason, Stats(num_rows=rows.num_rows, num_new_tokens=9 * rows.num_rows), written=written
    )


def test_rows_that_were_written_are_decoded_and_the_others_computed_in_order():
    found = decode_others(prepared(answers(1, None, 3), [[5], [6], [7]]), toy, computed)
    assert found.columns["text"].to_pylist() == ["word0", " ".join(["word0"] * 9), " ".join(["word2"] * 3)]
    assert new_tokens_by_row(found.written).tolist() == [1, 9, 3]
    assert (found.stats.num_rows, found.stats.num_new_tokens) == (1, 9)


def test_no_model_is_asked_where_only_rows_without_tokens_are_left():
    def refuse(rows: pa.Table) -> Predictions:
        raise AssertionError("the model was asked")

    found = decode_others(prepared(answers(1, None, 3), [[5], None, [7]]), toy, refuse)
    assert found.columns["text"].to_pylist() == ["word0", None, " ".join(["word2"] * 3)]
    assert found.columns["num_new_tokens"].to_pylist() == [1, None, 3]
    assert found.reason.null_count == 3
    assert found.stats.num_new_tokens is None


def test_what_nothing_is_known_of_is_computed_as_it_is():
    found = decode_others(prepared(pa.nulls(2), [[5], [6]]), toy, computed)
    assert new_tokens_by_row(found.written).tolist() == [9, 9]
