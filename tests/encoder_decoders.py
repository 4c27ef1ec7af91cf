"""Tiny encoder-decoders with random weights, one of each family, with the words of `tiny_writers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_writers import write_words
from tidemill.checkpoints.loading import silence

VOCABULARY = 400
PAD, END = 1, 2
MANY_ENDS = [END, *range(5, VOCABULARY, 5)]
"""So that random answers end, and at different lengths."""
LANGUAGE = 6

T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "initializer_factor": 2.0}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.5,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {**T5, "decoder_start_token_id": PAD}),
    "t5 1.1": (
        "T5",
        {**T5, "decoder_start_token_id": PAD, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5", {**T5, "decoder_start_token_id": PAD}),
    "bart": ("Bart", {**BART, "decoder_start_token_id": END, "bos_token_id": 0}),
    "marian": ("Marian", {**BART, "decoder_start_token_id": PAD, "scale_embedding": True}),
    "m2m_100": ("M2M100", {**BART, "decoder_start_token_id": END, "scale_embedding": True}),
    "mbart": ("MBart", {**BART, "decoder_start_token_id": END, "scale_embedding": True}),
    "pegasus": ("Pegasus", {**BART, "decoder_start_token_id": PAD, "scale_embedding": True}),
}
HEADS = {"Marian": "MarianMTModel"}


def write_encoder_decoder(folder: Path, family: str, *, ends: Any = MANY_ENDS, **generation: Any) -> Path:
    """Its generation_config.json says `generation`, and little else."""
    import torch
    import transformers

    name, shape = FAMILIES[family]
    write_words(folder, pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    forced = {"forced_eos_token_id": None, "forced_bos_token_id": None}
    config = getattr(transformers, f"{name}Config")(
        **{"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": END, **forced, **shape}
    )
    head = HEADS.get(name, f"{name}ForConditionalGeneration")
    with silence():
        getattr(transformers, head)(config).save_pretrained(folder)
    said = {
        "eos_token_id": ends,
        "pad_token_id": PAD,
        "decoder_start_token_id": shape["decoder_start_token_id"],
        **generation,
    }
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder
