"""Whether a converted model may stand in for the module that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidemill.encoding.batching import Company
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.engines.probing.truth import Forward, Truth
from tidemill.errors import TidemillError, first_line


class CannotConvert(Exception):
    """Why an engine does not take a model."""


@contextmanager
def converting() -> Iterator[None]:
    """Whatever tracing, compiling or a first inference raises in here is a reason not to use the engine.

    A lack of memory too, which is the machine's here: another engine holds the model fewer times.

    Raises:
        CannotConvert: by that reason.
    """
    try:
        yield
    except (CannotConvert, TidemillError):
        raise
    except Exception as e:
        if is_out_of_memory(e):
            raise CannotConvert(f"memory ran out while it was converted ({_meaning(e)})") from e
        raise CannotConvert(_meaning(e)) from e


def _meaning(error: Exception) -> str:
    """OpenVINO says first where in its sources it was, and last what was wrong."""
    if first_line(error).startswith(("Exception from ", "Check '")):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1].removeprefix("-- ").rstrip(".")
    return first_line(error)


def require_knowable(truth: Truth) -> None:
    """
    Raises:
        CannotConvert: a conversion would keep what is not the same at every text.
    """
    if truth.changes_itself:
        raise CannotConvert("what it computes changes the model, and a conversion would stay as it was at first")
    if not truth.answers:
        raise CannotConvert("it answers no probe in torch, so there is nothing to hold a conversion against")
    if truth.probe.unasked:
        widths = ", ".join(map(str, truth.probe.unasked))
        raise CannotConvert(
            f"its config.json names a width of {widths} tokens, and to try a longer row now would take too "
            f"long; with tokenizer.max_length = {truth.probe.unasked[0]} or less there is no need"
        )


def require_same(truth: Truth, forward: Forward, company: Company) -> None:
    """
    Raises:
        CannotConvert: it answers otherwise, with NaN, or differently beside other rows.
    """
    if not truth.holds_for(forward, company):
        raise CannotConvert("converted, it does not answer as it does in torch")


def require_finite(truth: Truth, forward: Forward, company: Company) -> None:
    """What has fewer digits may differ, but is a number.

    Raises:
        CannotConvert: it is not.
    """
    if not truth.is_finite_for(forward, company):
        raise CannotConvert("in this dtype it answers NaN or infinity")
