"""Batches through an engine, with as many on their way as it takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from tidemill.encoding.items import Arrays, Outputs
from tidemill.engines import Answer, Engine, never


def outputs_of_each(
    engine: Engine, batches: Iterable[Arrays], *, should_stop: Callable[[], bool] = never
) -> Iterator[Outputs]:
    """In the order of the batches.

    Raises whatever the model does at one of them. However it ends, none is on its way then: some engines read a
    batch where it lies.
    """
    on_their_way: deque[Answer] = deque()
    try:
        for inputs in batches:
            if len(on_their_way) >= engine.depth:
                yield on_their_way.popleft().result()
            on_their_way.append(engine.submit(inputs, should_stop=should_stop))
        while on_their_way:
            yield on_their_way.popleft().result()
    finally:
        for answer in on_their_way:
            with suppress(Exception):
                answer.result()
