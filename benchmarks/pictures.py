"""What a report takes, and what the libraries take that could draw it.

    python -m benchmarks.pictures --rows 1000000     # `tidemill report` over a table of made-up predictions
    python -m benchmarks.pictures --libraries        # one picture by Plotly and by Vega-Altair, in a real browser

Altair's page has its library within only where vl-convert-python is installed.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
        took = []
        for _ in range(NUM_TURNS):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            took.append(time.perf_counter() - started)
        size = page.stat().st_size
    rows = [(f"{num_rows:,}", f"{min(took):.1f}", f"{max(took):.1f}", f"{size / 1e6:.2f}")]
    conditions = f"{this_machine().processor}; {NUM_TURNS} times, each in a new process"
    return Section("A report of a made-up table", conditions, ("rows", "best s", "worst s", "MB"), rows)


def libraries() -> Section:
    """Each page under a policy without eval, opened in a new tab: its size, and the time to its first picture."""
    ways: dict[str, Callable[[], str]] = {
        "Plotly, packed": plotly_packed,
        "Plotly, as it is": plotly_plain,
        "Vega-Altair": altair_inline,
        "Vega-Altair, interpreted": altair_interpreted,
    }
    rows = []
    for name, make in ways.items():
        try:
            rows.append((name, *_looked_at(make())))
        except (ImportError, ValueError) as e:
            rows.append((name, "–", "–", "–", f"not made: {e}"[:70]))
    conditions = (
        f"One picture of three bars; chromium without a window; the best of {NUM_TURNS}; {this_machine().processor}"
    )
    header = ("", "MB", "s to the first picture", "requests", "errors without eval")
    return Section("Libraries that draw", conditions, header, rows)


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
    import re

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


def _looked_at(html: str) -> tuple[str, str, str, str]:
    from playwright.sync_api import Error, sync_playwright

    from tests.browser import find_browser

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        path.write_text(html, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=find_browser())
        seconds: list[float] = []
        errors: list[str] = []
        requests: list[str] = []
        for _ in range(NUM_TURNS):
            page = browser.new_context().new_page()
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            started = time.perf_counter()
            page.goto(path.as_uri())
            try:
                page.wait_for_function(DRAWN, timeout=30_000)
                seconds.append(time.perf_counter() - started)
            except Error:
                errors.append("no picture")
        browser.close()
        size = f"{path.stat().st_size / 1e6:.2f}"
    elsewhere = sum(not url.startswith("file:") for url in requests)
    return size, f"{min(seconds):.2f}" if seconds else "–", str(elsewhere), errors[0][:60] if errors else "none"


if __name__ == "__main__":
    main()
