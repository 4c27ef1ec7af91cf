"""Cron expressions: what is one, held against Prefect, how it is told, and when it is due next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipelines import MODEL
from tidemill.config import load_pipeline
from tidemill.errors import ConfigError
from tidemill.times.cron import NICKNAMES, checked_cron, next_due, sentence

WRONG = {
    "at two": "has 2 fields. Give five",
    "": "has 0 fields",
    "0 0 2 * * *": "has 6 fields",
    "0 2 * * * 2027 0": "has 7 fields",
    "@daily": 'write "0 0 \\* \\* \\*"',
    "@Hourly": 'write "0 \\* \\* \\* \\*"',
    "@reboot": "has 1 field",
    "99 * * * *": "no minute '99', which is 0 to 59",
    "0 24 * * *": "no hour '24'",
    "0 0 0 * *": "no day of the month '0'",
    "0 0 * 13 *": "no month '13'",
    "0 0 * * 8": "no day of the week '8'",
    "jan * * * *": "no minute 'jan'",
    "? * * * *": r"no minute '\?'",
    "*/0 * * * *": "no minute '\\*/0'",
    "1,,2 * * * *": "no minute '1,,2'",
    "- * * * *": "no minute '-'",
    "h * * * *": "no minute 'h'",
    "* * * dec/1 *": "a step from its last value: .* Write 'dec'",
    "0,59/2 * * * *": "a step from its last value: .* Write '59'",
    "r(0-10) * * * *": "no minute 'r\\(0-10\\)'",
    "0 0 1w * *": "no day of the month '1w'",
    "0 0 * * ١": "no day of the week",
    "0 0 30 2 *": "comes on no date",
    "0 0 31 2,4,6,9,11 *": "comes on no date",
    "0 0 31 feb ?": "comes on no date",
}

TOLD = {
    "0 2 * * *": "every day at 02:00 UTC",
    "0 0,12 * * *": "every day at 00:00 and 12:00 UTC",
    "15 3 * * 1-5": "Monday to Friday at 03:15 UTC",
    "30 4 * * 0": "every Sunday at 04:30 UTC",
    "30 4 * * 7": "every Sunday at 04:30 UTC",
    "15 3 * * mon,thu": "every Monday and Thursday at 03:15 UTC",
    "0 0 1,15 * *": "on day 1 and day 15 of the month at 00:00 UTC",
    "0 0 l * *": "on the last day of the month at 00:00 UTC",
    "0 3 1 1,7 *": "on day 1 of the month at 03:00 UTC, in January and July",
    "* * * * *": "every minute",
    "*/15 * * * *": "every 15 minutes",
    "5 * * * *": "every hour at :05",
    "0 */2 * * *": "every 2 hours (UTC)",
    "5 */2 * * *": "every 2 hours at :05 (UTC)",
    "0 9-17 * * 1-5": "Monday to Friday, every hour from 09:00 to 17:00 (UTC)",
    "*/10 * * * 1-5": "Monday to Friday, every 10 minutes (UTC)",
    "0 2 * *,*/5 *,1": "every day at 02:00 UTC",
    "*/7 * * * *": "by the cron */7 * * * * in UTC",
    "0 0 13 * 5": "by the cron 0 0 13 * 5 in UTC",
    "0 0 * * mon#1": "by the cron 0 0 * * mon#1 in UTC",
}

DUE = [
    ("0 2 * * *", "UTC", "2026-11-26T09:00Z", "2026-11-27T02:00+00:00"),
    ("0 2 * * *", "UTC", "2026-11-26T02:00Z", "2026-11-27T02:00+00:00"),
    ("0 2 * * *", "Europe/Berlin", "2026-06-30T22:30Z", "2026-07-01T02:00+02:00"),
    ("0 0 29 2 *", "UTC", "2026-01-01T00:00Z", "2028-02-29T00:00+00:00"),
    ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-29T03:30+02:00"),
    ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-25T02:30+02:00"),
]


@pytest.mark.parametrize("cron", WRONG)
def test_what_never_comes_or_is_not_five_fields_is_refused_by_the_field(cron):
    with pytest.raises(ValueError, match=WRONG[cron]):
        checked_cron(cron)


@pytest.mark.parametrize("cron", NICKNAMES.values())
def test_what_stands_for_a_nickname_is_an_expression(cron):
    assert checked_cron(f"  {cron.replace(' ', '   ')} ") == cron


@pytest.mark.parametrize("key", ["schedule.cron", "schedule.ingest.cron", "schedule.gc.cron"])
def test_a_pipeline_file_is_refused_by_the_key_of_its_cron(tmp_path: Path, key):
    file = tmp_path / "reviews.toml"
    file.write_text(f'name = "reviews"\ndataset = {{path = "x", text = "t"}}\nmodel = {{path = "{MODEL}"}}\n')
    with pytest.raises(ConfigError, match=rf"{key} = '0 0 30 2 \*': comes on no date"):
        load_pipeline(file, [f'{key}="0 0 30 2 *"'])
    with pytest.raises(ConfigError, match=r"schedule\.timezone = 'Mars/North': is not a time zone"):
        load_pipeline(file, ["schedule.timezone=Mars/North"])


@pytest.mark.parametrize("cron", TOLD)
def test_an_expression_is_told_as_a_sentence_or_quoted(cron):
    assert sentence(checked_cron(cron), "UTC") == TOLD[cron]


@pytest.mark.parametrize(("cron", "timezone", "after", "due"), DUE)
def test_the_next_due_time_is_on_the_wall_clock_of_the_time_zone(cron, timezone, after, due):
    assert next_due(cron, timezone, datetime.fromisoformat(after)).isoformat(timespec="minutes") == due


VALUES = st.integers(0, 70).map(str) | st.sampled_from(["jan", "dec", "sun", "SAT", "l", "r", "h", "w", "x", ""])
TERMS = st.one_of(
    st.sampled_from(["*", "?", "*/5", "*/2", "l5", "5#1", "fri#5", "1w", "h(0-9)"]),
    VALUES,
    st.tuples(VALUES, VALUES).map("-".join),
    st.tuples(VALUES, VALUES).map("/".join),
)
FIELD = st.lists(TERMS, min_size=1, max_size=2).map(",".join)
EXPRESSIONS = st.lists(st.just("*") | FIELD, min_size=5, max_size=5).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.integers(0, 366 * 24 * 60))
def test_whatever_is_accepted_prefect_accepts_too_and_means_the_same_by_it(cron, minutes):
    from prefect.server.schemas.schedules import CronSchedule

    try:
        settled = checked_cron(cron)
    except ValueError:
        return
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    theirs = CronSchedule(cron=settled, timezone="UTC")._get_dates_generator(n=1, start=after + timedelta(seconds=1))
    assert [next_due(settled, "UTC", after)] == list(theirs)
    assert sentence(settled, "UTC")
