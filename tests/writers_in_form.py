"""Tiny models that write, with random weights and tokenizers that can write JSON: a folder each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_tokenizers import ALL, END

TOKENIZERS = {"GPT2": "bytes", "Llama": "pieces and bytes", "T5": "pieces"}
UNUSED = 60
"""Logits behind the tokenizer's vocabulary."""
_HEADS = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM", "T5": "T5ForConditionalGeneration"}
_SIZES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5},
    "Llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.5,
    },
    "T5": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 2,
        "initializer_factor": 3.0,
        "decoder_start_token_id": 0,
    },
}


def save_writer(folder: Path, family: str) -> Any:
    """Returns the model and its tokenizer, of `tokenizers`."""
    import torch
    import transformers

    tokenizer = ALL[TOKENIZERS[family]]()
    end = tokenizer.token_to_id(END)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=tokenizer.get_vocab_size() + UNUSED,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        **_SIZES[family],
    )
    torch.manual_seed(0)
    model = getattr(transformers, _HEADS[family])(config).eval()
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, model_max_length=512
    ).save_pretrained(folder)
    return model, tokenizer
