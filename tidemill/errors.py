"""Every error that Tidemill raises, in one tree.

    TidemillError                     exit 1
    ├── InputError                    exit 2 when met before work starts
    │   ├── ConfigError               the pipeline file or an option
    │   ├── DatasetError              the dataset cannot be found, opened or listed
    │   │   ├── FileUnreadable        one of its files may not be read
    │   │   └── ChoiceMissing         it has no such config or split, or several configs to choose from
    │   ├── SchemaError               a column is missing, misnamed or of the wrong type
    │   ├── FormatError               a file is not what its name says
    │   ├── ModelError                the model or tokenizer cannot be found or does not fit
    │   ├── SequenceTooLong           a row has more tokens than the token budget
    │   └── LakeError                 the lake is missing, unreadable or of another layout
    ├── LimitExceeded                 a limit of the pipeline file stopped the run
    ├── RunFailed                     some shards failed; the others are committed
    ├── ShardGone                     results that were to be copied are gone; the run plans again
    ├── InvariantBroken               what must always hold does not
    ├── PlaceUnusable                 a file or folder of Tidemill's own: no right to it, no space, no such disk
    ├── Stopped                       the user asked to stop
    │   └── CostReached               the next shard would pass the cost that was allowed
    └── RetryableError                retryable: the same call may succeed later
        ├── SourceUnavailable         429, 5xx, a reset or a cut body, after the reader's own retries
        ├── FileChanged               a source file is not the one that was listed
        ├── LakeLocked                another writer held the lake's lock too long
        ├── LakeUnavailable           the catalog's server does not answer, or let go of a session
        └── StoreFileInvalid          an intermediate file is missing or fails its check

A message says what happened with its values, then what to change. Secrets are masked in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidemill.masking import masked


class TidemillError(Exception):
    """Base of the tree. `retryable` is the one condition that every retry asks."""

    retryable = False
    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(masked(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(TidemillError):
    """What the user gave cannot be worked on."""

    exit_code = 2


class ConfigError(InputError):
    pass


class DatasetError(InputError):
    pass


class FileUnreadable(DatasetError):
    pass


class ChoiceMissing(DatasetError):
    """The dataset has no such `noun` (config, split), or several and none was named; it has the `existing` ones."""

    def __init__(self, message: str, *, noun: str, existing: Iterable[object]) -> None:
        self.noun, self.existing = noun, tuple(map(str, existing))
        super().__init__(message, noun, self.existing)
        self.message = masked(message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_choice_missing, (self.message, self.noun, self.existing))


def _choice_missing(message: str, noun: str, existing: tuple[str, ...]) -> ChoiceMissing:
    return ChoiceMissing(message, noun=noun, existing=existing)


class SchemaError(InputError):
    pass


class FormatError(InputError):
    pass


class ModelError(InputError):
    pass


class SequenceTooLong(InputError):
    """One row alone, of `num_tokens`, is longer than `token_budget`."""

    def __init__(self, *, num_tokens: int, token_budget: int) -> None:
        super().__init__(
            f"A sequence of {num_tokens:,} tokens does not fit a token budget of {token_budget:,}. "
            f"Raise inference.token_budget to at least {num_tokens}, or lower tokenizer.max_length to {token_budget}."
        )
        self.num_tokens = num_tokens
        self.token_budget = token_budget

    def __reduce__(self) -> tuple[object, ...]:
        return (_sequence_too_long, (self.num_tokens, self.token_budget))


def _sequence_too_long(num_tokens: int, token_budget: int) -> SequenceTooLong:
    return SequenceTooLong(num_tokens=num_tokens, token_budget=token_budget)


class LakeError(InputError):
    pass


class LimitExceeded(TidemillError):
    pass


class RunFailed(TidemillError):
    pass


class ShardGone(TidemillError):
    pass


class InvariantBroken(TidemillError):
    pass


class PlaceUnusable(TidemillError):
    pass


class Stopped(TidemillError):
    pass


class CostReached(Stopped):
    pass


class RetryableError(TidemillError):
    retryable = True


class SourceUnavailable(RetryableError):
    """The source did not answer well; `wait_seconds` is what it asked for, if it did."""

    def __init__(self, message: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(message, wait_seconds)
        self.message = masked(message)
        self.wait_seconds = wait_seconds

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_source_unavailable, (self.message, self.wait_seconds))


def _source_unavailable(message: str, wait_seconds: float | None) -> SourceUnavailable:
    return SourceUnavailable(message, wait_seconds=wait_seconds)


class FileChanged(RetryableError):
    pass


FAILS_ALONE = (FormatError, FileUnreadable, FileChanged)
"""What is wrong with one file, and says nothing of the dataset's others."""


class LakeLocked(RetryableError):
    pass


class LakeUnavailable(RetryableError):
    pass


class StoreFileInvalid(RetryableError):
    pass


ENDS_RUN = (Stopped, LimitExceeded, RunFailed, PlaceUnusable, LakeLocked, LakeUnavailable)
"""What ends a run wherever it arises, after its retries; other errors of a shard fail its file alone."""


def is_retryable(error: BaseException) -> bool:
    """The one retry rule, for the engine's retries and for every Prefect task."""
    return isinstance(error, TidemillError) and error.retryable


def counted(number: int, noun: str) -> str:
    """How many of what, as people say it: `1 shard`, `2,000 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """What an error says first, less its full stop; the name of its class where it says nothing."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
