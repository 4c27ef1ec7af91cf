"""Models that write, in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from tidemill import config as options
from tidemill.checkpoints.loading import silence
from tidemill.encoding.batching import ANY_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, Arrays
from tidemill.engines import Load, never
from tidemill.engines.devices import device_name, resolve_device, use_all_cpus
from tidemill.engines.writing.settings import Settings
from tidemill.engines.writing.written import LENGTH, STOP, Written, outputs_of
from tidemill.errors import Stopped


@dataclass(frozen=True)
class _Done:
    outputs: Any

    def result(self) -> Any:
        return self.outputs


class TorchWriter:
    name = "torch"
    depth = 1
    rounds_widths = False
    company: Company = ANY_LENGTHS
    pads = True
    reference = None
    fallback: str | None = None
    """Why another engine, which `auto` prefers, does not compute the model."""

    def __init__(self, model: nn.Module, device: torch.device, settings: Settings) -> None:
        self.model, self.device, self.settings = model, device, settings

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        load: Load,
        settings: Settings,
        inference: options.Inference,
        tokenizer: str | Path,
    ) -> Self:
        use_all_cpus()
        device = resolve_device(inference.device)
        dtype = "float32" if inference.dtype == "auto" else inference.dtype
        return cls(load(dtype=getattr(torch, dtype)).to(device), device, settings)

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> _Done:
        lengths = inputs[MASK].sum(axis=1) if MASK in inputs else np.full(len(inputs[IDS]), inputs[IDS].shape[1])
        written = []
        for ids, length in zip(inputs[IDS], lengths, strict=True):
            if should_stop():
                raise Stopped("Stopped between two items. The shard starts again on the next run.")
            written.append(self._write(ids[:length]))
        return _Done(outputs_of(written))

    def _write(self, prompt: Any) -> Written:
        with torch.inference_mode(), silence():
            found = self.model.generate(  # type: ignore[operator]
                torch.from_numpy(prompt)[None].to(self.device),
                generation_config=self.settings.generation,
                use_cache=True,
            )
        start = 1 if self.settings.is_encoder_decoder else len(prompt)
        new = found[0, start:].tolist()
        is_stopped = bool(new) and new[-1] in self.settings.end_ids and len(new) <= self.settings.max_new_tokens
        return Written(new, STOP if is_stopped else LENGTH, len(prompt), len(new))

    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "device": str(self.device),
            "device_name": device_name(self.device),
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "generation": self.settings.facts(),
            **({"fallback": self.fallback} if self.fallback else {}),
        }

    def release_memory(self) -> None:
        torch.cuda.empty_cache()
