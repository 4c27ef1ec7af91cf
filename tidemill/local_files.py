"""Which local files a path means: each once, whatever links lead to it.

Patterns are those of Python's glob with `**`, which hangs where a link leads to
a folder above; here no folder is entered twice. What is passed over is told.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePath

from tidemill.listing import LeftOut, not_entered

_NOT_LISTED = "that may not be listed"
_NOT_FOLLOWED = "links to folders, which are not followed"
_ENTERED = "links to folders that are read already"
_HIDDEN = "hidden"
_BROKEN = "links that lead nowhere"
_NO_FILE = "neither files nor folders"
_SAME_FILE = "the same as others through links"
_FOLDERS = {_NOT_LISTED, _NOT_FOLLOWED, _ENTERED}


class LocalFiles:
    """Finds files, and keeps what it passes over and why, by paths from `base`."""

    def __init__(self, base: str | Path) -> None:
        self._base = base
        self._passed: dict[str, list[str]] = defaultdict(list)
        self._not_entered: tuple[LeftOut, ...] = ()

    @property
    def left_out(self) -> list[LeftOut]:
        passed = [
            LeftOut(tuple(sorted({*map(self._relative, paths)})), why, noun="folder" if why in _FOLDERS else "file")
            for why, paths in self._passed.items()
        ]
        return [*passed, *self._not_entered]

    def below(self, folder: str) -> list[str]:
        """Every file below a folder, but for hidden folders and those that start with two underscores."""
        found: list[str] = []
        pending = [folder]
        while pending:
            for entry in self._entries(pending.pop()):
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith((".", "__")):
                        pending.append(entry.path)
                elif Path(entry.path).is_dir():
                    if not _lies_in(entry.path, folder):
                        self._passed[_NOT_FOLLOWED].append(entry.path)
                elif self._is_file(entry.path):
                    found.append(entry.path)
        return sorted(found)

    def matching(self, pattern: str) -> list[str]:
        """The files that a pattern matches."""
        anchor, parts = PurePath(pattern).anchor, list(PurePath(pattern).parts)
        parts = parts[1:] if anchor else parts
        if parts[-1] == "**":
            parts.append("*")
        matched = [anchor]
        for part, is_last in ((part, i == len(parts) - 1) for i, part in enumerate(parts)):
            found = [path for folder in matched for path in self._step(folder, part, is_last=is_last)]
            matched = list(dict.fromkeys(found))
        folders = [path for path in matched if Path(path).is_dir()]
        self._not_entered = not_entered(sorted(map(self._relative, folders)), pattern)
        return sorted(path for path in matched if path not in folders and self._is_file(path))

    def each_once(self, paths: Sequence[str]) -> list[str]:
        """One path for each file: its own, or else the first of the links to it."""
        names: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            names[os.path.realpath(path)].append(path)
        kept = []
        for real, same in names.items():
            first, *others = sorted(same, key=lambda path: (_absolute(path) != real, path))
            kept.append(first)
            if links := [path for path in others if _absolute(path) != _absolute(first)]:
                self._passed[_SAME_FILE] += links
        return kept

    def _step(self, folder: str, part: str, *, is_last: bool) -> Iterator[str]:
        """What one part of a pattern matches in a folder."""
        if part == "**":
            yield from self._folders_below(folder)
        elif not has_magic(part):
            path = Path(folder, part)
            if path.exists() or path.is_symlink():
                yield str(path)
        else:
            for entry in self._entries(folder):
                if not fnmatchcase(entry.name, part):
                    continue
                if not entry.name.startswith(".") or part.startswith("."):
                    yield entry.path
                elif is_last and Path(entry.path).is_file():
                    self._passed[_HIDDEN].append(entry.path)

    def _folders_below(self, folder: str) -> Iterator[str]:
        """The folder and all below it, each once: through links only where no folder of its own leads there."""
        pending, links, entered = [folder], deque[str](), set[str]()
        while pending or links:
            is_link = not pending
            current = links.popleft() if is_link else pending.pop()
            if (real := os.path.realpath(current)) in entered:
                self._passed[_ENTERED].append(current)
                continue
            entered.add(real)
            yield current
            for entry in self._entries(current):
                if not entry.name.startswith(".") and Path(entry.path).is_dir():
                    (links if entry.is_symlink() else pending).append(entry.path)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            self._passed[_NOT_LISTED].append(folder)
            return []
        except (NotADirectoryError, FileNotFoundError):
            return []
        return listed

    def _is_file(self, path: str) -> bool:
        if Path(path).is_file():
            return True
        self._passed[_BROKEN if Path(path).is_symlink() else _NO_FILE].append(path)
        return False

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._base)


def _absolute(path: str) -> str:
    """Without `..`, and with links as they are."""
    return os.path.normpath(Path(path).absolute())


def _lies_in(path: str, folder: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
