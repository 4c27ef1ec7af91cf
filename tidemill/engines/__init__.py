"""What computes a model's outputs from its inputs. An engine is one module here, and one branch of `open_engine`."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from tidemill import config as options
from tidemill.checkpoints.loading import folder_state, silence
from tidemill.encoding.batching import ANY_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, Arrays, Outputs
from tidemill.engines.devices import resolve_device, resolve_dtype, use_all_cpus
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import ConfigError, ModelError
from tidemill.fingerprints import fingerprint
from tidemill.machine import num_cpus

if TYPE_CHECKING:
    import torch

    from tidemill.engines.probing.truth import Truth

# Where OpenVINO finds the package for that, it asks in the middle of a run for leave to send usage statistics, or sends
# them. It looks once, when it is imported, which every module below this one may be the first to do.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

Calibration = Callable[[], pa.Table]
"""Prepared rows in which int8 sees which activations are large, and by which 16 bits are held against float32."""


def never() -> bool:
    """Of what nobody stops."""
    return False


class Answer(Protocol):
    """One batch on its way."""

    def result(self) -> Outputs:
        """Wait for the batch. Raises whatever the model raised."""


class Load(Protocol):
    """A module in eval mode on the CPU, which takes its inputs by their names; a tensor, or an object with `logits`."""

    def __call__(self, *, dtype: torch.dtype) -> torch.nn.Module: ...


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

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> Answer:
        """Start on a batch. Its mask is 1 for tokens, 0 for padding, and not there where nothing is padded.

        May raise what the model raises, or leave that to `result`. Where a batch takes many steps, `should_stop` is
        asked between them, and Stopped is raised.
        """

    def facts(self) -> dict[str, Any]:
        """For lineage: at least `engine`, `device`, `device_name` and `dtype`, with what was not as asked for."""

    def release_memory(self) -> None:
        """Give back what is cached, after out of memory."""


def open_engine(
    folder: str | Path,
    *,
    load: Load,
    inference: options.Inference,
    called: str = "",
    inputs: Collection[str] = (IDS, MASK),
    longest: int | None = None,
    calibration: Calibration | None = None,
) -> Engine:
    """The engine that `inference` means, with the model in `folder`, which `load` loads and which takes `inputs`.

    `called` tells apart what is loaded of the same folder for several tasks, or under several options.

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
    model: Any = load(dtype=torch.float32)
    truth = _examined(folder, model, called, longest=longest, inputs=inputs)
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
    move_to(model, device, folder)
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


def _examined(folder: str | Path, model: Any, called: str, *, longest: int | None, inputs: Collection[str]) -> Truth:
    from tidemill.engines.probing.truth import examine

    key = (*folder_state(folder), called, type(model), *inputs, longest, model.config.get_text_config().pad_token_id)
    if (known := _examinations.get(key)) is not None:
        return known
    try:
        with silence():
            truth = examine(model, longest=longest, inputs=inputs)
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


def move_to(model: torch.nn.Module, device: torch.device, folder: str | Path) -> None:
    """Put the model of `folder` on the device.

    Raises:
        ModelError: it does not fit the device's memory.
    """
    try:
        model.to(device)
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        raise ModelError(
            f"The model in {folder} does not fit the memory of {device}. Free the device, set inference.device to "
            "another, or choose a smaller model."
        ) from e


__all__ = ["Answer", "Calibration", "Engine", "Load", "move_to", "never", "num_cpus", "open_engine"]
