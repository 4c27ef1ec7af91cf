"""What the loops have in common: rows are put in, and each step writes one more token of those it has at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tidemill.engines.writing.decoding.rows import Row
from tidemill.machine import memory_bytes

PREFILL_TOKENS = {"cpu": 2_048, "cuda": 16_384}
"""Of prompts that are read in one forward pass, padding included."""


class Loop(Protocol):
    def put(self, rows: Sequence[Row]) -> None:
        """Rows of one batch, to be written after those that were put before."""

    def step(self, should_stop: Callable[[], bool]) -> None:
        """Bring some of the rows further. After an error no row is in the loop any more.

        Raises:
            Stopped: `should_stop` said so, where a step is a whole answer.
        """

    def drop(self, rows: Sequence[Row]) -> None:
        """Forget these rows."""


def most_read_at_once(device: torch.device) -> int:
    return PREFILL_TOKENS.get(device.type, PREFILL_TOKENS["cpu"])


def free_memory(device: torch.device) -> int:
    """In bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_bytes()[1]


def last_logits(outputs: Any) -> Tensor:
    logits: Tensor = outputs.logits[:, -1]
    return logits
