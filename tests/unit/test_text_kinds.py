"""Columns of texts that hold chats in some files."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tidemill.values.parts import JSON
from tidemill.values.text_kinds import TextKinds

TEXTS, CHATS = pa.string(), pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


def notes(*types: pa.DataType) -> list[str]:
    kinds = TextKinds()
    for number, type_ in enumerate(types):
        kinds.look(f"{number}.parquet", pa.schema({"a": type_, "b": TEXTS}), ["a"])
    return kinds.notes


@pytest.mark.parametrize(
    "types", [[TEXTS, TEXTS], [CHATS, CHATS, JSON], [TEXTS, pa.large_string()], [TEXTS, pa.null()], [pa.null(), CHATS]]
)
def test_files_of_one_kind_and_files_without_values_are_nothing_to_tell(types):
    assert notes(*types) == []


def test_the_first_file_of_each_kind_is_named_and_how_many_more_there_are():
    (told,) = notes(TEXTS, CHATS, TEXTS, TEXTS, JSON)
    assert told.startswith("'a' holds texts in 0.parquet and 2 more, and chats in 1.parquet and 1 more: ")


def test_a_column_that_a_file_lacks_or_has_twice_is_told_elsewhere():
    kinds = TextKinds()
    kinds.look("0.jsonl", pa.schema({"a": TEXTS}), ["a"])
    kinds.look("1.jsonl", pa.schema([("a", CHATS), ("a", CHATS)]), ["a"])
    kinds.look("2.jsonl", pa.schema({"b": CHATS}), ["a"])
    assert kinds.notes == []
