"""Texts with the places of entities marked in them.

Offsets count code points. Entities may overlap, share a place, or be empty; a text is never shown twice for that.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.pictures.figures.figure import Picture
from tidemill.pictures.page.escaping import text_in_html
from tidemill.pictures.page.palette import COLOURS

LONGEST_SHOWN = 1500


@dataclass(frozen=True)
class Piece:
    """A stretch of a text, with the types of the entities that it is part of; empty where an empty one stands."""

    text: str
    types: tuple[str, ...] = ()


def pieces(text: str, entities: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The pieces of a text, in order; together they are the text.

    Entities beyond its end are cut to it.
    """
    spans = [_span(entity, len(text)) for entity in entities]
    edges = sorted({0, len(text), *(edge for start, end, _ in spans for edge in (start, end))})
    found = [_empty(at, spans) for at in edges[:1]]
    for start, end in itertools.pairwise(edges):
        around = _types(name for first, last, name in spans if first <= start and end <= last)
        found += [Piece(text[start:end], around), _empty(end, spans)]
    return _joined([piece for piece in found if piece.text or piece.types])


def marked(text: str, entities: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> str:
    """HTML of a text; what is left out at its end is counted. An entity without a place in it is not marked."""
    shown = text[:LONGEST_SHOWN]
    placed = [entity for entity in entities if entity["start"] is not None]
    within = [entity for entity in placed if entity["start"] <= len(shown)]
    body = "".join(_in_html(piece, colours) for piece in pieces(shown, within))
    left = len(text) - len(shown)
    more = f' <span class="note">… {left:,} more characters, with {len(placed) - len(within):,} entities</span>'
    return f'<p class="text" dir="auto">{body}{more if left else ""}</p>'


def examples(picture: Picture, colours: Mapping[str, int]) -> str:
    """HTML of the figure: each row's name, and its text with the marks."""
    axes = picture.figure.axes
    shown = []
    for row in picture.records():
        text, entities = row.pop(axes.x), row.pop(axes.value or "")
        names = ", ".join(f"{name} {value}" for name, value in row.items())
        shown.append(f'<li><p class="row">{text_in_html(names)}</p>{marked(str(text), entities, colours)}</li>')
    return f'<ul class="examples">{"".join(shown)}</ul>'


def _span(entity: Mapping[str, Any], length: int) -> tuple[int, int, str]:
    start = min(max(entity["start"], 0), length)
    return start, min(max(entity["end"], start), length), str(entity["entity"])


def _types(names: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _empty(at: int, spans: Sequence[tuple[int, int, str]]) -> Piece:
    return Piece("", _types(name for start, end, name in spans if start == end == at))


def _joined(found: Sequence[Piece]) -> list[Piece]:
    """Without borders that change nothing, as between two tokens of one entity."""
    joined: list[Piece] = []
    for piece in found:
        if joined and joined[-1].types == piece.types and joined[-1].text and piece.text:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.types)
        else:
            joined.append(piece)
    return joined


def _in_html(piece: Piece, colours: Mapping[str, int]) -> str:
    if not piece.types:
        return text_in_html(piece.text)
    names = text_in_html(", ".join(piece.types))
    number = colours.get(piece.types[0])
    colour = "var(--soft)" if number is None else COLOURS[number % len(COLOURS)]
    return f'<mark style="--mark: {colour}">{text_in_html(piece.text)}<span class="type">{names}</span></mark>'
