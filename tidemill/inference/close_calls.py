"""Labels that int8 leaves open: where two classes are nearly equal, float32 decides.

A label changes only where the two best scores are nearer to each other than int8 moves them, which is by hundredths.
These few rows are computed once more, and then have float32's answer. Whether a row is one of them is told by its own
answer, and so does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from tidemill.encoding.batching import Indices
from tidemill.encoding.items import Arrays, are_finite
from tidemill.engines import Engine
from tidemill.engines.feeding import outputs_of_each
from tidemill.inference.work import Work
from tidemill.models.tasks import ModelTask

SCORES_MOVE = 0.02
"""Of the 18 labels in 2,400 bundled e-mails that int8 changed, 16 were as near to a tie."""


def close_calls(task: ModelTask, work: Work) -> Indices:
    """Those of a shard's items whose answers may have another label in float32."""
    if not work.answers:
        return np.zeros(0, dtype=np.int64)
    items, answers = np.concatenate(work.computed), pa.concat_arrays(work.answers)
    return np.unique(items[task.close_calls(answers, SCORES_MOVE)])


def decide(
    task: ModelTask,
    work: Work,
    engine: Engine,
    batches: Sequence[Indices],
    *,
    collate: Callable[[Indices], Arrays],
    should_stop: Callable[[], bool],
) -> None:
    """Put the engine's answers of these items in place of those that the work has. What is not finite in it stays.

    Raises:
        Stopped: `should_stop` said so.
    """
    outputs = outputs_of_each(engine, map(collate, batches), should_stop=should_stop)
    for batch, found in zip(batches, outputs, strict=True):
        lengths = work.items.lengths[batch]
        finite_B = are_finite(found, lengths)
        work.replace(batch[finite_B], task.answers(found[finite_B], lengths[finite_B]))
