"""When a source file is from: a date in its path, else when the source says that it was last changed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.shards import SourceFile
from tidemill.sources import hub
from tidemill.storage.addresses import open_address, translated

IN_PATH = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<sep>[-_/]?)(?P<month>0[1-9]|1[0-2])(?:(?P=sep)(?P<day>[0-3]\d))?(?!\d)"
)
NAMED_IN_PATH = re.compile(r"year=(?P<year>\d{4})/month=(?P<month>\d{1,2})(?:/day=(?P<day>\d{1,2}))?")
GIVEN = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d))?)?")


def parse_date(option: str, given: str | None, *, last: bool = False) -> date | None:
    """`2024-06-30`, `2024-06` or `2024`; of a month or year the first day, or the `last`.

    Raises:
        ConfigError: it cannot be read as one of these.
    """
    if given is None:
        return None
    found = GIVEN.fullmatch(given.strip())
    if found is not None:
        year, month, day = (int(part) if part else None for part in found.group("year", "month", "day"))
        try:
            return _within(year or 0, month, day, last=last)
        except ValueError:
            pass
    raise ConfigError(f"{option} {given!r} is not a date. Give one such as 2024-06-30, 2024-06 or 2024.")


def file_dates(files: Iterable[SourceFile]) -> dict[str, date]:
    """path → date: a partition in the path (`2024-06-30`, `2024/06`, `year=2024/month=6`), else the last change.

    The last change is the commit's on the Hub, the modification time elsewhere.

    Raises:
        SourceUnavailable: the source does not answer.
    """
    found: dict[str, date] = {}
    unnamed: list[SourceFile] = []
    for file in files:
        if (named := date_in_path(file.path)) is not None:
            found[file.path] = named
        else:
            unnamed.append(file)
    return found | _last_changes(unnamed)


def date_in_path(path: str) -> date | None:
    for pattern in (NAMED_IN_PATH, IN_PATH):
        for match in pattern.finditer(path):
            parts = match.groupdict()
            try:
                return date(int(parts["year"]), int(parts["month"]), int(parts["day"] or 1))
            except ValueError:
                continue
    return None


def _last_changes(files: list[SourceFile]) -> dict[str, date]:
    on_hub = [file for file in files if file.url.startswith("hf://")]
    changed = hub.last_commit_dates([file.url for file in on_hub]) if on_hub else {}
    return {file.path: changed[file.url] if file.url in changed else _modified(file) for file in files}


def _modified(file: SourceFile) -> date:
    if "://" in file.url:
        file_system, path = open_address(file.url, "dataset.path")
        with translated(file.url, "dataset.path"):
            when: datetime = file_system.modified(path)
        return when.astimezone(UTC).date()
    return datetime.fromtimestamp(Path(file.url).stat().st_mtime, UTC).date()


def _within(year: int, month: int | None, day: int | None, *, last: bool) -> date:
    if day is not None:
        return date(year, month or 1, day)
    if not last:
        return date(year, month or 1, 1)
    if month is None or month == 12:
        return date(year, 12, 31)
    return date.fromordinal(date(year, month + 1, 1).toordinal() - 1)
