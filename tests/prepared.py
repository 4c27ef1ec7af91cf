"""What several tests begin with, made once: a folder that is put back as it was made, where it was made.

A lake's catalog holds paths, so a copy elsewhere would be another lake.
"""

from __future__ import annotations

import shutil
from pathlib import Path


class Prepared:
    """`folder` as it is now, with the times of its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = folder.with_name(f"{folder.name}-kept")
        shutil.copytree(folder, self._kept)

    def put_back(self) -> Path:
        shutil.rmtree(self.folder)
        return Path(shutil.copytree(self._kept, self.folder))
