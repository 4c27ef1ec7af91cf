"""Which days a path means, and which files a date selects."""

from __future__ import annotations

import os
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError
from tidemill.formats.partitions import partitions_of
from tidemill.planning.dates import Dated, date_files, guesses, parse_days
from tidemill.shards import SourceFile
from tidemill.times.intervals import Days, days_of_path

PATHS = {
    "year=2024/month=01/day=02/a.parquet": "2024-01-02 partition",
    "year=2024/month=1/day=2/hour=05/a.parquet": "2024-01-02 partition",
    "year=2024/month=2/a.parquet": "2024-02-01 to 2024-02-29 partition",
    "year=2024/a.parquet": "2024-01-01 to 2024-12-31 partition",
    "Year=2024/region=eu/Month=02/a.parquet": "2024-02-01 to 2024-02-29 partition",
    "lang=en/day=2024-01-02/a.parquet": "2024-01-02 partition",
    "dt=20240102/hour=05/a.parquet": "2024-01-02 partition",
    "date=2024-01-02T05/a.parquet": "2024-01-02 partition",
    "ds=2024-01-02%2000%3A00%3A00/a.parquet": "2024-01-02 partition",
    "month=2024-02/a.parquet": "2024-02-01 to 2024-02-29 partition",
    "event_date=2024-01-02/load_date=2024-02-01/a.parquet": "2024-01-02 partition",
    "year=2024/month=13/a.parquet": "2024-01-01 to 2024-12-31 partition",
    "year=2024/month=02/day=30/a.parquet": "2024-02-01 to 2024-02-29 partition",
    "user_id=20240102/a.parquet": None,
    "month=01/a.parquet": None,
    "dt=__HIVE_DEFAULT_PARTITION__/a.parquet": None,
    "2024/01/02/a.parquet": "2024-01-02 partition",
    "2024/1/2/a.parquet": "2024-01-02 partition",
    "2024/01/a.parquet": "2024-01-01 to 2024-01-31 partition",
    "2024/a.parquet": "2024-01-01 to 2024-12-31 partition",
    "2024-01/02/a.parquet": "2024-01-02 partition",
    "data/2024-01-02/a.parquet": "2024-01-02 partition",
    "CC-MAIN-2024-10/000.parquet": "2024-03-04 to 2024-03-10 partition",
    "2024/01/02.parquet": "2024-01-02 name",
    "2024.jsonl": "2024-01-01 to 2024-12-31 name",
    "reviews-2024-01.csv": "2024-01-01 to 2024-01-31 name",
    "reviews20240102.csv": "2024-01-02 name",
    "2024-01-02-05.json.gz": "2024-01-02 name",
    "2024010205.json": "2024-01-02 name",
    "2024_01_02.csv": "2024-01-02 name",
    "2024-01-01_2024-01-31.parquet": "2024-01-01 to 2024-01-31 name",
    "year=2024/2024-03-05.parquet": "2024-03-05 name",
    "year=2024/part-202301.parquet": "2024-01-01 to 2024-12-31 partition",
    "year=2024/month=01/day=02/part-20230101.parquet": "2024-01-02 partition",
    "part-00000-8b2c1987-2012-1111-8888-123456789abc.parquet": None,
    "train-00000-of-00008-a09b74b3ef9c3b56.parquet": None,
    "1700000000000.json": None,
    "2024-02-30.csv": None,
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_means_the_days_of_its_folders_or_of_its_name(path):
    found = days_of_path(path, partitions_of(path))
    assert (f"{found[0]} {found[1]}" if found else None) == PATHS[path]


SPELLINGS = (
    "year={0.year}/month={0.month}/day={0.day}/a.csv",
    "x=1/year={0.year}/month={0.month:02}/y=2/day={0.day:02}/a.csv",
    "dt={0}/a.csv",
    "date={0:%Y%m%d}/hour=00/a.csv",
    "{0:%Y/%m/%d}/a.csv",
    "{0:%Y-%m}/{0:%d}/a.csv",
    "logs/{0}.csv",
    "logs-{0:%Y%m%d}.csv",
    "{0:%Y}/logs-{0:%Y.%m.%d}.csv",
)
DAYS = st.dates(date(1901, 1, 1), date(2099, 12, 31))


@given(st.sampled_from(SPELLINGS), DAYS, DAYS, DAYS)
def test_however_a_day_is_spelled_it_is_selected_by_the_days_around_it_and_no_others(spelling, day, one, other):
    path = spelling.format(day)
    found = days_of_path(path, partitions_of(path))
    assert found is not None
    since, until = sorted((one, other))
    assert found[0].overlap(since, until) == (since <= day <= until)


@given(DAYS, DAYS)
def test_a_month_is_selected_by_any_of_its_days_and_lies_in_its_year(day, other):
    month, year = Days.of(day.year, day.month), Days.of(day.year)
    assert month.lie_in(year)
    assert month.overlap(other, other) == ((other.year, other.month) == (day.year, day.month))
    assert (month.first.day, (month.last + timedelta(days=1)).day) == (1, 1)


@pytest.mark.parametrize(
    ("option", "first", "last"),
    [
        ("2024", "2024-01-01", "2024-12-31"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        (" 2024-02-05 ", "2024-02-05", "2024-02-05"),
        ("9999-12", "9999-12-01", "9999-12-31"),
    ],
)
def test_an_option_is_a_day_a_month_or_a_year(option, first, last):
    assert parse_days("--since", option) == Days(date.fromisoformat(first), date.fromisoformat(last))


@pytest.mark.parametrize("option", ["yesterday", "2024-13", "2024-02-30", "0000", "24-01-01", "2024-1-1", ""])
def test_what_is_no_date_is_refused_by_its_option(option):
    with pytest.raises(ConfigError, match=r"--until .* is not a date"):
        parse_days("--until", option)


def test_dates_that_are_guesses_are_told_by_file_and_way(tmp_path):
    for name, seconds in (("a.csv", 1_700_000_000), ("2024-01-05.csv", 0), ("day=2024-01-06/b.csv", 0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (seconds, seconds))
    names = ("a.csv", "2024-01-05.csv", "day=2024-01-06/b.csv", "gone.csv")
    dated = date_files(SourceFile(name, str(tmp_path / name), 0, "") for name in names)

    assert {path: str(found.days) for path, found in dated.items() if found} == {
        "a.csv": "2023-11-14",
        "2024-01-05.csv": "2024-01-05",
        "day=2024-01-06/b.csv": "2024-01-06",
    }
    assert list(guesses(dated)) == [
        "1 file is dated by the name, where a number may be no date: 2024-01-05.csv (2024-01-05).",
        "1 file is dated by the last change, for want of a date in the path: a.csv (2023-11-14).",
        "1 file is left out, without any date: gone.csv. Select by --files instead.",
    ]


def test_a_note_names_a_few_of_many_files():
    day = date(2024, 1, 1)
    [note] = guesses({f"{number}.csv": Dated(Days(day, day), "name") for number in range(5)})
    assert note.startswith("5 files are dated by the name")
    assert note.endswith("0.csv (2024-01-01), 1.csv (2024-01-01), 2.csv (2024-01-01) and others.")
