"""Report: the page of `tidemill report`, made when it is asked for."""

from __future__ import annotations

import gradio as gr

from tidemill.app.rows import cells
from tidemill.app.source import Source
from tidemill.errors import TidemillError

PATH = "report"
FRAME = (
    '<iframe class="tm-report" title="The report" src="{root}/report/{name}" '
    'sandbox="allow-scripts allow-downloads"></iframe>'
)


class Pages:
    """The reports that were made since the app was started, the last ones, by names that nobody guesses."""

    MOST = 4

    def __init__(self) -> None:
        self._pages: dict[str, str] = {}

    def add(self, name: str, page: str) -> None:
        self._pages[name] = page
        for old in list(self._pages)[: -self.MOST]:
            del self._pages[old]

    def get(self, name: str) -> str | None:
        return self._pages.get(name)


def build(source: Source, pages: Pages, root: str = "") -> None:
    import secrets

    from tidemill.pictures import report_page

    gr.Markdown("Pictures of the table as it is now, each with its SQL.")
    with gr.Row():
        texts = gr.Checkbox(label="show kept texts", value=False)
        make = gr.Button("Make the report", variant="primary", elem_id="tm-make-report")
    shown = gr.HTML(elem_id="tm-report")

    def made(with_texts: bool) -> str:
        try:
            page = report_page(source.pipeline, texts=with_texts)
        except TidemillError as e:
            return cells.message(str(e), kind="problem")
        name = secrets.token_urlsafe(12)
        pages.add(name, page)
        return FRAME.format(root=root, name=name)

    make.click(made, texts, shown, concurrency_id="report", concurrency_limit=1, api_visibility="private")
