"""The model in float32 in torch, for the few rows that its engine gave no number for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tidemill.encoding.items import Arrays, Outputs
from tidemill.engines import Engine
from tidemill.errors import ModelError

logger = logging.getLogger("tidemill")


class ExactEngine:
    """Opened when the first row needs it, and kept; so is why it cannot be opened. Threads may share it."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        """`open_engine` may raise ModelError, as it does where memory has no room for a second model."""
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._failure: str | None = None
        self._lock = threading.Lock()

    def outputs(self, inputs: Arrays) -> Outputs:
        """Of items without padding. Raises whatever opening or computing raises."""
        with self._lock:
            return self._opened().submit(inputs).result()

    def _opened(self) -> Engine:
        if self._failure is not None:
            raise ModelError(self._failure)
        if self._engine is None:
            logger.warning("Some rows have no finite scores in this engine, so torch computes them in float32.")
            try:
                self._engine = self._open_engine()
            except Exception as e:
                self._failure = str(e)
                raise
        return self._engine


def is_exact(engine: Engine) -> bool:
    facts = engine.facts()
    return (facts["engine"], facts["dtype"]) == ("torch", "float32")
