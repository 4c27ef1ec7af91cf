"""What tests of the engine have in common."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def messages_reach_whoever_captures_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect, once a test of a flow has configured its logging, keeps Tidemill's messages to its own handlers."""
    monkeypatch.setattr(logging.getLogger("tidemill"), "propagate", True)
