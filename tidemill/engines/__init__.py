"""What computes logits from token ids. An engine is one module here, and one branch of `open_engine`.

Shapes: B rows of a batch, T tokens of the longest, C outputs of the model.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill import config as options
from tidemill.encoding.batching import ANY_LENGTHS, Company
from tidemill.engines.devices import resolve_device, resolve_dtype, use_all_cpus
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import ConfigError, ModelError
from tidemill.fingerprints import fingerprint
from tidemill.machine import num_cpus
from tidemill.models.checkpoint import folder_state, silence
from tidemill.models.tasks import ModelTask

if TYPE_CHECKING:
    import torch

    from tidemill.engines.probing.truth import Truth

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]

CalibrationIds = Callable[[], pa.ListArray]
"""Token ids of texts in which int8 sees which activations are large."""


class Answer(Protocol):
    """One batch on its way."""

    def result(self) -> Logits:
        """Wait for the batch; logits_BC. Raises whatever the model raised."""


class Engine(Protocol):
    """A model on a device. One thread at a time submits; batches are answered in order."""

    name: str
    depth: int
    """Most batches to have on their way at one time."""

    rounds_widths: bool
    """Whether it gains from few different shapes: `batching.rounded`."""

    company: Company
    """Which rows may share a batch without changing each other's answers."""

    @property
    def pads(self) -> bool:
        """Whether rows are computed as wide as the longest of their batch."""

    @property
    def reference(self) -> Engine | None:
        """The same model in float32, where the engine computes in int8: by it drift is measured."""

    def submit(self, ids_BT: Ids, mask_BT: Ids | None) -> Answer:
        """Start on a batch. The mask is 1 for tokens, 0 for padding; None where nothing is padded.

        May raise what the model raises, or leave that to `result`.
        """

    def facts(self) -> dict[str, Any]:
        """For lineage: at least `engine`, `device`, `device_name` and `dtype`, with what was not as asked for."""

    def release_memory(self) -> None:
        """Give back what is cached, after out of memory."""


def open_engine(
    folder: str | Path,
    *,
    task: ModelTask,
    inference: options.Inference,
    longest: int | None = None,
    trust_remote_code: bool = False,
    pad_token_id: int | None = None,
    calibration: CalibrationIds | None = None,
) -> Engine:
    """The engine that `inference` means, with the model in `folder` loaded.

    `longest` is the most tokens of a row that the model takes or will be given, where that is known.

    `auto` is OpenVINO on a CPU where it is installed and converts the model, else
    torch; `facts()["fallback"]` says why, where it was installed and did not.

    Raises:
        ModelError: the model cannot be loaded, does not fit the device, or not the engine that is asked for.
        ConfigError: there is no such device, or the engine is not installed or not for the device.
    """
    import torch

    from tidemill.engines.encoders import rewrite
    from tidemill.engines.precision.heads import heads_of, narrow, replace_heads
    from tidemill.engines.probing.conversion import CannotConvert
    from tidemill.engines.torch_engine import TorchEngine

    device = resolve_device(inference.device)
    use_all_cpus()
    wants_openvino = _wants_openvino(inference, device)
    load = partial(task.load, folder, trust_remote_code=trust_remote_code, pad_token_id=pad_token_id)
    model = load(dtype=torch.float32)
    truth = _examined(folder, model, longest=longest)
    encoder = rewrite(model, truth)
    is_rewritten = encoder is not None
    # An encoder answers alike in any company, or it would not be used.
    company = ANY_LENGTHS if is_rewritten else truth.company
    dtype = resolve_dtype(inference.dtype, device)
    fallback = None
    if wants_openvino:
        from tidemill.engines.openvino_engine import open_openvino

        try:
            return open_openvino(
                encoder or model,
                dtype=dtype,
                identity=fingerprint(*folder_state(folder)),
                truth=truth,
                company=company,
                calibration=calibration,
                is_rewritten=is_rewritten,
            )
        except CannotConvert as e:
            if inference.engine == "openvino" or dtype == "int8":
                also = ' and inference.dtype = "auto"' if dtype == "int8" else ""
                raise ModelError(
                    f'OpenVINO cannot take the model in {folder}: {e}. Set inference.engine = "torch"{also}.'
                ) from e
            fallback = f"OpenVINO cannot take the model, so torch computes it: {e}"
        # What a conversion has left of itself may be as large as the model.
        gc.collect()
    if encoder is not None:
        narrow(encoder, getattr(torch, dtype))
        model = encoder
    elif dtype != "float32":
        # Loaded so, it keeps in float32 what Transformers keeps, rotary frequencies above all; a cast rounds them too.
        heads = heads_of(model)
        del model
        model = load(dtype=getattr(torch, dtype))
        replace_heads(model, heads)
    _move(model, device, folder)
    return TorchEngine(
        model,
        device,
        is_rewritten=is_rewritten,
        fallback=fallback,
        company=company,
        changes_itself=truth.changes_itself and not is_rewritten,
    )


_examinations: dict[tuple[object, ...], Truth] = {}
"""Of the models that this process opened last: the same one may be opened for several engines in turn."""


def _examined(folder: str | Path, model: torch.nn.Module, *, longest: int | None) -> Truth:
    from tidemill.engines.probing.truth import examine

    key = (*folder_state(folder), longest, model.config.get_text_config().pad_token_id)
    if (known := _examinations.get(key)) is not None:
        return known
    try:
        with silence():
            truth = examine(model, longest=longest)
    except ModelError as e:
        raise ModelError(f"The model in {folder} cannot be used: {e}") from e
    # Another thread may open another model meanwhile, and forget this one's.
    _examinations.clear()
    _examinations[key] = truth
    return truth


def _wants_openvino(inference: options.Inference, device: torch.device) -> bool:
    is_installed = importlib.util.find_spec("openvino") is not None
    if inference.dtype == "int8":
        _require_for_int8(inference, device, is_installed=is_installed)
        return True
    if inference.engine == "openvino":
        if device.type != "cpu":
            raise ConfigError(
                f'inference.engine = "openvino" computes on CPUs, and inference.device is {device}. Set inference.'
                'device = "cpu", or inference.engine = "torch".'
            )
        if not is_installed:
            raise ConfigError('inference.engine = "openvino" is not installed: pip install "tidemill[openvino]".')
        return True
    return inference.engine == "auto" and device.type == "cpu" and is_installed


def _require_for_int8(inference: options.Inference, device: torch.device, *, is_installed: bool) -> None:
    if device.type != "cpu" or inference.engine == "torch":
        raise ConfigError(
            'inference.dtype = "int8" is computed by OpenVINO on CPUs. Set inference.device = "cpu" and '
            'inference.engine = "openvino", or another dtype.'
        )
    if not is_installed:
        raise ConfigError('inference.dtype = "int8" needs OpenVINO: pip install "tidemill[openvino]".')


def _move(model: torch.nn.Module, device: torch.device, folder: str | Path) -> None:
    try:
        model.to(device)
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        raise ModelError(
            f"The model in {folder} does not fit the memory of {device}. Free the device, set inference.device to "
            "another, or choose a smaller model."
        ) from e


__all__ = ["Answer", "CalibrationIds", "Engine", "Ids", "Logits", "num_cpus", "open_engine"]
