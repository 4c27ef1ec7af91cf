"""Tiny models that write, a family each, with random weights that are large enough for answers to differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig

from tidemill import config as options
from tidemill.encoding.items import IDS, MASK
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import answers_of
from tidemill.engines.writing.torch_writer import TorchWriter

VOCABULARY = 160
ENDS = list(range(2, VOCABULARY, 12))
PAD = 1
MOST = 12
NUM_POSITIONS = 64
CPU = options.Inference(device="cpu", dtype="float32")

_LIKE_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": NUM_POSITIONS,
    "initializer_range": 0.5,
}
_LIKE_BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": NUM_POSITIONS,
    "init_std": 0.5,
    "decoder_start_token_id": 3,
}

DECODERS: dict[str, dict[str, Any]] = {
    "GPT2": {"n_positions": NUM_POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5},
    "Llama": _LIKE_LLAMA,
    "Mistral": {**_LIKE_LLAMA, "sliding_window": 7},
    "Qwen2": _LIKE_LLAMA,
    "Qwen3": _LIKE_LLAMA,
    "Gemma": _LIKE_LLAMA,
    "Gemma2": {**_LIKE_LLAMA, "sliding_window": 7, "query_pre_attn_scalar": 8},
    "Gemma3Text": {
        **_LIKE_LLAMA,
        "sliding_window": 7,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "Phi3": {**_LIKE_LLAMA, "sliding_window": 7},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5},
    "OPT": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": NUM_POSITIONS,
        "init_std": 0.5,
    },
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "T5": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 2,
        "initializer_factor": 3.0,
        "decoder_start_token_id": PAD,
    },
    "Bart": {**_LIKE_BART, "forced_eos_token_id": 2},
    "Marian": {**_LIKE_BART, "decoder_start_token_id": PAD},
    "M2M100": _LIKE_BART,
}
FAMILIES = [*DECODERS, *ENCODER_DECODERS]

_HEADS = {
    "GPT2": "GPT2LMHeadModel",
    "Gemma3Text": "Gemma3ForCausalLM",
    "T5": "T5ForConditionalGeneration",
    "Bart": "BartForConditionalGeneration",
    "Marian": "MarianMTModel",
    "M2M100": "M2M100ForConditionalGeneration",
}


class Writer:
    """A model in its engine, beside `model.generate` of the same weights."""

    def __init__(self, folder: Path, family: str, *, tokenizer: Path | None = None, **generation: Any) -> None:
        self.model = make_model(family)
        self.model.generation_config = GenerationConfig()
        self.model.save_pretrained(folder)
        GenerationConfig(
            eos_token_id=ENDS,
            pad_token_id=PAD,
            bos_token_id=0,
            decoder_start_token_id=getattr(self.model.config, "decoder_start_token_id", None),
            **generation,
        ).save_pretrained(folder)
        self.folder, self.tokenizer = folder, tokenizer or folder

    def open(self, *, inference: options.Inference = CPU, max_new_tokens: int = MOST, **settings: Any) -> TorchWriter:
        return TorchWriter.open(
            self.folder,
            load=self._load,
            settings=self.settings(max_new_tokens=max_new_tokens, **settings),
            inference=inference,
            tokenizer=self.tokenizer,
        )

    def settings(self, **settings: Any) -> Settings:
        return Settings.of(self.folder, self.model.config, **{"max_new_tokens": MOST, **settings})

    def _load(self, *, dtype: torch.dtype) -> torch.nn.Module:
        model: torch.nn.Module = type(self.model).from_pretrained(self.folder, dtype=dtype).eval()
        model.config.use_cache = False
        return model

    def alone(self, prompt: Sequence[int], **changes: Any) -> list[int]:
        """Every id that `model.generate` writes of one row, in a batch of its own."""
        generation = self.settings().generation
        generation.update(**changes)
        with torch.inference_mode():
            found = self.model.generate(torch.tensor([list(prompt)]), generation_config=generation, use_cache=True)
        ids: list[int] = found[0, 1 if self.model.config.is_encoder_decoder else len(prompt) :].tolist()
        return ids


def make_model(family: str) -> Any:
    name = family.removesuffix("Text")
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3Text" else f"{name}Config")
    torch.manual_seed(0)
    made = config(
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=ENDS[0],
        pad_token_id=PAD,
        # Tied, a model says again what it has said.
        tie_word_embeddings=False,
        **{**DECODERS, **ENCODER_DECODERS}[family],
    )
    return getattr(transformers, _HEADS.get(family, f"{name}ForCausalLM"))(made).eval()


def prompts(num_rows: int = 13, *, longest: int = 20, seed: int = 0) -> list[list[int]]:
    """Of several lengths, some of which are the same, and some rows of which begin alike."""
    drawn = np.random.default_rng(seed)
    rows = [drawn.integers(3, VOCABULARY, size=size).tolist() for size in drawn.integers(1, longest, size=num_rows)]
    begin = drawn.integers(3, VOCABULARY, size=17).tolist()
    return [*rows, *([*begin, *row[:3]] for row in rows[:4])]


def batch(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    width = max(map(len, rows))
    ids = np.array([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=np.int64)
    return {IDS: ids} if mask.all() else {IDS: ids, MASK: mask}


def write(engine: TorchWriter, rows: Sequence[Sequence[int]], *, size: int | None = None) -> list[dict[str, Any]]:
    """What the engine writes of each row, with batches of `size`, several of them on their way at one time."""
    size = size or len(rows)
    answers = [engine.submit(batch(rows[i : i + size])) for i in range(0, len(rows), size)]
    found: list[dict[str, Any]] = []
    for answer in answers:
        found += answers_of(answer.result()).to_pylist()
    return found


def ids_of(found: Sequence[dict[str, Any]]) -> list[list[int]]:
    return [each["ids"] for each in found]
