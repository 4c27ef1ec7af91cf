"""Tiny models that write, with random weights, and the tokenizer that they share."""

from __future__ import annotations

from pathlib import Path

END = "<|endoftext|>"
TEXTS = ["the cat sat on the mat and the dog ran to the house of the king, who was not at home"] * 50


def write_words(folder: Path, **tokens: str) -> Path:
    """A byte-level BPE tokenizer of 400 tokens, the first of which ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END, *tokens.values()], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    named = {"eos_token": END, "unk_token": END, **tokens}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder


def write_gpt2(folder: Path, *, num_positions: int = 128) -> Path:
    """It writes other tokens behind other prompts, and ends some of them."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    write_words(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=400,
        n_positions=num_positions,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=list(range(0, 400, 9)),
        initializer_range=0.5,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
