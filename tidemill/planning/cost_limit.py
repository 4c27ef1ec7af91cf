"""What a run may cost: it stops before the shard that would pass it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, CostReached
from tidemill.lake.requests import Request
from tidemill.lake.runs import RunRecord
from tidemill.planning.estimates import Rate


class CostLimit:
    """The cost of a run so far, and what the shards on their way will add to it.

    `spent_elsewhere` is what others spent for the same purpose until now.

    Raises:
        ConfigError: there is a bound, but no price.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        max_cost: float | None,
        *,
        rate: Rate,
        spent_elsewhere: Callable[[], float] = lambda: 0.0,
    ) -> None:
        per_hour = pipeline.cost.per_hour
        if max_cost is not None and per_hour is None:
            raise ConfigError("max_cost needs a price. Set cost.per_hour to what an hour of the device costs.")
        self._max_cost, self._per_second = max_cost, (per_hour or 0.0) / 3600
        self._currency = pipeline.cost.currency
        self.rate, self._spent_elsewhere = rate, spent_elsewhere
        self.bytes_to_compute: Mapping[str, float] = {}
        """Shard id → bytes of its texts, where not all of them are computed."""
        self._started = time.monotonic()
        self._elsewhere = 0.0
        """What others had spent when that was last asked: the lake is not asked between the steps of a model."""
        self._num_tokens_sent = 0.0
        self._num_tokens_to_compute = 0.0
        """Of what was sent; fewer than that where it is known which rows did not change."""
        self._sent: set[str] = set()
        """Ids of the requests that are counted."""

    def check(self, request: Request, record: RunRecord) -> None:
        """Count a shard as sent, once: one that failed together with others is sent again.

        Raises:
            CostReached: it would pass the bound.
        """
        if self._max_cost is None:
            return
        seconds = time.monotonic() - self._started
        self._count(request)
        self._elsewhere = self._spent_elsewhere()
        spent = self._elsewhere + seconds * self._per_second
        if spent + self._seconds_ahead(seconds, record) * self._per_second > self._max_cost:
            raise CostReached(
                f"Stopped after {spent:.4f} {self._currency}: the next shard would pass max_cost = {self._max_cost:g}. "
                "What was committed stays; raise max_cost to go on."
            )

    def check_spent(self) -> None:
        """Hold what was spent until now against the bound, in the middle of a shard.

        Raises:
            CostReached: it is passed.
        """
        spent = self._elsewhere + (time.monotonic() - self._started) * self._per_second
        if self._max_cost is not None and spent > self._max_cost:
            raise CostReached(
                f"Stopped in mid-shard after {spent:.4f} {self._currency}, at max_cost = {self._max_cost:g}. What was "
                "committed stays, and so does what was written until then; raise max_cost to go on."
            )

    def settle(self, record: RunRecord) -> None:
        """Nothing is on its way any more: what was sent and is not done has failed, or will be sent again."""
        self._num_tokens_sent, self._num_tokens_to_compute = _num_done(record), 0.0
        self._sent.clear()

    def _count(self, request: Request) -> None:
        if request.request_id in self._sent:
            return
        self._sent.add(request.request_id)
        cut = request.shard.slice
        to_compute = self.bytes_to_compute.get(request.shard.shard_id, cut.text_bytes)
        self._num_tokens_sent += self.rate.num_tokens(cut.text_bytes)
        self._num_tokens_to_compute += self.rate.num_tokens(to_compute)

    def _seconds_ahead(self, seconds: float, record: RunRecord) -> float:
        """What is sent and not done will take, at the pace of what is done: its unchanged rows are part of that."""
        num_done = _num_done(record)
        if not num_done:
            return self._num_tokens_to_compute * (self.rate.seconds_per_token or 0.0)
        return max(0.0, self._num_tokens_sent - num_done) * seconds / num_done


def _num_done(record: RunRecord) -> int:
    return record.num_tokens + record.num_unchanged_tokens
