"""Cron's five fields in a time zone: checked, told as a sentence, and asked for the next due time.

What Prefect would refuse is refused here first, where it is not installed too.
croniter, which reads more than Prefect's older copy of it, is given no more
than both read alike.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

MONTHS = tuple(calendar.month_name)[1:]
WEEKDAYS = ("Sunday", *calendar.day_name[:6])
NUMBER = "[0-9]{1,4}"
MONTH = "|".join([NUMBER, *(name[:3].lower() for name in MONTHS)])
WEEKDAY = "|".join([NUMBER, *(name[:3].lower() for name in WEEKDAYS)])
FIELDS = (
    ("minute", "0 to 59", NUMBER, ""),
    ("hour", "0 to 23", NUMBER, ""),
    ("day of the month", "1 to 31, or l for the last", NUMBER, "|l"),
    ("month", "1 to 12, or jan to dec", MONTH, ""),
    ("day of the week", "0 to 7, or sun to sat", WEEKDAY, rf"|({WEEKDAY})#[1-5]|l({WEEKDAY})"),
)
"""Name, what it may be, and how its values are written, alone and where a list of them is."""
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
EXAMPLE = 'Give five: minute, hour, day of the month, month, day of the week, such as "0 2 * * *"'
SOME_DAY = datetime(2024, 1, 1)
"""Whether there is a next date does not depend on today."""
MOST_TIMES = 6
"""Named one by one in a sentence; more are told by their rule."""


def checked_cron(cron: str) -> str:
    """The expression, its fields parted by one blank each.

    Raises:
        ValueError: it has not five fields, one of them is none, or it fits no date.
    """
    fields = cron.split()
    if meant := NICKNAMES.get(cron.strip().lower()):
        raise ValueError(f'is a nickname, and not five fields: write "{meant}"')
    if len(fields) != len(FIELDS):
        raise ValueError(f"has {len(fields)} {'field' if len(fields) == 1 else 'fields'}. {EXAMPLE}")
    from croniter import CroniterBadDateError, croniter

    for number, (name, range_, *_) in enumerate(FIELDS):
        if not _is_field(fields[number], number):
            raise ValueError(f"has no {name} {fields[number]!r}, which is {range_}. {EXAMPLE}")
        if idle := _idle_step(fields[number], number):
            raise ValueError(
                f"has the {name} {idle!r}, a step from its last value: Prefect would take every one. Write "
                f"{idle.partition('/')[0]!r}"
            )
    settled = " ".join(fields)
    try:
        croniter(settled, SOME_DAY).get_next(datetime)
    except CroniterBadDateError:
        raise ValueError("comes on no date: none of these months has such a day") from None
    return settled


def _is_field(text: str, number: int) -> bool:
    from croniter import CroniterError, croniter

    _, _, value, alone = FIELDS[number]
    any_ = r"[*?]" if value != NUMBER or alone else r"\*"
    term = rf"(({any_}|({value})(-({value}))?)(/{NUMBER})?{alone})"
    if not re.fullmatch(rf"{term}(,{term})*", text.lower()):
        return False
    try:
        croniter.expand(" ".join(text if n == number else "*" for n in range(len(FIELDS))))
    except CroniterError:
        return False
    return True


def _idle_step(text: str, number: int) -> str | None:
    """A term of a field whose step leads nowhere; what Prefect makes of one is another time."""
    from croniter import croniter

    for term in text.split(","):
        if "/" in term and not term.startswith(("*", "?")):
            fields, _ = croniter.expand(" ".join(term if n == number else "*" for n in range(len(FIELDS))))
            if len(fields[number]) == 1:
                return term
    return None


def checked_timezone(name: str) -> str:
    """Raises:
    ValueError: the tz database has none of this name.
    """
    if name != "UTC" and name not in available_timezones():
        raise ValueError('is not a time zone. Give one of the tz database, such as "Europe/Berlin", or "UTC"')
    return name


def next_due(cron: str, timezone: str, after: datetime) -> datetime:
    """The first time after `after` that the expression means, in its time zone.

    A time that the wall clock leaves out, when it is set forward, is taken an hour later.
    """
    from croniter import croniter

    zone = ZoneInfo(timezone)
    wall: datetime = croniter(cron, after.astimezone(zone).replace(tzinfo=None)).get_next(datetime)
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)


def sentence(cron: str, timezone: str) -> str:
    """When that is, in words, such as `every day at 02:00 UTC`; what takes too many words is quoted."""
    from croniter import croniter

    fields, nth = croniter.expand(cron)
    minutes, hours, days, months, weekdays = (["*"] if "*" in field else field for field in fields)
    times = _times(minutes, hours)
    if nth or times is None or "*" not in (days[0], weekdays[0]):
        return f"by the cron {cron} in {timezone}"
    when = _days(days, weekdays)
    if not times.startswith("every"):
        told = f"{when} at {times} {timezone}"
    elif when == "every day" and months == hours == ["*"]:
        told = times
    else:
        told = f"{times} ({timezone})" if when == "every day" else f"{when}, {times} ({timezone})"
    return told if months == ["*"] else f"{told}, in {_listed([MONTHS[int(month) - 1] for month in months])}"


def _times(minutes: Sequence[int | str], hours: Sequence[int | str]) -> str | None:
    """`02:00`, `every 2 hours` or `every 15 minutes`; None where neither says it."""
    if hours == ["*"]:
        every = _step(minutes, 60)
        if every is not None:
            return "every minute" if every == 1 else f"every {every} minutes"
        return (
            f"every hour at {_listed([f':{minute:02}' for minute in minutes])}" if len(minutes) <= MOST_TIMES else None
        )
    if minutes == ["*"]:
        return None
    if len(hours) * len(minutes) <= MOST_TIMES:
        return _listed([f"{hour:02}:{minute:02}" for hour in hours for minute in minutes])
    if len(minutes) == 1 and (every := _step(hours, 24)):
        return f"every {every} hours" + (f" at :{minutes[0]:02}" if minutes[0] else "")
    if len(minutes) == 1 and _is_range(hours):
        return f"every hour from {hours[0]:02}:{minutes[0]:02} to {hours[-1]:02}:{minutes[0]:02}"
    return None


def _step(values: Sequence[int | str], size: int) -> int | None:
    """The n of `*/n`, where it divides the hour or the day."""
    if values == ["*"]:
        return 1
    step = size // len(values)
    return step if len(values) > 1 and list(values) == list(range(0, size, step)) and size % step == 0 else None


def _is_range(values: Sequence[int | str]) -> bool:
    return list(values) == list(range(int(values[0]), int(values[-1]) + 1))


def _days(days: Sequence[int | str], weekdays: Sequence[int | str]) -> str:
    if weekdays[0] != "*":
        if len(weekdays) > 2 and _is_range(weekdays):
            return f"{WEEKDAYS[int(weekdays[0])]} to {WEEKDAYS[int(weekdays[-1])]}"
        return f"every {_listed([WEEKDAYS[int(day)] for day in weekdays])}"
    if days[0] == "*":
        return "every day"
    named = ["the last day" if day == "l" else f"day {day}" for day in days]
    return f"on {_listed(named)} of the month"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
