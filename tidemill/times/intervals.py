"""Which days a text means: a date that an option is given, or the partition that a file's path names.

A partition is an interval: `year=2024` is the whole year, and `hour=05` lies
within its day. What is spelled as `name=value` folders, or as folders that are
dates, was meant as a date; one within a file's name may be another number.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

Basis = Literal["partition", "name", "changed"]
"""What tells the days: folders, the file's name, or when the file was last changed."""

YEAR, MONTH, DAY = r"(?P<year>(?:19|20)\d\d)", r"(?P<month>0?[1-9]|1[0-2])", r"(?P<day>0?[1-9]|[12]\d|3[01])"
TWO_DIGITS = YEAR + r"(?P<sep>[-_.]?)(?P<month>0[1-9]|1[0-2])(?:(?P=sep)(?P<day>0[1-9]|[12]\d|3[01]))?"
CLOCK = r"(?:[T _-]?(?:[01]\d|2[0-3])(?:[:_.-]?[0-5]\d){0,2}(?:[.]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"
"""What may follow a day: hour, minutes and seconds, which no partition is finer than."""
IN_NAME = re.compile(rf"(?<!\d){TWO_DIGITS}(?:(?!\d)|(?<=\d{{8}})(?:[01]\d|2[0-3])(?:[0-5]\d){{0,2}}(?!\d))")
COMMON_CRAWL = re.compile(r"CC-MAIN-(?P<year>20\d\d)-(?P<week>[0-5]\d)(?!\d)")
NO_DATE = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=[0-9]*[a-f])[0-9a-f]{16,}")
"""A UUID or a hash, as writers put them into the names of files."""
WHOLE = re.compile(TWO_DIGITS + CLOCK)
DATE_NAME = re.compile(r"day|date|month|time|(?:^|_)(?:dt|ds|ts|ymd|ym|at|on)$", re.IGNORECASE)
"""Names of columns whose eight or six digits are a date, and no number of something."""
PARTS = (("year", "yyyy", "yr", "y"), ("month", "mm", "mon", "m"), ("day", "dd", "d"))
GIVEN = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d))?)?")


@dataclass(frozen=True)
class Days:
    """From one day to another, both included."""

    first: date
    last: date

    @classmethod
    def of(cls, year: int, month: int | None = None, day: int | None = None) -> Days:
        """Raises:
        ValueError: there is no such day.
        """
        if month is None:
            return cls(date(year, 1, 1), date(year, 12, 31))
        if day is not None:
            return cls(date(year, month, day), date(year, month, day))
        return cls(date(year, month, 1), date(year, month, monthrange(year, month)[1]))

    def overlap(self, since: date | None, until: date | None) -> bool:
        return (since is None or self.last >= since) and (until is None or self.first <= until)

    def lie_in(self, other: Days) -> bool:
        return other.first <= self.first and self.last <= other.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def given_days(text: str) -> Days | None:
    """`2024-06-30`, `2024-06` or `2024`; None for what is none of these."""
    return next(_days(GIVEN.fullmatch(text.strip())), None)


def days_of_path(path: str, partitions: Mapping[str, str | None]) -> tuple[Days, Basis] | None:
    """The days that a file's path means, by its `name=value` folders, its other folders, or its name.

    A name that is more precise than its folders counts within them.
    """
    *folders, name = path.split("/")
    outer = days_of_partitions(partitions) or _narrowest(_dated_folders(folders))
    inner = _narrowest([*_dated_folders([*folders, name.partition(".")[0]]), *_days_of_name(name)])
    if inner and (outer is None or (inner != outer and inner.lie_in(outer))):
        return inner, "name"
    return (outer, "partition") if outer else None


def days_of_partitions(partitions: Mapping[str, str | None]) -> Days | None:
    """`day=2024-01-02` and its like, else `year=`, `month=` and `day=`, at whatever depth."""
    for name, value in partitions.items():
        found = WHOLE.fullmatch(value or "")
        if found and (found["sep"] or DATE_NAME.search(name)):
            return next(_days(found), None)
    lower = {name.lower(): value or "" for name, value in partitions.items()}
    return next(_precisest([_first_of(lower, names) for names in PARTS]), None)


def _first_of(partitions: Mapping[str, str], names: Iterable[str]) -> str:
    return next((partitions[name] for name in names if name in partitions), "")


def _precisest(parts: list[str]) -> Iterator[Days]:
    """What a year, a month and a day mean, as many of the texts as are these; one at most."""
    numbers = []
    for part, pattern in zip(parts, (YEAR, MONTH, DAY), strict=False):
        if not re.fullmatch(pattern, part):
            break
        numbers.append(int(part))
    if numbers:
        try:
            yield Days.of(*numbers)
        except ValueError:
            yield Days.of(*numbers[:2])


def _narrowest(found: Iterable[Days]) -> Days | None:
    """The first of the narrowest."""
    return min(found, key=lambda days: days.last - days.first, default=None)


def _dated_folders(folders: list[str]) -> Iterator[Days]:
    """What `2024/01/02`, `2024-01/02`, `2024-01-02` and `2024` mean, the outermost first."""
    for number, folder in enumerate(folders):
        following = [*folders[number + 1 : number + 3], "", ""]
        whole = re.fullmatch(TWO_DIGITS, folder)
        if "=" in folder:
            continue
        if re.fullmatch(YEAR, folder):
            yield from _precisest([folder, *following[:2]])
        elif whole and whole["day"] is None:
            yield from _precisest([whole["year"], whole["month"], following[0]])
        else:
            yield from _days_of_name(folder)


def _days_of_name(name: str) -> Iterator[Days]:
    """The dates in a name, from the first to the last, as in `2024-01-01_2024-01-31.parquet`; one at most."""
    if crawl := COMMON_CRAWL.search(name):
        yield from _week(int(crawl["year"]), int(crawl["week"]))
        return
    found = [days for match in IN_NAME.finditer(NO_DATE.sub(" ", name)) for days in _days(match)]
    if len(found) > 1 and found[0].first <= found[1].first:
        yield Days(found[0].first, found[1].last)
    elif found:
        yield found[0]


def _week(year: int, week: int) -> Iterator[Days]:
    """Common Crawl's snapshots are named by the week of the year in which they began."""
    with suppress(ValueError):
        first = date.fromisocalendar(year, week, 1)
        yield Days(first, first + timedelta(days=6))


def _days(found: re.Match[str] | None) -> Iterator[Days]:
    """What a match says, if there is such a day."""
    if found is not None:
        year, month, day = (int(part) if part else None for part in found.group("year", "month", "day"))
        with suppress(ValueError):
            yield Days.of(year or 0, month, day)
