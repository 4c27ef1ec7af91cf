"""What a report takes, and what the libraries take that could draw it.

    python -m benchmarks.pictures --rows 1000000     # `tidemill report` over a table of made-up predictions
    python -m benchmarks.pictures --libraries        # one picture by Plotly and by Vega-Altair, in a real browser

`--libraries` needs altair and vl-convert-python as well, by which Altair puts its library into a page.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.filled_lake import fill
from benchmarks.machine import this_machine
from benchmarks.report import Section

LABELS, COUNTS = ["2024-01", "<b>bold</b>", "POSITIVE"], [3, 2, 1]
DRAWN = "document.querySelectorAll('svg .bars path, svg .mark-rect path').length > 0"
NUM_TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the made-up table")
    parser.add_argument("--libraries", action="store_true", help="hold the libraries against each other instead")
    asked = parser.parse_args()
    print(libraries() if asked.libraries else of_rows(asked.rows))


def of_rows(num_rows: int) -> Section:
    """The command as a user types it, with a truth, in a new process each time."""
    with tempfile.TemporaryDirectory(prefix="tidemill-pictures-") as folder:
        pipeline, page = fill(Path(folder), num_rows), Path(folder) / "report.html"
        command = [str(Path(sys.executable).with_name("tidemill")), "report", str(pipeline), "-o", str(page)]
        command += ["--set", "report.truth=rating > 0"]
        took, before = [], _cpu_seconds()
        for _ in range(NUM_TURNS):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            took.append(time.perf_counter() - started)
        size, cpu = page.stat().st_size, (_cpu_seconds() - before) / NUM_TURNS
    rows: list[tuple[str, ...]] = [
        (f"{num_rows:,}", f"{min(took):.1f}", f"{max(took):.1f}", f"{cpu:.1f}", f"{size / 1e6:.2f}")
    ]
    conditions = f"{this_machine().processor}; {NUM_TURNS} times, each in a new process"
    return Section("A report of a made-up table", conditions, ("rows", "best s", "worst s", "CPU s", "MB"), rows)


def _cpu_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def libraries() -> Section:
    """Each page under a policy without eval, in turn, in a new tab each: its size, and when its picture is there."""
    ways = {
        "Plotly, packed": plotly_packed,
        "Plotly, as it is": plotly_plain,
        "Vega-Altair": altair_inline,
        "Vega-Altair, interpreted": altair_interpreted,
    }
    opened = {name: Opened(make()) for name, make in ways.items()}
    look_at(list(opened.values()))
    conditions = (
        f"One picture of three bars, chromium without a window, best of {NUM_TURNS}; {this_machine().processor}"
    )
    header = ("", "MB", "s to the picture", "requests elsewhere", "errors")
    return Section("Libraries that draw", conditions, header, [(name, *one.row) for name, one in opened.items()])


@dataclass
class Opened:
    """A page, and what came of opening it."""

    html: str
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def row(self) -> tuple[str, str, str, str]:
        elsewhere = sum(not url.startswith("file:") for url in self.requests)
        fastest = f"{min(self.seconds):.2f}" if self.seconds else "–"
        return f"{len(self.html.encode()) / 1e6:.2f}", fastest, str(elsewhere), (self.errors or ["none"])[0][:60]


def look_at(pages: Sequence[Opened]) -> None:
    from playwright.sync_api import sync_playwright

    from tests.browser import find_browser

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser())
        for _ in range(NUM_TURNS):
            for number, one in enumerate(pages):
                path = Path(folder) / f"{number}.html"
                path.write_text(one.html, encoding="utf-8")
                _open(browser.new_context().new_page(), path.as_uri(), one)
        browser.close()


def _open(page: Any, url: str, one: Opened) -> None:
    from playwright.sync_api import Error

    page.on("request", lambda request: one.requests.append(request.url))
    page.on("console", lambda told: one.errors.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: one.errors.append(str(error)))
    started = time.perf_counter()
    page.goto(url)
    try:
        page.wait_for_function(DRAWN, timeout=30_000 if not one.errors else 1000)
        one.seconds.append(time.perf_counter() - started)
    except Error:
        one.errors.append("no picture")


def plotly_packed() -> str:
    """The library in gzip and base64: a script unpacks it, and puts it in under its own hash."""
    from plotly.offline import get_plotlyjs

    library = get_plotlyjs()
    packed = base64.b64encode(gzip.compress(library.encode(), 9)).decode()
    script = (
        "(async () => { const bytes = Uint8Array.from(atob(document.getElementById('library').textContent), "
        "(one) => one.charCodeAt(0)); const script = document.createElement('script'); script.textContent = "
        "await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text(); "
        f"document.head.append(script); {_plotly_call()} }})()"
    )
    return _page(
        [library, script], f'<script type="text/plain" id="library">{packed}</script><script>{script}</script>'
    )


def plotly_plain() -> str:
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), _plotly_call()]
    return _page(scripts, "".join(f"<script>{script}</script>" for script in scripts))


def _plotly_call() -> str:
    from tidemill.pictures.page.escaping import json_in_script, markup_free

    bars = {"type": "bar", "x": [markup_free(label) for label in LABELS], "y": COUNTS}
    return f"Plotly.newPlot('picture', {json_in_script([bars])}, {{xaxis: {{type: 'category'}}}});"


def altair_inline() -> str:
    return _altair({})


def altair_interpreted() -> str:
    """Vega's expressions by its own interpreter, which needs no eval."""
    return _altair({"ast": True})


def _altair(embed_options: dict[str, object]) -> str:
    import altair

    chart = altair.Chart(altair.Data(values=[{"label": a, "n": b} for a, b in zip(LABELS, COUNTS, strict=True)]))
    drawn = chart.mark_bar().encode(x="label:N", y="n:Q")
    html = drawn.to_html(inline=True, output_div="picture", embed_options={"renderer": "svg", **embed_options})
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    return _page(scripts, "".join(f"<script>{script}</script>" for script in scripts))


def _page(scripts: list[str], body: str) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<title>one</title><div id="picture"></div>{body}'
    )


if __name__ == "__main__":
    main()
