"""Rows without padding: one behind the other, kept apart by torch's variable-length attention, in 16 bits.

Shapes: B rows of a batch, T tokens of the longest, N tokens of all rows, C outputs; R rows of a check, or their tokens
where each has outputs of its own.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tidemill.engines.devices import is_device_failure
from tidemill.engines.encoders import Encoder, VariableAttention

logger = logging.getLogger("tidemill")

TOLERANCE = 0.05
"""Of what answers differ by from row to row: 16 bits, summed in another order. A row that sees another's tokens is
further off."""
ROUNDING = 2**-7
"""Of the largest logit, which has as many digits in 16 bits: by so much a constant in all of them is off."""


class Forward(Protocol):
    """As the encoder with padding; `starts` has B + 1 values, int32: where each row begins, and N."""

    def __call__(self, ids_N: Tensor, starts: Tensor, types_N: Tensor | None = None, *, longest: int) -> Tensor: ...


class PackedEncoder:
    """An encoder's forward without padding.

    It is not compiled: on an H100 `torch.compile` took half a minute, and a base-size model was a fourteenth slower
    then (benchmarks/results).
    """

    def __init__(self, encoder: Encoder, device: torch.device, attend: VariableAttention) -> None:
        """
        Raises:
            ArithmeticError: it answers otherwise than with padding.
            Exception: whatever the device's kernels raise.
        """
        self._encoder, self._attend = encoder, attend
        check(encoder, self, device)

    def __call__(self, ids_N: Tensor, starts: Tensor, types_N: Tensor | None = None, *, longest: int) -> Tensor:
        return self._encoder.forward_packed(ids_N, starts, types_N, longest=longest, attend=self._attend)


def open_packed(model: Any, device: torch.device) -> PackedEncoder | None:
    """The packed forward of a rewritten encoder in 16 bits on a GPU; None where there is none, or it does not work."""
    if device.type != "cuda" or not isinstance(model, Encoder) or model.words.dtype.itemsize != 2:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn

        return PackedEncoder(model, device, varlen_attn)
    except Exception as e:
        if is_device_failure(e):
            raise
        logger.warning("Attention without padding does not work on %s, so batches are padded: %s", device, e)
        return None


def check(encoder: Encoder, packed: Forward, device: torch.device) -> None:
    """Rows of several numbers and lengths, and one alone, must have the answers that they have with padding.

    Raises:
        ArithmeticError: they have not.
    """
    most, num_types = encoder.most_tokens, 0 if encoder.types is None else len(encoder.types)
    draw = torch.Generator().manual_seed(0)
    expected, answered = [], []
    with torch.inference_mode():
        for lengths in ((3, 2), (min(300, most), min(17, most), 1), (min(5, most),)):
            shape = len(lengths), max(lengths)
            ids_BT = torch.randint(0, len(encoder.words), shape, generator=draw).to(device)
            types_BT = torch.randint(0, num_types, shape, generator=draw).to(device) if num_types else None
            is_token_BT = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(device)
            starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
            types_N = None if types_BT is None else types_BT[is_token_BT]
            padded = encoder(ids_BT, is_token_BT.long(), types_BT).float()
            without = packed(ids_BT[is_token_BT], starts, types_N, longest=max(lengths)).float()
            # Of what has a value for each token, those of padding mean nothing.
            expected.append(padded[is_token_BT] if padded.ndim == 3 else padded)
            answered.append(without[is_token_BT] if padded.ndim == 3 else without)
        expected_RC = torch.cat(expected)
        spread = expected_RC.amax(dim=0) - expected_RC.amin(dim=0)
        bound = TOLERANCE * spread.max() + ROUNDING * expected_RC.abs().max()
        if not bool((torch.cat(answered) - expected_RC).abs().max() <= bound):
            raise ArithmeticError("without padding rows have other answers than with it")
