"""What int8 does to answers, by its arithmetic alone: the same on any processor, and so on one without VNNI too.

    python -m benchmarks.int8 [--rows 256] [--max-length 512] [--mixes 'groups of 64']

Weights are quantized by the engine's own code; activations as OpenVINO does it on a processor with VNNI, which is
symmetric, in groups of a row's values. Prints labels in common with float32 and the drift of scores, for the e-mails.
Says nothing of speed.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.corpora import TINY_SENTIMENT, emails
from benchmarks.machine import this_machine
from tidemill.checkpoints.loading import load_config
from tidemill.encoding.batching import plan_batches
from tidemill.encoding.items import Arrays, Items
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines.calibration_texts import calibration_texts
from tidemill.engines.encoders import rewrite
from tidemill.engines.int8.layers import linear_layers
from tidemill.engines.int8.smoothing import NUM_TEXTS, smoothed
from tidemill.engines.int8.weights import quantized
from tidemill.models.tasks import find_task

BATCH_TOKENS = 2_048


class Emulated(nn.Module):  # type: ignore[misc]  # torch is Any here
    """A linear layer as it is computed in int8; `group` is None where activations stay as they are."""

    def __init__(self, linear: nn.Linear, group: int | None) -> None:
        super().__init__()
        numbers, zero, scale = quantized(linear.weight.detach().numpy())
        self.weight = torch.from_numpy((numbers.astype(np.float32) - zero) * scale)
        self.bias, self.group = linear.bias, group

    def forward(self, x: Tensor) -> Tensor:
        grouped = x if self.group is None else _rounded(x, self.group)
        return nn.functional.linear(grouped, self.weight, self.bias)


def _rounded(x: Tensor, group: int) -> Tensor:
    groups = x.unflatten(-1, (-1, min(group, x.shape[-1])))
    scale = groups.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
    return ((groups / scale).round() * scale).flatten(-2)


def in_int8(model: nn.Module, group: int | None) -> nn.Module:
    for name, linear in linear_layers(model).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Emulated(linear, group))
    return model


Mix = Callable[[], nn.Module]


def mixes(texts: list[Arrays]) -> dict[str, Mix]:
    def smooth() -> nn.Module:
        return smoothed(_model(), texts, kept_as="tiny-sentiment")[0]

    return {
        "weights alone": lambda: in_int8(_model(), None),
        "groups of 64": lambda: in_int8(_model(), 64),
        "groups of 384": lambda: in_int8(_model(), 384),
        "weights alone, smoothed": lambda: in_int8(smooth(), None),
        "groups of 32, smoothed": lambda: in_int8(smooth(), 32),
        "groups of 64, smoothed": lambda: in_int8(smooth(), 64),
        "groups of 128, smoothed": lambda: in_int8(smooth(), 128),
        "groups of 384, smoothed": lambda: in_int8(smooth(), 384),
    }


def _model() -> nn.Module:
    model = find_task("text-classification")(load_config(TINY_SENTIMENT)).load(
        TINY_SENTIMENT, dtype=torch.float32, trust_remote_code=False
    )
    encoder = rewrite(model)
    assert encoder is not None
    return encoder


def answers(model: nn.Module, items: Items) -> NDArray[np.float32]:
    scores = np.zeros((len(items), 2), dtype=np.float32)
    with torch.inference_mode():
        for batch in plan_batches(items.lengths, token_budget=BATCH_TOKENS):
            given = {name: torch.from_numpy(each) for name, each in items.collate(batch, pad_id=0).items()}
            scores[batch] = model(**given).softmax(dim=-1).numpy()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="so many of the e-mails, evenly")
    parser.add_argument("--max-length", type=int, default=512, help="tokens that a text is cut to")
    parser.add_argument("--mixes", default="", help="a regular expression: only mixes whose name it matches")
    args = parser.parse_args()
    print(this_machine())
    with tempfile.TemporaryDirectory() as home:
        # Nothing that was kept of an earlier try.
        os.environ["TIDEMILL_HOME"] = home
        compare(args.rows, args.max_length, args.mixes)


def compare(num_rows: int, max_length: int, names: str) -> None:
    tokenizer = TextTokenizer.load(TINY_SENTIMENT, max_length=max_length)
    items = Items.of(tokenizer.prepare(pa.table({"text": emails(num_rows)})), deduplicate=False)
    texts = Items.of(tokenizer.prepare(pa.table({"text": calibration_texts()[:NUM_TEXTS]})), deduplicate=False)
    print(f"{len(items)} e-mails, {int(items.lengths.sum()):,} tokens", flush=True)
    expected = answers(_model(), items)
    for name, mix in mixes([texts.collate(np.array([i]), pad_id=0) for i in range(len(texts))]).items():
        if re.search(names, name):
            print(f"{name:26} {_said(answers(mix(), items), expected)}", flush=True)


def _said(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> str:
    same = (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()
    drift = np.abs(ours - theirs).max(axis=1)
    return f"{same:8.2%} same label, drift p99 {np.quantile(drift, 0.99):.4f}, mean {drift.mean():.4f}"


if __name__ == "__main__":
    main()
