"""The app: served on a free port of loopback, in a thread of this process; and its page without a server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvicorn

from tests.processes import wait_until
from tidemill.app.server import blocks
from tidemill.app.server.serving import Address, App, make_app
from tidemill.app.source import Source
from tidemill.app.tabs.report import Pages
from tidemill.config import Pipeline


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_app(pipeline: Pipeline, address: Address, lines: list[str]) -> Iterator[tuple[App, Any]]:
    """The app and its server; `lines` get its access log."""
    made = make_app(pipeline, address, log=lines.append)
    config = uvicorn.Config(
        made.asgi,
        host="127.0.0.1",
        port=address.port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,  # What an open page listens to would be waited for.
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield made, server
    finally:
        server.should_exit = True
        thread.join(30)
        made.close()


def address_at(port: int, **options: Any) -> Address:
    return replace(Address(port=port), **options)


@dataclass(frozen=True)
class OpenedPage:
    """The app's page, whose buttons are pressed without a browser."""

    source: Source
    blocks: Any

    def press(self, elem_id: str, *values: Any) -> Any:
        """What the function behind a button gives for these values of its inputs."""
        return self._behind(elem_id, "click")(*values)

    def open_tab(self, name: str, *values: Any) -> Any:
        """What is read again when somebody opens a tab."""
        [tab] = [each for each in self.blocks.blocks.values() if getattr(each, "id", None) == name]
        return self._of(tab._id, "select")(*values)

    def _behind(self, elem_id: str, event: str) -> Any:
        [block] = [each for each in self.blocks.blocks.values() if getattr(each, "elem_id", None) == elem_id]
        return self._of(block._id, event)

    def _of(self, block_id: int, event: str) -> Any:
        [found] = [each.fn for each in self.blocks.fns.values() if (block_id, event) in each.targets]
        return found


@contextmanager
def opened_page(pipeline: Pipeline) -> Iterator[OpenedPage]:
    source = Source(pipeline)
    try:
        yield OpenedPage(source, blocks.build(source, Pages(), who="ann"))
    finally:
        source.close()
