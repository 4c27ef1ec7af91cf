"""Browse: pages of the table, a row by itself, and its right label; the sample's rows one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from typing import Any

import _duckdb as duckdb
import gradio as gr

from tidemill.app.rows import cells
from tidemill.app.rows.browsing import Order, Page, Start, read_page, rows_at
from tidemill.app.rows.filters import Filter, filter_of
from tidemill.app.rows.pages import cut, name_of, place_named, shown_page, told
from tidemill.app.source import Source, shown_columns
from tidemill.app.tabs.fields import form, marking_fields, offered_by, offers
from tidemill.errors import ConfigError, TidemillError, counted
from tidemill.lake import Lake
from tidemill.lake.records.marks import Place, labels_at, set_marks
from tidemill.lake.records.samples import num_picked, to_mark

ON_CLICK = """
element.addEventListener('click', (event) => {
  const opened = event.target.closest('button[data-place]');
  if (opened) trigger('select', {value: opened.dataset.place});
});
"""
KEYS = """
() => document.addEventListener('keydown', (event) => {
  const held = event.repeat || event.ctrlKey || event.metaKey || event.altKey;
  if (held || event.target.closest('input, textarea, select')) return;
  const button = /^[1-9]$/.test(event.key) && document.querySelector('#tm-mark-' + event.key);
  if (button && button.offsetParent) { event.preventDefault(); button.click(); }
})
"""
"""The keys 1 to 9 are those buttons, wherever nothing is being typed. One that is held marks one row."""
SEEN = """
(standing, ...given) => {
  const row = document.querySelector('#tm-row [data-place]');
  return [standing, ...given.slice(0, -1), row ? row.dataset.place : ''];
}
"""
"""The last input of what marks is the row that its visitor sees at that moment, whatever comes until it is read."""


@dataclass(frozen=True)
class Standing:
    """What one visitor is looking at."""

    asked: Filter = field(default_factory=Filter)
    order: Order = "by file"
    before: tuple[Start, ...] = ()
    """Where the pages before this one begin."""
    page: Page | None = None
    place: Place | None = None
    in_queue: bool = False


def build(source: Source, who: str, opened: Sequence[Any]) -> None:
    """`who` marks, unless the field says another; at the events `opened`, what the table offers is read again."""
    tab, standing, options = _Browsing(source), gr.State(Standing()), offered_by(source)
    filters = form(options)
    with gr.Row():
        show = gr.Button("Show rows", variant="primary", elem_id="tm-show")
        back = gr.Button("Previous page", elem_id="tm-back")
        on = gr.Button("Next page", elem_id="tm-next")
        queue = gr.Button("Next row to mark", elem_id="tm-queue")
    with gr.Row(equal_height=False, elem_id="tm-panes"):
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML(elem_id="tm-rows", js_on_load=ON_CLICK)
        with gr.Column(scale=2, min_width=300):
            keys, other, marker = marking_fields(options, who)
            with gr.Row():
                as_other = gr.Button("Mark as that", size="sm", elem_id="tm-mark-other")
                take_back = gr.Button("Take the mark back", size="sm", elem_id="tm-unmark")
            row = gr.HTML(cells.message("Open a row to see it whole and to mark it."), elem_id="tm-row")
            seen = gr.Textbox(visible=False)
    table_out, row_out = [standing, shown], [standing, shown, row]
    show.click(tab.first, [standing, *filters], table_out, api_visibility="private")
    filters[0].submit(tab.first, [standing, *filters], table_out, api_visibility="private")
    on.click(tab.next, standing, table_out, api_visibility="private")
    back.click(tab.previous, standing, table_out, api_visibility="private")
    queue.click(tab.next_to_mark, standing, row_out, api_visibility="private")
    shown.select(tab.opened, standing, row_out, api_visibility="private")
    for key in keys:
        key.click(tab.mark_by_key, [standing, marker, key, seen], row_out, js=SEEN, api_visibility="private")
    as_other.click(tab.mark, [standing, marker, other, seen], row_out, js=SEEN, api_visibility="private")
    take_back.click(tab.take_back, [standing, marker, seen], row_out, js=SEEN, api_visibility="private")
    followers = [each for each in (*filters, *keys, other) if each.elem_id in options]
    gr.on(opened, partial(offers, source, followers), None, followers, api_visibility="private", show_progress="hidden")


class _Browsing:
    """What the buttons of the tab do; each gives the visitor's new standing and what is shown of it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def first(self, standing: Standing, *values: Any) -> tuple[Standing, str]:
        *given, order = values
        try:
            standing = replace(standing, asked=filter_of(*given), order=order, before=())
        except ConfigError as e:
            return standing, cells.message(str(e), kind="problem")
        return self._turn(standing, Start())

    def next(self, standing: Standing) -> tuple[Standing, str]:
        page = standing.page
        if page is None:
            return self._turn(standing, Start())
        if page.next is None:
            return standing, shown_page(page, "This is the last page.")
        return self._turn(replace(standing, before=(*standing.before, page.start)), page.next)

    def previous(self, standing: Standing) -> tuple[Standing, str]:
        if not standing.before:
            return self._turn(standing, Start())
        return self._turn(replace(standing, before=standing.before[:-1]), standing.before[-1])

    def opened(self, standing: Standing, event: gr.EventData) -> tuple[Standing, str, str]:
        place = place_named(str(event._data.get("value", "")))
        if place is None:
            return standing, _page_of(standing), cells.message("There is no such row.", kind="problem")
        standing = replace(standing, place=place, in_queue=False)
        return standing, _page_of(standing), self._row(standing)

    def next_to_mark(self, standing: Standing) -> tuple[Standing, str, str]:
        with self._source.open() as (cursor, table):
            left, total = to_mark(cursor, table.pipeline), num_picked(cursor, table.pipeline)
            there = rows_at(cursor, table, [row.place for row in left], ["row_number"])
        left = [row for row in left if row.place in there]
        if not left:
            done = f"All {counted(total, 'row')} of the sample are marked." if total else "No rows were picked."
            done = f"{done} Pick rows: tidemill sample {self._source.pipeline.name}.toml"
            return replace(standing, place=None, in_queue=False), _page_of(standing), cells.message(done)
        first = left[0]
        standing = replace(standing, place=first.place, in_queue=True)
        why = cells.message(f"{len(left):,} of {total:,} to mark. Why this one: {first.reason}")
        return standing, _page_of(standing), why + self._row(standing)

    def mark(self, standing: Standing, who: str, label: str | None, seen: str) -> tuple[Standing, str, str]:
        given = (label or "").strip()
        if not given:
            return self._refused(standing, "Choose a label first.")
        return self._write(standing, who, given, seen)

    def mark_by_key(self, standing: Standing, who: str, key: str, seen: str) -> tuple[Standing, str, str]:
        """`key` is what stands on a button: its number, and the label that the visitor saw there."""
        return self.mark(standing, who, key.partition(" ")[2], seen)

    def take_back(self, standing: Standing, who: str, seen: str) -> tuple[Standing, str, str]:
        return self._write(standing, who, None, seen)

    def _write(self, standing: Standing, who: str, label: str | None, seen: str) -> tuple[Standing, str, str]:
        """Mark the row that was `seen`: another one may be open by now."""
        name, pipeline, place = (who or "").strip(), self._source.pipeline, place_named(seen)
        if place is None:
            return self._refused(standing, "Open a row first.")
        if not name:
            return self._refused(standing, "Say who marks: fill in `marked by`.")
        try:
            with Lake(pipeline.lake) as lake:
                set_marks(lake, pipeline.name, {place: label}, keys=self._source.keys, who=name)
        except TidemillError as e:
            return self._refused(standing, str(e))
        standing = self._with_marks(standing)
        if standing.in_queue and label is not None:
            return self.next_to_mark(standing)
        return standing, _page_of(standing), self._row(standing)

    def _refused(self, standing: Standing, why: str) -> tuple[Standing, str, str]:
        return standing, _page_of(standing), cells.message(why, kind="problem") + self._row(standing)

    def _turn(self, standing: Standing, start: Start) -> tuple[Standing, str]:
        began = time.monotonic()
        try:
            with self._source.open() as (cursor, table):
                page = read_page(cursor, table, standing.asked, start, order=standing.order)
        except (TidemillError, duckdb.Error) as e:
            problem = str(e).replace("--where", "The SQL condition")
            return replace(standing, page=None, before=()), cells.message(problem, kind="problem")
        said = f"{told(page, standing.asked)} {time.monotonic() - began:.2f} s."
        return replace(standing, page=cut(page)), shown_page(page, said)

    def _with_marks(self, standing: Standing) -> Standing:
        if standing.page is None:
            return standing
        with self._source.open() as (cursor, table):
            marks = labels_at(cursor, table.pipeline, standing.page.places)
        return replace(standing, page=replace(standing.page, marks=marks))

    def _row(self, standing: Standing) -> str:
        place = standing.place
        if place is None:
            return ""
        with self._source.open() as (cursor, table):
            columns = [name for name, _ in table.shown]
            found = rows_at(cursor, table, [place], columns).get(place)
            label = labels_at(cursor, table.pipeline, [place]).get(place)
        if found is None:
            return cells.message("This row has left the table.", kind="problem")
        marked = cells.message(f"Marked as {label}" if label is not None else "Not marked yet")
        whole = [(name, value) for name, value in zip(columns, found, strict=True) if name in shown_columns(table)]
        rest = [(name, value) for name, value in zip(columns, found, strict=True) if name not in shown_columns(table)]
        shown = marked + cells.facts("The row", whole) + cells.facts("Where it is from", rest)
        return f'<div data-place="{escape(name_of(place))}">{shown}</div>'


def _page_of(standing: Standing) -> str:
    return shown_page(standing.page, told(standing.page, standing.asked)) if standing.page is not None else ""
