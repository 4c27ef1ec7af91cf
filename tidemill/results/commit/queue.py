"""Group commit: shards that wait for the lake's lock at one time, in one process, share a transaction.

What a transaction costs however little it writes is paid once for all of them
(Gray and Reuter, "Transaction Processing", 1993, on group commit). Whoever finds
nobody at work commits at once, and alone: nothing waits for company.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidemill.errors import ENDS_RUN, LakeLocked
from tidemill.lake.ducklake.connection import Lake, is_interrupt
from tidemill.lake.pipelines import Target
from tidemill.results.commit.items import Computed, Outcome
from tidemill.results.commit.transaction import commit_lots

COMMITTED_BYTES = 2**26
"""Text of one transaction's shards, at most: so long do other writers wait, and so much is done again if it fails."""


@dataclass(eq=False)
class _Waiting:
    """A lot, and what became of it."""

    items: Sequence[Computed]
    outcome: Outcome | None = None
    error: Exception | None = None

    @property
    def shard_ids(self) -> set[str]:
        return {item.shard.shard_id for item in self.items}

    @property
    def num_bytes(self) -> int:
        return sum(item.shard.slice.text_bytes for item in self.items)


class CommitQueue:
    """Where the threads of one run commit shards that stand by themselves.

    Of several lots at most `most` shards go into one transaction. `count` is told of every lot's outcome right after
    the commit, in the thread that made it.
    """

    def __init__(self, lake: Lake, target: Target, count: Callable[[Outcome], None], *, most: int) -> None:
        self._lake, self._target, self._count, self._most = lake, target, count, most
        self._waiting: list[_Waiting] = []
        self._mutex = threading.Lock()
        self._turn = threading.Lock()
        """Held by the thread that commits, for itself and for those that wait."""

    @property
    def num_waiting(self) -> int:
        """Lots whose outcome is open, those that are being committed among them."""
        with self._mutex:
            return len(self._waiting)

    def commit(self, items: Sequence[Computed]) -> Outcome:
        """Commit a lot: all of it or nothing. What makes a transaction of several lots fail, fails alone."""
        mine = _Waiting(items)
        with self._mutex:
            self._waiting.append(mine)
        try:
            with self._turn:
                if mine.outcome is None and mine.error is None:
                    self._commit_waiting(mine)
        finally:
            with self._mutex:
                if mine in self._waiting:  # The lock was not got, or this thread is being ended.
                    self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.outcome is not None
        return mine.outcome

    def _commit_waiting(self, mine: _Waiting) -> None:
        group = [mine]
        with self._mutex:
            here = list(self._waiting)

        def take() -> list[Sequence[Computed]]:
            group[:] = self._together(mine)
            return [lot.items for lot in group]

        try:
            self._settle(group, commit_lots(self._lake, self._target, take))
        except Exception as e:
            if isinstance(e, LakeLocked):  # Nothing is taken before the lock is got; who was here has waited as long.
                group += [lot for lot in here if lot not in group]
            if len(group) == 1:
                raise
            self._fail(group, e)

    def _together(self, mine: _Waiting) -> list[_Waiting]:
        """A lot, and the first others that go with it. No shard is in two: what is asked for anew comes later."""
        with self._mutex:
            others = [lot for lot in self._waiting if lot is not mine]
        group, shard_ids, num_bytes = [mine], mine.shard_ids, mine.num_bytes
        for lot in others:
            fits = len(shard_ids) + len(lot.items) <= self._most and num_bytes + lot.num_bytes <= COMMITTED_BYTES
            if fits and shard_ids.isdisjoint(lot.shard_ids):
                group.append(lot)
                shard_ids |= lot.shard_ids
                num_bytes += lot.num_bytes
        return group

    def _settle(self, group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        for lot, outcome in zip(group, outcomes, strict=True):
            self._count(outcome)
            lot.outcome = outcome
        with self._mutex:
            self._waiting = [lot for lot in self._waiting if lot not in group]

    def _fail(self, group: Sequence[_Waiting], error: Exception) -> None:
        """A lake that is locked or away is so for each of the group; anything else is one lot's, which is found out.

        So each is committed alone, until the lake is locked or away: then the others are told so, untried. A lot that
        was told of an error waits no more, so nobody commits it while its owner takes it for failed.
        """
        for lot in group:
            if isinstance(error, ENDS_RUN) or is_interrupt(error):
                lot.error = copy.copy(error)
                continue
            try:
                self._commit_alone(lot)
            except Exception as e:  # noqa: BLE001
                lot.error = error = e
        with self._mutex:
            self._waiting = [lot for lot in self._waiting if lot.error is None]

    def _commit_alone(self, lot: _Waiting) -> None:
        self._settle([lot], commit_lots(self._lake, self._target, lambda: [lot.items]))
