"""Which shards may have answered a file's rows: those of the file as it was, or of its siblings where it is new."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from tidemill.lake.ducklake.connection import Cursor
from tidemill.shards import Shard

MOST_ROWS = 2_000_000
"""Among which one shard's texts are looked for: that takes a fraction of a second, and the model minutes."""
MOST_SIBLINGS = 16
"""Files of a folder among which a new file's texts are looked for."""


@dataclass(frozen=True)
class FormerShard:
    shard_id: str
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class Former:
    """The shards that a version had when this was asked, by path, in order.

    `gone` are paths that left the dataset. `begun` are new files of which a run that ended early has some shards.
    """

    shards: Mapping[str, Sequence[FormerShard]] = field(default_factory=dict)
    gone: Collection[str] = ()
    begun: Collection[str] = ()

    @classmethod
    def of(cls, cursor: Cursor, pipeline: str, version: str, *, listed: Mapping[str, str] | None = None) -> Former:
        """`listed` has the content of each path of the revision that is to be computed; without it, of the target."""
        rows = cursor.execute(
            "SELECT l.path, s.contents, l.shard_id, coalesce(s.first_row, 0) AS first_row, l.num_rows FROM _ledger l "
            "LEFT JOIN (SELECT s.shard_id, any_value(s.first_row) AS first_row, list(DISTINCT f.content) AS contents "
            "FROM _shards s LEFT JOIN _files f USING (pipeline, path, since) WHERE s.pipeline = $pipeline "
            "GROUP BY s.shard_id) s USING (shard_id) WHERE l.pipeline = $pipeline AND l.version = $version "
            "AND l.num_rows > 0 ORDER BY l.path, first_row, l.shard_id",
            {"pipeline": pipeline, "version": version},
        ).fetchall()
        shards: dict[str, list[FormerShard]] = defaultdict(list)
        contents: dict[str, set[str]] = defaultdict(set)
        for path, of_shard, *facts in rows:
            shards[path].append(FormerShard(*facts))
            contents[path].update(of_shard or [""])
        if shards and listed is None:
            listed = _listed(cursor, pipeline)
        listed = listed or {}
        begun = {path for path, content in listed.items() if contents.get(path) == {content}}
        return cls(dict(shards), shards.keys() - listed.keys(), begun)

    def near(self, shard: Shard) -> list[str]:
        """Ids of the shards among whose rows the shard's texts may be, the nearest first.

        >>> former = Former({"a/1": [FormerShard("x", 0, 9), FormerShard("y", 9, 9)]}, {"a/1"})
        >>> from tidemill.shards import Slice, SourceFile
        >>> for path in ("a/1", "a/2", "c/1"):
        ...     former.near(Shard(SourceFile(path, path, 1, "c"), Slice(9, 9, 0, 0, "s", 1)))
        ['y', 'x']
        ['x', 'y']
        []
        """
        path, first_row = shard.file.path, shard.slice.first_row
        own = sorted(self.shards.get(path, ()), key=lambda former: abs(former.first_row - first_row))
        if own and path not in self.begun:
            return _within_bounds(own)
        of_siblings = (former for sibling in self.siblings(path) for former in self.shards[sibling])
        return _within_bounds(chain(own, of_siblings))

    def may_have(self, path: str) -> bool:
        """Whether there are rows of this file or, where it is new, of its siblings."""
        return path in self.shards or _folder(path) in self._folders

    def siblings(self, path: str) -> list[str]:
        """The files of its folder that a new one may repeat: those that are gone first, each by how near its name is.

        >>> former = Former(dict.fromkeys(("d/1", "d/2", "d/5", "e/1"), ()), {"d/5"})
        >>> former.siblings("d/3")
        ['d/5', 'd/2', 'd/1']
        """
        found = (*_nearest(self._folders_gone.get(_folder(path), []), path), *self._nearest_in_folder(path))
        return [sibling for sibling in dict.fromkeys(found) if sibling != path][:MOST_SIBLINGS]

    def _nearest_in_folder(self, path: str) -> list[str]:
        return _nearest(self._folders.get(_folder(path), []), path)

    @functools.cached_property
    def _folders(self) -> Mapping[str, list[str]]:
        """Folder → the paths in it, in order."""
        return _by_folder(self.shards)

    @functools.cached_property
    def _folders_gone(self) -> Mapping[str, list[str]]:
        return _by_folder(self.gone)


def _nearest(names: Sequence[str], name: str) -> list[str]:
    """Those of the sorted names that are around one, the nearest first."""
    at = bisect_left(names, name)
    before, after = names[max(0, at - MOST_SIBLINGS) : at][::-1], names[at : at + MOST_SIBLINGS]
    return [found for pair in zip_longest(before, after) for found in pair if found is not None]


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        folders[_folder(path)].append(path)
    return dict(folders)


def _within_bounds(shards: Iterable[FormerShard]) -> list[str]:
    """Their ids, as far as their rows are not too many; of the first one in any case."""

    def ids() -> Iterator[str]:
        num_rows = 0
        for shard in shards:
            num_rows += shard.num_rows
            if num_rows > max(MOST_ROWS, shard.num_rows):
                return
            yield shard.shard_id

    return list(ids())


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _listed(cursor: Cursor, pipeline: str) -> dict[str, str]:
    return dict(cursor.execute("SELECT path, content FROM _target_files WHERE pipeline = ?", [pipeline]).fetchall())
