"""Whole answers by `model.generate`: with beams, of models that no loop here takes, and of a row by itself.

Rows of one length share a batch, so nothing is padded.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from tidemill.checkpoints.loading import silence
from tidemill.engines.writing.decoding.choosing import Choosing
from tidemill.engines.writing.decoding.rows import Ends, Row
from tidemill.engines.writing.generation.settings import Settings
from tidemill.errors import Stopped

STOPPED = "Stopped between two tokens. The shard starts again on the next run."


class WholeLoop:
    """A batch is a step."""

    def __init__(
        self,
        model: Any,
        settings: Settings,
        write: Callable[[Sequence[Row], Callable[[], bool]], None],
    ) -> None:
        self._waiting: deque[list[Row]] = deque()
        self._write = write
        self._num_beams = settings.generation.num_beams or 1

    def put(self, rows: Sequence[Row]) -> None:
        """Each beam of a row takes the memory of a row."""
        num_rows = max(1, len(rows) // self._num_beams)
        self._waiting += [list(rows[i : i + num_rows]) for i in range(0, len(rows), num_rows)]

    def drop(self, rows: Sequence[Row]) -> None:
        gone = set(map(id, rows))
        self._waiting = deque(batch for batch in self._waiting if id(batch[0]) not in gone)

    def step(self, should_stop: Callable[[], bool]) -> None:
        rows = self._waiting.popleft()
        try:
            self._write(rows, should_stop)
        except Stopped:
            # They may be another's, who does not stop: then they are written from their beginning.
            self._waiting.appendleft(rows)
            raise
        except BaseException:
            self._waiting.clear()
            raise


class Whole:
    """One token after the other as `choice` chooses, by the forward passes of `model.generate`."""

    def __init__(self, model: Any, settings: Settings, choice: Choosing, ends: Ends) -> None:
        self._model, self._choice, self._ends = model, choice, ends
        before = settings.generation
        # Nothing but what the loop needs: what is chosen, and when a row ends, is decided here.
        self._generation = GenerationConfig(
            bos_token_id=before.bos_token_id,
            decoder_start_token_id=before.decoder_start_token_id,
            pad_token_id=0,
            max_new_tokens=1,
            do_sample=False,
        )

    def write(self, rows: Sequence[Row], should_stop: Callable[[], bool]) -> None:
        for row in rows:
            row.begin_again()
        generation = copy.copy(self._generation)
        generation.max_new_tokens = max(row.limit for row in rows)
        steps = _Steps(rows, self._choice, self._ends, should_stop)
        with _bare(self._model), silence():
            self._model.generate(
                _ids(rows).to(self._model.device),
                attention_mask=torch.ones_like(_ids(rows)).to(self._model.device),
                generation_config=generation,
                logits_processor=[steps],
                stopping_criteria=[_Ended(rows)],
                use_cache=True,
            )


class Beams:
    """`model.generate` under the checkpoint's own settings."""

    def __init__(self, model: Any, settings: Settings, ends: Ends) -> None:
        self._model, self._settings, self._ends = model, settings, ends

    def write(self, rows: Sequence[Row], should_stop: Callable[[], bool]) -> None:
        generation = copy.copy(self._settings.generation)
        generation.max_new_tokens = min(row.limit for row in rows)
        texts = list(self._settings.stop)
        with silence():
            found = self._model.generate(
                _ids(rows).to(self._model.device),
                attention_mask=torch.ones_like(_ids(rows)).to(self._model.device),
                generation_config=generation,
                stopping_criteria=[_Asked(should_stop)],
                use_cache=True,
                **({"stop_strings": texts, "tokenizer": self._ends.tokenizer} if texts else {}),
            )
        for row, ids in zip(rows, found.tolist(), strict=True):
            self._ends.cut(row, ids[row.num_start :])


class _Steps(LogitsProcessor):
    """Leaves of the scores the token that is chosen, and gives it to its row."""

    def __init__(self, rows: Sequence[Row], choice: Choosing, ends: Ends, should_stop: Callable[[], bool]) -> None:
        self._rows, self._choice, self._ends, self._should_stop = rows, choice, ends, should_stop

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._should_stop():
            raise Stopped(STOPPED)
        at = [i for i, row in enumerate(self._rows) if row.is_open]
        chosen = self._choice.choose(scores[at], [self._rows[i] for i in at])
        left = torch.full_like(scores, -torch.inf)
        left[:, 0] = 0
        for i, token_id in zip(at, chosen, strict=True):
            row = self._rows[i]
            if row.is_open:
                left[i, 0], left[i, token_id] = -torch.inf, 0
                row.append(token_id)
                self._ends.look_at(row)
        return left


class _Ended(StoppingCriteria):
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.tensor([not row.is_open for row in self._rows], device=input_ids.device)


class _Asked(StoppingCriteria):
    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._should_stop():
            raise Stopped(STOPPED)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _bare(model: Any) -> Iterator[None]:
    """`generate` fills what a call leaves open from the model's own settings, which then would count twice."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def _ids(rows: Sequence[Row]) -> Tensor:
    return torch.from_numpy(np.stack([row.prompt for row in rows]))
