"""What a client is given of a row: the table's columns as JSON can hold them."""

from __future__ import annotations

import base64
import datetime
import decimal
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tidemill.inference.work import Predictions
from tidemill.running.stages.reasons import with_reasons
from tidemill.serving.answering.calls import ERROR, Record

LARGEST_EXACT = 2**53
"""Beyond it clients whose numbers are doubles, as JavaScript's, read another integer."""


def records_of(rows: pa.Table, tokens: pa.Table, predicted: Predictions) -> list[Record]:
    """A row each: its result columns and how long its text is, or `error` with why there is no answer."""
    results = with_reasons(rows, tokens, predicted.columns, predicted.reason)
    return [_record(row) for row in results.to_pylist(maps_as_pydicts="strict")]


def _record(row: dict[str, Any]) -> Record:
    del row["row_number"], row["stage"]
    reason = row.pop("reason")
    return row if reason is None else {ERROR: reason}


def shown(value: Any) -> Any:
    """A cell of the table: what JSON has no exact value for becomes text, and what is no number null."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= LARGEST_EXACT else str(value)
        case float():
            return value if value == value and abs(value) != float("inf") else None
        case dict():
            return {str(key): shown(item) for key, item in value.items()}
        case bytes():
            return base64.b64encode(value).decode()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case uuid.UUID() | decimal.Decimal() | datetime.timedelta():
            return str(value)
        case Sequence():
            return [shown(item) for item in value]
    return str(value)
