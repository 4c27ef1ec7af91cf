"""Which requests to the Hub fail, and how: by script, or by a seeded share."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

FaultKind = Literal[
    "429",
    "503",
    "cut",
    "reset",
    "whole",
    "short",
    "long",
    "elsewhere",
    "endless",
    "stall",
    "trickle",
    "expired",
    "late",
    "lost",
]
"""`cut` to `reset` break off. Then: the whole file for a range, fewer bytes, more, another range than was asked for;
bytes without an end, none after the head, one at a time. `expired` is a signed address that is not taken any more.
Of what writes all of these fail before anything is done, but for two: what is `late` is done and answered 503, what is
`lost` is done and never answered."""


@dataclass
class Request:
    """A request and its answer. `path` is unquoted and without the query; a reset has status 0."""

    method: str
    path: str
    query: str
    range: str | None
    status: int = 0
    body_bytes: int = 0
    fault: FaultKind | None = None
    received_bytes: int = 0
    """Body bytes of the request."""
    authorized: bool = False
    """Whether a credential came with it."""


@dataclass(frozen=True)
class Failure:
    """The first `times` requests by `method` whose path contains `path` fail."""

    path: str
    kind: FaultKind = "503"
    times: int = 1
    method: str = "GET"

    def matches(self, request: Request) -> bool:
        return request.method == self.method and self.path in request.path


@dataclass
class Faults:
    """A script of failures and, after it, a share `rate` of the requests that `only` lets through.

    The draw depends on the seed, the request and how often it was made before:
    threads that race meet the same faults. What has no body to cut gets a 503.
    A 429 names `retry_after` seconds; `huggingface_hub` sleeps one second more.
    """

    rate: float = 0.0
    seed: int = 0
    kinds: Sequence[FaultKind] = ("429", "503", "cut")
    only: Callable[[Request], bool] | None = None
    script: Sequence[Failure] = ()
    retry_after: int = 1
    _scripted: Counter[int] = field(default_factory=Counter, repr=False)
    _asked: Counter[str] = field(default_factory=Counter, repr=False)

    def draw(self, request: Request) -> FaultKind | None:
        for number, failure in enumerate(self.script):
            if failure.matches(request) and self._scripted[number] < failure.times:
                self._scripted[number] += 1
                return failure.kind
        if self.only and not self.only(request):
            return None
        asked = f"{request.method} {request.path} {request.query} {request.range}"
        self._asked[asked] += 1
        chance = random.Random(f"{self.seed} {self._asked[asked]} {asked}")
        return chance.choice(self.kinds) if chance.random() < self.rate else None

    def rate_limit_headers(self) -> dict[str, str]:
        return {
            "Retry-After": str(self.retry_after),
            "RateLimit": f'"api";r=0;t={self.retry_after}',
            "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
        }
