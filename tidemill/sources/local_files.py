"""Which local files a path means: each once, whatever links lead to it.

Patterns are those of Python's glob with `**`, which hangs where a link leads to
a folder above; here no folder is entered twice. What is passed over is told.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import escape, has_magic
from pathlib import Path, PurePath

from tidemill import config
from tidemill.errors import ChoiceMissing, DatasetError
from tidemill.shards import SourceFile
from tidemill.sources.byte_files import UNREADABLE
from tidemill.sources.hashes import hash_files, is_pointer, stamp
from tidemill.sources.listing import LeftOut, Listing, named_by, named_by_listing, not_entered
from tidemill.sources.splits import ONLY_SPLIT, beside_split, find_splits, no_such, saved_splits

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
        elif (name := named_by(part)) is not None:
            path = Path(folder, name)
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


def local_base(path: str) -> str:
    """The folder that the paths of a local dataset's files start from."""
    place = Path(path).absolute()
    if place.exists():
        return str(place if place.is_dir() else place.parent)
    anchor, *folders, _ = place.parts
    base = Path(anchor)
    for folder in folders:
        if (name := named_by(folder)) is None:
            break
        base /= name
    return str(base)


def list_folder(spec: config.Dataset) -> Listing:
    """Splits of a local folder are found as `datasets` finds them on the Hub."""
    folder, what = str(Path(spec.path).absolute()), f"The folder {spec.path}"
    if has_magic(folder):
        raise DatasetError(
            f"{what} has a character of patterns in its name, and splits are found by patterns. "
            f'Name its files instead: dataset.path = "{escape(spec.path)}/**/*".'
        )
    if (saved := saved_splits(Path(folder), what)) is not None:
        return _list_saved(folder, saved, spec, what)
    card = Path(folder, "README.md")
    # By its whole path: a folder `csv` here would be taken for the format of that name.
    splits = find_splits(
        folder,
        config=spec.config,
        what=what,
        instead_of_script=f'Name the data files instead, such as dataset.path = "{spec.path}/*.csv", or convert what '
        "the script makes to Parquet.",
        read_card=lambda: card.read_text(encoding="utf-8") if card.is_file() else "",
    )
    real = os.path.realpath(folder)
    by_path = {name: [os.path.relpath(path, real) for path in paths] for name, paths in splits.files.items()}
    local = LocalFiles(folder)
    paths = [] if splits.by_card else [os.path.relpath(path, folder) for path in local.below(folder)]
    left_out = list(beside_split(by_path, spec.split, paths, where=spec.path))
    if spec.split not in by_path:
        message = " ".join([no_such("split", spec.split, by_path, what), *map(str, left_out)])
        raise ChoiceMissing(message, noun="split", existing=by_path)
    files = _describe_local(local.each_once([str(Path(folder, path)) for path in by_path[spec.split]]), folder)
    listing = named_by_listing(files, [*left_out, *local.left_out])
    return replace(listing, options=splits.options, notes=splits.notes)


def _list_saved(folder: str, splits: Mapping[str, tuple[str, ...]], spec: config.Dataset, what: str) -> Listing:
    """The files of a split that `datasets` saved; what is saved without splits is the only one, whatever its name."""
    if spec.config is not None:
        raise DatasetError(f"{what} was saved by `save_to_disk` and has no configs. Remove dataset.config.")
    split = next(iter(splits)) if len(splits) == 1 and spec.split == ONLY_SPLIT else spec.split
    if split not in splits:
        raise DatasetError(no_such("split", spec.split, splits, what))
    files = _describe_local([str(Path(folder, path)) for path in splits[split]], folder)
    taken = {path for paths in splits.values() for path in paths}
    beside = [os.path.relpath(path, folder) for path in LocalFiles(folder).below(folder)]
    passed = [path for path in beside if path not in taken and Path(path).suffix == ".arrow"]
    left_out = [LeftOut(tuple(passed), "that state.json does not name")] if passed else []
    return named_by_listing(files, left_out)


def list_pattern(pattern: str) -> Listing:
    base = local_base(pattern)
    local = LocalFiles(base)
    paths = [pattern] if Path(pattern).is_file() else local.matching(pattern)
    files = _describe_local(local.each_once(paths), base)
    return named_by_listing(files, local.left_out)


def _describe_local(paths: Sequence[str], base: str) -> list[SourceFile]:
    for path in paths:
        _refuse_undecodable(path)
    stamps = {path: found for path in paths if (found := _stamp_or_none(path)) is not None}
    as_itself = os.access in os.supports_effective_ids
    readable = [path for path in stamps if os.access(path, os.R_OK, effective_ids=as_itself)]
    _refuse_pointers([path for path in readable if is_pointer(Path(path), Path(path).stat().st_size)])
    hashes = hash_files(readable)
    return [
        SourceFile(
            path=os.path.relpath(path, base),
            url=str(Path(path).absolute()),
            size=Path(path).stat().st_size,
            content=f"sha256:{hashes[path]}" if path in hashes else f"{UNREADABLE}{found}",
            stamp=found,
        )
        for path, found in stamps.items()
    ]


def _stamp_or_none(path: str) -> str | None:
    """None if the file went since it was found."""
    try:
        return stamp(path)
    except FileNotFoundError:
        return None


def _refuse_pointers(paths: Sequence[str]) -> None:
    """Of data that nobody fetched, the pointers would be the rows."""
    if paths:
        left_out = LeftOut(tuple(paths), "pointers of Git LFS in place of the data")
        raise DatasetError(f"{left_out} Fetch it: `git lfs pull` in that folder, with git-lfs installed.")


def _refuse_undecodable(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as e:
        raise DatasetError(f"The name of the file {os.fsencode(path)!r} is not UTF-8. Rename the file.") from e
