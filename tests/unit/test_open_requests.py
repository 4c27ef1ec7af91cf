"""Open requests are read a page at a time: none is missed and none comes twice, whatever is done between pages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, VERSION, lake_at
from tidemill.lake import Lake, ResultTable, ensure_system_tables, requests
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import (
    Request,
    are_open,
    ask_for_backfill,
    open_pages,
    open_requests,
    request_ids,
    withdraw,
)
from tidemill.planning.pending import pending_copies, pending_files, pending_requests
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.commit import Computed, commit_shards
from tidemill.shards import Shard, Slice, SourceFile

NUM_FILES, SHARDS_PER_FILE, ROWS, PAGE = 4, 3, 2, 5
TARGET = Target(PIPELINE, VERSION, "r1", "made-up", ResultTable(PIPELINE, VERSION, (), (("label", "VARCHAR"),)), "kept")


def shards(content: str = "a") -> list[Shard]:
    return [
        Shard(
            SourceFile(f"part-{file}", f"part-{file}", 9, f"{content}-{file}"),
            Slice(ROWS * piece, ROWS, 0, 0, f"{content}-{file}-{piece}", 9),
        )
        for file in range(NUM_FILES)
        for piece in range(SHARDS_PER_FILE)
    ]


def adopted(lake: Lake, wanted: list[Shard], *, revision: str = "r1", before: str | None = None) -> Target:
    target = Target(PIPELINE, VERSION, revision, revision, TARGET.table, "kept")
    files = {shard.file.path: shard.file for shard in wanted}
    adoption = Adoption(
        files=[(file, SHARDS_PER_FILE) for file in files.values()],
        shards=wanted,
        requests=[(shard.shard_id, "new") for shard in wanted],
        spec={},
        kept=[],
        dataset={},
        expected_target=before,
    )
    assert adopt(lake, target, adoption)
    return target


def commit(lake: Lake, target: Target, done: list[Shard]) -> None:
    ids = request_ids(lake.cursor(), target, [shard.shard_id for shard in done])
    items = [Computed(shard, ids[shard.shard_id], partial(made_up, shard)) for shard in done]
    assert commit_shards(lake, target, items).num_committed == len(done)


def made_up(shard: Shard) -> tuple[pa.Table, pa.Table]:
    first = shard.slice.first_row
    rows = pa.table({"row_number": pa.array(range(first, first + ROWS), pa.int64())})
    nothing = {name: pa.nulls(ROWS, pa.string()) for name in ("stage", "reason")}
    facts = {"num_tokens": pa.array([1] * ROWS, pa.int32()), "truncated": pa.array([False] * ROWS)}
    return rows, pa.table({"row_number": rows["row_number"], "label": ["POSITIVE"] * ROWS} | facts | nothing)


@pytest.fixture(params=["sqlite", "postgres"])
def lake(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setattr(requests, "PAGE_REQUESTS", PAGE)
    catalog = request.getfixturevalue("postgres_catalog") if request.param == "postgres" else None
    with Lake(lake_at(tmp_path, catalog)) as lake:
        ensure_system_tables(lake)
        yield lake


def ids(found: list[Request]) -> list[str]:
    return [request.shard.shard_id for request in found]


def test_pages_have_every_open_request_once_by_path_and_row(lake):
    wanted = shards()
    adopted(lake, list(reversed(wanted)))
    pages = list(open_pages(lake.cursor(), PIPELINE, VERSION))
    assert [len(page) for page in pages] == [5, 5, 2]
    found = [request for page in pages for request in page]
    assert [request.shard for request in found] == wanted
    assert {request.rows for request in found} == {None}


def test_what_is_done_or_withdrawn_between_pages_hides_no_other_request_and_shows_none_twice(lake):
    wanted = shards()
    target = adopted(lake, wanted)
    pages = open_pages(lake.cursor(), PIPELINE, VERSION)
    assert ids(next(pages)) == [shard.shard_id for shard in wanted[:5]]
    commit(lake, target, [*wanted[:5], wanted[6]])
    lake.write(lambda cursor: withdraw(cursor, PIPELINE, VERSION, [wanted[8].shard_id]), message="withdraw")
    left = [shard.shard_id for page in pages for shard in [request.shard for request in page]]
    assert left == [shard.shard_id for shard in wanted[5:] if shard not in (wanted[6], wanted[8])]


@pytest.mark.slow
def test_requests_are_narrowed_to_a_backfill_to_shards_and_to_files(lake):
    wanted = shards()
    adopted(lake, wanted)
    asked = [shard.shard_id for shard in wanted[::2]]
    now = datetime.now(UTC)
    assert not are_open(lake.cursor(), PIPELINE, VERSION, "b1")
    lake.write(lambda cursor: ask_for_backfill(cursor, PIPELINE, VERSION, asked, "why", "b1", now), message="ask")
    assert are_open(lake.cursor(), PIPELINE, VERSION, "b1")
    assert ids(list(open_requests(lake.cursor(), PIPELINE, VERSION, backfill_id="b1"))) == asked
    some = [wanted[1].shard_id, wanted[11].shard_id]
    assert ids(list(open_requests(lake.cursor(), PIPELINE, VERSION, shard_ids=some))) == some
    of_files = list(open_requests(lake.cursor(), PIPELINE, VERSION, paths=["part-3", "part-1"]))
    assert [request.shard for request in of_files] == [*wanted[3:6], *wanted[9:12]]


@pytest.mark.slow
def test_what_is_pending_at_the_last_stage_is_told_apart_by_whether_it_replaces_what_readers_see(lake):
    former = [shard for shard in shards() if shard.file.path != "part-3"]
    commit(lake, adopted(lake, former), former)
    changed = [shard for shard in shards("b") if shard.file.path == "part-1"]
    stays = [shard for shard in former if shard.file.path not in ("part-1", "part-3")]
    new = [shard for shard in shards() if shard.file.path == "part-3"]
    target = adopted(lake, [*stays, *changed, *new], revision="r2", before="r1")
    assert [request.shard for request in pending_requests(lake.cursor(), target)] == new
    [file] = pending_files(lake.cursor(), target)
    assert (file.path, file.shards, file.is_whole) == ("part-1", changed, True)
    assert [request.shard for request in file.requests] == changed


@pytest.mark.slow
def test_what_is_computed_at_another_place_is_to_be_copied_and_a_path_whose_contents_are_elsewhere_has_moved(lake):
    former = [shard for shard in shards() if shard.file.path in ("part-0", "part-1")]
    commit(lake, adopted(lake, former), former)
    renamed = [at("renamed", shard) for shard in former[3:]]
    new = [shard for shard in shards() if shard.file.path == "part-2"]
    target = adopted(lake, [*former[:3], *renamed, *new], revision="r2", before="r1")
    asked_for = renamed[0].shard_id
    lake.write(
        lambda cursor: withdraw(cursor, PIPELINE, VERSION, [shard.shard_id for shard in renamed]), message="copy"
    )
    copies, moved = pending_copies(lake.cursor(), target)
    assert [(item.shard, item.source_shard_id) for item in copies] == [
        (shard, source.shard_id) for shard, source in zip(renamed, former[3:], strict=True)
    ]
    assert moved == ["part-1"]
    ask = [asked_for]
    now = datetime.now(UTC)
    lake.write(lambda cursor: ask_for_backfill(cursor, PIPELINE, VERSION, ask, "why", "b1", now), message="ask")
    copies, moved = pending_copies(lake.cursor(), target)
    assert [item.shard for item in copies] == renamed[1:]
    assert moved == []


def at(path: str, shard: Shard) -> Shard:
    return Shard(SourceFile(path, path, shard.file.size, shard.file.content), shard.slice)
