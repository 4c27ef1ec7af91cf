"""The rows of a probe: random tokens, the same every time, as long as a model's configuration makes interesting."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tidemill.encoding.items import IDS, MASK, TYPES, Arrays

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Row = NDArray[np.int64]

SHORT = (2, 9, 9, 24)
"""Tokens of the rows that every model is asked. Two are of one length; an empty text has two tokens."""
WIDE = 160
"""Tokens of a row for what no configuration names: MPNet's positions, of which it tells 128 apart."""
BEYOND = 24
"""Tokens past a window: a short row padded to there has padding from which no token is to be seen."""
AFFORDABLE = 1e12
"""Floating-point operations of one row's forward pass, about what a billion parameters need for 512 tokens: seconds."""

_NAMES_A_WIDTH = re.compile("window|block|chunk|bucket|local|stride|landmark|segment|distance|original_max_position")


@dataclass(frozen=True)
class Probe:
    """Rows by length, shortest first, and the widths that the configuration names and no row is beyond.

    With `has_types` the second half of each row is of another type of tokens than the first, as a pair's is.
    """

    rows: list[Row]
    pad_id: int
    unasked: list[int] = field(default_factory=list)
    has_types: bool = False

    def lengths(self, batch: Sequence[int]) -> Row:
        return np.array([len(self.rows[i]) for i in batch])

    def padded(self, batch: Sequence[int]) -> Arrays:
        """What a model is given of these rows: padded at the end, without a mask where nothing is padded."""
        lengths = self.lengths(batch)
        positions_T = np.arange(lengths.max())
        mask_BT = positions_T < lengths[:, None]
        ids_BT = np.full(mask_BT.shape, self.pad_id, dtype=np.int64)
        ids_BT[mask_BT] = np.concatenate([self.rows[i] for i in batch])
        arrays = {IDS: ids_BT}
        if not mask_BT.all():
            arrays[MASK] = mask_BT.astype(np.int64)
        if self.has_types:
            arrays[TYPES] = (mask_BT & (positions_T >= (lengths // 2)[:, None])).astype(np.int64)
        return arrays


def probe_of(model: Any, *, longest: int | None, inputs: Collection[str] = (IDS, MASK)) -> Probe:
    """For a module of Transformers that takes rows of up to `longest` tokens, where it says, as `inputs`.

    A row begins and ends with the special tokens that the configuration names, and has none between.
    """
    text = model.config.get_text_config()
    named = named_widths(model.config, longest=longest)
    most = longest or max([WIDE, *named]) + BEYOND
    wide, unasked = _wide(text, named, num_parameters(model), most)
    lengths = sorted([*(min(length, most) for length in SHORT), *wide])
    draw = np.random.default_rng(0)
    rows = [_row(text, length, draw) for length in lengths]
    return Probe(rows, _special(text, "pad", _vocabulary_size(text)) or 0, unasked, has_types=TYPES in inputs)


def named_widths(config: PretrainedConfig, *, longest: int | None) -> list[int]:
    """What may be a number of tokens by its name, and be exceeded by a row that the model takes.

    >>> from transformers import PretrainedConfig
    >>> named_widths(PretrainedConfig(attention_window=[64, 128], rope={"original_max_position": 512}), longest=256)
    [64, 128]
    """
    found = set(_numbers(config.get_text_config().to_dict(), is_width=False))
    return sorted(width for width in found if 0 < width < (longest or np.inf))


def _numbers(value: Any, *, is_width: bool) -> Iterator[int]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, is_width=is_width or bool(_NAMES_A_WIDTH.search(str(name))))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, is_width=is_width)
    elif is_width and isinstance(value, int) and not isinstance(value, bool):
        yield value


def _wide(text: Any, named: list[int], num_parameters: int, most: int) -> tuple[list[int], list[int]]:
    """Lengths beyond each named width that is not a short row's; and widths beyond which a row would cost too much."""
    lengths = sorted({min(width + BEYOND, most) for width in [*named, WIDE - BEYOND] if width >= max(SHORT)})
    affordable = [length for length in lengths if _operations(text, num_parameters, length) <= AFFORDABLE]
    unasked = [width for width in named if width >= max([*affordable, *SHORT])]
    # Between two that are near each other no other width lies.
    near = {shorter for shorter, longer in pairwise(affordable) if longer <= shorter * 1.1}
    return [length for length in affordable if length not in near], unasked


def _operations(text: Any, num_parameters: int, length: int) -> float:
    hidden, layers = getattr(text, "hidden_size", 0) or 0, getattr(text, "num_hidden_layers", 0) or 0
    return 2.0 * num_parameters * length + 4.0 * length**2 * hidden * layers


def num_parameters(model: Any) -> int:
    """Of those that each token is multiplied by: tables of embeddings are looked up."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in tables)


def _row(text: Any, length: int, draw: np.random.Generator) -> Row:
    size = _vocabulary_size(text)
    special = {name: _special(text, name, size) for name in ("pad", "bos", "eos", "sep", "cls", "mask", "unk")}
    ordinary = np.setdiff1d(np.arange(size), [each for each in special.values() if each is not None])
    row = draw.choice(ordinary if len(ordinary) else np.arange(size), length).astype(np.int64)
    first, last = special["bos"], special["sep"] if special["eos"] is None else special["eos"]
    if first is not None and first != special["pad"]:
        row[0] = first
    if last is not None and last != special["pad"]:
        row[-1] = last
    return row


def _special(text: Any, name: str, size: int) -> int | None:
    """A special token's id, if the configuration names one of its vocabulary."""
    found = getattr(text, f"{name}_token_id", None)
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, int) and 0 <= found < size else None


def _vocabulary_size(text: Any) -> int:
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else 128
