"""The fields of *Browse*: what a table can be asked for and its rows be marked as, which is read anew as it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from tidemill.app.rows.browsing import Order
from tidemill.app.rows.filters import ANY, Operator
from tidemill.app.source import Source, has
from tidemill.errors import TidemillError

MOST_KEYS = 9
Options = dict[str, dict[str, Any]]
"""Of each field that follows the table, by its `elem_id`."""


@dataclass(frozen=True)
class _Offered:
    """What the table can be asked for, and its rows be marked as, in the order of most rows."""

    labels: list[str]
    columns: list[str]
    has_label: bool
    has_score: bool

    @property
    def options(self) -> Options:
        """What of the tab's parts depends on it, by their names."""
        orders = list(get_args(Order)) if self.has_score else ["by file"]
        return {
            "tm-label": {"choices": [ANY, *self.labels], "visible": self.has_label},
            "tm-least": {"visible": self.has_score},
            "tm-most": {"visible": self.has_score},
            "tm-column": {"choices": [ANY, *self.columns]},
            "tm-order": {"choices": orders},
            "tm-other": {"choices": self.labels},
            **{f"tm-mark-{number}": self._key(number) for number in range(1, MOST_KEYS + 1)},
        }

    def _key(self, number: int) -> dict[str, Any]:
        there = self.labels[number - 1 : number]
        return {"value": f"{number} {there[0]}" if there else "", "visible": bool(there)}


def offered_by(source: Source) -> Options:
    labels = source.labels()
    with source.open() as (_, table):
        columns = [name for name, _ in table.shown]
        return _Offered(labels, columns, has(table, "label"), has(table, "score")).options


def offers(source: Source, followers: list[Any]) -> list[Any]:
    """These fields as the table has them now."""
    try:
        options = offered_by(source)
    except TidemillError:  # Whatever is pressed then says why.
        return [gr.skip() for _ in followers]
    return [type(each)(**options[each.elem_id]) for each in followers]


def form(options: Options) -> list[Any]:
    """The fields of the form, as `filter_of` takes them, and the order.

    What is chosen stays where the table no longer offers it: the filter then says so, or finds no row.
    """
    with gr.Row():
        search = gr.Textbox(label="search in texts", elem_id="tm-search", scale=3)
        label = gr.Dropdown(
            label="label is", value=ANY, allow_custom_value=True, elem_id="tm-label", scale=1, **options["tm-label"]
        )
        least = gr.Textbox(label="score from", elem_id="tm-least", scale=1, **options["tm-least"])
        most = gr.Textbox(label="score to", elem_id="tm-most", scale=1, **options["tm-most"])
    with gr.Accordion("More filters", open=False):
        with gr.Row():
            column = gr.Dropdown(
                label="column", value=ANY, allow_custom_value=True, elem_id="tm-column", **options["tm-column"]
            )
            operator = gr.Dropdown(label="compared", choices=list(get_args(Operator)), value="is")
            value = gr.Textbox(label="with")
        condition = gr.Textbox(label="SQL condition", placeholder="rating < 0 AND label = 'POSITIVE'")
        order = gr.Dropdown(label="order", value="by file", elem_id="tm-order", **options["tm-order"])
    return [search, label, least, most, column, operator, value, condition, order]


def marking_fields(options: Options, who: str) -> tuple[list[Any], Any, Any]:
    """A button for each key, another label than those, and who marks."""
    names = [f"tm-mark-{number}" for number in range(1, MOST_KEYS + 1)]
    with gr.Row():
        keys = [gr.Button(elem_id=name, min_width=80, size="sm", **options[name]) for name in names]
    with gr.Row():
        other = gr.Dropdown(
            label="another label", value=None, allow_custom_value=True, elem_id="tm-other", **options["tm-other"]
        )
        marker = gr.Textbox(label="marked by", value=who, elem_id="tm-who")
    return keys, other, marker
