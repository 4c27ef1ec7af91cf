"""A Space as it runs: Try and the report, from nothing but its own folder."""

from __future__ import annotations

import html
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline, pipeline_of
from tidemill.planning.versions import VersionSpec

FRAME = '<iframe class="tm-report" title="The report" sandbox="allow-scripts allow-downloads" srcdoc="{page}"></iframe>'


def open_space(folder: Path) -> tuple[Pipeline, VersionSpec]:
    """What the folder says: the settings, and the version with its model where it lies now."""
    told = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    spec = VersionSpec.from_json(told["version"])
    paths = {"model_path": folder / "model", "tokenizer_path": folder / "tokenizer"}
    if not paths["tokenizer_path"].exists():
        paths["tokenizer_path"] = paths["model_path"]
    own: dict[str, Any] = {
        name: str(path)
        for name, path in paths.items()
        if not told["version"][name.removesuffix("_path")].startswith("commit:")
    }
    spec = replace(spec, **own)
    raw = {**told["pipeline"], "model": {**told["pipeline"]["model"], "path": spec.model_path}}
    return pipeline_of(raw, str(folder / "space.json")), spec


def build(folder: Path) -> Any:
    from tidemill.app.tabs import trial  # Before Gradio itself: see tidemill.app.tabs.

    import gradio as gr  # isort: skip

    pipeline, spec = open_space(folder)
    with gr.Blocks(title=f"{pipeline.name} – Tidemill", analytics_enabled=False, fill_width=True) as blocks:
        gr.Markdown(f"# {pipeline.name}")
        with gr.Tabs():
            with gr.Tab("Try", id="try"):
                trial.build(pipeline, lambda: spec)
            with gr.Tab("Report", id="report"):
                page = (folder / "report.html").read_text(encoding="utf-8")
                gr.HTML(FRAME.format(page=html.escape(page)))
    blocks.queue(max_size=64)
    return blocks


def launch(folder: Path) -> None:
    """Answer at GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, or at a free port of this machine alone."""
    from tidemill.app.server.blocks import STYLE, theme

    port = os.environ.get("GRADIO_SERVER_PORT")
    build(folder).launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        server_port=int(port) if port else None,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        allowed_paths=[],
        max_file_size=0,
        footer_links=[],
        theme=theme(),
        css=STYLE.read_text(encoding="utf-8"),
        show_error=True,
    )
