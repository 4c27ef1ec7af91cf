"""The pictures of see.md: its walk is gone through, and what it shows is taken from a real browser.

    python docs/pictures.py
    python docs/pictures.py --pipeline my.toml --to folder      # of another table, with a truth of `rating > 0`

It needs Playwright, and Chromium where Debian has it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TRUTH = ["--set", "report.truth=rating > 0"]
SECOND = ["--set", "tokenizer.max_length=12", "--files", "*[0-3]-of-*"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
Run = Callable[..., str]
"""Runs a command, and gives what it prints."""
READY = "document.body.dataset.ready === 'yes'"


@dataclass(frozen=True)
class Shot:
    """A part of a page: its first figures, or the one with this title."""

    name: str
    page: str
    title: str = ""
    width: int = 900
    scheme: str = "light"


SHOTS = (
    Shot("labels", "reviews", "Rows by label"),
    Shot("agreement", "reviews", "Agreement by domain"),
    Shot("confusion", "reviews", "Confusion matrix"),
    Shot("flips", "versions", "Flip matrix of label"),
    Shot("moved", "versions", "label by domain"),
    Shot("phone", "reviews", width=400, scheme="dark"),
    Shot("map", "notes", "Map of embedding"),
)
PHONE_HEIGHT = 800


def tidemill(*words: str) -> str:
    """What a command prints. What it says on its way goes to the terminal."""
    done = subprocess.run([sys.executable, "-m", "tidemill", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def main(arguments: Sequence[str] | None = None, *, run: Run = tidemill) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="data/pipelines/reviews.toml", help="of the table that is shown")
    parser.add_argument("--vectors", help="a pipeline of vectors, whose map is shown too")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "pictures", help="the folder of the pictures")
    asked = parser.parse_args(arguments)
    asked.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidemill-pictures-") as folder:
        pages = dict(walk(run, asked.pipeline, asked.vectors, Path(folder)))
        for path in take(pages, asked.to):
            print(path)  # noqa: T201


def walk(run: Run, pipeline: str, vectors: str | None, folder: Path) -> Iterator[tuple[str, Path]]:
    """The commands of the walk; each page by its name."""
    run("run", pipeline, "--direct")
    run("backfill", pipeline, *SECOND, "--direct", "--yes")
    newest = "SELECT version FROM _versions ORDER BY created_at DESC LIMIT 1"
    version = json.loads(run("sql", pipeline, newest, "--format", "json"))[0]["version"]
    of_pages: dict[str, list[str]] = {
        "reviews": ["report", pipeline, *TRUTH],
        "versions": ["report", pipeline, "--against", version],
    }
    if vectors is not None:
        run("run", vectors, "--direct")
        of_pages["notes"] = ["report", vectors]
    for name, words in of_pages.items():
        page = folder / f"{name}.html"
        run(*words, "-o", str(page))
        yield name, page


def take(pages: dict[str, Path], folder: Path) -> Iterator[Path]:
    from playwright.sync_api import sync_playwright

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        for shot in SHOTS:
            if shot.page in pages:
                yield taken(browser, shot, pages[shot.page], folder / f"{shot.name}.png")
        browser.close()


def taken(browser: Any, shot: Shot, page: Path, path: Path) -> Path:
    viewport = {"width": shot.width, "height": PHONE_HEIGHT}
    tab = browser.new_page(viewport=viewport, color_scheme=shot.scheme)
    tab.goto(page.as_uri())
    tab.wait_for_function(READY)
    if shot.title:
        tab.locator("article", has=tab.locator("h3", has_text=shot.title)).first.screenshot(path=path)
    else:
        tab.screenshot(path=path)
    tab.close()
    return path


if __name__ == "__main__":
    main()
