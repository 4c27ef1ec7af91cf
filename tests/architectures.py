"""Every architecture that Transformers classifies texts with, made tiny, and what Tidemill answers with it.

`python -m tests.architectures` asks all of them, for some minutes, and writes the table of docs/models.md.
"""

from __future__ import annotations

import copy
import gc
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from tests.checkpoints import reviews, save_tokenizer
from tidemill.checkpoints.loading import load_config, max_positions, usual_length
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.errors import ModelError, first_line
from tidemill.inference.runner import ModelRunner
from tidemill.inference.work import Predictions

TASK = "text-classification"
NAMES = tuple(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
LENGTH = 128
"""Tokens of the longest text."""
MOST_WEIGHTS = 30_000_000
MOST_APART = 1e-3
"""Of scores, in float32."""

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- models -->", "<!-- end of models -->"

_SIZES: tuple[tuple[str, Any], ...] = (
    ("max_position_embeddings|max_seq_len|n_positions|n_ctx", LENGTH + 2),
    ("num_key_value_heads|linear_num_key_heads|num_experts_per_tok|shared_expert_intermediate_size", 2),
    ("n_group|topk_group|attn_layer_period|expert_layer_period", 1),
    (".*_heads|n_head|.*experts", 4),
    ("n_layer|num_hidden_layers|.*_layers", 2),
    ("intermediate_size|.*ffn_dim|d_inner|d_ff|dff|n_inner|hidden_dim", 64),
    ("hidden_size|true_hidden_size|intra_bottleneck_size|d_model|n_embd|e?m?b?_?dim|embedding_size|expert_dim", 32),
    ("embedding_dim|word_embed_proj_dim|pooler_hidden_size|prediction_head_size|cross_attention_hidden_size", 32),
    ("moe_intermediate_size", 16),
    ("(qk_|v_|index_|linear_.*_)?head_dim|d_head|d_kv|kv_channels|attention_head_size", 8),
    (".*_lora_rank|mamba_.*_(state|rank)|query_pre_attn_scalar", 8),
    ("qk_(nope|rope)_head_dim|rotary_dim", 4),
    # So that a text is longer than what a token sees.
    ("sliding_window|local_attention|window_size", 24),
    ("initializer_range|init_std", 0.3),
    ("attention_window", [16, 16]),
    ("attention_types", [[["global", "local"], 1]]),
    ("block_sizes", [1, 1]),
    ("block_size", 8),
    ("num_random_blocks|first_k_dense_replace", 1),
    ("attn_layer_offset|expert_layer_offset", 0),
)
"""Settings by name, and what they are in a tiny model: the first that matches."""

_OWN: dict[str, dict[str, Any]] = {
    # Keys and values are made of one latent vector for each head: fewer of them take no padding.
    "axk1": {"head_dim": 4, "num_key_value_heads": 4},
    "axk2": {"head_dim": 4, "num_key_value_heads": 4},
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"head_dim": 4, "num_key_value_heads": 4},
    "minicpm3": {"num_key_value_heads": 4},
    "mistral4": {"num_key_value_heads": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
    "esmc": {"num_key_value_heads": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lilt": {"hidden_size": 48},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 32},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 1},
    "qwen3_5": {"text_config": {"layer_types": ["linear_attention", "full_attention"]}},
    "reformer": {"max_position_embeddings": LENGTH, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 16,
        "adapter_rank": 8,
        "num_query_groups": 4,
    },
}
"""What some need beside."""


class NotMade(Exception):
    """Why there is no tiny model of an architecture."""


@dataclass(frozen=True)
class Verdict:
    """What came of an architecture: `right`, `refused`, `not made` or `wrong`; how it was computed, or why not."""

    name: str
    outcome: str
    engine: str = ""
    detail: str = ""


def save_tiny(name: str, folder: Path) -> Path:
    """A classifier of that architecture with random weights, and a tokenizer.

    Raises:
        NotMade: by these settings there is none.
    """
    tokenizer = save_tokenizer(folder, "bpe", model_max_length=LENGTH)
    try:
        config = _tiny_config(name, len(tokenizer), tokenizer)
        with torch.device("meta"):
            shapes = transformers.AutoModelForSequenceClassification.from_config(config)
        if (num := sum(parameter.numel() for parameter in shapes.parameters())) > MOST_WEIGHTS:
            raise NotMade(f"by these settings it has {num:,} weights")
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    except NotMade:
        raise
    except Exception as e:  # each architecture has its own idea of which sizes go together
        raise NotMade(f"{type(e).__name__}: {first_line(e).partition('. ')[0]}") from e
    for parameter in model.parameters():
        # Biases and norms begin as zeros and ones, and would not show.
        if parameter.ndim == 1 and parameter.is_floating_point():
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def _tiny_config(name: str, vocabulary_size: int, tokenizer: Any) -> Any:
    usual = transformers.AutoConfig.for_model(name)
    special = {
        "vocab_size": vocabulary_size,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
        "cls_token_id": tokenizer.bos_token_id,
        "sep_token_id": tokenizer.eos_token_id,
    }
    own = {"id2label": dict(enumerate("abc")), **_OWN.get(name, {})}
    return transformers.AutoConfig.for_model(name, **_tiny(usual, special, own))


def _tiny(config: Any, special: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Settings of a configuration and those within it, the innermost first to be told by `own`."""
    usual = config.to_dict()
    usual |= {key: usual.get(other) for key, other in (getattr(config, "attribute_map", None) or {}).items()}
    tiny = {key: value for key in usual for value in _tiny_value(key, usual[key])}
    parts = {part: getattr(config, part, None) for part in getattr(config, "sub_configs", None) or {}}
    within = {part: _tiny(inner, special, own.get(part, {})) for part, inner in parts.items() if inner is not None}
    return tiny | special | own | within


def _tiny_value(key: str, usual: Any) -> Iterator[Any]:
    """None or one. A list that names layers is no number of them."""
    for pattern, value in _SIZES:
        if re.fullmatch(pattern, key):
            if isinstance(value, list) or not isinstance(usual, list | dict | str | bool):
                yield value
            return


TEXTS = ("film", "a good film", *reviews(3), " ".join(reviews(40)), "the end", "a good", reviews(7)[6])
"""Short and long, some of one length, and one that is cut."""
ORDERS = (range(len(TEXTS)), range(len(TEXTS))[::-1], (4, 0, 5, 2, 8, 1, 7, 3, 6))


def asked(name: str, folder: Path) -> Verdict:
    """Hold the default engine, asked in three orders of texts, against `transformers.pipeline`, text by text."""
    try:
        save_tiny(name, folder)
        expected_RC = _by_pipeline(folder)
    except NotMade as e:
        return Verdict(name, "not made", detail=str(e))
    try:
        runner, token_ids = _opened(folder)
        engine, how = _engine(runner.resolved)
        for order in ORDERS:
            predictions = runner.predict(prepared_rows(token_ids.take(pa.array(order))))
            if wrong := _difference(predictions, expected_RC[list(order)]):
                return Verdict(name, "wrong", engine, wrong)
    except ModelError as e:
        return Verdict(name, "refused", detail=str(e).replace(str(folder), "FOLDER"))
    except Exception as e:
        return Verdict(name, "wrong", detail=f"{type(e).__name__}: {first_line(e)}")
    return Verdict(name, "right", engine, how)


def _engine(resolved: Mapping[str, Any]) -> tuple[str, str]:
    """What computes it, and with which rows a row shares a batch, where not with any."""
    engine = f"{resolved['engine']}, rewritten" if resolved["rewritten"] else str(resolved["engine"])
    return engine, str(resolved.get("rows", ""))


def _by_pipeline(folder: Path) -> np.ndarray[Any, Any]:
    """Scores of each text by a model that has computed nothing before: some change themselves while they compute.

    Raises:
        NotMade: Transformers' own pipeline does not work with it.
    """
    try:
        pipeline = transformers.pipeline(TASK, model=str(folder), device="cpu", dtype=torch.float32)
        unused, answers = pipeline.model, []
        for text in TEXTS:
            pipeline.model = copy.deepcopy(unused)
            answers.append(pipeline(text, top_k=None, truncation=True, max_length=LENGTH))
    except Exception as e:
        raise NotMade(f"transformers.pipeline: {type(e).__name__}: {first_line(e)}") from e
    scores_RC = np.array([[one["score"] for one in sorted(answer, key=lambda one: one["label"])] for answer in answers])
    if not np.isfinite(scores_RC).all():
        raise NotMade("its random weights give NaN")
    return scores_RC


def _opened(folder: Path) -> tuple[ModelRunner, pa.ListArray]:
    config = load_config(folder)
    tokenizer = TextTokenizer.load(
        folder, max_length=LENGTH, model_max_length=max_positions(config), usual_length=usual_length(config)
    )
    inference = Inference(device="cpu", dtype="float32", token_budget=512)
    runner = ModelRunner.load(folder, task=TASK, inference=inference, all_scores=True)
    return runner, tokenizer.encode(pa.array(TEXTS)).token_ids


def _difference(predictions: Predictions, expected_RC: np.ndarray[Any, Any]) -> str:
    """What is wrong, or nothing."""
    if reasons := predictions.reason.drop_null().to_pylist():
        return f"{len(reasons)} of {len(TEXTS)} texts have no answer: {reasons[0]}"
    ours_RC = np.array([[score for _, score in sorted(row)] for row in predictions.columns["scores"].to_pylist()])
    apart = float(np.abs(ours_RC - expected_RC).max())
    return "" if apart <= MOST_APART else f"scores are off by up to {apart:.3f}"


def page_with(verdicts: Sequence[Verdict], page: str) -> str:
    """The page with this table in place of its own."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{_table(verdicts)}\n{END}{after}"


def _table(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("right", "refused", "not made", "wrong"))
    lines = [
        f"With Transformers {transformers.__version__}, {len(verdicts)} architectures: {told}.",
        "",
        "| architecture | outcome | computed by | how, or why not |",
        "|---|---|---|---|",
    ]
    for verdict in verdicts:
        detail = verdict.detail.replace("|", "\\|")
        lines.append(f"| `{verdict.name}` | {verdict.outcome} | {verdict.engine} | {detail} |")
    return "\n".join(lines)


def documented() -> dict[str, str]:
    """Outcomes by architecture, as the page has them."""
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    return dict(re.findall(r"^\| `(.+?)` \| (.+?) \|", table, re.MULTILINE))


def main(names: Sequence[str]) -> None:
    """Print what comes of these; of all, and write the page, where none is named."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    verdicts = []
    for name in names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            verdicts.append(asked(name, Path(folder)))
        gc.collect()
        print(*vars(verdicts[-1]).values(), sep=" | ", flush=True)
    if not names:
        PAGE.write_text(page_with(verdicts, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
