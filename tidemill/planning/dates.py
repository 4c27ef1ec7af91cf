"""Which days a source file is of: those that its path means, else the day on which it was last changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.formats.partitions import partitions_of
from tidemill.shards import SourceFile
from tidemill.sources import hub_datasets
from tidemill.storage.addresses import open_address, translated
from tidemill.times.intervals import Basis, Days, days_of_path, given_days

MOST_NAMED = 3


@dataclass(frozen=True)
class Dated:
    """The days that a file is of, and what tells them."""

    days: Days
    basis: Basis


def parse_days(option: str, given: str | None) -> Days | None:
    """`2024-06-30`, `2024-06` or `2024`.

    Raises:
        ConfigError: it cannot be read as one of these.
    """
    if given is None:
        return None
    found = given_days(given)
    if found is None:
        raise ConfigError(f"{option} {given!r} is not a date. Give one such as 2024-06-30, 2024-06 or 2024.")
    return found


def date_files(files: Iterable[SourceFile]) -> dict[str, Dated | None]:
    """path → its days; None for one that neither names any nor says when it was last changed.

    The last change is the commit's on the Hub, the modification time elsewhere.

    Raises:
        SourceUnavailable: the source does not answer.
    """
    found: dict[str, Dated | None] = {}
    unnamed: list[SourceFile] = []
    for file in files:
        if (named := days_of_path(file.path, partitions_of(file.url))) is not None:
            found[file.path] = Dated(*named)
        else:
            unnamed.append(file)
    return found | {path: _on(day) for path, day in _last_changes(unnamed).items()}


def guesses(dated: Mapping[str, Dated | None]) -> Iterator[str]:
    """Which files have days that no folder tells, in a note for each way in which they were found."""
    for basis, told in (
        ("name", "dated by the name, where a number may be no date"),
        ("changed", "dated by the last change, for want of a date in the path"),
    ):
        those = {path: found for path, found in dated.items() if found and found.basis == basis}
        if those:
            yield f"{_counted(those)} {told}: {_some(those, lambda path: f'{path} ({dated[path].days})')}."  # type: ignore[union-attr]
    if without := [path for path, found in dated.items() if found is None]:
        yield f"{_counted(without)} left out, without any date: {_some(without, str)}. Select by --files instead."


def _counted(files: Iterable[str]) -> str:
    number = len(list(files))
    return "1 file is" if number == 1 else f"{number:,} files are"


def _some(paths: Iterable[str], shown: Callable[[str], str]) -> str:
    ordered = sorted(paths)
    return ", ".join(map(shown, ordered[:MOST_NAMED])) + (" and others" if len(ordered) > MOST_NAMED else "")


def _on(day: date | None) -> Dated | None:
    return None if day is None else Dated(Days(day, day), "changed")


def _last_changes(files: list[SourceFile]) -> dict[str, date | None]:
    on_hub = [file for file in files if file.url.startswith("hf://")]
    changed = hub_datasets.last_commit_dates([file.url for file in on_hub]) if on_hub else {}
    return {file.path: changed.get(file.url) if file in on_hub else _modified(file) for file in files}


def _modified(file: SourceFile) -> date | None:
    """The day of the last change; None where the file is gone, or its file system does not say."""
    try:
        if "://" not in file.url:
            return datetime.fromtimestamp(Path(file.url).stat().st_mtime, UTC).date()
        file_system, path = open_address(file.url, "dataset.path")
        with translated(file.url, "dataset.path"):
            when = _asked(file_system, path)
    except FileNotFoundError:
        return None
    return when.astimezone(UTC).date() if when else None


def _asked(file_system: object, path: str) -> datetime | None:
    try:
        when: datetime = file_system.modified(path)  # type: ignore[attr-defined]
    except NotImplementedError:
        return None
    return when
