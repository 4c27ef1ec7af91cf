"""What is pending at the last stage, by the lake alone: files to complete, shards to copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidemill.lake import Cursor
from tidemill.lake.ledger import done_of_files, moved_paths, outdated_paths
from tidemill.lake.listings import num_shards_by_path, target_shards
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import Request, open_requests, repeats
from tidemill.results.commit import Copied
from tidemill.shards import Shard

FILES_TOGETHER = 100
"""Files whose shards are in memory at one time."""


@dataclass(frozen=True)
class PendingFile:
    """A file of which the table shows shards that the target has not: its shards at the target, and its open requests.

    `is_whole` says that all of it is listed and either done or asked for.
    """

    path: str
    shards: Sequence[Shard]
    requests: Sequence[Request]
    is_whole: bool


def pending_files(cursor: Cursor, target: Target) -> Iterator[PendingFile]:
    """Files that still show what the dataset no longer has, by path."""
    paths = outdated_paths(cursor, target.pipeline, target.version)
    for start in range(0, len(paths), FILES_TOGETHER):
        yield from _pending(cursor, target, paths[start : start + FILES_TOGETHER])


def _pending(cursor: Cursor, target: Target, paths: Sequence[str]) -> list[PendingFile]:
    shards: dict[str, list[Shard]] = defaultdict(list)
    for shard in target_shards(cursor, target.pipeline, target.revision, paths):
        shards[shard.file.path].append(shard)
    requests: dict[str, list[Request]] = defaultdict(list)
    for request in open_requests(cursor, target.pipeline, target.version, paths=paths):
        requests[request.shard.file.path].append(request)
    done = done_of_files(cursor, target.pipeline, target.version, paths)
    cut = num_shards_by_path(cursor, target.pipeline, target.revision)
    found = []
    for path in paths:
        available = {request.shard.shard_id for request in requests[path]} | done
        is_whole = cut.get(path) == len(shards[path]) and all(shard.shard_id in available for shard in shards[path])
        found.append(PendingFile(path, shards[path], requests[path], is_whole))
    return found


def pending_requests(cursor: Cursor, target: Target) -> Iterator[Request]:
    """What stands by itself: what is wanted of files that show nothing else than the dataset has, by path and row."""
    outdated = frozenset(outdated_paths(cursor, target.pipeline, target.version))
    for request in open_requests(cursor, target.pipeline, target.version):
        if request.shard.file.path not in outdated:
            yield request


def pending_copies(cursor: Cursor, target: Target) -> tuple[list[Copied], list[str]]:
    """Shards that nobody has to compute, for their content is done at another place; and paths that only moved there.

    A file that replaces another is not copied piece by piece: it is asked for as a whole.
    """
    copies = [Copied(shard, source) for shard, source in repeats(cursor, target)]
    contents = [item.shard.slice.content for item in copies]
    return copies, moved_paths(cursor, target.pipeline, target.version, contents)
