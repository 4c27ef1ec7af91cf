"""The app, served on a free port of loopback for the length of a block, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import uvicorn

from tests.processes import wait_until
from tidemill.app.server.serving import Address, App, make_app
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
        made.asgi, host="127.0.0.1", port=address.port, log_level="warning", access_log=False, proxy_headers=False
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
