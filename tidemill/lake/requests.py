"""What is wanted: `_requests`, which only this module reads and writes.

A request asks for one shard at one version. It is open until the ledger has a
row for it. `run` and `backfill` ask; the stages and whoever works for a
backfill find here what is to be done, so that none of them has to look at the
source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.ledger import COMPUTED_TOKENS, OUTDATED_PATHS, quarantined_rows
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import address_at, delete_where, records
from tidemill.shards import Shard, Slice, SourceFile

PAGE_REQUESTS = 50_000
"""Open requests in memory at one time: some 60 MB. Each page joins what is left, so that small ones take long."""
ONLY_QUARANTINED = "quarantined"
"""The reason of a request that asks for a shard's quarantined rows alone."""
AGAIN = "again"
"""The reason of one that asks for a shard to be computed, whatever is known of it."""
DECODED_AGAIN = "decoded again"
"""The reason of one that asks for what a model wrote of a shard to be decoded, whatever became of it before."""


@dataclass(frozen=True)
class Request:
    """A shard that is wanted at a version. With `rows`, only those row numbers of it are."""

    shard: Shard
    request_id: str
    rows: tuple[int, ...] | None = None


_OPEN = """
    FROM _requests r
    JOIN _pipelines p ON p.pipeline = r.pipeline
    JOIN _target_shards s ON s.pipeline = r.pipeline AND s.shard_id = r.shard_id
    LEFT JOIN _ledger l ON l.pipeline = r.pipeline AND l.version = r.version AND l.shard_id = r.shard_id
        AND l.request_id = r.request_id
    WHERE r.pipeline = $pipeline AND l.shard_id IS NULL
"""


def requested(pipeline: str) -> str:
    """SQL without parameters: a query of all that was asked for, at every version."""
    columns = "version, shard_id, request_id, reason, requested_at"
    return f"(SELECT {columns} FROM _requests WHERE pipeline = '{pipeline}')"


def open_requests(cursor: Cursor, pipeline: str, version: str, **narrowed: Any) -> Iterator[Request]:
    """`open_pages`, request by request."""
    for page in open_pages(cursor, pipeline, version, **narrowed):
        yield from page


def open_pages(
    cursor: Cursor,
    pipeline: str,
    version: str,
    *,
    backfill_id: str | None = None,
    shard_ids: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
) -> Iterator[list[Request]]:
    """What is wanted at the target revision and not done, by path and row; of one backfill, of some shards or files.

    A page is read when it is asked for, and goes on behind the last request of the one before: so memory is bounded,
    and what is done in between neither hides a request nor shows one twice. In a snapshot they are all as at its begin.
    """
    facts: dict[str, object] = {"pipeline": pipeline, "version": version, "most": PAGE_REQUESTS}
    narrowed = "AND r.version = $version"
    if backfill_id is not None:
        narrowed, facts["backfill"] = f"{narrowed} AND r.backfill_id = $backfill", backfill_id
    if shard_ids is not None:
        narrowed, facts["shards"] = f"{narrowed} AND r.shard_id IN (SELECT unnest($shards::VARCHAR[]))", list(shard_ids)
    if paths is not None:
        narrowed, facts["paths"] = f"{narrowed} AND s.path IN (SELECT unnest($paths::VARCHAR[]))", list(paths)
    behind = ""
    while True:
        rows = cursor.execute(_page(narrowed + behind), facts).fetchall()
        if rows:
            yield _requests(cursor, pipeline, version, rows)
        if len(rows) < PAGE_REQUESTS:
            return
        behind = " AND s.path >= $path AND (s.path, s.first_row, s.shard_id) > ($path, $row, $shard)"
        facts["path"], facts["row"], facts["shard"] = rows[-1][2], rows[-1][6], rows[-1][-1]


def _page(narrowed: str) -> str:
    return (
        f"SELECT o.request_id, o.reason, f.path, {address_at('o.target_revision')}, f.size, f.content, o.first_row, "
        "o.num_rows, o.start_byte, o.stop_byte, o.content, o.text_bytes, o.shard_id "
        f"FROM (SELECT r.request_id, r.reason, p.target_revision, s.* {_OPEN} {narrowed}) o "
        "JOIN _target_files f ON f.pipeline = o.pipeline AND f.path = o.path "
        "ORDER BY o.path, o.first_row, o.shard_id LIMIT $most"
    )


def _requests(cursor: Cursor, pipeline: str, version: str, rows: Sequence[tuple[Any, ...]]) -> list[Request]:
    partial = {shard_id for _, reason, *_, shard_id in rows if reason == ONLY_QUARANTINED}
    wanted = quarantined_rows(cursor, pipeline, version, sorted(partial)) if partial else {}
    return [
        Request(
            Shard(SourceFile(*file), Slice(*cut)),
            request_id,
            wanted.get(shard_id, ()) if reason == ONLY_QUARANTINED else None,
        )
        for request_id, reason, *of_both, shard_id in rows
        for file, cut in [(of_both[:4], of_both[4:])]
    ]


