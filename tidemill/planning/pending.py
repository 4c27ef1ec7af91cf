"""What is pending at the last stage, by the lake alone: files to complete, shards to copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.lake import Cursor
from tidemill.lake.ledger import done_shards
from tidemill.lake.listings import num_shards_by_path, target_shards
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import Request, open_requests
from tidemill.results.commit import Copied
from tidemill.shards import Shard


@dataclass(frozen=True)
class PendingFile:
    """A file with something to commit: its shards at the target, and its open requests.

    `replaces` says that the table has shards of it that the target has not,
    `is_whole` that all of it is listed and either done or asked for.
    """

    path: str
    shards: Sequence[Shard]
    requests: Sequence[Request]
    replaces: bool
    is_whole: bool


def pending_files(cursor: Cursor, target: Target) -> list[PendingFile]:
    """Files whose shards wait for their commit, or which still show what the dataset no longer has, by path."""
    shards: dict[str, list[Shard]] = defaultdict(list)
    for shard in target_shards(cursor, target.pipeline, target.revision):
        shards[shard.file.path].append(shard)
    requests: dict[str, list[Request]] = defaultdict(list)
    for request in open_requests(cursor, target.pipeline, target.version):
        requests[request.shard.file.path].append(request)
    done = done_shards(cursor, target.pipeline, target.version)
    listed = {shard.shard_id for pieces in shards.values() for shard in pieces}
    outdated = {shard.path for shard_id, shard in done.items() if shard_id not in listed}
    cut = num_shards_by_path(cursor, target.pipeline, target.revision)
    found = []
    for path in sorted({*requests, *(outdated & cut.keys())}):
        available = {request.shard.shard_id for request in requests[path]} | done.keys()
        is_whole = cut.get(path) == len(shards[path]) and all(shard.shard_id in available for shard in shards[path])
        found.append(PendingFile(path, shards[path], requests[path], path in outdated, is_whole))
    return found


def pending_copies(cursor: Cursor, target: Target) -> tuple[list[Copied], list[str]]:
    """Shards that nobody has to compute, for their content is done at another place; and paths that only moved there.

    A file that replaces another is not copied piece by piece: it is asked for as a whole.
    """
    done = done_shards(cursor, target.pipeline, target.version)
    wanted = {request.shard.shard_id for request in open_requests(cursor, target.pipeline, target.version)}
    by_content = {shard.content: shard_id for shard_id, shard in done.items() if shard.kept == target.kept}
    listed = target_shards(cursor, target.pipeline, target.revision)
    ids, paths = {shard.shard_id for shard in listed}, {shard.file.path for shard in listed}
    outdated = {shard.path for shard_id, shard in done.items() if shard_id not in ids}
    copies = [
        Copied(shard, by_content[shard.slice.content])
        for shard in listed
        if shard.shard_id not in done
        and shard.shard_id not in wanted
        and shard.slice.content in by_content
        and shard.file.path not in outdated
    ]
    here_now = {item.shard.slice.content for item in copies} | {
        shard.slice.content for shard in listed if shard.shard_id in done
    }
    moved: dict[str, bool] = {}
    for shard in done.values():
        if shard.path not in paths:
            moved[shard.path] = moved.get(shard.path, True) and shard.content in here_now
    return copies, sorted(path for path, is_moved in moved.items() if is_moved)
