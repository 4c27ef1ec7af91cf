"""Tiny tokenizers of the kinds that models which write have, and how each ends an answer."""

from __future__ import annotations

import json
import string
from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    *("yes no maybe", "positive negative neutral", "the answer is yes", "no idea, 12345 67890", string.printable),
    '{"label": "positive", "score": 0.5, "tags": ["a","b"], "is_new": true, "by": null}',
] * 3
END = "</s>"


def bytes_of_words() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen have: a blank is part of the word behind it, and is kept."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def pieces_and_bytes() -> Tokenizer:
    """As Llama 2 and Gemma have: a text begins with a blank, which is taken off again; what is unknown is bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", END, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:2]
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def pieces() -> Tokenizer:
    """As T5, mT5 and NLLB have: the likeliest pieces, behind a blank that is taken off again."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", END, "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def words() -> Tokenizer:
    """As BERT has, whose encoder and decoder some models are made of: without case, blanks put in when it decodes."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[PAD]", "[UNK]", END], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


ALL: dict[str, Callable[[], Tokenizer]] = {
    "bytes": bytes_of_words,
    "pieces and bytes": pieces_and_bytes,
    "pieces": pieces,
    "words": words,
}
OF_JSON = [name for name in ALL if name != "words"]
