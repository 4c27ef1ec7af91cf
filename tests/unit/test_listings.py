"""What a dataset revision lists is what was listed, and it costs what it has other than the one before."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidemill import config
from tidemill.lake import Cursor, Lake, ensure_system_tables
from tidemill.lake.listings import cut_files, list_revision, list_shards, mark_cut, remove_stale, target_shards
from tidemill.lake.tables import insert_records
from tidemill.shards import Shard, Slice, SourceFile

PIPELINES = ("one", "two")


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake(config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite", data=f"{tmp_path}/lake")) as lake:
        ensure_system_tables(lake)
        yield lake


def file_of(path: str, content: str = "", *, url: str = "") -> SourceFile:
    return SourceFile(path, url or f"/data/{path}", 100, content or f"sha256:{path}")


def shards_of(file: SourceFile, num_shards: int) -> list[Shard]:
    return [
        Shard(file, Slice(10 * i, 10, 100 * i, 100 * i + 100, f"{file.content}/{i}", 100)) for i in range(num_shards)
    ]


def adopt(lake: Lake, pipeline: str, revision: str, listed: Sequence[tuple[SourceFile, int | None]]) -> None:
    """As a run does: the revision becomes the target, and the shards of files that are cut are listed with it."""

    def body(cursor: Cursor) -> None:
        list_revision(cursor, pipeline, revision, listed, now=datetime.now(UTC))
        list_shards(cursor, pipeline, [shard for file, num in listed for shard in shards_of(file, num or 0)])
        cursor.execute("DELETE FROM _pipelines WHERE pipeline = ?", [pipeline])
        insert_records(cursor, "_pipelines", [{"pipeline": pipeline, "target_revision": revision}])

    lake.write(body, message=revision)


def collect(lake: Lake) -> None:
    lake.write(remove_stale, message="gc")


def rows_of(lake: Lake, *tables: str) -> list[int]:
    return [lake.cursor().execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] for table in tables]


def grows_by_what_changed(lake: Lake, num_revisions: int) -> None:
    for n in range(1, num_revisions + 1):
        adopt(lake, "one", f"revision-{n}", [(file_of(f"part-{i}"), 2) for i in range(n)])
    tables = ("_revisions", "_files", "_shards")
    assert rows_of(lake, *tables) == [num_revisions, num_revisions, 2 * num_revisions]
    per_revision = (
        lake.cursor().execute("SELECT count(*) FROM _revision_shards GROUP BY revision ORDER BY 1").fetchall()
    )
    assert per_revision == [(2 * n,) for n in range(1, num_revisions + 1)]
    assert len(target_shards(lake.cursor(), "one", f"revision-{num_revisions}")) == 2 * num_revisions
    collect(lake)
    assert rows_of(lake, *tables) == [1, num_revisions, 2 * num_revisions]


def test_revisions_that_add_a_file_each_add_a_row_each(lake):
    grows_by_what_changed(lake, 12)


@pytest.mark.soak
def test_three_hundred_revisions_that_add_a_file_each_add_a_row_each(lake):
    grows_by_what_changed(lake, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_every_revision_reads_back_as_it_was_listed(lake, seed):
    """Two pipelines move between revisions in which files come, change and go; d and e are cut by reading."""
    chance = random.Random(seed)
    revisions = {
        f"revision-{n}": [
            file_of(path, f"content-{path}-{chance.randrange(2)}") for path in "abcde" if chance.random() < 0.7
        ]
        for n in range(4)
    }
    listed: dict[tuple[str, str], list[SourceFile]] = {}
    for _ in range(10):
        pipeline, revision = chance.choice(PIPELINES), chance.choice(list(revisions))
        files = listed[pipeline, revision] = revisions[revision]
        adopt(lake, pipeline, revision, [(file, None if file.path in "de" else 2) for file in files])
        for file in files:
            if file.path == "d" and chance.random() < 0.5:
                cut(lake, pipeline, file)

    for (pipeline, revision), files in listed.items():
        read_back = listing_of(lake, pipeline, revision)
        assert [(path, content) for path, content, *_ in read_back] == [(file.path, file.content) for file in files]
        for path, content, num_shards, shards in read_back:
            assert num_shards == (2 if path in "abc" else len(shards) or None)
            assert shards == [s.shard_id for s in shards_of(file_of(path, content), num_shards or 0)]
    collect(lake)
    for pipeline in PIPELINES:
        assert {len(slices) for slices in cut_files(lake.cursor(), pipeline).values()} <= {2, 3}
        latest = (
            lake.cursor().execute("SELECT target_revision FROM _pipelines WHERE pipeline = ?", [pipeline]).fetchone()
        )
        kept = lake.cursor().execute("SELECT DISTINCT revision FROM _revision_files WHERE pipeline = ?", [pipeline])
        assert kept.fetchall() == ([latest] if latest else [])


def cut(lake: Lake, pipeline: str, file: SourceFile) -> None:
    lake.write(lambda cursor: mark_cut(cursor, pipeline, [(file.path, shards_of(file, 3))]), message="cut")


def listing_of(lake: Lake, pipeline: str, revision: str) -> list[tuple[str, str, int | None, list[str]]]:
    found = lake.cursor().execute(
        "SELECT f.path, f.content, f.num_shards, "
        "coalesce(list(s.shard_id ORDER BY s.first_row) FILTER (s.path IS NOT NULL), []) "
        "FROM _revision_files f LEFT JOIN _revision_shards s USING (pipeline, revision, path) "
        "WHERE f.pipeline = ? AND f.revision = ? GROUP BY ALL ORDER BY f.path",
        [pipeline, revision],
    )
    return found.fetchall()


def test_a_file_on_the_hub_is_read_at_the_commit_of_the_revision_and_costs_nothing_while_it_stays(lake):
    for commit in ("aaaa", "bbbb"):
        url = f"hf://datasets/me/mine@{commit}/data/user@home.parquet"
        adopt(lake, "one", commit, [(file_of("data/user@home.parquet", url=url), 1)])

    assert rows_of(lake, "_files", "_shards") == [1, 1]
    for commit in ("aaaa", "bbbb"):
        [shard] = target_shards(lake.cursor(), "one", commit)
        assert shard.file.url == f"hf://datasets/me/mine@{commit}/data/user@home.parquet"


@pytest.mark.parametrize("old", ["s3://old/data", "hf://datasets/me/old@same"])
@pytest.mark.parametrize("new", ["s3://new/data", "hf://datasets/me/new@same"])
def test_a_dataset_that_moved_as_a_whole_is_read_at_its_new_place(lake, old, new):
    for folder in (old, new):
        adopt(lake, "one", "same", [(file_of(path, url=f"{folder}/{path}"), 1) for path in "ab"])

    assert [shard.file.url for shard in target_shards(lake.cursor(), "one", "same")] == [f"{new}/a", f"{new}/b"]


def test_a_shard_that_the_ledger_names_stays_listed_whatever_revision_listed_it(lake):
    file = file_of("a", "old")
    adopt(lake, "one", "first", [(file, 1)])
    adopt(lake, "one", "second", [(file_of("a", "new"), 1)])
    done: dict[str, object] = {"pipeline": "one", "shard_id": shards_of(file, 1)[0].shard_id, "revision": "second"}
    lake.write(lambda cursor: insert_records(cursor, "_ledger", [done]), message="done")

    collect(lake)

    assert rows_of(lake, "_files", "_shards", "_target_shards") == [1, 2, 1]
