"""Which models are computed as an `Encoder`: told by their type, and shown by a probe."""

from __future__ import annotations

from typing import Any

import torch

from tidemill.checkpoints.loading import max_positions
from tidemill.encoding.batching import ANY_LENGTHS
from tidemill.engines.encoders.encoder import Encoder
from tidemill.engines.encoders.parts import parts_of
from tidemill.engines.probing.rows import num_parameters
from tidemill.engines.probing.truth import Truth, examine, on_arrays


def rewrite(model: Any, truth: Truth | None = None) -> Encoder | None:
    """The same model as an `Encoder`, if its type is known and it answers a probe alike in float32; else None.

    The model, one of Transformers or an `Embedder`, has float32 weights on the CPU. The encoder shares them, but for
    the query's. `truth` is what the model answers, where that is known already.
    """
    parts = parts_of(model)
    if parts is None:
        return None
    # No width is special to these models.
    truth = (truth or examine(model, longest=max_positions(model.config))).of_short_rows()
    try:
        with torch.no_grad():
            encoder = Encoder(parts).eval()
        answer = on_arrays(lambda tensors: encoder(**tensors), num_parameters=num_parameters(model))
        agrees = bool(truth.answers) and truth.holds_for(answer, ANY_LENGTHS)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a relative of these families, of another make
        return None
    return encoder if agrees else None
