"""Texts next to each other: what a model read beside what it wrote, or what two versions wrote of the same row."""

from __future__ import annotations

from typing import Any

from tidemill.pictures.figures.figure import Picture
from tidemill.pictures.page.escaping import text_in_html


def examples(picture: Picture) -> str:
    """HTML of the figure: of each row its name and short columns, and below them its texts."""
    shown = picture.figure.axes.columns
    rows = []
    for row in picture.records():
        texts = {name: row.pop(name) for name in shown}
        facts = ", ".join(f"{name} {_told(value)}" for name, value in row.items())
        panels = "".join(f"<div><h4>{text_in_html(name)}</h4>{_panel(value)}</div>" for name, value in texts.items())
        rows.append(f'<li><p class="row">{text_in_html(facts)}</p><div class="panels">{panels}</div></li>')
    return f'<ul class="examples">{"".join(rows)}</ul>'


def _panel(value: Any) -> str:
    if value is None:
        return '<p class="null">NULL</p>'
    return f'<p class="text" dir="auto">{text_in_html(str(value))}</p>'


def _told(value: Any) -> str:
    return "NULL" if value is None else str(value)