def are_open(cursor: Cursor, pipeline: str, version: str, backfill_id: str) -> bool:
    """Whether anything that a backfill asks for is not done."""
    found = cursor.execute(
        f"SELECT 1 {_OPEN} AND r.version = $version AND r.backfill_id = $backfill LIMIT 1",
        {"pipeline": pipeline, "version": version, "backfill": backfill_id},
    ).fetchone()
    return found is not None


def repeats(cursor: Cursor, target: Target) -> list[tuple[Shard, str]]:
    """Shards at the target revision that nobody has to compute: (shard, id of a done one with its content).

    Neither done nor asked for, and of no file that shows shards which the target does not list.
    """
    rows = cursor.execute(
        f"SELECT f.path, {address_at('$revision')}, f.size, f.content, s.first_row, s.num_rows, s.start_byte, "
        "s.stop_byte, s.content, s.text_bytes, d.shard_id "
        "FROM _target_shards s JOIN _target_files f ON f.pipeline = s.pipeline AND f.path = s.path "
        "JOIN (SELECT content, max(shard_id) AS shard_id FROM _ledger WHERE pipeline = $pipeline "
        "AND version = $version AND kept = $kept GROUP BY content) d ON d.content = s.content "
        "WHERE s.pipeline = $pipeline "
        f"AND s.path NOT IN ({OUTDATED_PATHS}) AND s.shard_id NOT IN "
        "(SELECT shard_id FROM _ledger WHERE pipeline = $pipeline AND version = $version) AND s.shard_id NOT IN "
        f"(SELECT r.shard_id {_OPEN} AND r.version = $version) ORDER BY f.path, s.first_row",
        {
            "pipeline": target.pipeline,
            "version": target.version,
            "kept": target.kept,
            "revision": target.revision,
        },
    ).fetchall()
    return [(Shard(SourceFile(*row[:4]), Slice(*row[4:10])), row[10]) for row in rows]


def asked_for_in_vain(cursor: Cursor, pipeline: str) -> dict[str, set[str]]:
    """Version → shards that are wanted and not done, and of which no open backfill will remind anyone."""
    rows = cursor.execute(
        f"SELECT r.version, list(DISTINCT r.shard_id) {_OPEN} AND r.reason <> '{ONLY_QUARANTINED}' "
        "AND NOT EXISTS (SELECT 1 FROM _backfills b WHERE b.backfill_id = r.backfill_id AND b.state = 'open') "
        "GROUP BY r.version",
        {"pipeline": pipeline},
    ).fetchall()
    return {version: set(shard_ids) for version, shard_ids in rows}


def versions_in_demand(cursor: Cursor, pipeline: str) -> list[str]:
    """The versions that have open requests, the promoted one first."""
    rows = cursor.execute(
        f"SELECT r.version {_OPEN} GROUP BY r.version, p.promoted_version "
        "ORDER BY r.version <> p.promoted_version, r.version",
        {"pipeline": pipeline},
    ).fetchall()
    return [version for (version,) in rows]


class CommittedShard(NamedTuple):
    """What a run committed of a shard; of the tokens, those that it computed."""

    shard_id: str
    num_rows: int
    num_quarantined: int
    num_tokens: int
    num_unchanged: int
    num_unchanged_tokens: int
    num_new_tokens: int | None
    is_copied: bool


def committed_by(cursor: Cursor, pipeline: str, run_id: str) -> list[CommittedShard]:
    """The shards that a run made whole and still stand.

    Those of which it only tried quarantined rows again are not among them.
    """
    rows = cursor.execute(
        "WITH made AS (SELECT *, copied_from IS NOT NULL AS is_copied FROM _ledger WHERE pipeline = $pipeline "
        "AND run_id = $run_id AND request_id NOT IN "
        "(SELECT request_id FROM _requests WHERE pipeline = $pipeline AND reason = $reason)) "
        f"SELECT shard_id, num_rows, num_quarantined, if(is_copied, 0, coalesce({COMPUTED_TOKENS}, 0)), "
        "if(is_copied, num_rows, coalesce(num_unchanged, 0)), if(is_copied, 0, coalesce(num_unchanged_tokens, 0)), "
        "if(is_copied, NULL, num_new_tokens), is_copied FROM made",
        {"pipeline": pipeline, "run_id": run_id, "reason": ONLY_QUARANTINED},
    ).fetchall()
    return [CommittedShard(*row) for row in rows]


