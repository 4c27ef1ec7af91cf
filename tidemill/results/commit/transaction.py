"""The transaction in which shards' rows become visible.

It writes a shard's rows, its quarantined rows and its ledger row together, so
a shard is done if and only if its rows are visible, and the ledger row holds
their checksum. The shards that replace a changed file are committed in one
transaction that also retires the old ones: readers see the old file or the new
one. What it has to know of its shards it looks up once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.listings import mark_cut
from tidemill.lake.pipelines import Target
from tidemill.lake.records.marks import carry_marks
from tidemill.lake.runs import known_sum
from tidemill.results.adoption import is_target
from tidemill.results.commit.copying import write_copies
from tidemill.results.commit.items import Computed, Copied, Item, Outcome, Written
from tidemill.results.commit.standing import Standing
from tidemill.results.commit.writing import write_computed, write_rows
from tidemill.results.forgotten import Forgotten
from tidemill.results.retirement import remove_shards, retire_elsewhere
from tidemill.shards import Shard

Lot = Sequence[Item]
"""Shards that whoever commits them wants to hear of together."""


def commit_shards(
    lake: Lake,
    target: Target,
    items: Sequence[Item],
    *,
    cut: Sequence[tuple[str, Sequence[Shard]]] = (),
    moved: Sequence[str] = (),
) -> Outcome:
    """Make the shards' rows visible, and retire what they replace once their file is complete.

    All or none of the items are written. `cut` gives (path, all shards) of
    files that are known to their end; `moved` are vanished paths whose
    content the items copy to another place.
    """
    [outcome] = commit_lots(lake, target, lambda: [items], cut=cut, moved=moved)
    return outcome


def commit_lots(
    lake: Lake,
    target: Target,
    take: Callable[[], Sequence[Lot]],
    *,
    cut: Sequence[tuple[str, Sequence[Shard]]] = (),
    moved: Sequence[str] = (),
) -> list[Outcome]:
    """`commit_shards` for several lots in one transaction: all of them or none. No shard may be in two.

    What it is to commit it takes only once it has the lake's lock; after a conflict, it takes anew. Rows that were
    removed are in the first lot's outcome.
    """

    def body(cursor: Cursor) -> list[Outcome]:
        lots = take()
        items = [item for lot in lots for item in lot]
        if is_target(cursor, target):
            written, num_rows_removed = _commit(cursor, target, items, cut, moved)
        else:
            written, num_rows_removed = _commit_what_stays(cursor, target, items), 0
        removed = [num_rows_removed, *[0] * len(lots)]
        return [_outcome(lot, written, num_rows_removed=num) for lot, num in zip(lots, removed, strict=False)]

    return lake.write(body, message=target.message)


def _commit(
    cursor: Cursor,
    target: Target,
    items: Sequence[Item],
    cut: Sequence[tuple[str, Sequence[Shard]]],
    moved: Sequence[str],
) -> tuple[Written, int]:
    """What was written, and how many rows were removed."""
    mark_cut(cursor, target.pipeline, cut)
    paths = {item.shard.file.path for item in items} | {path for path, _ in cut}
    standing = Standing.of(cursor, target, items, paths)
    written = _write(cursor, target, items, standing)
    if cut:
        retire_elsewhere(cursor, target.pipeline, target.version)
    removed = _retire_replaced(cursor, target, standing.outdated)
    if moved:
        gone = [shard for shard, path in _vanished(cursor, target) if path in moved]
        _retire(cursor, target, gone)
    carry_marks(cursor, target.pipeline, target.version)
    return written, removed


def _commit_what_stays(cursor: Cursor, target: Target, items: Sequence[Item]) -> Written:
    """The dataset moved on meanwhile: write the shards that the new target has as well, if they stand by themselves.

    A shard of a file that replaces another is dropped: its file is committed whole, at the new target.
    """
    rows = cursor.execute(
        "SELECT shard_id FROM _target_shards WHERE (pipeline, shard_id) IN (SELECT (?, unnest(?::VARCHAR[])))",
        [target.pipeline, [item.shard.shard_id for item in items]],
    ).fetchall()
    listed = {shard_id for (shard_id,) in rows}
    standing = Standing.of(cursor, target, items, {item.shard.file.path for item in items})
    stay = [item for item in items if item.shard.shard_id in listed and item.shard.file.path not in standing.outdated]
    return _write(cursor, target, stay, standing)


def _outcome(lot: Lot, written: Written, *, num_rows_removed: int) -> Outcome:
    """What is not among the `written` was dropped."""
    done = [item for item in lot if item.shard.shard_id in written]
    facts = [item.facts for item in done if isinstance(item, Computed)]
    unchanged_tokens = sum(known.get("num_unchanged_tokens", 0) for known in facts)
    return Outcome(
        committed=tuple(item.shard.shard_id for item in done),
        num_copied=sum(isinstance(item, Copied) for item in done),
        dropped=tuple(item.shard.shard_id for item in lot if item.shard.shard_id not in written),
        num_rows=sum(written[item.shard.shard_id][0] for item in done),
        num_quarantined=sum(written[item.shard.shard_id][1] for item in done),
        num_tokens=sum(known.get("num_tokens", 0) for known in facts) - unchanged_tokens,
        num_rows_removed=num_rows_removed,
        num_unchanged=sum(known.get("num_unchanged", 0) for known in facts)
        + sum(written[item.shard.shard_id][0] for item in done if isinstance(item, Copied)),
        num_unchanged_tokens=unchanged_tokens,
        num_new_tokens=known_sum(known.get("num_new_tokens") for known in facts),
    )


def remove_vanished(lake: Lake, target: Target) -> int:
    """Remove the rows of files that the target revision no longer has; returns how many."""

    def body(cursor: Cursor) -> int:
        if not is_target(cursor, target):
            return 0
        return _retire(cursor, target, [shard_id for shard_id, _ in _vanished(cursor, target)])

    if not _vanished(lake.cursor(), target):
        return 0
    return lake.write(body, message=f"remove vanished files: {target.message}")


def _write(cursor: Cursor, target: Target, items: Sequence[Item], standing: Standing) -> Written:
    """Write what is wanted still and not done already."""
    done, asked = standing.done, standing.asked
    computed = [
        item
        for item in items
        if isinstance(item, Computed)
        and asked.get(item.shard.shard_id) == item.request_id != done.get(item.shard.shard_id)
    ]
    whole = [item for item in computed if not item.only_rows]
    again = [item.shard.shard_id for item in whole if item.shard.shard_id in done]
    remove_shards(cursor, target.pipeline, target.version, again, wanted_still=True)
    forgotten = Forgotten.of(cursor, target, [item.shard for item in computed])
    written = write_computed(cursor, target, whole, forgotten)
    for partial in computed:
        if partial.only_rows and partial.shard.shard_id in done:
            written[partial.shard.shard_id] = write_rows(cursor, target, partial, forgotten)
    copies = [item for item in items if isinstance(item, Copied) and item.shard.shard_id not in done]
    return written | write_copies(cursor, target, copies, asked)


def _retire_replaced(cursor: Cursor, target: Target, outdated: dict[str, list[str]]) -> int:
    """Remove files' former shards once all their shards at the target are done; returns rows removed."""
    if not outdated:
        return 0
    complete = cursor.execute(
        "SELECT f.path FROM _target_files f WHERE f.pipeline = $pipeline "
        "AND f.path IN (SELECT unnest($paths::VARCHAR[])) AND f.num_shards = "
        "(SELECT count(*) FROM _target_shards s SEMI JOIN (SELECT shard_id FROM _ledger "
        "WHERE pipeline = $pipeline AND version = $version) l USING (shard_id) "
        "WHERE s.pipeline = $pipeline AND s.path = f.path)",
        {"pipeline": target.pipeline, "version": target.version, "paths": sorted(outdated)},
    ).fetchall()
    return _retire(cursor, target, [shard_id for (path,) in complete for shard_id in outdated[path]])


def _retire(cursor: Cursor, target: Target, shard_ids: Sequence[str]) -> int:
    """Remove shards of which other shards have the rows now, or none; returns rows removed."""
    carry_marks(cursor, target.pipeline, target.version, shard_ids)
    return remove_shards(cursor, target.pipeline, target.version, shard_ids)


def _vanished(cursor: Cursor, target: Target) -> list[tuple[str, str]]:
    """(shard id, path) of done shards whose file the target revision does not have."""
    return cursor.execute(
        "SELECT shard_id, path FROM _ledger WHERE pipeline = $pipeline AND version = $version AND path NOT IN "
        "(SELECT path FROM _target_files WHERE pipeline = $pipeline)",
        {"pipeline": target.pipeline, "version": target.version},
    ).fetchall()
