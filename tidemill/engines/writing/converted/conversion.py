"""Models of Transformers that write, as CTranslate2 reads them.

Its own converter loads a folder by itself and takes tokens from a tokenizer.
Here the module is converted that torch would compute, and a token is called by
the digits of its id: whatever a tokenizer does, ids come in and ids go out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tidemill.checkpoints.loading import silence
from tidemill.engines.probing.conversion import CannotConvert

NORMS = {
    "bart": (False, True),
    "marian": (False, False),
    "m2m_100": (True, False),
    "mbart": (True, True),
    "pegasus": (True, False),
}
"""By `model_type`: whether a layer is normalized before it, and whether embeddings are. Transformers' code says so, and
no configuration."""
T5 = {"t5": "T5Loader", "mt5": "MT5Loader"}
DECODERS = {"gpt2": "GPT2Loader", "llama": "LlamaLoader", "qwen2": "Qwen2Loader", "qwen3": "Qwen3Loader"}


def require_known(kind: str) -> None:
    """
    Raises:
        CannotConvert: nobody knows how a model of that `model_type` is converted.
    """
    if kind not in (known := sorted([*T5, *NORMS, *DECODERS])):
        raise CannotConvert(f"models of type {kind} are not converted; those of {', '.join(known)} are")


def convert(model: torch.nn.Module, folder: Path, *, start_id: int | None, pad_id: int) -> None:
    """Write a float32 module on the CPU to `folder`, which is made. A decoder's module is taken apart by it.

    An encoder-decoder's answer starts with `start_id`. No text has `pad_id`.

    Raises:
        OSError: there is no room for it.
    """
    with torch.no_grad(), silence():
        spec = _spec(model)
        # What ends an answer is told to each call. Of a source that is nothing but these, CTranslate2 writes nothing.
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = str(pad_id)
        if start_id is not None:
            spec.config.decoder_start_token = str(start_id)
        spec.validate()
        spec.optimize()
        folder.mkdir()
        spec.save(str(folder))


def _spec(model: Any) -> Any:
    kind = model.config.model_type
    if kind in DECODERS:
        return _decoder(model, DECODERS[kind])
    spec = _t5(model, T5[kind]) if kind in T5 else _bart(model, kind)
    spec.register_source_vocabulary(_digits(spec.get_source_vocabulary_size()[0]))
    spec.register_target_vocabulary(_digits(spec.get_target_vocabulary_size()))
    return spec


def _digits(size: int) -> list[str]:
    return [str(id_) for id_ in range(size)]


def _t5(model: Any, loader: str) -> Any:
    from ctranslate2.converters import transformers as loaders

    config = model.config
    is_tied = config.tie_word_embeddings
    # The converter takes it for whether outputs are scaled, which since release 5 of Transformers has a key of its own.
    config.tie_word_embeddings = getattr(config, "scale_decoder_outputs", False)
    try:
        spec = getattr(loaders, loader)().get_model_spec(model)
    finally:
        config.tie_word_embeddings = is_tied
    spec.config.add_attribute("layer_norm_epsilon", config.layer_norm_epsilon)
    return spec


def _bart(model: Any, kind: str) -> Any:
    """Marian's too: the zeros from which its decoder starts are those of its padding token."""
    from ctranslate2.converters import transformers as loaders

    model.config.normalize_before, model.config.normalize_embedding = NORMS[kind]
    loader = loaders.BartLoader()
    if kind == "m2m_100":
        loader.set_position_encodings = _set_counted_positions
    return loader.get_model_spec(model)


def _set_counted_positions(spec: Any, module: Any) -> None:
    """Positions that count from behind the padding token's id."""
    spec.encodings = module.weights[module.padding_idx + 1 :]


def _decoder(model: Any, loader: str) -> Any:
    from ctranslate2.converters import transformers as loaders

    config = model.config
    if getattr(config, "use_sliding_window", False):
        raise CannotConvert("its attention sees a window alone, and the conversion would see all")
    spec = getattr(loaders, loader)().get_model_spec(model)
    spec.register_vocabulary(_digits(spec.get_vocabulary_size()))
    spec.config.layer_norm_epsilon = getattr(config, "rms_norm_eps", None) or config.layer_norm_epsilon
    return spec
