"""Tiny tokenizers of models that translate, each telling its model languages in its family's way."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from tests.checkpoints import reviews

LANGUAGES = ("eng_Latn", "deu_Latn", "fra_Latn")


def write_t5(folder: Path, **options: Any) -> Any:
    """Unigram pieces, of which the end of a text is one."""
    from transformers import AutoTokenizer, T5Tokenizer

    T5Tokenizer(vocab=_unigram("<pad>", "</s>", "<unk>"), extra_ids=0, model_max_length=512, **options).save_pretrained(
        folder
    )
    return AutoTokenizer.from_pretrained(folder)


def write_nllb(folder: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer, NllbTokenizer

    vocab, merges = _merged("<s>", "<pad>", "</s>", "<unk>")
    tokenizer = NllbTokenizer(
        vocab=vocab, merges=merges, additional_special_tokens=list(LANGUAGES), model_max_length=512, **options
    )
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def write_mbart(folder: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer, MBartTokenizer

    MBartTokenizer(vocab=_unigram("<s>", "<pad>", "</s>", "<unk>"), model_max_length=512, **options).save_pretrained(
        folder
    )
    return AutoTokenizer.from_pretrained(folder)


def write_marian(folder: Path, *, languages: tuple[str, ...] = (), **options: Any) -> Any:
    """Of several languages the vocabulary has a token each."""
    from transformers import AutoTokenizer, MarianTokenizer

    pieces = write_sentencepiece(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    names = ["</s>", "<unk>", *(f">>{code}<<" for code in languages), *pieces, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(dict.fromkeys(names))}))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        MarianTokenizer(*files, **options).save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def write_m2m100(folder: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer, M2M100Tokenizer

    pieces = write_sentencepiece(folder / "sentencepiece.bpe.model")
    names = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(dict.fromkeys(names))}))
    tokenizer = M2M100Tokenizer(
        str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"), model_max_length=512, **options
    )
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def write_sentencepiece(path: Path) -> list[str]:
    """A small model; its pieces."""
    import io

    import sentencepiece

    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(reviews(300)), model_writer=out, vocab_size=300, hard_vocab_limit=False, minloglevel=2
    )
    path.write_bytes(out.getvalue())
    made = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    return [made.id_to_piece(number) for number in range(made.get_piece_size())]


def _unigram(*special: str) -> list[tuple[str, float]]:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        reviews(300),
        trainers.UnigramTrainer(vocab_size=300, special_tokens=list(special), unk_token="<unk>", show_progress=False),
    )
    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["vocab"]]


def _merged(*special: str) -> tuple[dict[str, int], list[Any]]:
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(
        reviews(300), trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]
