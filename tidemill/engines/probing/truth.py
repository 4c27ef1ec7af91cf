"""What a model answers to each row of a probe alone, and in which company it answers the same.

The truth is the model as Transformers loads it, in float32, as it was before it computed
anything, given one row without padding: `transformers.pipeline`, one text at a time.
Whatever computes the model instead, or several rows at once, is held against that.

Shapes: R rows of the probe, B rows of a batch, T tokens of the longest, C outputs. A row's answer is C, or TC where
each token has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tidemill.encoding.batching import ANY_LENGTHS, EQUAL_LENGTHS, ONE_ROW, Company
from tidemill.encoding.items import IDS, MASK, Arrays, Outputs, are_finite
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.engines.probing.rows import SHORT, Probe, num_parameters, probe_of
from tidemill.engines.probing.state import State
from tidemill.errors import ModelError

Forward = Callable[[Arrays], Outputs]

SAME_PARTS = 2e-4
"""Of the spread of answers: what the same module's sums come to beside other rows."""
OTHER_PARTS = 1e-3
"""Of the spread: what fp32 sums in another order come to. A wrong part shows in the first digit."""
ROUNDING = 16 * float(np.finfo(np.float32).eps)
"""Of the largest logit: a constant in all of them is off by its last digits, however little they differ."""

MANY_OPERATIONS = 3e10
"""Floating-point: about what one core does in a second."""


