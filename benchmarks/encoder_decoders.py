"""A folder with an encoder-decoder of a real one's shape and random weights, for `benchmarks.writing`.

    python -m benchmarks.encoder_decoders FOLDER [--family t5]

Shapes: t5 is T5-small's (6 layers of 512), bart BART-base's (6 of 768), marian OPUS-MT's (6 of 512). The tokenizer has
8,000 tokens of the bundled reviews. A model of random weights ends few answers: most are as long as they may be.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.entities import read_texts

VOCABULARY = 8_000
PAD, END = 0, 1
NUM_TEXTS = 2_000
_LIKE_BART: dict[str, Any] = {
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_ffn_dim": 2_048,
    "decoder_ffn_dim": 2_048,
    "max_position_embeddings": 512,
    "decoder_start_token_id": PAD,
}
_HEADS = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5Config", "T5ForConditionalGeneration", {"decoder_start_token_id": PAD}),
    "bart": ("BartConfig", "BartForConditionalGeneration", {**_LIKE_BART, "d_model": 768, "bos_token_id": 2}),
    "marian": ("MarianConfig", "MarianMTModel", {**_LIKE_BART, **_HEADS, "d_model": 512}),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--family", choices=SHAPES, default="t5")
    given = asked.parse_args()
    make_tokenizer(given.folder)
    make_model(given.folder, given.family)


def make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(read_texts("reviews", NUM_TEXTS), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=512
    )
    fast.save_pretrained(folder)


def make_model(folder: Path, family: str) -> None:
    import torch
    import transformers

    config, head, shape = SHAPES[family]
    torch.manual_seed(0)
    made = getattr(transformers, config)(vocab_size=VOCABULARY, pad_token_id=PAD, eos_token_id=END, **shape)
    getattr(transformers, head)(made).save_pretrained(folder)


if __name__ == "__main__":
    main()