def still_open(cursor: Cursor, target: Target, requests: Sequence[Request]) -> dict[str, Request]:
    """shard id → the request, or the one that took its place since it was read; of those that are open still.

    A request for a whole shard does not take the place of one for some rows, nor the other way round: what would be
    computed for it is not what it asks for. The rows that one asks for are those in quarantine now.
    """
    now_open = _open_ids(cursor, target, [request.shard.shard_id for request in requests])
    open_still = [
        (request, *now_open[shard_id]) for request in requests if (shard_id := request.shard.shard_id) in now_open
    ]
    alike = [(request, id_) for request, id_, is_partial in open_still if is_partial == (request.rows is not None)]
    partial = sorted(request.shard.shard_id for request, _ in alike if request.rows is not None)
    rows = quarantined_rows(cursor, target.pipeline, target.version, partial) if partial else {}
    return {
        shard_id: replace(request, request_id=id_, rows=None if request.rows is None else rows.get(shard_id, ()))
        for request, id_ in alike
        for shard_id in [request.shard.shard_id]
    }


def _open_ids(cursor: Cursor, target: Target, shard_ids: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """shard id → (request id, whether it asks for rows in quarantine alone), of shards asked for and not done."""
    rows = cursor.execute(
        f"SELECT shard_id, request_id, reason = '{ONLY_QUARANTINED}' FROM _requests r "
        "ANTI JOIN (SELECT pipeline, version, shard_id, request_id FROM _ledger "
        "WHERE (pipeline, version, shard_id) IN (SELECT ($pipeline, $version, unnest($shards::VARCHAR[])))) l "
        "USING (pipeline, version, shard_id, request_id) "
        "WHERE (pipeline, version, shard_id) IN (SELECT ($pipeline, $version, unnest($shards::VARCHAR[])))",
        {"pipeline": target.pipeline, "version": target.version, "shards": list(shard_ids)},
    ).fetchall()
    return {shard_id: (request_id, is_partial) for shard_id, request_id, is_partial in rows}


def request_ids(cursor: Cursor, target: Target, shard_ids: Sequence[str]) -> dict[str, str]:
    """shard id → request id, of those shards that are asked for, done or not: others were cancelled, or left."""
    rows = cursor.execute(
        "SELECT shard_id, request_id FROM _requests "
        "WHERE (pipeline, version, shard_id) IN (SELECT (?, ?, unnest(?::VARCHAR[])))",
        [target.pipeline, target.version, list(shard_ids)],
    ).fetchall()
    return dict(rows)


def asked_again(cursor: Cursor, target: Target, ids: Sequence[str], *, of_ids: bool = False) -> set[str]:
    """Those of the requests, by their ids, that want their shards computed whatever is known of them.

    Also those that want only what was written to be decoded: for them it is known `of_ids` what that was.
    """
    reasons = [AGAIN] if of_ids else [AGAIN, DECODED_AGAIN]
    rows = cursor.execute(
        "SELECT request_id FROM _requests WHERE pipeline = ? AND version = ? "
        "AND reason IN (SELECT unnest(?::VARCHAR[])) AND request_id IN (SELECT unnest(?::VARCHAR[]))",
        [target.pipeline, target.version, reasons, list(ids)],
    ).fetchall()
    return {request_id for (request_id,) in rows}


def ask(cursor: Cursor, target: Target, wanted: Sequence[tuple[str, str]], now: datetime) -> None:
    """Ask for shards, given as (shard id, reason). Overlapping runs share one request for a shard."""
    ids, reasons = [shard_id for shard_id, _ in wanted], [reason for _, reason in wanted]
    _insert(cursor, target.pipeline, target.version, ids, reasons, now, run_id=target.run_id)


def ask_for_backfill(
    cursor: Cursor, pipeline: str, version: str, shard_ids: Sequence[str], reason: str, backfill_id: str, now: datetime
) -> None:
    """Ask for shards that may be done already. One that somebody asked for and nobody did keeps its request.

    Where its shard is to be computed or decoded whatever is known of it, that is its reason from now on.
    """
    where = "pipeline = $pipeline AND version = $version AND shard_id IN (SELECT unnest($shards::VARCHAR[]))"
    facts = {"pipeline": pipeline, "version": version, "shards": list(shard_ids)}
    is_done = "request_id IN (SELECT request_id FROM _ledger WHERE pipeline = $pipeline AND version = $version)"
    # Of rows in quarantine and of whole shards one is asked for at a time: the whole shard is more.
    cursor.execute(f"DELETE FROM _requests WHERE {where} AND ({is_done} OR reason = '{ONLY_QUARANTINED}')", facts)
    cursor.execute(
        "UPDATE _requests SET backfill_id = $backfill, "
        f"reason = CASE WHEN $reason IN ('{AGAIN}', '{DECODED_AGAIN}') AND reason <> '{AGAIN}' THEN $reason "
        f"ELSE reason END WHERE {where}",
        facts | {"backfill": backfill_id, "reason": reason},
    )
    _insert(cursor, pipeline, version, shard_ids, [reason] * len(shard_ids), now, backfill_id=backfill_id)


def _insert(
    cursor: Cursor,
    pipeline: str,
    version: str,
    shard_ids: Sequence[str],
    reasons: Sequence[str],
    now: datetime,
    *,
    run_id: str | None = None,
    backfill_id: str | None = None,
) -> None:
    """Insert requests for the shards that have none; a request is named after the run or the backfill that asks."""
    if not shard_ids:
        return
    count = len(shard_ids)
    incoming = pa.table(
        {
            "pipeline": [pipeline] * count,
            "version": [version] * count,
            "shard_id": list(shard_ids),
            "request_id": [f"{backfill_id or run_id}-{shard_id}" for shard_id in shard_ids],
            "run_id": pa.array([run_id] * count, pa.string()),
            "reason": list(reasons),
            "requested_at": pa.array([now] * count, pa.timestamp("us", "UTC")),
            "backfill_id": pa.array([backfill_id] * count, pa.string()),
        }
    )
    cursor.register("_incoming", incoming)
    cursor.execute(
        "INSERT INTO _requests BY NAME SELECT * FROM _incoming i WHERE NOT EXISTS (SELECT 1 FROM _requests r "
        "WHERE r.pipeline = i.pipeline AND r.version = i.version AND r.shard_id = i.shard_id)"
    )
    cursor.unregister("_incoming")


def withdraw(cursor: Cursor, pipeline: str, version: str, shard_ids: Sequence[str] | None = None) -> None:
    """Take back the requests for some shards of a version, or for all."""
    only = "" if shard_ids is None else " AND shard_id IN (SELECT unnest($shards::VARCHAR[]))"
    facts: dict[str, object] = {"pipeline": pipeline, "version": version}
    cursor.execute(
        f"DELETE FROM _requests WHERE pipeline = $pipeline AND version = $version{only}",
        facts if shard_ids is None else facts | {"shards": list(shard_ids)},
    )


def withdraw_backfill(cursor: Cursor, pipeline: str, backfill_id: str) -> None:
    """Take back what a backfill asks for and is not done."""
    cursor.execute(
        "DELETE FROM _requests WHERE backfill_id = ? AND request_id NOT IN "
        "(SELECT request_id FROM _ledger WHERE pipeline = ?)",
        [backfill_id, pipeline],
    )


def withdraw_unstarted(cursor: Cursor, pipeline: str, version: str) -> None:
    """Take back what runs asked for of the promoted version, if that is another than `version` and never got a row."""
    cursor.execute(
        "DELETE FROM _requests r WHERE r.pipeline = $pipeline AND r.version <> $version AND r.backfill_id IS NULL "
        "AND r.version = (SELECT promoted_version FROM _pipelines p WHERE p.pipeline = r.pipeline) "
        "AND NOT EXISTS (SELECT 1 FROM _ledger l WHERE l.pipeline = r.pipeline AND l.version = r.version)",
        {"pipeline": pipeline, "version": version},
    )


def waiting_since(cursor: Cursor, pipeline: str) -> datetime | None:
    """When the oldest request was made that a run asked for, at the promoted version, and nobody has done."""
    found = cursor.execute(
        f"SELECT min(r.requested_at) {_OPEN} AND r.version = p.promoted_version AND r.backfill_id IS NULL",
        {"pipeline": pipeline},
    ).fetchone()
    return found[0] if found else None


def count_open(cursor: Cursor, pipeline: str) -> list[dict[str, Any]]:
    """What is wanted at the target revision and not done: by version, why, and for which backfill."""
    return records(
        cursor,
        f"SELECT r.version, r.reason, r.backfill_id, count(*) AS shards {_OPEN} GROUP BY ALL ORDER BY ALL",
        {"pipeline": pipeline},
    )


def done_of_backfill(cursor: Cursor, backfill_id: str) -> list[dict[str, Any]]:
    """The ledger's facts of the shards that a backfill asked for and that are done, in the order of their commits."""
    return records(
        cursor,
        f"SELECT path, num_rows, num_quarantined, {COMPUTED_TOKENS} AS num_tokens FROM _ledger l SEMI JOIN "
        "(SELECT * FROM _requests WHERE backfill_id = ?) r USING (pipeline, version, shard_id, request_id) "
        "ORDER BY committed_at",
        [backfill_id],
    )


def remove_pointless(cursor: Cursor, *, dry_run: bool = False) -> int:
    """Take back requests for shards that no target revision has and no ledger row names; returns how many there are."""
    return delete_where(
        cursor,
        "_requests",
        "(pipeline, shard_id) NOT IN (SELECT (pipeline, shard_id) FROM _target_shards) "
        "AND (pipeline, version, shard_id) NOT IN (SELECT (pipeline, version, shard_id) FROM _ledger)",
        dry_run=dry_run,
    )
