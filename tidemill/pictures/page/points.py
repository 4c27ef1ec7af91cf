"""A map of points: the page's script draws them, in the colours of whichever column its reader chooses."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from tidemill.pictures.figures.figure import OTHERS, Picture
from tidemill.pictures.page.escaping import markup_free
from tidemill.pictures.page.palette import COLOURS, GREY, MARKS

HEIGHT, SIZE = 520, 7
MOST_COLOURS = len(COLOURS)
LONGEST_LINE, MOST_LINES = 46, 4

Spec = dict[str, Any]


def points(picture: Picture, _: Mapping[str, int]) -> Spec:
    """`choices` has for each of the columns the places of points that share a colour, or a number for each point."""
    axes = picture.figure.axes
    chosen = [_coloured(picture.column(name)) for name in axes.columns]
    return {
        "data": [],
        "points": {
            "x": picture.column(axes.x),
            "y": picture.column(axes.y),
            "told": [_told(row, {axes.x, axes.y}) for row in picture.records()],
        },
        "choices": chosen or [_coloured([""] * len(picture.rows))],
        "layout": {
            "height": HEIGHT,
            "hovermode": "closest",
            "xaxis": {"title": {"text": axes.x_title}, "zeroline": False, "showticklabels": False},
            "yaxis": {"title": {"text": axes.y_title}, "zeroline": False, "showticklabels": False},
        },
    }


def _coloured(values: Sequence[Any]) -> Spec:
    if (numbers := _numbers(values)) is not None:
        return numbers
    named = [_name(value) for value in values]
    shown = [name for name, _ in Counter(named).most_common(MOST_COLOURS)]
    groups = [
        _group(name, place, [i for i, one in enumerate(named) if one == name]) for place, name in enumerate(shown)
    ]
    others = [i for i, one in enumerate(named) if one not in shown]
    if others:
        groups.append(
            {"name": OTHERS, "places": others, "marker": {"color": GREY, "symbol": "circle-open", "size": SIZE}}
        )
    return {"groups": groups}


def _group(name: str, place: int, places: list[int]) -> Spec:
    mark = {"color": COLOURS[place % len(COLOURS)], "symbol": MARKS[place % len(MARKS)], "size": SIZE}
    return {"name": markup_free(name), "places": places, "marker": mark}


def _numbers(values: Sequence[Any]) -> Spec | None:
    """A scale of numbers or dates, where there are more of them than colours that can be told apart."""
    known = [value for value in values if value is not None]
    if len(set(known)) <= MOST_COLOURS or not all(_is_scalar(value) for value in known):
        return None
    least, most = min(known), max(known)
    return {
        "numbers": [None if value is None else _on_scale(value) for value in values],
        "ticks": [_on_scale(least), _on_scale(most)],
        "told": [markup_free(str(least)), markup_free(str(most))],
    }


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | date) and not isinstance(value, bool)


def _on_scale(value: Any) -> float:
    if hasattr(value, "timestamp"):
        return float(value.timestamp())
    return float(value.toordinal() if isinstance(value, date) else value)


def _told(row: Mapping[str, Any], without: set[str]) -> str:
    """What is shown where a reader points: a line each, all of it text."""
    lines = []
    for name, value in row.items():
        if name not in without:
            lines += textwrap.wrap(f"{name}: {_name(value)}", LONGEST_LINE, max_lines=MOST_LINES, placeholder=" …")
    return "<br>".join(markup_free(line) for line in lines)


def _name(value: Any) -> str:
    return "NULL" if value is None else str(value)
