"""Engines of models that write: what such a model is given, what it wrote, and what computes it."""

from __future__ import annotations

from pathlib import Path

from tidemill import config as options
from tidemill.engines import Engine, Load
from tidemill.engines.writing.settings import Settings


def open_writer(
    folder: str | Path, *, load: Load, settings: Settings, inference: options.Inference, tokenizer: str | Path
) -> Engine:
    """The engine that `inference` means, with the model in `folder`, which `load` loads and which writes as `settings`
    say; `tokenizer` is the folder of what its ids mean.

    Its outputs are as `written.outputs_of` gives them.

    Raises:
        ModelError: the model cannot be loaded, or not by the engine that is asked for.
        ConfigError: there is no such device, or the engine is not installed.
    """
    from tidemill.engines.writing.torch_writer import TorchWriter

    return TorchWriter.open(folder, load=load, settings=settings, inference=inference, tokenizer=tokenizer)
