"""SQL: statements that read the lake and nothing else, as `tidemill sql` judges them; with what was asked before."""

from __future__ import annotations

import time
from typing import Any

import _duckdb as duckdb
import gradio as gr

from tidemill.app.querying import FORMATS, bounded, export_rows
from tidemill.app.rows import cells
from tidemill.app.source import Source
from tidemill.errors import TidemillError

SHOWN_ROWS = 200
MOST_REMEMBERED = 50


def build(source: Source) -> None:
    name = source.pipeline.name
    before = gr.State([])
    query = gr.Textbox(
        label="SQL that reads the lake", value=f"SELECT * FROM {name} LIMIT 20", lines=4, max_lines=30, elem_id="tm-sql"
    )
    with gr.Row():
        run = gr.Button("Run", variant="primary", elem_id="tm-run")
        history = gr.Dropdown(label="asked before", choices=[], value=None, elem_id="tm-history")
    with gr.Row():
        form = gr.Dropdown(label="export as", choices=list(FORMATS), value="csv")
        export = gr.Button("Export all rows", elem_id="tm-export")
        file = gr.File(label="exported", interactive=False, visible=False)
    found = gr.HTML(elem_id="tm-found")

    def asked(text: str, past: list[str]) -> tuple[str, list[str], Any]:
        past = [text, *(one for one in past if one != text)][:MOST_REMEMBERED]
        return _shown(source, text), past, gr.update(choices=past, value=None)

    def exported(text: str, kind: str) -> tuple[str, Any]:
        try:
            path = export_rows(source.pipeline, text, kind)
        except (TidemillError, duckdb.Error) as e:
            return cells.message(str(e), kind="problem"), gr.update(visible=False)
        return cells.message(f"All rows are in {path.name}."), gr.update(value=str(path), visible=True)

    run.click(asked, [query, before], [found, before, history], concurrency_id="sql", api_visibility="private")
    history.input(lambda chosen: chosen, history, query, api_visibility="private")
    export.click(exported, [query, form], [found, file], concurrency_id="sql", api_visibility="private")


def _shown(source: Source, text: str) -> str:
    began = time.monotonic()
    try:
        with bounded(source.pipeline, text) as cursor:
            columns = [column[0] for column in cursor.description or []]
            rows = cursor.fetchmany(SHOWN_ROWS + 1)
    except (TidemillError, duckdb.Error) as e:
        return cells.message(str(e), kind="problem")
    more = f"The first {SHOWN_ROWS} rows" if len(rows) > SHOWN_ROWS else f"{len(rows)} rows"
    caption = f"{more}, {time.monotonic() - began:.2f} s"
    return cells.table(caption, columns, rows[:SHOWN_ROWS])
