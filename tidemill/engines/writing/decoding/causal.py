"""Decoders: rows of any lengths step together, and a row that ends makes room for the next one.

A slot's columns are a row's positions, whatever the others' are. All of a prompt but
its last token is read at once, without a mask: what is padded lies behind, where no
token of the row looks. The last token of the prompt is the first of the row's steps,
so every score comes from the same forward pass of one token a row. Rows whose
prompts begin alike read that part once.

Shapes: N rows, Q tokens of a forward pass, L columns that are read.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tidemill.engines.writing.decoding.caches import Slots
from tidemill.engines.writing.decoding.choosing import Choosing
from tidemill.engines.writing.decoding.loop import free_memory, last_logits, most_read_at_once
from tidemill.engines.writing.decoding.rows import Ends, Row

WORTH_SHARING = 16
"""Tokens at the beginning of prompts that are copied from another slot in place of being read again."""
SHARE_OF_MEMORY = 0.5
"""Of what is free when a model is there: the most that slots take. Rows for which there is none wait for others'."""
ROOM_TO_GROW = 1.25
"""So many times as many slots as before are worth making them anew."""


@dataclass(frozen=True)
class Layout:
    """How many layers keep keys and values, how many numbers of a token, and how far each kind looks back.

    None is to the beginning.
    """

    num_layers: int
    numbers_a_token: int
    windows: dict[str, int | None]

    @classmethod
    def of(cls, config: Any) -> Layout | None:
        """None where some layer keeps anything else, such as a state that padding would change."""
        from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

        layers = DynamicCache(config=config).layers
        kinds = {type(layer) for layer in layers}
        windows = {layer.sliding_window for layer in layers if type(layer) is DynamicSlidingWindowLayer}
        if not layers or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer} or len(windows) > 1:
            return None
        found: dict[str, int | None] = {} if DynamicLayer not in kinds else {"full_attention": None}
        found |= {"sliding_attention": windows.pop()} if windows else {}
        return cls(len(layers), 2 * len(layers) * _numbers_of_keys(config.get_text_config(decoder=True)), found)


