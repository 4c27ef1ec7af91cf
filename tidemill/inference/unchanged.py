"""Rows whose answers are there already, beside those that the model is to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from tidemill.encoding.items import TOKEN_IDS
from tidemill.inference.work import Predictions, Stats
from tidemill.results.answers.known import Answers


def predict_others(prepared: pa.Table, answers: Answers, predict: Callable[[pa.Table], Predictions]) -> Predictions:
    """One value a row: its answer where there is one, else what `predict` makes of it.

    Where there are answers, that is called only if a row is left that has token ids. The statistics are of the rows
    that it was given.
    """
    is_known = answers.is_known
    if not is_known.any():
        return predict(prepared)
    has_tokens = prepared[TOKEN_IDS].is_valid().to_numpy()
    if not (has_tokens & ~is_known).any():
        reason = pa.nulls(prepared.num_rows, pa.string())
        return Predictions(answers.columns.take(answers.index), reason, Stats(num_rows=0))
    computed = predict(prepared.filter(pa.array(~is_known)))
    place = np.cumsum(~is_known) - 1
    reason = computed.reason.take(pa.array(place, mask=is_known))
    written = None if computed.written is None else computed.written.take(pa.array(place, mask=is_known))
    place[is_known] = computed.columns.num_rows + answers.index.drop_null().to_numpy()
    columns = pa.concat_tables([computed.columns, answers.columns.cast(computed.columns.schema)])
    return replace(computed, columns=columns.take(pa.array(place)), reason=reason, written=written)
