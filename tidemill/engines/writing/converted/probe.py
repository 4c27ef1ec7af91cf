"""Whether a converted model writes what torch writes: token for token, in any company, under the same settings.

What was found is kept by the model's files, the settings, the libraries and the
processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.checkpoints.loading import max_positions
from tidemill.encoding.batching import EQUAL_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, Arrays, Outputs
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.engines.calibration_texts import calibration_texts
from tidemill.errors import ModelError

NUM_TEXTS = 4
DRAWN_LENGTHS = (1, 7, 7)
LONGEST = 1_100
"""Beyond what CTranslate2 cuts an input to, unless it is told otherwise."""

Write = Callable[[Arrays], Outputs]
Row = Sequence[int]


def probe_rows(
    config: Any, tokenizer: str | Path, *, num_new_tokens: int, trust_remote_code: bool = False
) -> list[Row]:
    """Texts as the tokenizer makes them, where it can, and drawn ids; the last row is the longest that is taken.

    A decoder's positions have to do for its `num_new_tokens` too.
    """
    positions = max_positions(config)
    longest = min(positions or LONGEST, LONGEST)
    if not config.is_encoder_decoder:
        longest = max(1, longest - num_new_tokens)
    vocabulary = config.get_text_config().vocab_size
    draw = np.random.default_rng(0)
    lengths = [*(length for length in DRAWN_LENGTHS if length < longest), longest]
    drawn = [draw.integers(vocabulary // 10, vocabulary, length).tolist() for length in lengths]
    return [*_of_texts(tokenizer, longest, trust_remote_code=trust_remote_code), *drawn]


@dataclass(frozen=True)
class Probe:
    """What torch writes of each row alone."""

    rows: Sequence[Row]
    written: Sequence[list[int]]

    def holds_for(self, write: Write, company: Company) -> bool:
        """Whether each row is written so in the largest batch that `company` allows, and by itself."""
        groups = [list(range(len(self.rows)))]
        if company == EQUAL_LENGTHS:
            groups = [[i for i, row in enumerate(self.rows) if len(row) == length] for length in {*map(len, self.rows)}]
        together = all(
            _batch(write, [self.rows[i] for i in group]) == [self.written[i] for i in group] for group in groups
        )
        return together and alone(write, self.rows) == self.written


def alone(write: Write, rows: Sequence[Row]) -> list[list[int]]:
    """What is written of each row without any other."""
    return [_batch(write, [row])[0] for row in rows]


def _batch(write: Write, rows: Sequence[Row]) -> list[list[int]]:
    width = max(map(len, rows))
    ids_BT = np.zeros((len(rows), width), dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row)], mask_BT[i, : len(row)] = row, 1
    is_padded = not mask_BT.all()
    outputs = write({IDS: ids_BT, MASK: mask_BT} if is_padded else {IDS: ids_BT})
    # Behind a row's last id is what fills the batch's width.
    return [[int(value) for value in row if value >= 0] for row in outputs]


def _of_texts(tokenizer: str | Path, longest: int, *, trust_remote_code: bool) -> list[Row]:
    texts = pa.array(calibration_texts()[:NUM_TEXTS])
    try:
        found = TextTokenizer.load(
            tokenizer, max_length=longest, long_text="truncate", trust_remote_code=trust_remote_code
        )
        rows = found.prepare(pa.table({"text": texts}))["token_ids"].to_pylist()
    except ModelError:
        return []  # Whoever needs the tokenizer says what is wrong with it.
    return [row for row in rows if row]
