"""Shards whose content is computed at another place are copied together: rows, quarantine, ledger and checksums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, ask_for_rows, lake_at
from tidemill.errors import InvariantBroken, ShardGone
from tidemill.lake import Lake
from tidemill.lake.pipelines import Target
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.commit import Copied, commit_shards
from tidemill.results.verify import verify_pipeline
from tidemill.shards import Shard, SourceFile

SIZE, NUM_SHARDS, FURTHER_DOWN = 3, 4, 100
ROWS = f"SELECT path, row_number, id, label FROM {TABLE} JOIN _ledger USING (shard_id) ORDER BY ALL"


def place(path: str, shard: Shard) -> Shard:
    """The shard's content in another file, further down."""
    file = SourceFile(path, path, shard.file.size, f"of {path}")
    return Shard(file, replace(shard.slice, first_row=FURTHER_DOWN))


@pytest.fixture
def copied(tmp_path: Any) -> Iterator[tuple[Lake, Target, list[Copied]]]:
    """A lake with some shards, the last of which has a row in quarantine, and copies of each that are listed."""
    with Lake(lake_at(tmp_path)) as lake:
        target, items = ask_for_rows(
            lake, pa.table({"id": pa.array(range(SIZE * NUM_SHARDS), pa.int64())}), [SIZE] * NUM_SHARDS
        )
        rows, predictions = items[-1].load()
        reasons = pa.array(["too long", *[None] * (SIZE - 1)])
        for name in ("stage", "reason"):
            predictions = predictions.set_column(predictions.column_names.index(name), name, reasons)
        items[-1] = replace(items[-1], load=lambda: (rows, predictions))
        commit_shards(lake, target, items)
        copies = [Copied(place(f"copy-{n}", item.shard), item.shard.shard_id) for n, item in enumerate(items)]
        target = replace(target, revision="r2", run_id="second")
        shards = [item.shard for item in items] + [item.shard for item in copies]
        files = [shard.file for shard in shards]
        requests = [(copies[0].shard.shard_id, "new")]
        adoption = Adoption([(file, 1) for file in files], shards, requests, {}, [], {}, "r1")
        assert adopt(lake, target, adoption)
        yield lake, target, copies


@pytest.mark.slow
def test_rows_quarantine_and_checksums_of_all_copies_are_those_of_their_sources_at_their_places(copied):
    lake, target, copies = copied
    cursor = lake.cursor()
    before = cursor.execute(ROWS).fetchall()
    outcome = commit_shards(lake, target, copies)
    assert outcome.committed == tuple(item.shard.shard_id for item in copies)
    assert (outcome.num_copied, outcome.num_rows, outcome.num_quarantined) == (NUM_SHARDS, SIZE * NUM_SHARDS - 1, 1)
    assert outcome.num_unchanged == outcome.num_rows
    moved = [(path.replace("part", "copy"), number + FURTHER_DOWN, *rest) for path, number, *rest in before]
    assert cursor.execute(ROWS).fetchall() == sorted([*before, *moved])
    assert cursor.execute("SELECT path, row_number, reason, run_id FROM _quarantine ORDER BY path").fetchall() == [
        (f"copy-{NUM_SHARDS - 1}", FURTHER_DOWN, "too long", "second"),
        (f"part-{NUM_SHARDS - 1}", 0, "too long", "made-up"),
    ]
    ledger = cursor.execute(
        "SELECT path, copied_from, revision, run_id, request_id FROM _ledger WHERE run_id = 'second' ORDER BY path"
    ).fetchall()
    assert [row[:4] for row in ledger] == [
        (item.shard.file.path, item.source_shard_id, "r2", "second") for item in copies
    ]
    assert ledger[0][4] == f"second-{copies[0].shard.shard_id}"
    with Lake(lake.spec, read_only=True, scans=True) as reading:
        problems = verify_pipeline(reading, PIPELINE).problems
    # What comes before the copies' rows in their files is not in this lake.
    assert [problem for problem in problems if "leave a gap" not in problem] == []


def test_no_copy_is_made_if_what_one_repeats_is_gone_or_was_changed(copied):
    lake, target, copies = copied
    gone = replace(copies[1], source_shard_id="0123456789abcdef")
    with pytest.raises(ShardGone, match="copy-1: the shard 0123456789abcdef"):
        commit_shards(lake, target, [copies[0], gone])
    changed = copies[2].source_shard_id
    lake.write(
        lambda cursor: cursor.execute(f"UPDATE {TABLE} SET label = 'CHANGED' WHERE shard_id = ?", [changed]),
        message="damage",
    )
    with pytest.raises(InvariantBroken, match=f"part-2: the rows of shard {changed}"):
        commit_shards(lake, target, copies)
    assert lake.cursor().execute("SELECT count(*) FROM _ledger").fetchall() == [(NUM_SHARDS,)]
    assert commit_shards(lake, target, [copies[0], copies[3]]).num_copied == 2
