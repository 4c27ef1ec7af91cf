"""Rows as HTML: every value is text, and whatever of markup is in it is shown as it stands.

A browser's numbers end at 2^53, so numbers become text here. Long texts are cut;
the row by itself has them whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

MOST_CHARACTERS = 160
MOST_VALUES = 4
SHORT = 20
"""Characters that stay on one line, as those of an id do."""
WHOLE_CHARACTERS = 100_000
"""Of one value of a row by itself; what is longer is for `tidemill sql`."""


def text_of(value: Any) -> str:
    """A value of any type as text.

    >>> text_of(9007199254740993), text_of(0.123456789), text_of({"a": [1, None]}), text_of(True)
    ('9007199254740993', '0.1235', '{"a": [1, null]}', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) and abs(value) < 1 else str(round(value, 4))
    if isinstance(value, list | tuple | dict):
        return json.dumps(_plain(value), ensure_ascii=False, default=str)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else str(value)
    return value


def cut_text(value: Any) -> str:
    """As `text_of`, as much of it as fits a cell."""
    if isinstance(value, list | tuple) and len(value) > MOST_VALUES and isinstance(value[0], int | float):
        return f"[{', '.join(map(text_of, value[:MOST_VALUES]))}, … {len(value):,} in all]"
    text = text_of(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def cell(value: Any, *, whole: bool = False) -> str:
    """What stands in a cell; an empty one says whether it is NULL or a text of nothing."""
    if value is None:
        return '<span class="tm-null">NULL</span>'
    text = text_of(value)[:WHOLE_CHARACTERS] if whole else cut_text(value)
    return escape(text).replace("\n", "<br>" if whole else " ") or '<span class="tm-null">empty</span>'


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if is_number(value):
        return "tm-number"
    return "tm-short" if len(cut_text(value)) <= SHORT else ""


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, first: Sequence[str] = ()) -> str:
    """A table that screen readers know: `first` has, a row each, HTML of a cell before the others."""
    heads = '<th scope="col">row</th>' if first else ""
    for name, *values in zip(columns, *rows, strict=True):
        is_of_numbers = any(map(is_number, values))
        heads += f'<th scope="col" class="{"tm-number" if is_of_numbers else ""}">{escape(name)}</th>'
    body = []
    for number, row in enumerate(rows):
        cells = "".join(f'<td class="{_kind(value)}">{cell(value)}</td>' for value in row)
        body.append(f"<tr>{f'<td>{first[number]}</td>' if first else ''}{cells}</tr>")
    return (
        f'<div class="tm-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def facts(caption: str, named: Sequence[tuple[str, Any]]) -> str:
    """Names and values, the values whole."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{cell(value, whole=True)}</td></tr>' for name, value in named
    )
    return f'<table class="tm-facts"><caption>{escape(caption)}</caption><tbody>{rows}</tbody></table>'


def message(text: str, *, kind: str = "note") -> str:
    return f'<p class="tm-{kind}" role="{"alert" if kind == "problem" else "status"}">{escape(text)}</p>'
