"""What tests of the engine have in common."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def messages_reach_whoever_captures_them(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prefect, once a test of a flow has configured its logging, keeps Tidemill's messages to its own handlers.

    And what Transformers imports for some architectures keeps warnings from the root logger.
    """
    logger = logging.getLogger("tidemill")
    monkeypatch.setattr(logger, "propagate", True)
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)
