"""What leaves as JSON: no number that JSON has not, and no integer that a client would read as another."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid

import pytest

from tidemill.serving.answering.records import shown
from tidemill.serving.http.said import answer

DAY = datetime.date(2026, 1, 31)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**53, 2**53),
        (2**53 + 1, str(2**53 + 1)),
        (-(2**63), str(-(2**63))),
        (True, True),
        (math.nan, None),
        (-math.inf, None),
        (0.5, 0.5),
        ([1, math.inf, {"a": 2**60}], [1, None, {"a": str(2**60)}]),
        (DAY, "2026-01-31"),
        (datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC), "2026-01-31T12:00:00+00:00"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (b"\x00\xff", "AP8="),
    ],
)
def test_a_cell_of_the_table_is_what_json_can_hold(value, expected):
    assert shown(value) == expected


def test_no_answer_holds_a_number_that_is_none():
    body = answer({"score": math.nan, "scores": [math.inf, 1.0]}).body

    assert json.loads(bytes(body)) == {"score": None, "scores": [None, 1.0]}
