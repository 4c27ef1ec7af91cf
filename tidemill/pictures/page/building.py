"""The page put together, under a policy by which a browser runs what was put here, and asks nobody for anything."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from importlib.resources import files

from tidemill.errors import ConfigError
from tidemill.pictures.figures.report import Report
from tidemill.pictures.page import parts
from tidemill.pictures.page.drawing import drawn
from tidemill.pictures.page.escaping import json_in_script, text_in_html


def page(report: Report) -> str:
    """
    Raises:
        ConfigError: the library that draws is not installed.
    """
    colours = colours_of(report)
    specs = {picture.figure.id: spec for picture in report.pictures if (spec := drawn(picture, colours)) is not None}
    style, script, library = _own("page.css"), _own("page.js"), _library() if specs else ""
    title = text_in_html(f"{report.subject.pipeline.name}: report")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy(script, library)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">',
            f"<title>{title}</title><style>{style}</style></head><body>",
            *parts.head(report),
            parts.navigation(report),
            "<main>",
            *parts.sections(report, colours),
            "</main>",
            f'<script type="application/json" id="figures">{json_in_script(specs)}</script>',
            f'<script type="text/plain" id="library">{_packed(library)}</script>',
            f"<script>{script}</script></body></html>\n",
        ]
    )


def policy(*scripts: str) -> str:
    """Scripts run by their hashes alone, also the library, which the page's own script unpacks and puts in.

    Plotly sets style attributes and makes a style element, whence 'unsafe-inline' for styles.
    """
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts if script)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def colours_of(report: Report) -> dict[str, int]:
    """Label or type → the number of its colour, the same in all pictures: by how often it occurs."""
    found = report.find("labels") or report.find("entities")
    return {str(row[0]): number for number, row in enumerate(found.rows)} if found else {}


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@functools.cache
def _packed(library: str) -> str:
    return base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode() if library else ""


def _own(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as e:
        raise ConfigError(
            "A report is drawn by Plotly, which is not installed. Run: pip install 'tidemill[report]'"
        ) from e
    return str(get_plotlyjs())
