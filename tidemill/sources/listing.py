"""What a listing says: the files that are read, and what of them or beside them somebody may have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import has_magic

from tidemill.fingerprints import fingerprint
from tidemill.shards import SourceFile

MAX_NAMES = 5


@dataclass(frozen=True)
class LeftOut:
    """Paths that are not read. `why` is said of them in the plural; `remedy` is what would have them read."""

    paths: tuple[str, ...]
    why: str
    remedy: str = ""
    noun: str = "file"

    def __str__(self) -> str:
        names = [shown(path) for path in self.paths[:MAX_NAMES]]
        more = [f"and {len(self.paths) - MAX_NAMES:,} more"] if len(self.paths) > MAX_NAMES else []
        count = f"{len(self.paths):,} {self.noun}{'s' if len(self.paths) > 1 else ''}"
        told = f"{count} not read, {self.why}: {', '.join([*names, *more])}."
        return f"{told} {self.remedy}".rstrip()


@dataclass(frozen=True)
class Listing:
    """A dataset at a revision: a commit, or the fingerprint of the listing itself."""

    revision: str
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...] = ()


def shown(path: str) -> str:
    """A path as it can stand in a line of text."""
    return path if path.isprintable() else repr(path)


def alike(name: str, others: Sequence[str]) -> str | None:
    """A name that differs in case and blanks alone."""
    return next((other for other in others if other.strip().lower() == name.strip().lower()), None)


def called_otherwise(name: str, other: str, paths: Sequence[str]) -> str:
    few = f"{len(paths):,} files have" if len(paths) > 1 else "1 file has"
    return (
        f"{few} no column {name!r}, but {other!r}, which is another name: {name!r} is null there ({shown(paths[0])})."
    )


def not_given_back(name: str, to: object, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return (
        f"{shown(paths[0])}{more}: {name!r} has values that are not {to}, which the table has: their rows go to "
        f"quarantine. dataset.types.{name} can settle another type, to which the whole column is then rewritten."
    )


def not_entered(folders: Sequence[str], pattern: str) -> tuple[LeftOut, ...]:
    """Folders that a pattern matches as a whole, unless it reaches all below them anyway."""
    if not folders or "**" in pattern.split("/")[-2:]:
        return ()
    return (LeftOut(tuple(folders), "which match as a whole", "`**` in a pattern reaches all below.", "folder"),)


def fixed_part(pattern: str) -> str:
    """The folder before the first part of a path that holds a wildcard, or the file's folder."""
    parts = re.split(r"(?<=/)", pattern)
    fixed = ""
    for part in parts[:-1]:
        if has_magic(part):
            break
        fixed += part
    return fixed or "."


def named_by_listing(files: Sequence[SourceFile], left_out: Sequence[LeftOut]) -> Listing:
    ordered = tuple(sorted(files, key=lambda file: file.path))
    revision = fingerprint(*(part for file in ordered for part in (file.path, file.content)))
    return Listing(revision, ordered, tuple(left_out))
