"""Which token comes next: the model's scores under its checkpoint's settings, a grammar, and a draw.

Shapes: N rows, T ids of a row so far, V tokens of the vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tidemill.engines.writing.decoding.rows import Row
from tidemill.engines.writing.generation.settings import Settings
from tidemill.errors import ModelError
from tidemill.structured import Matchers

NEAR = 1e-5
"""Tokens whose scores differ by less, as a part of the largest one, may change places with the shape of a batch:
float32 rounds its sums otherwise."""

NOT_A_NUMBER = "the model returned NaN"
NOTHING_LEFT = "no token may follow: what the answer must look like and the checkpoint's settings leave none"

_NOT_HELD: dict[str, object] = {
    "guidance_scale": 1.0,
    "penalty_alpha": 0.0,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "token_healing": False,
    "use_mtp": False,
    **dict.fromkeys(
        (
            "watermarking_config",
            "dola_layers",
            "constraints",
            "force_words_ids",
            "prompt_lookup_num_tokens",
            "assistant_early_exit",
        )
    ),
}
"""Settings that no loop here holds, with the values at which they mean nothing."""

_OF_THE_PROMPT = ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size")

Processors = Callable[[Tensor, Tensor], Tensor]


class Choosing(Protocol):
    def choose(self, logits_NV: Tensor, rows: Sequence[Row]) -> list[int]:
        """The next token of each row. A row that has none is told so, by `fail` or `is_near`: its token is not one."""


class Choice:
    """As `model.generate` chooses for a row alone, whoever is in the batch."""

    def __init__(self, model: Any, settings: Settings, tokenizer: str | Path, *, finds_near: bool) -> None:
        """With `finds_near`, a row whose two best tokens are nearer than rounding tells apart has `is_near`."""
        self._model, self._settings, self._finds_near = model, settings, finds_near
        self._generation = copy.deepcopy(settings.generation)
        model._prepare_special_tokens(self._generation, False, device=model.device, batch_size=1)
        self._reads_prompt = any(getattr(self._generation, name, None) for name in _OF_THE_PROMPT)
        self._has_processors = bool(self._processors_of(Row(torch.zeros(1, dtype=torch.int64).numpy(), limit=1)))
        self._matchers = _matchers(model, settings, tokenizer)
        self._known: dict[tuple[object, ...], Processors] = {}

    def alone(self) -> Choice:
        """The same, for one row at a time: nothing else can decide."""
        other = copy.copy(self)
        other._finds_near = False
        return other

    def choose(self, logits_NV: Tensor, rows: Sequence[Row]) -> list[int]:
        logits_NV = logits_NV.float()
        scores_NV = self._scores(logits_NV, rows)
        best_N, ids_N = scores_NV.max(dim=-1)
        if self._finds_near:
            second_N = scores_NV.scatter(1, ids_N[:, None], -torch.inf).amax(dim=-1)
            largest_N = torch.linalg.vector_norm(logits_NV, ord=torch.inf, dim=-1)
            for row, is_near in zip(rows, (best_N - second_N <= NEAR * largest_N).tolist(), strict=True):
                row.is_near = is_near
        ids: list[int] = ids_N.tolist()
        for row, best, token_id in zip(rows, best_N.tolist(), ids, strict=True):
            if best != best or best == -torch.inf:
                row.fail(NOT_A_NUMBER if best != best else NOTHING_LEFT)
                row.is_near = False
            elif row.matcher is not None and not row.is_near:
                self._accept(row, token_id)
        return ids

    def _scores(self, logits_NV: Tensor, rows: Sequence[Row]) -> Tensor:
        scores_NV = logits_NV if self._matchers is None else self._allowed(logits_NV, rows, self._matchers)
        if self._has_processors:
            scores_NV = self._processed(scores_NV, rows)
        return scores_NV if self._settings.sampling is None else self._drawn(scores_NV, rows)

    def _allowed(self, logits_NV: Tensor, rows: Sequence[Row], matchers: Matchers) -> Tensor:
        is_allowed_NV = torch.zeros(logits_NV.shape, dtype=torch.bool)
        for is_allowed_V, row in zip(is_allowed_NV, rows, strict=True):
            if self._begins_by_force(row):
                is_allowed_V[:] = True
                continue
            if row.matcher is None:
                row.matcher = matchers.new()
            allowed = torch.from_numpy(row.matcher.allowed())[: len(is_allowed_V)]
            is_allowed_V[: len(allowed)] = allowed
        return logits_NV.masked_fill(~is_allowed_NV.to(logits_NV.device), -torch.inf)

    def _begins_by_force(self, row: Row) -> bool:
        """A token that the checkpoint puts before every text is none of the text's."""
        return row.num_new == 0 and getattr(self._generation, "forced_bos_token_id", None) is not None

    def _accept(self, row: Row, token_id: int) -> None:
        if not self._begins_by_force(row):
            row.matcher.accept(token_id)
            if row.matcher.problem is not None:
                row.fail(row.matcher.problem)

    def _processed(self, scores_NV: Tensor, rows: Sequence[Row]) -> Tensor:
        """Rows that are as long as each other go together: what is done to them depends on ids and their number."""
        processed_NV = scores_NV.clone()

        def key(at: int) -> tuple[int, ...]:
            row = rows[at]
            return (row.num_start, row.length, row.limit, at if self._reads_prompt else -1)

        for _, group in groupby(sorted(range(len(rows)), key=key), key=key):
            at = list(group)
            ids_NT = torch.stack([rows[i].read for i in at]).to(scores_NV.device)
            processed_NV[at] = self._known_processors(rows[at[0]])(ids_NT, scores_NV[at])
        return processed_NV

    def _known_processors(self, row: Row) -> Processors:
        key = (row.num_start, row.limit, row.prompt.tobytes() if self._reads_prompt else None)
        if key not in self._known:
            if len(self._known) > 4096:
                self._known.clear()
            self._known[key] = self._processors_of(row)
        return self._known[key]

    def _processors_of(self, row: Row) -> Any:
        """Transformers' own, for a row of this length; those for drawing are among them."""
        generation = copy.copy(self._generation)
        generation.max_length = row.num_start + row.limit
        if generation.min_new_tokens is not None:
            generation.min_length = row.num_start + generation.min_new_tokens
        return self._model._get_logits_processor(
            generation_config=generation,
            input_ids_seq_length=row.num_start,
            encoder_input_ids=torch.from_numpy(row.prompt)[None].to(self._model.device),
            device=self._model.device,
            model_kwargs={},
        )

    def _drawn(self, scores_NV: Tensor, rows: Sequence[Row]) -> Tensor:
        """Scores whose largest one is a draw by their probabilities, each row's by its own generator.

        As torch.multinomial draws: the largest of probabilities over exponential noise.
        """
        noise_NV = torch.stack([self._noise(row, scores_NV.shape[1]) for row in rows])
        drawn: Tensor = scores_NV.log_softmax(dim=-1) - noise_NV.log().to(scores_NV.device)
        return drawn

    def _noise(self, row: Row, vocabulary_size: int) -> Tensor:
        assert self._settings.sampling is not None
        if row.generator is None:
            named = hashlib.blake2b(row.prompt.astype("<i8").tobytes(), digest_size=8)
            named.update(self._settings.sampling.seed.to_bytes(8, "little"))
            # On the CPU wherever the model is: a seed means the same on each device.
            row.generator = torch.Generator().manual_seed(int.from_bytes(named.digest(), "little") >> 1)
        return torch.empty(vocabulary_size).exponential_(generator=row.generator)


def _matchers(model: Any, settings: Settings, tokenizer: str | Path) -> Matchers | None:
    if settings.grammar is None:
        return None
    num_logits = model.get_output_embeddings().weight.shape[0]
    return settings.grammar.matcher(
        tokenizer,
        end_ids=settings.end_ids,
        num_logits=num_logits,
        trust_remote_code=settings.trust_remote_code,
    )


def refuse_unheld(settings: Settings) -> None:
    """Refuse settings that would otherwise be left out.

    Raises:
        ModelError: the checkpoint's generation settings ask for what is not done here.
    """
    generation = settings.generation
    for name, neutral in _NOT_HELD.items():
        value = getattr(generation, name, None)
        if value is not None and value != neutral:
            raise ModelError(
                f"The checkpoint's generation_config.json says {name} = {value!r}, which no engine here computes. "
                "Remove it there, or choose another model."
            )
    if (generation.num_beams or 1) > 1 and (settings.sampling or settings.grammar is not None):
        option = "do_sample" if settings.sampling else "choices and json_schema"
        raise ModelError(
            f"The checkpoint's generation_config.json says num_beams = {generation.num_beams}, and model.options."
            f"{option} cannot be had with beams. Leave it out, or set num_beams to 1 there."
        )
