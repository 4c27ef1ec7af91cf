"""The folder in which a lake keeps its Parquet files, as files: whose they are, how large, and to remove them.

DuckLake takes any Parquet file there that its catalog does not know for one
left behind by a killed writer. So every lake leaves an owner file, and nothing is
taken for an orphan where another lake has left one, or whose name is not of
DuckLake's making.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from functools import cached_property

from tidemill.errors import LakeError
from tidemill.lake.ducklake.catalog import catalog_identity
from tidemill.lake.ducklake.connection import CATALOG, Lake
from tidemill.lake.ducklake.owner_files import PREFIX
from tidemill.storage.addresses import open_address, translated

WRITTEN_BY_DUCKLAKE = re.compile(r"ducklake-[0-9a-f-]{36}(-delete)?\.parquet")


class DataFolder:
    def __init__(self, lake: Lake) -> None:
        self._root, self._cursor, self._spec = lake.data, lake.cursor(), lake.spec
        uuid = self._cursor.execute(f"SELECT schema_uuid FROM {CATALOG}.ducklake_schema ORDER BY schema_id LIMIT 1")
        self._own = f"{PREFIX}{uuid.fetchall()[0][0]}"

    def leave_owner_file(self) -> None:
        """Say that this lake keeps its data here."""
        if self._own not in self._owner_files():
            quoted = f"{self._root}/{self._own}".replace("'", "''")
            says = catalog_identity(self._spec).replace("'", "''")
            self._cursor.execute(f"COPY (SELECT '{says}' AS catalog) TO '{quoted}' (FORMAT csv, HEADER)")

    def is_shared(self) -> bool:
        """Whether another lake keeps its data here too."""
        return bool(self._owner_files() - {self._own})

    def num_bytes(self, paths: Iterable[str]) -> int:
        """Of those of the files that are there."""
        return sum(self._sizes.get(_name(path), 0) for path in paths)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            file_system, place = open_address(path, "lake.data", LakeError)
            with translated(path, "lake.data", LakeError):
                file_system.rm_file(place)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        file_system, root = open_address(self._root, "lake.data", LakeError)
        with translated(self._root, "lake.data", LakeError):
            return {_name(path): int(info["size"]) for path, info in file_system.find(root, detail=True).items()}

    def _owner_files(self) -> set[str]:
        found = self._cursor.execute("SELECT file FROM glob(?)", [f"{glob.escape(self._root)}/{PREFIX}*"]).fetchall()
        return {_name(path) for (path,) in found}


def is_ducklakes(path: str) -> bool:
    return WRITTEN_BY_DUCKLAKE.fullmatch(_name(path)) is not None


def _name(path: str) -> str:
    return path.rpartition("/")[2]
