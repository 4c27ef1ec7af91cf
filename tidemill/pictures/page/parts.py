"""The parts of a page in HTML: what it is of; of each figure its sentence, its picture's place, its table, its SQL."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline
from tidemill.masking import masked
from tidemill.pictures.figures.figure import Picture
from tidemill.pictures.figures.report import Report
from tidemill.pictures.page import places, side_by_side
from tidemill.pictures.page.escaping import text_in_html

SHORT, LONG = 20, 40
"""Characters of a cell that stays on one line, as a time does; and of one that is given room, as it would else be a
column of single words on a small screen."""


def head(report: Report) -> Iterator[str]:
    subject = report.subject
    yield f"<header><h1>{text_in_html(subject.pipeline.name)}</h1>"
    yield f"<p>{text_in_html(_made_of(subject.pipeline))}</p>"
    if subject.with_texts:
        yield '<p class="warning">This page holds texts of rows. Give it to nobody who may not read them.</p>'
    yield '<dl class="facts">'
    for name, value in _facts(report):
        yield f"<div><dt>{text_in_html(name)}</dt><dd>{text_in_html(value)}</dd></div>"
    yield "</dl>"
    yield from (f'<p class="note">{text_in_html(note)}</p>' for note in subject.notes)
    yield "</header>"


def _made_of(pipeline: Pipeline) -> str:
    """Whose predictions these are, and of what. Of a path on this machine only its end, as the page goes to others."""
    model, dataset = (masked(_end(path)) for path in (pipeline.model.path, pipeline.dataset.path))
    return f"{pipeline.model.task} by {model}, over {dataset}."


def _end(path: str) -> str:
    return "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path


def navigation(report: Report) -> str:
    names = dict.fromkeys(picture.figure.section for picture in report.pictures)
    links = "".join(f'<li><a href="#{anchor(name)}">{text_in_html(name)}</a></li>' for name in names)
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def sections(report: Report, colours: Mapping[str, int]) -> Iterator[str]:
    for name in dict.fromkeys(picture.figure.section for picture in report.pictures):
        yield f'<section id="{anchor(name)}"><h2>{text_in_html(name)}</h2>'
        pictures = (picture for picture in report.pictures if picture.figure.section == name)
        for number, picture in enumerate(pictures):
            yield from figure(picture, f"{anchor(name)}-{number}", colours)
        yield "</section>"


def figure(picture: Picture, place: str, colours: Mapping[str, int]) -> Iterator[str]:
    shown = picture.figure
    is_drawn = shown.kind not in ("table", "spans", "texts") and bool(picture.rows)
    yield f'<article id="{place}"><h3>{text_in_html(shown.title)}</h3><p>{text_in_html(shown.tells)}</p>'
    if is_drawn:
        told = text_in_html(f"{shown.title}. {shown.tells} The table below has the numbers.")
        yield from _choice(picture)
        yield f'<div class="picture" role="img" aria-label="{told}" data-figure="{text_in_html(shown.id)}"></div>'
    yield from (f'<p class="note">{text_in_html(note)}</p>' for note in picture.notes)
    if not picture.rows:
        yield '<p class="empty">There is nothing of this kind.</p>'
    elif shown.kind == "spans":
        yield places.examples(picture, colours)
    elif shown.kind == "texts":
        yield side_by_side.examples(picture)
    elif is_drawn:
        yield f"<details><summary>Table</summary>{table(picture)}</details>"
    else:
        yield table(picture)
    yield (
        f'<details><summary>SQL</summary><button type="button" class="copy">Copy</button>'
        f'<pre tabindex="0"><code>{text_in_html(shown.sql)}</code></pre></details></article>'
    )


def _choice(picture: Picture) -> Iterator[str]:
    """By which column the points of a map are coloured."""
    names = picture.figure.axes.columns if picture.figure.kind == "points" else ()
    if names:
        options = "".join(f'<option value="{i}">{text_in_html(name)}</option>' for i, name in enumerate(names))
        of = text_in_html(picture.figure.id)
        yield f'<label class="choice">Colour by <select data-figure="{of}">{options}</select></label>'


def table(picture: Picture) -> str:
    head = "".join(_head(name, picture.column(name)) for name in picture.columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in picture.rows)
    label = text_in_html(picture.figure.title)
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{label}: table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower(), flags=re.ASCII).strip("-")


def _head(name: str, values: Sequence[Any]) -> str:
    kind = ' class="number"' if any(map(_is_number, values)) else ""
    return f'<th scope="col"{kind}>{text_in_html(name.lstrip("_"))}</th>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return '<td class="null">NULL</td>'
    if _is_number(value):
        return f'<td class="number">{_number(value)}</td>'
    text = str(value)
    size = "short" if len(text) <= SHORT else "long" if len(text) > LONG else ""
    return f'<td class="{size}">{text_in_html(text)}</td>' if size else f"<td>{text_in_html(text)}</td>"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    subject = report.subject
    yield "rows", f"{subject.num_rows:,}"
    if (truth := report.find("truth")) and truth.records()[0]["agreement"] is not None:
        yield "agreement", f"{truth.records()[0]['agreement']:.1%}"
    yield "version", subject.table.version
    if report.against is not None:
        yield "beside version", report.against
    yield "dataset revision", subject.revision[:12]
    yield "last up to date", _moment(subject.fresh_at) if subject.fresh_at else "never"
    yield "made at", _moment(report.made_at)


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
