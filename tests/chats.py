"""Tiny tokenizers of chat models, each with what is peculiar to a family's tokenizer and template."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.checkpoints import reviews

CHATML = """\
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
"""Qwen's: its tokens of thinking are not special ones."""

LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
"""Its texts are trimmed, and its tokenizer puts a token before every text that is not of a template."""

LLAMA2 = """\
{%- if messages[0]['role'] == 'system' %}
{%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{%- for message in messages %}
{%- if message['role'] not in ['user', 'assistant'] %}{{ raise_exception('Only users and assistants') }}{% endif %}
{%- set content = (system + message['content']) if loop.first else message['content'] %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""
"""Its first message is trimmed together with the system's, and its tokenizer puts a blank before every stretch."""

GEMMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

DATED = "{{- '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\\n' }}\n" + CHATML
"""SmolLM3's asks for the date in this way."""

FAMILIES = ("chatml", "llama3", "llama2", "gemma")


def write_chat(folder: Path, family: str, *, template: str | None = None, **options: Any) -> Any:
    """The tokenizer of a family, by what it calls it; `template` counts in place of the family's own."""
    made: Callable[[], tuple[Tokenizer, dict[str, Any]]] = _MADE[family]
    backend, named = made()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **named, **options)
    own = {"chatml": CHATML, "llama3": LLAMA3, "llama2": LLAMA2, "gemma": GEMMA}[family]
    tokenizer.chat_template = own if template is None else template or None
    tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def _byte_level(special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(reviews(300), trainer)
    return backend


def _pieces(special: list[str]) -> Tokenizer:
    """A BPE over pieces that falls back to bytes, as SentencePiece's are converted."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *alphabet], show_progress=False)
    backend.train_from_iterator(reviews(300), trainer)
    facts = backend.to_str()
    return _without_special(facts, set(alphabet))


def _without_special(facts: str, names: set[str]) -> Tokenizer:
    parsed = json.loads(facts)
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(parsed))


@functools.cache
def _chatml() -> tuple[Tokenizer, dict[str, Any]]:
    backend = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")])
    return backend, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


@functools.cache
def _llama3() -> tuple[Tokenizer, dict[str, Any]]:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = _byte_level(names)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{names[0]} $A", pair=f"{names[0]} $A {names[0]} $B", special_tokens=[(names[0], 0)]
    )
    return backend, {"bos_token": names[0], "eos_token": names[4]}


@functools.cache
def _llama2() -> tuple[Tokenizer, dict[str, Any]]:
    backend = _pieces(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


@functools.cache
def _gemma() -> tuple[Tokenizer, dict[str, Any]]:
    """Only what begins a text has a blank put before it."""
    backend = _pieces(["<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"])
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 1)]
    )
    return backend, {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}


_MADE = {"chatml": _chatml, "llama3": _llama3, "llama2": _llama2, "gemma": _gemma}
