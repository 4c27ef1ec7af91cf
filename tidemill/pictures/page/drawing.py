"""A picture as what Plotly draws: traces and a layout, which the page's script gives the colours of light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidemill.pictures.figures.figure import OTHERS, Picture, exact
from tidemill.pictures.page.escaping import markup_free
from tidemill.pictures.page.palette import COLOURS, GREY, LONGEST_TICK, PATTERNS
from tidemill.pictures.page.points import points

BAR_PIXELS, HEIGHT = 28, 320
FEW = 10
"""So many things are counted by a scale that has a tick for each."""

Spec = dict[str, Any]


def drawn(picture: Picture, colours: Mapping[str, int]) -> Spec | None:
    """`colours` numbers the names that have one colour on the whole page. None of what is a table alone, or empty."""
    draw = DRAWN.get(picture.figure.kind)
    return draw(picture, colours) if draw and picture.rows else None


def _bars(picture: Picture, colours: Mapping[str, int]) -> Spec:
    axes = picture.figure.axes
    traces = [
        {"type": "bar", "orientation": "h", "y": names, "x": counts, **style}
        for names, counts, style in _by_series(picture, colours)
    ]
    names = list(dict.fromkeys(picture.column(axes.x)))
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "height": 110 + BAR_PIXELS * len(names) + _legend(picture),
            "yaxis": {**_categories(names), "autorange": "reversed"},
            "xaxis": {"title": {"text": _title(picture, "y")}, "rangemode": "tozero", **_scale(picture)},
        },
    }


def _pairs(picture: Picture, colours: Mapping[str, int]) -> Spec:
    names = dict.fromkeys(picture.column(picture.figure.axes.series or ""))
    spec = _bars(picture, {name: number for number, name in enumerate(names)})
    spec["layout"] |= {"barmode": "group"}
    return spec


def _shares(picture: Picture, colours: Mapping[str, int]) -> Spec:
    spec = _bars(picture, colours)
    spec["layout"] |= {"barnorm": "percent"}
    spec["layout"]["xaxis"] |= {"ticksuffix": " %"}
    return spec


def _columns(picture: Picture, colours: Mapping[str, int]) -> Spec:
    traces = [
        {"type": "bar", "x": names, "y": counts, **style} for names, counts, style in _by_series(picture, colours)
    ]
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "height": HEIGHT + _legend(picture),
            "xaxis": {**_categories(picture.column(picture.figure.axes.x)), "title": {"text": _title(picture, "x")}},
            "yaxis": {"title": {"text": _title(picture, "y")}, "rangemode": "tozero"},
        },
    }


def _histogram(picture: Picture, colours: Mapping[str, int]) -> Spec:
    width = _bin_width(picture)
    # Bins of one whole number stand above it, others from where they begin.
    offset = -0.5 if width == 1 and isinstance(width, int) else 0
    traces = [
        {"type": "bar", "x": xs, "y": counts, "offset": offset, "width": width, **style}
        for xs, counts, style in _by_series(picture, colours, as_names=False)
    ]
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "height": HEIGHT + _legend(picture),
            "xaxis": {"title": {"text": _title(picture, "x")}},
            "yaxis": {"title": {"text": _title(picture, "y")}, "rangemode": "tozero"},
        },
    }


def _bin_width(picture: Picture) -> float:
    start = picture.figure.axes.x
    ends = picture.column(f"{start.removesuffix('_from')}_to")
    widths: list[float] = [b - a for a, b in zip(picture.column(start), ends, strict=True)]
    return min(widths)


def _heatmap(picture: Picture, colours: Mapping[str, int]) -> Spec:
    axes = picture.figure.axes
    found = {(row[axes.x], row[axes.y]): row[axes.value or ""] for row in picture.records()}
    ys = list(dict.fromkeys(picture.column(axes.y)))
    xs = _across(list(dict.fromkeys(picture.column(axes.x))), ys)
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [_name(x) for x in xs],
                "y": [_name(y) for y in ys],
                "z": [[found.get((x, y), 0) for x in xs] for y in ys],
                "colorscale": "Viridis",
                "texttemplate": "%{z:,}" if len(xs) <= 12 else "",
                "hovertemplate": "%{y}, %{x}: %{z:,}<extra></extra>",
            }
        ],
        "layout": {
            "height": 140 + 44 * len(ys),
            "xaxis": {**_categories(xs), "title": {"text": _title(picture, "x")}},
            "yaxis": {**_categories(ys), "autorange": "reversed", "title": {"text": _title(picture, "y")}},
        },
    }


def _across(xs: Sequence[Any], ys: Sequence[Any]) -> list[Any]:
    """Numbers by size; names as they stand on the other side, so that what is the same lies on the diagonal."""
    if all(isinstance(x, int | float) for x in xs):
        return sorted(xs)
    place = {y: number for number, y in enumerate(ys)}
    return sorted(xs, key=lambda x: (x == OTHERS, place.get(x, len(ys))))


DRAWN: Mapping[str, Callable[[Picture, Mapping[str, int]], Spec]] = {
    "bars": _bars,
    "pairs": _pairs,
    "shares": _shares,
    "columns": _columns,
    "histogram": _histogram,
    "heatmap": _heatmap,
    "points": points,
}


def _by_series(
    picture: Picture, colours: Mapping[str, int], *, as_names: bool = True
) -> list[tuple[list[Any], list[Any], Spec]]:
    """(x, y, style) of each series, in the order in which SQL has them."""
    axes = picture.figure.axes
    xs = picture.column(axes.x)
    xs = [_name(x) for x in xs] if as_names else xs
    ys = [_number(y) for y in picture.column(axes.y)]
    if axes.series is None:
        return [(xs, ys, {"marker": {"color": _own_colours(picture, colours)}, "showlegend": False, "name": ""})]
    series = picture.column(axes.series)
    found = []
    names = sorted(dict.fromkeys(series), key=lambda one: colours.get(str(one), len(colours)))
    for number, name in enumerate(names):
        places = [place for place, one in enumerate(series) if one == name]
        style = _style(str(name), colours.get(str(name), number))
        found.append(([xs[place] for place in places], [ys[place] for place in places], style))
    return found


def _legend(picture: Picture) -> int:
    """Pixels that the names of the series take."""
    series = picture.figure.axes.series
    return 20 + 20 * math.ceil(len(set(picture.column(series))) / 4) if series else 0


def _own_colours(picture: Picture, colours: Mapping[str, int]) -> str | list[str]:
    """Of bars that are labels, each its own; else one for all."""
    names = [str(name) for name in picture.column(picture.figure.axes.x)]
    if not names or not set(names) <= {*colours, OTHERS} or len(names) > len(COLOURS):
        return COLOURS[0]
    return [GREY if name == OTHERS else COLOURS[colours[name] % len(COLOURS)] for name in names]


def _style(name: str, number: int) -> Spec:
    colour = GREY if name == OTHERS else COLOURS[number % len(COLOURS)]
    pattern = PATTERNS[number // len(COLOURS) % len(PATTERNS)] if name != OTHERS else ""
    return {"name": _short(name), "marker": {"color": colour, "pattern": {"shape": pattern, "solidity": 0.4}}}


def _categories(values: Sequence[Any]) -> Spec:
    """Names are never read as times or numbers, and stand in SQL's order. Long ones are cut where they are written."""
    named = {_name(value): _short(value) for value in values}
    axis = {"type": "category", "categoryorder": "array", "categoryarray": list(named)}
    return axis if all(_name(value) == _short(value) for value in values) else axis | _ticks(named)


def _ticks(named: Mapping[str, str]) -> Spec:
    return {"tickmode": "array", "tickvals": list(named), "ticktext": list(named.values())}


def _scale(picture: Picture) -> Spec:
    """Of shares in hundredths, which end at 1; of a few things in whole ones."""
    axes = picture.figure.axes
    if axes.is_share:
        return {"tickformat": ".0%", "range": [0, 1]}
    counts = picture.column(axes.y)
    is_few = picture.figure.kind == "bars" and all(isinstance(count, int) for count in counts) and sum(counts) <= FEW
    return {"dtick": 1} if is_few else {}


def _title(picture: Picture, axis: str) -> str:
    axes = picture.figure.axes
    return markup_free(getattr(axes, f"{axis}_title") or getattr(axes, axis))


def _name(value: Any) -> str:
    return markup_free(str(value))


def _short(value: Any) -> str:
    """A name with its beginning and its end, of which either may be what tells it from others."""
    text, half = str(value), LONGEST_TICK // 2
    return markup_free(text if len(text) <= LONGEST_TICK else f"{text[:half]}…{text[1 - half :]}")


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else exact(value)
