"""A real browser without a window, driven through its own debugging protocol."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.processes import PATIENCE_SECONDS, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self._session: str | None = None
        [page] = [found for found in self._ask("Target.getTargets")["targetInfos"] if found["type"] == "page"]
        self._session = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        """Show a page, and return when it is loaded."""
        self._ask("Page.navigate", url=url)
        wait_until(lambda: self.run("document.readyState") == "complete")

    def run(self, script: str) -> Any:
        """What a script gives in the page; a promise is awaited."""
        found = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        self._connection.send(json.dumps({"id": number, "method": method, "params": values} | session))
        while True:
            answer = json.loads(self._connection.recv(timeout=PATIENCE_SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                found: dict[str, Any] = answer["result"]
                return found


@contextmanager
def running_browser(options: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with a profile of its own, for the length of a block."""
    program = find_browser()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="tidemill-browser-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                program,
                "--headless",
                "--no-sandbox",  # Which root does without.
                "--no-first-run",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                *options,
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = Path(folder) / "DevToolsActivePort"
            wait_until(lambda: address.exists() and address.read_text().count("\n") == 1)
            port, path = address.read_text().split()
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=PATIENCE_SECONDS) as connection:
                yield Browser(connection)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
