"""A service in this process, behind its own server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.processes import PATIENCE_SECONDS
from tidemill.config import Pipeline
from tidemill.serving.answering.limits import Limits
from tidemill.serving.running import Service, address_of, listen

TOKEN = "a-token-of-the-tests"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Served:
    """`client` has the token."""

    address: str
    service: Service
    client: httpx.Client

    def predict(self, inputs: Any, **more: Any) -> Any:
        """The answer to `inputs`, which has to be there."""
        found = self.client.post("/predict", json={"inputs": inputs, **more})
        assert found.status_code == 200, found.text
        return found.json()

    def pipeline(self) -> Any:
        """The only one that is served."""
        [pipeline] = self.service.pipelines.values()
        return pipeline


@contextmanager
def serving(*pipelines: Pipeline, limits: Limits | None = None, **options: Any) -> Iterator[Served]:
    listening = listen("127.0.0.1", 0)
    service = Service(pipelines, limits or Limits(linger_seconds=0.0), token=TOKEN, **options)
    began = threading.Event()
    thread = threading.Thread(target=service.run, args=(listening, lambda _: began.set()))
    thread.start()
    assert began.wait(PATIENCE_SECONDS)
    try:
        with httpx.Client(base_url=address_of(listening), headers=AUTHORIZED, timeout=PATIENCE_SECONDS) as client:
            yield Served(str(client.base_url), service, client)
    finally:
        service.server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        listening.close()
