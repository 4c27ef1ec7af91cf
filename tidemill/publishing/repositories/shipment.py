"""What is to be sent to a repository, and its one commit: made once, whatever becomes of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tidemill.errors import SourceUnavailable, counted
from tidemill.publishing.repositories.writing import Content, FileId, Head, HeadMoved, Repository, tell_wait
from tidemill.retry import backoff_seconds

MOST_ATTEMPTS = 8
LONGEST_PAUSE_SECONDS = 8.0
FILES_AT_ONCE = 64
"""Of which the contents are sent together; between them it is told how far it is."""


@dataclass(frozen=True)
class Shipment:
    """Files by path that the head has not, or has otherwise, and those that it is to have no more."""

    additions: Mapping[str, Content]
    deletions: Sequence[str]
    message: str

    @property
    def is_empty(self) -> bool:
        return not (self.additions or self.deletions)


def send(
    repository: Repository,
    shipment: Shipment,
    head: Head | None,
    *,
    private: bool,
    tell: Callable[[str], object] = lambda text: None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Send the contents, then make the commit on top of `head`, and return it; a repository that is missing is made.

    Killed before its commit it has changed nothing; contents that were sent are not sent again.

    Raises:
        HeadMoved: somebody else committed meanwhile. Nothing of this is done.
        SourceUnavailable: the Hub did not answer well for long.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if head is None:
        repository.create(private=private)
        head = _made(repository)
    additions = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in shipment.additions.items()
    ]
    for start in range(0, len(additions), FILES_AT_ONCE):
        repository.upload(batch := additions[start : start + FILES_AT_ONCE])
        tell(f"sent {start + len(batch):,} of {counted(len(additions), 'file')}")
    operations = [*additions, *(CommitOperationDelete(path, is_folder=False) for path in shipment.deletions)]
    return _committed(repository, shipment, operations, head, sleep)


def _made(repository: Repository) -> Head:
    made = repository.head()
    if made is None:
        raise SourceUnavailable(f"{repository.id} was made on the Hub, and is not there yet. Publish again.")
    return made


def _committed(
    repository: Repository,
    shipment: Shipment,
    operations: list[object],
    head: Head,
    sleep: Callable[[float], object],
) -> str:
    """The commit. After an unclear answer the head tells: what was to be sent is there, or nothing of it is."""
    for attempt in range(MOST_ATTEMPTS):
        try:
            return repository.commit(operations, message=shipment.message, parent=head.sha)
        except (HeadMoved, SourceUnavailable) as e:
            last = e
        now = repository.head()
        if now is not None and now.sha != head.sha:
            if is_done(shipment, now):
                return str(now.sha)
            raise HeadMoved(f"{repository.id} on the Hub has a new commit.") from last
        asked = last.wait_seconds if isinstance(last, SourceUnavailable) else None
        if asked:
            tell_wait(asked)
        sleep(min(LONGEST_PAUSE_SECONDS, backoff_seconds(attempt)) if asked is None else asked)
    raise last


def is_done(shipment: Shipment, head: Head) -> bool:
    """Whether the head has every file as it was to be sent, and none that was to go."""
    return not any(path in head.files for path in shipment.deletions) and all(
        path in head.files and FileId.of(content).is_of(head.files[path])
        for path, content in shipment.additions.items()
    )
