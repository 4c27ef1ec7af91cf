"""Encoder-decoders: the rows of a batch step together from their common start, and those that end leave it.

Shapes: N rows, T tokens of the longest source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tidemill.engines.writing.decoding.caches import Slots, Sources
from tidemill.engines.writing.decoding.choosing import Choosing
from tidemill.engines.writing.decoding.loop import last_logits
from tidemill.engines.writing.decoding.rows import Ends, Row


@dataclass
class _Batch:
    """Rows in the order of their slots, and what the encoder made of their sources: NTD, and a mask NT."""

    rows: list[Row]
    encoded: Tensor
    mask: Tensor
    cache: Any

    def remove(self, i: int) -> None:
        """The last row takes the place of this one."""
        last = len(self.rows) - 1
        targets, sources = self.cache.self_attention_cache, self.cache.cross_attention_cache
        if i != last:
            targets.copy(last, i, i + 1, self.rows[last].length)
            for layer in sources.layers:
                layer.copy(last, i)
            self.encoded[i], self.mask[i] = self.encoded[last], self.mask[last]
            self.rows[i] = self.rows[last]
        self.rows.pop()
        for layer in sources.layers:
            layer.keep(last)
        self.encoded, self.mask = self.encoded[:last], self.mask[:last]


class Seq2SeqLoop:
    def __init__(self, model: Any, num_layers: int, choice: Choosing, ends: Ends, device: torch.device) -> None:
        self._model, self._num_layers, self._device = model, num_layers, device
        self._choice, self._ends = choice, ends
        self._forget()

    def _forget(self) -> None:
        self._waiting: deque[list[Row]] = deque()
        self._batch: _Batch | None = None

    def put(self, rows: Sequence[Row]) -> None:
        self._waiting.append(list(rows))

    def drop(self, rows: Sequence[Row]) -> None:
        gone = set(map(id, rows))
        left = ([row for row in batch if id(row) not in gone] for batch in self._waiting)
        self._waiting = deque(batch for batch in left if batch)
        self._remove(lambda row: id(row) in gone)

    def step(self, should_stop: Callable[[], bool]) -> None:
        try:
            if self._batch is None:
                self._batch = self._encode(self._waiting.popleft())
            rows = self._batch.rows
            chosen = self._choice.choose(self._forward(self._batch), rows)
        except BaseException:
            self._forget()
            raise
        for row, token_id in zip(rows, chosen, strict=True):
            if row.is_open:
                row.append(token_id)
                self._ends.look_at(row)
        self._remove(lambda row: not row.is_open)

    def _remove(self, is_gone: Callable[[Row], bool]) -> None:
        if self._batch is None:
            return
        for i in reversed([i for i, row in enumerate(self._batch.rows) if is_gone(row)]):
            self._batch.remove(i)
        if not self._batch.rows:
            self._batch = None

    def _encode(self, rows: list[Row]) -> _Batch:
        from transformers.cache_utils import EncoderDecoderCache

        lengths = [len(row.prompt) for row in rows]
        mask_NT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        ids_NT = torch.zeros(mask_NT.shape, dtype=torch.int64)
        for ids_T, row in zip(ids_NT, rows, strict=True):
            ids_T[: len(row.prompt)] = torch.from_numpy(row.prompt)
            ids_T[len(row.prompt) :] = row.prompt.item(0)
        mask_NT = mask_NT.to(self._device, dtype=torch.int64)
        encoder = self._model.get_encoder()
        encoded = encoder(input_ids=ids_NT.to(self._device), attention_mask=mask_NT, return_dict=True)
        targets = Slots(self._num_layers, len(rows), max(row.most_tokens for row in rows))
        return _Batch(rows, encoded[0], mask_NT, EncoderDecoderCache(targets, Sources(self._num_layers)))

    def _forward(self, batch: _Batch) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        column = batch.rows[0].length - 1
        batch.cache.self_attention_cache.at_block(0, len(batch.rows), column)
        outputs = self._model(
            decoder_input_ids=torch.stack([row.read[-1:] for row in batch.rows]).to(self._device),
            encoder_outputs=BaseModelOutput(last_hidden_state=batch.encoded),
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            use_cache=True,
        )
        return last_logits(outputs)
