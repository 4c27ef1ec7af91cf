"""Nothing waits between two tries, and the token is one that the Hub on loopback knows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub.utils import _http

from tests.hub.server import HubServer
from tidemill import retry
from tidemill.publishing.repositories import shipment


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(shipment, "LONGEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub
