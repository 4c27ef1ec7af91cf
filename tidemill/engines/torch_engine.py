"""Torch on a CPU or a GPU.

On a CPU several batches are computed side by side, each by few threads: none
waits for a core that is busy with other work. On a GPU submitting only queues:
ids come from pinned memory, logits go back into pinned memory behind the
kernels, and waiting for one batch does not stop the next. There a rewritten
encoder runs without padding, in 16 bits, by torch's variable-length attention.

Shapes: B rows of a batch, T tokens of the longest, N tokens of all rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tidemill.checkpoints.loading import silence
from tidemill.encoding.batching import ANY_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, TYPES, Arrays, Outputs
from tidemill.engines import Answer, never
from tidemill.engines.devices import device_name
from tidemill.engines.encoders import Encoder
from tidemill.engines.packed import open_packed
from tidemill.engines.probing.company import facts_of
from tidemill.engines.probing.state import State
from tidemill.engines.probing.truth import outputs_of
from tidemill.machine import num_cpus

GPU_DEPTH = 16
MOST_STREAMS = 8
"""Batches that a CPU computes side by side, each with its own activations in memory."""
PREPACKED_FOR = 2_048
"""Tokens of a batch that the layout of prepacked weights is chosen for; others work too."""
LEAST_OUTPUTS = 16
"""Narrower layers gain nothing."""


@dataclass(frozen=True)
class _Done:
    outputs: Outputs

    def result(self) -> Outputs:
        return self.outputs


@dataclass(frozen=True)
class _Queued:
    """Outputs on their way from a GPU; the inputs stay until then, since their copy may not have begun."""

    on_host: Tensor
    copied: torch.cuda.Event
    sent: tuple[Tensor, ...]

    def result(self) -> Outputs:
        self.copied.synchronize()
        # A copy, so that the pinned memory is free for another batch.
        outputs: Outputs = self.on_host.numpy().copy()
        return outputs


class TorchEngine:
    """A module on its device, in the dtype of its weights but for its head's."""

    name = "torch"
    rounds_widths = False
    reference = None

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        num_streams: int | None = None,
        is_rewritten: bool = False,
        fallback: str | None = None,
        company: Company = ANY_LENGTHS,
        changes_itself: bool = False,
    ) -> None:
        """`num_streams` is how many batches a CPU computes side by side: all cores, up to `MOST_STREAMS`, unless given.

        With one, a batch is computed when it is submitted. A model that `changes_itself` when it computes is made what
        it was before each batch, and computes one at a time.
        """
        self.model, self.device, self.company = model, device, company
        self._state = State(model) if changes_itself else None
        # The head's is float32 in any case.
        self.dtype = next(getattr(model, "base_model", model).parameters()).dtype
        if device.type == "cpu" and isinstance(model, Encoder):
            _prepack(model)
        num_streams = 1 if changes_itself else num_streams or _most_streams(num_cpus())
        self._pool = _open_pool(num_streams) if device.type == "cpu" and num_streams > 1 else None
        self.depth = GPU_DEPTH if device.type == "cuda" else 1 if self._pool is None else 2 * num_streams
        self._is_rewritten, self._fallback = is_rewritten, fallback
        with self._current():
            self._packed = open_packed(model, device)

    @property
    def pads(self) -> bool:
        return self._packed is None

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> Answer:
        if self.device.type == "cuda":
            with self._current(), torch.inference_mode():
                return self._queue(inputs)
        if self._pool is not None:
            return self._pool.submit(self._compute, inputs)
        return _Done(self._compute(inputs))

    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "device": str(self.device),
            "device_name": device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "rewritten": self._is_rewritten,
            **({} if self._packed is None else {"attention": "packed"}),
            **facts_of(self.company, changes_itself=self._state is not None),
            **({"fallback": self._fallback} if self._fallback else {}),
        }

    def release_memory(self) -> None:
        torch.cuda.empty_cache()

    def _current(self) -> AbstractContextManager[object]:
        """Streams, events and kernels belong to the current GPU, which is the first unless somebody says otherwise."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _compute(self, inputs: Arrays) -> Outputs:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(values).to(self.device) for name, values in inputs.items()}
            outputs: Outputs = self._forward(tensors).float().cpu().numpy()
            return outputs

    def _forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        given = {MASK: None, **tensors}
        if self._state is None:
            return outputs_of(self.model(**given))
        self._state.restore()
        with silence():  # what such a model says of its change once, it would say at each batch
            return outputs_of(self.model(**given))

    def _queue(self, inputs: Arrays) -> Answer:
        if self._packed is None:
            pinned = {name: _pinned(values) for name, values in inputs.items()}
            sent = tuple(pinned.values())
            outputs = self._forward({name: each.to(self.device, non_blocking=True) for name, each in pinned.items()})
        else:
            sent, longest = _without_padding(inputs)
            outputs = self._packed(*(each.to(self.device, non_blocking=True) for each in sent), longest=longest)
        outputs = outputs.float()
        on_host = torch.empty(outputs.shape, dtype=torch.float32, pin_memory=True)
        on_host.copy_(outputs, non_blocking=True)
        # A blocking event sleeps while it waits, and leaves the core to tokenizing.
        copied = torch.cuda.Event(blocking=True)
        copied.record(torch.cuda.current_stream(self.device))
        return _Queued(on_host, copied, sent)


def _most_streams(cpus: int) -> int:
    """As many streams of equally many threads, up to `MOST_STREAMS`, as leave no CPU or few without work."""
    return cpus // -(-cpus // MOST_STREAMS)


def _open_pool(num_streams: int) -> ThreadPoolExecutor:
    num_threads = max(1, num_cpus() // num_streams)
    return ThreadPoolExecutor(
        num_streams, thread_name_prefix="tidemill-torch", initializer=torch.set_num_threads, initargs=(num_threads,)
    )


def _without_padding(inputs: Arrays) -> tuple[tuple[Tensor, ...], int]:
    """Ids, starts of rows and, where there are some, types, in pinned memory; and how many tokens a row has at most."""
    ids_BT, mask_BT = inputs[IDS], inputs.get(MASK)
    lengths_B = np.full(len(ids_BT), ids_BT.shape[1]) if mask_BT is None else mask_BT.sum(axis=1)
    tokens = [inputs[name] for name in (IDS, TYPES) if name in inputs]
    ids_N, *types_N = (each.ravel() if mask_BT is None else each[mask_BT.astype(bool)] for each in tokens)
    starts = np.concatenate([[0], np.cumsum(lengths_B)]).astype(np.int32)
    return tuple(map(_pinned, (ids_N, starts, *types_N))), int(lengths_B.max())


def _pinned(values: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(values).pin_memory()


class _Prepacked(nn.Module):
    """A linear layer in bfloat16 whose weights lie as oneDNN multiplies them, which saves it a reordering each time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), PREPACKED_FOR)
        self.bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def _prepack(module: nn.Module) -> None:
    """Replace the linear layers of `module`; those that this torch or processor cannot prepack stay."""
    for name, child in module.named_children():
        if type(child) is nn.Linear and child.weight.dtype == torch.bfloat16 and child.out_features >= LEAST_OUTPUTS:
            with suppress(RuntimeError, AttributeError, NotImplementedError):
                setattr(module, name, _checked(_Prepacked(child), child))
        else:
            _prepack(child)


def _checked(prepacked: _Prepacked, linear: nn.Linear) -> nn.Module:
    """The prepacked layer, if it multiplies as the layer does: these operations are not torch's public ones."""
    with torch.no_grad():
        x = torch.linspace(-1, 1, 4 * linear.in_features, dtype=torch.bfloat16).view(4, -1)
        same = torch.allclose(prepacked(x).float(), linear(x).float(), rtol=0.02, atol=0.02)
    return prepacked if same else linear
