"""The app's page: its tabs, in the order in which one gets to know a table, and how they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidemill.app.source import Source

STYLE = Path(__file__).with_name("app.css")


def build(source: Source, pages: Any, *, who: str, root: str = "") -> Any:
    """A Gradio Blocks. Nothing of it asks an outside address: no font, no script, no telemetry.

    What a tab offers is read when the page or the tab is opened: versions and promotions come while the app is there.

    Raises:
        InputError: the table's version cannot be read.
    """
    # Before Gradio itself: see tidemill.app.tabs.
    from tidemill.app.tabs import browse, report, statements, trial, versions

    import gradio as gr  # isort: skip

    name = source.pipeline.name
    with gr.Blocks(title=f"{name} – Tidemill", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(f"# {name}")
        with gr.Tabs():
            with gr.Tab("Try", id="try") as tab:
                trial.build(source.pipeline, source.promoted, source, opened=[blocks.load, tab.select])
            with gr.Tab("Browse", id="browse") as tab:
                browse.build(source, who, opened=[blocks.load, tab.select])
            with gr.Tab("Versions", id="versions") as tab:
                versions.build(source, opened=[blocks.load, tab.select])
            with gr.Tab("SQL", id="sql"):
                statements.build(source)
            with gr.Tab("Report", id="report"):
                report.build(source, pages, root)
    blocks.queue(max_size=64, default_concurrency_limit=4)
    return blocks


def theme() -> Any:
    """Gradio's own, with fonts that every machine has: its default asks Google for others."""
    import tidemill.app.tabs  # noqa: F401

    import gradio as gr  # isort: skip

    base = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    # White on Gradio's own blue has too little contrast.
    return base.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )
