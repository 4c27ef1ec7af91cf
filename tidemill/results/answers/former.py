"""Which shards may have answered a file's rows: those of the file as it was, or of its siblings where it is new."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    """The shards that a version had when this was asked, by path, in order; `gone` are paths that were listed once."""

    shards: Mapping[str, Sequence[FormerShard]] = field(default_factory=dict)
    gone: Collection[str] = ()

    @classmethod
    def of(cls, cursor: Cursor, pipeline: str, version: str, *, listed: Collection[str] | None = None) -> Former:
        """`listed` are the paths of the revision that is to be computed; without it, of the target."""
        rows = cursor.execute(
            "SELECT l.path, l.shard_id, coalesce(s.first_row, 0) AS first_row, l.num_rows FROM _ledger l "
            "LEFT JOIN (SELECT shard_id, any_value(first_row) AS first_row FROM _shards WHERE pipeline = $pipeline "
            "GROUP BY shard_id) s USING (shard_id) WHERE l.pipeline = $pipeline AND l.version = $version "
            "AND l.num_rows > 0 ORDER BY l.path, first_row, l.shard_id",
            {"pipeline": pipeline, "version": version},
        ).fetchall()
        shards: dict[str, list[FormerShard]] = defaultdict(list)
        for path, *facts in rows:
            shards[path].append(FormerShard(*facts))
        if shards and listed is None:
            listed = _listed(cursor, pipeline)
        return cls(shards, shards.keys() - set(listed or ()))

    def may_have(self, path: str) -> bool:
        """Whether there are rows of this file or, where it is new, of its siblings."""
        return path in self.shards or _folder(path) in self._folders

    @functools.cached_property
    def _folders(self) -> set[str]:
        return {_folder(path) for path in self.shards}

    def near(self, shard: Shard) -> list[str]:
        """Ids of the shards among whose rows the shard's texts may be, the nearest first.

        >>> former = Former({"a/1": [FormerShard("x", 0, 9), FormerShard("y", 9, 9)], "b/1": []}, {"a/1"})
        >>> from tidemill.shards import Slice, SourceFile
        >>> for path in ("a/1", "a/2", "c/1"):
        ...     former.near(Shard(SourceFile(path, path, 1, "c"), Slice(9, 9, 0, 0, "s", 1)))
        ['y', 'x']
        ['x', 'y']
        []
        """
        path, first_row = shard.file.path, shard.slice.first_row
        if not self.may_have(path):
            return []
        if own := self.shards.get(path):
            return _within_bounds(sorted(own, key=lambda former: abs(former.first_row - first_row)))
        return _within_bounds(former for sibling in self._siblings(path) for former in self.shards[sibling])

    def _siblings(self, path: str) -> list[str]:
        """The files of a folder that a new one may repeat: those that are gone first, then the nearest by name."""
        names = sorted({path, *(other for other in self.shards if _folder(other) == _folder(path))})
        at = names.index(path)
        distance = {name: abs(number - at) for number, name in enumerate(names) if name != path}
        return sorted(distance, key=lambda name: (name not in self.gone, distance[name], name))[:MOST_SIBLINGS]


def _within_bounds(shards: Iterable[FormerShard]) -> list[str]:
    def ids() -> Iterator[str]:
        num_rows = 0
        for shard in shards:
            num_rows += shard.num_rows
            if num_rows > MOST_ROWS and num_rows > shard.num_rows:
                return
            yield shard.shard_id

    return list(ids())


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _listed(cursor: Cursor, pipeline: str) -> set[str]:
    rows = cursor.execute("SELECT path FROM _target_files WHERE pipeline = ?", [pipeline]).fetchall()
    return {path for (path,) in rows}
