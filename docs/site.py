"""What `make site` needs beside the pages: plots that lie elsewhere, and anchors as the repository has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PLOT = re.compile(r"\.\./(benchmarks/results/[\w.-]+\.png)")


def on_config(config: Any) -> None:
    """Headings get the anchors that GitHub gives them, so that a link holds in both places."""
    config.mdx_configs["toc"]["slugify"] = lambda title, _: re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def on_files(files: Any, config: Any) -> None:
    for path in sorted({found for page in files.documentation_pages() for found in PLOT.findall(page.content_string)}):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    return PLOT.sub(r"\1", markdown)
