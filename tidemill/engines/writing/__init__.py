"""Engines of models that write: what such a model is given, what it wrote, and what computes it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tidemill import config as options
from tidemill.engines import Engine, Load
from tidemill.engines.devices import resolve_device
from tidemill.engines.writing.generation.settings import Settings
from tidemill.errors import ConfigError, ModelError


def open_writer(
    folder: str | Path, *, load: Load, settings: Settings, inference: options.Inference, tokenizer: str | Path
) -> Engine:
    """The engine that `inference` means, with the model in `folder`, which `load` loads and which writes as `settings`
    say; `tokenizer` is the folder of what its ids mean.

    `auto` is CTranslate2 for an encoder-decoder on a CPU, where it is installed and writes what torch writes, else
    torch; `facts()["fallback"]` says why, where it was installed and did not.

    Its outputs are as `written.outputs_of` gives them.

    Raises:
        ModelError: the model cannot be loaded, or not by the engine that is asked for.
        ConfigError: there is no such device, or the engine is not installed.
    """
    from tidemill.engines.probing.conversion import CannotConvert
    from tidemill.engines.writing.torch_writer import TorchWriter

    fallback = None
    if _wants_ctranslate2(inference, settings):
        from tidemill.engines.writing.ctranslate2_writer import CTranslate2Writer

        try:
            return CTranslate2Writer.open(
                folder, load=load, settings=settings, inference=inference, tokenizer=tokenizer
            )
        except CannotConvert as e:
            if inference.engine == "ctranslate2" or inference.dtype == "int8":
                also = ' and inference.dtype = "auto"' if inference.dtype == "int8" else ""
                raise ModelError(
                    f'CTranslate2 cannot take the model in {folder}: {e}. Set inference.engine = "torch"{also}.'
                ) from e
            fallback = f"CTranslate2 cannot take the model, so torch computes it: {e}"
    writer = TorchWriter.open(folder, load=load, settings=settings, inference=inference, tokenizer=tokenizer)
    writer.fallback = fallback
    return writer


def _wants_ctranslate2(inference: options.Inference, settings: Settings) -> bool:
    is_installed = importlib.util.find_spec("ctranslate2") is not None
    if inference.dtype == "int8" and inference.engine == "torch":
        raise ConfigError(
            'inference.dtype = "int8" is computed by CTranslate2 where a model writes. Set inference.engine = '
            '"ctranslate2", or another dtype.'
        )
    if inference.engine == "ctranslate2" or inference.dtype == "int8":
        if not is_installed:
            asked = 'engine = "ctranslate2"' if inference.engine == "ctranslate2" else 'dtype = "int8"'
            raise ConfigError(f'inference.{asked} needs CTranslate2: pip install "tidemill[ctranslate2]".')
        return True
    if inference.engine != "auto" or inference.dtype not in ("auto", "float32") or not settings.is_encoder_decoder:
        return False
    return is_installed and resolve_device(inference.device).type == "cpu"