@dataclass(frozen=True)
class Truth:
    """The answer to each row of the probe that the model answers at all, which may be none.

    `company` says with which rows a row may share a batch of the model's own; `changes_itself` whether computing
    changes the model, which then has to be as it was before each batch.
    """

    probe: Probe
    answers: list[Outputs]
    company: Company = ANY_LENGTHS
    changes_itself: bool = False

    def holds_for(self, forward: Forward, company: Company, *, tolerance: float = OTHER_PARTS) -> bool:
        """Whether `forward` answers each row so, in every company that is allowed: NaN is no answer."""
        bound = self.bound(tolerance)
        return all(self._difference(forward, batch) <= bound for batch in self._batches(company))

    def is_finite_for(self, forward: Forward, company: Company) -> bool:
        return all(
            are_finite(forward(self.probe.padded(batch)), self.probe.lengths(batch)).all()
            for batch in self._batches(company)
        )

    def bound(self, tolerance: float) -> float:
        """`tolerance` of what answers differ by from row to row, in the output where they differ most."""
        answers_RC = np.concatenate([np.atleast_2d(each) for each in self.answers])
        return tolerance * float(np.ptp(answers_RC, axis=0).max()) + ROUNDING * float(np.abs(answers_RC).max())

    def of_short_rows(self) -> Truth:
        """For what cannot know of a width."""
        short = self._short()
        probe = replace(self.probe, rows=[self.probe.rows[i] for i in short])
        return replace(self, probe=probe, answers=[self.answers[i] for i in short])

    def _difference(self, forward: Forward, batch: Sequence[int]) -> float:
        answered = forward(self.probe.padded(batch))
        if len(answered) != len(batch):
            return np.inf
        return max(_distance(one, self.answers[i]) for one, i in zip(answered, batch, strict=True))

    def _batches(self, company: Company) -> Iterator[list[int]]:
        """Long rows after short ones and short ones after long ones, alone and together."""
        short, wide = self._short(), list(range(len(self._short()), len(self.answers)))
        if company == ANY_LENGTHS:
            yield short
            # Padded by more than any window, a short row has padding from which no token is to be seen.
            yield from ([i, short[len(short) // 2]] for i in wide)
        else:
            yield from ([i] for i in wide)
        if company != ONE_ROW:
            yield from self._of_equal_length()
        yield from ([i] for i in short[::-1])

    def example(self, company: Company) -> Arrays:
        """A batch for a converter that looks at what is computed for one; it has a mask in any case."""
        short = self._short()
        batch = {ANY_LENGTHS: short[-2:], EQUAL_LENGTHS: next(self._of_equal_length(), short[-1:]), ONE_ROW: short[-1:]}
        arrays = self.probe.padded(batch[company])
        return {MASK: np.ones_like(arrays[IDS]), **arrays}

    def _of_equal_length(self) -> Iterator[list[int]]:
        lengths = [len(row) for row in self.probe.rows]
        for length in sorted({length for length in lengths if lengths.count(length) > 1}):
            yield [i for i, each in enumerate(lengths) if each == length]

    def _short(self) -> list[int]:
        return [i for i, row in enumerate(self.probe.rows) if len(row) <= max(SHORT)]


def examine(model: Any, *, longest: int | None, inputs: Collection[str] = (IDS, MASK)) -> Truth:
    """Ask a float32 module of Transformers on the CPU; it is afterwards what it was before.

    `longest` is the most tokens of a row that it takes, as `inputs`.

    Raises:
        ModelError: it answers the same row otherwise each time it is asked.
    """
    state = State(model)

    def afresh(arrays: Arrays) -> Outputs:
        state.restore()
        return forward_of(model)(arrays)

    probe = probe_of(model, longest=longest, inputs=inputs)
    try:
        truth = _alone(afresh, state, probe)
        if not truth.answers:
            return truth
        if not truth.changes_itself:
            state.restore()
            # What a model keeps in private shows in its answers alone: nothing is restored between these.
            with suppress(ModelError):
                return replace(truth, company=_company(forward_of(model), truth))
            truth = replace(truth, changes_itself=True)
        return replace(truth, company=_company(afresh, truth))
    finally:
        state.restore()


def forward_of(model: nn.Module) -> Forward:
    """What a module answers, as arrays."""
    return on_arrays(lambda tensors: outputs_of(model(**{MASK: None, **tensors})), num_parameters=num_parameters(model))


def outputs_of(answer: Any) -> Tensor:
    """What a module returned: a tensor, or Transformers' object around one."""
    outputs: Tensor = answer if isinstance(answer, Tensor) else answer.logits
    return outputs


def on_arrays(forward: Callable[[Mapping[str, Tensor]], Tensor], *, num_parameters: int) -> Forward:
    def on_arrays(arrays: Arrays) -> Outputs:
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        # Not in inference mode: what the module keeps of it must be usable outside of that.
        with torch.no_grad(), _few_threads(2 * num_parameters * arrays[IDS].size):
            outputs: Outputs = forward(tensors).float().numpy()
        return outputs

    return on_arrays


@contextmanager
def _few_threads(num_operations: int) -> Iterator[None]:
    """Little is computed by one thread: where others work too, threads wait for each other for longer than that.

    A model of 14 million parameters took 7 CPU seconds to be asked, and takes 1.
    """
    before = torch.get_num_threads()
    if num_operations < MANY_OPERATIONS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alone(forward: Forward, state: State, probe: Probe) -> Truth:
    answers: dict[int, Outputs] = {}
    changes_itself = False
    for i in range(len(probe.rows)):
        answered = _answer(forward, probe.padded([i]))
        changes_itself = changes_itself or state.has_changed()
        if answered is not None and np.isfinite(answered).all():
            answers[i] = answered[0]
    asked = replace(probe, rows=[probe.rows[i] for i in answers])
    return Truth(asked, list(answers.values()), changes_itself=changes_itself)


def _answer(forward: Forward, batch: Arrays) -> Outputs | None:
    """None where the model fails at it, as it then does at such a row of a dataset."""
    try:
        return forward(batch)
    except Exception as e:  # a model's code may raise anything
        if is_out_of_memory(e):
            raise
        return None


def _distance(answered: Outputs, expected: Outputs) -> float:
    """What a row's tokens of padding have does not count."""
    if expected.ndim == 2:
        answered = answered[: len(expected)]
    return float(np.abs(answered - expected).max()) if answered.shape == expected.shape else np.inf


def _company(forward: Forward, truth: Truth) -> Company:
    """The freest company in which answers are those alone.

    Raises:
        ModelError: not even alone they are.
    """
    for company in [EQUAL_LENGTHS, ONE_ROW] if truth.changes_itself else [ANY_LENGTHS, EQUAL_LENGTHS, ONE_ROW]:
        if _holds(forward, truth, company):
            return company
    raise ModelError(
        "It answers the same text otherwise from one time to the next, though nothing else changes, so no result of it "
        "could be had again. Choose another model."
    )


def _holds(forward: Forward, truth: Truth, company: Company) -> bool:
    try:
        return truth.holds_for(forward, company, tolerance=SAME_PARTS)
    except Exception as e:
        if is_out_of_memory(e):
            raise
        return False
