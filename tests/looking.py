"""A page in a real browser without a window, by Playwright: what it asks for, what it says, who can use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from tests.browser import find_browser

SERIOUS = ("serious", "critical")


@dataclass
class Looking:
    """A tab, with all that it asked for and said since it was opened."""

    page: Page
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What axe-core's rules find to be serious, each with the elements that it is about."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found if one["impact"] in SERIOUS
        ]


@contextmanager
def looking(**options: Any) -> Iterator[Looking]:
    """A new browser with one tab, whose `options` are those of a context: color_scheme, viewport, ..."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser())
        try:
            page = browser.new_context(**options).new_page()
            found = Looking(page)
            page.on("request", lambda request: found.requests.append(request.url))
            page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
            yield found
        finally:
            browser.close()
