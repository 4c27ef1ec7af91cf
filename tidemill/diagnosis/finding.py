"""What a check says, and the bound of its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tidemill.masking import message_of

State = Literal["works", "slow", "fails", "absent"]
SECONDS = 8.0
"""How long a check may take."""


@dataclass(frozen=True)
class Finding:
    """`said` are the facts, or what is wrong; `remedy` the command or option that mends it.

    What is `absent` may well be; what is `needed` and fails lets a run fail.
    """

    area: str
    name: str
    state: State
    said: str
    remedy: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Check:
    """`find` gives findings; where it takes too long or raises, that is one, by `area` and `name`."""

    area: str
    name: str
    find: Callable[[], Sequence[Finding]]
    remedy: str = ""
    needed: bool = False
    seconds: float = field(default=SECONDS)


def examine(checks: Sequence[Check]) -> list[Finding]:
    """Carry out checks side by side, each in a thread that nobody waits for beyond its bound; in their order."""
    running = [_start(check) for check in checks]
    return [finding for wait in running for finding in wait()]


def _start(check: Check) -> Callable[[], Sequence[Finding]]:
    found: list[Sequence[Finding]] = []

    def carry_out() -> None:
        try:
            found.append(check.find())
        except Exception as e:  # noqa: BLE001 — a check that fails says what is wrong with what it looks at.
            found.append([_failed(check, message_of(e))])

    thread = threading.Thread(target=carry_out, daemon=True)
    thread.start()

    def wait() -> Sequence[Finding]:
        thread.join(check.seconds)
        return found[0] if found else [_failed(check, f"no answer within {check.seconds:.0f} s")]

    return wait


def _failed(check: Check, said: str) -> Finding:
    return Finding(check.area, check.name, "fails", said, check.remedy, check.needed)


def needed(findings: Sequence[Finding]) -> list[Finding]:
    """The same, all of them needed."""
    return [replace(finding, needed=True) for finding in findings]