def _numbers_of_keys(config: Any) -> int:
    """Of a token in a layer, by what most configurations say; where one says it otherwise, at most so many."""
    heads = getattr(config, "num_attention_heads", None)
    of_keys = getattr(config, "num_key_value_heads", None) or heads
    if not isinstance(heads, int) or not isinstance(of_keys, int):
        return int(config.hidden_size)
    return of_keys * int(getattr(config, "head_dim", None) or config.hidden_size // heads)


class CausalLoop:
    def __init__(self, model: Any, layout: Layout, choice: Choosing, ends: Ends, device: torch.device) -> None:
        self._model, self._layout, self._choice, self._ends, self._device = model, layout, choice, ends, device
        self._is_eager = model.config._attn_implementation == "eager"
        takes = inspect.signature(model.forward).parameters
        self._most_of_memory = int(SHARE_OF_MEMORY * free_memory(device)) // (
            layout.numbers_a_token * model.dtype.itemsize
        )
        self._of_prefill = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self.room = 0
        """Tokens of the slots that rows of several batches may have together, where one batch has fewer."""
        self._forget()

    def _forget(self) -> None:
        self._waiting: deque[Row] = deque()
        self._active: list[Row] = []
        """In the order of their slots."""
        self._slots: Slots | None = None
        self._most_tokens = 0
        """Of all slots: what the largest batch takes that was put in."""

    def put(self, rows: Sequence[Row]) -> None:
        self._waiting.extend(rows)
        self._most_tokens = max(self._most_tokens, len(rows) * max(row.most_tokens for row in rows))
        if self.room > self._most_tokens:
            at_hand = [*self._active, *self._waiting]
            wanted = len(at_hand) * max(row.most_tokens for row in at_hand)
            self._most_tokens = max(self._most_tokens, min(self.room, wanted))

    def drop(self, rows: Sequence[Row]) -> None:
        gone = set(map(id, rows))
        self._waiting = deque(row for row in self._waiting if id(row) not in gone)
        self._remove([i for i, row in enumerate(self._active) if id(row) in gone])
        self._rest()

    def _rest(self) -> None:
        """Give the slots' memory back where there is nothing to do."""
        if not self._active and not self._waiting:
            self._forget()

    def step(self, should_stop: Callable[[], bool]) -> None:
        try:
            self._fill()
            logits_NV = self._forward()
            chosen = self._choice.choose(logits_NV, self._active)
        except BaseException:
            self._forget()
            raise
        for row, token_id in zip(self._active, chosen, strict=True):
            if row.is_open:
                row.append(token_id)
                self._ends.look_at(row)
        self._remove([i for i, row in enumerate(self._active) if not row.is_open])
        self._rest()

    def _forward(self) -> Tensor:
        assert self._slots is not None
        position_of = [row.length - 1 for row in self._active]
        ids_N1 = torch.stack([row.read[-1:] for row in self._active]).to(self._device)
        positions_N = torch.tensor(position_of, device=self._device)
        width = max(position_of) + 1
        self._slots.at_columns(positions_N, width)
        outputs = self._model(
            input_ids=ids_N1,
            attention_mask=self._masks(positions_N, width),
            position_ids=positions_N[:, None],
            past_key_values=self._slots,
            use_cache=True,
        )
        return last_logits(outputs)

    def _masks(self, positions_N: Tensor, width: int) -> Any:
        """N11L for each kind of layer; the mask itself where all layers are of one kind."""
        columns_L = torch.arange(width, device=self._device)
        masks = {kind: self._mask(columns_L, positions_N, window) for kind, window in self._layout.windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, columns_L: Tensor, positions_N: Tensor, window: int | None) -> Tensor:
        is_seen_NL = columns_L <= positions_N[:, None]
        if window is not None:
            is_seen_NL &= columns_L > positions_N[:, None] - window
        is_seen = is_seen_NL[:, None, None]
        if not self._is_eager:
            return is_seen
        dtype = self._model.dtype
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=self._device)
        return torch.where(is_seen, torch.zeros_like(hidden), hidden)

    def _fill(self) -> None:
        """Let waiting rows into the slots that are free, a few at a time so that their prompts are read together."""
        if not self._waiting:
            return
        self._lay_out()
        assert self._slots is not None
        num_free = self._slots.num_slots - len(self._active)
        if num_free < min(len(self._waiting), max(1, self._slots.num_slots // 8)):
            return
        for group in self._groups([self._waiting.popleft() for _ in range(min(num_free, len(self._waiting)))]):
            first = len(self._active)
            self._active += group
            self._read_prompts(group, first)

    def _lay_out(self) -> None:
        """Make slots for the longest of the rows at hand, as many as fit where that is now many more than before."""
        num_columns = max(row.most_tokens for row in [*self._active, *self._waiting])
        most_tokens = min(self._most_tokens, self._most_of_memory)
        num_slots = max(1, most_tokens // num_columns, len(self._active))
        if self._slots is None:
            self._slots = Slots(self._layout.num_layers, num_slots, num_columns)
        elif num_columns > self._slots.num_columns or num_slots >= ROOM_TO_GROW * self._slots.num_slots:
            self._slots.resize(num_slots, num_columns, len(self._active))

    def _groups(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        most = most_read_at_once(self._device)
        group: list[Row] = []
        for row in rows:
            longest = max(each.num_start for each in [*group, row])
            if group and longest * (len(group) + 1) > most:
                yield group
                group = []
            group.append(row)
        yield group

    def _read_prompts(self, rows: Sequence[Row], first: int) -> None:
        """Fill the slots of `rows`, the first of which is `first`, with all of their prompts but the last tokens."""
        assert self._slots is not None
        stop = first + len(rows)
        num_shared = min(_num_alike(self._active[0], row) for row in rows)
        if first == 0 and num_shared >= WORTH_SHARING and len(rows) > 1:
            self._read(rows[:1], 0, 0, num_shared)
        elif first == 0 or num_shared < WORTH_SHARING:
            num_shared = 0
        if num_shared:
            self._slots.copy(0, max(first, 1), stop, num_shared)
        self._read(rows, first, num_shared, max(row.num_start for row in rows) - 1)

    def _read(self, rows: Sequence[Row], first: int, column: int, end: int) -> None:
        """Read the tokens of `rows` from `column` to `end`; behind a row's last one is what nobody looks at."""
        if column >= end:
            return
        assert self._slots is not None
        ids_NQ = torch.stack([_stretched(row, end) for row in rows])[:, column:].to(self._device)
        positions_Q = torch.arange(column, end, device=self._device)
        self._slots.at_block(first, first + len(rows), column)
        self._model(
            input_ids=ids_NQ,
            position_ids=positions_Q.expand(len(rows), -1),
            past_key_values=self._slots,
            use_cache=True,
            **self._of_prefill,
        )

    def _remove(self, indices: Sequence[int]) -> None:
        """Free these slots; the last ones in use move into them."""
        for i in reversed(indices):
            last = len(self._active) - 1
            gone, moved = self._active[i], self._active[last]
            assert self._slots is not None
            if gone.reason is not None:
                self._slots.clear(i)  # of what is no number, which a mask does not hide
            if i != last:
                self._slots.copy(last, i, i + 1, moved.length)
                self._active[i] = moved
            self._active.pop()


def _num_alike(one: Row, other: Row) -> int:
    """Tokens at the beginning of both prompts, the last one of neither counted."""
    num = min(one.num_start, other.num_start) - 1
    differs = np.flatnonzero(one.prompt[:num] != other.prompt[:num])
    return int(differs[0]) if len(differs) else num


def _stretched(row: Row, num_tokens: int) -> Tensor:
    """A prompt's first tokens; its first one again behind the last, which is never padding's."""
    prompt = row.sequence[: min(row.num_start, num_tokens)]
    return torch.cat([prompt, prompt[:1].expand(num_tokens - len(prompt))])
