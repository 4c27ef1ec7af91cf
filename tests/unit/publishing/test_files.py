"""Which shards share a file: few enough files, and each change concerns its own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.publishing.files import FEW_FILES, SMALL_ROWS, grouped
from tidemill.shards import Shard, Slice, SourceFile


def shard(number: int, num_rows: int = 10, content: str = "") -> Shard:
    file = SourceFile(f"part-{number:06}", "", 1, f"{number}{content}")
    return Shard(file, Slice(0, num_rows, 0, 0, f"{number}{content}", 1))


def changed(before: list[Shard], after: list[Shard]) -> int:
    return len(set(grouped(after)) - set(grouped(before)))


def test_few_small_shards_have_a_file_each():
    assert [len(group) for group in grouped(list(map(shard, range(FEW_FILES))))] == [1] * FEW_FILES


def test_many_small_shards_share_files_and_every_one_is_in_one():
    shards = list(map(shard, range(5_000)))
    groups = grouped(shards)

    assert FEW_FILES / 4 < len(groups) < FEW_FILES * 2
    assert [one for group in groups for one in group] == shards


def test_large_shards_lie_by_themselves():
    shards = [shard(number, SMALL_ROWS if number % 2 else 10) for number in range(4_000)]

    assert all(len(group) == 1 for group in grouped(shards))


@settings(max_examples=10)
@given(st.integers(0, 999))
def test_a_shard_that_is_new_changed_or_gone_concerns_two_files_at_most(number):
    shards = list(map(shard, range(1_000)))
    rest = [one for one in shards if one != shards[number]]

    assert changed(shards, [*rest, shard(number, content="new")]) <= 1
    assert changed(shards, rest) <= 2
    assert changed(rest, shards) <= 2
