"""What a publication would send, for whoever is asked; and how it is sent once that is agreed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ConfigError, InputError
from tidemill.publishing.repositories.manifest import CARD, MANIFEST, Manifest, Part
from tidemill.publishing.repositories.shipment import Shipment, send
from tidemill.publishing.repositories.writing import Content, FileId, Head, HeadMoved, Repository

MOST_ATTEMPTS = 5


@dataclass(frozen=True)
class Proposal:
    """A shipment on top of a head, with what is to be said of it before."""

    repository: Repository
    head: Head | None
    shipment: Shipment
    facts: Mapping[str, Any]
    private: bool

    def to_json(self) -> dict[str, Any]:
        sizes = {path: _size(content) for path, content in self.shipment.additions.items()}
        return {
            "repository": self.repository.id,
            "kind": self.repository.kind,
            "url": self.repository.url,
            "exists": self.head is not None,
            "private": self.private,
            "files": [{"path": path, "bytes": size} for path, size in sizes.items()],
            "deletions": list(self.shipment.deletions),
            "bytes": sum(sizes.values()),
            **self.facts,
        }


@dataclass(frozen=True)
class Published:
    """`commit` is None where there was nothing to send."""

    commit: str | None
    facts: Mapping[str, Any]

    @property
    def state(self) -> str:
        return "unchanged" if self.commit is None else "published"

    def to_json(self) -> dict[str, Any]:
        return {**self.facts, "state": self.state, "commit": self.commit}


def visibility(repository: Repository, head: Head | None, manifest: Manifest, *, public: bool) -> bool:
    """Whether the repository is private, or will be.

    Raises:
        ConfigError: it is public, and nobody has said that what is sent may be.
    """
    if head is None:
        return not public
    if not head.is_private and not public and not manifest.parts:
        raise ConfigError(
            f"{repository.id} on the Hub is public. Say --public to publish there, or give --to another repository."
        )
    return head.is_private


def make_shipment(
    repository: Repository,
    head: Head | None,
    manifest: Manifest,
    *,
    name: str,
    part: Part,
    contents: Mapping[str, Content],
    card: str,
    message: str,
    card_is_news: bool = False,
) -> Shipment:
    """What brings the head to where `part` is as it says. `contents` are those of its files that are not there yet.

    The card goes along where something else does, or where it is not there: what people edited in it is no news. What
    its author wrote anew is, where `card_is_news`.

    Raises:
        InputError: a file that somebody else put there is in the way.
    """
    known, there = manifest.files, head.files if head else {}
    before = manifest.parts.get(name, Part({}, {}))
    if taken := sorted(path for path in contents if path in there and path not in known):
        raise InputError(
            f"{repository.id} on the Hub has {taken[0]}, which Tidemill did not put there. Nothing was sent. Remove it "
            "there, or give --to another repository."
        )
    deletions = sorted(path for path in before.files if path not in part.files)
    card_bytes = card.encode()
    parts = {**manifest.parts, name: part}
    is_card_there = _is_there(card_bytes, there.get(CARD)) if card_is_news else CARD in there
    if part.to_json() == before.to_json() and not contents and is_card_there:
        return Shipment({}, (), message)
    manifest = Manifest(parts, FileId.of(card_bytes).blob if card_is_news else None)
    own = {CARD: card_bytes, MANIFEST: manifest.to_bytes()}
    changed = {path: content for path, content in own.items() if not _is_there(content, there.get(path))}
    return Shipment({**contents, **changed}, deletions, message)


def _is_there(content: Content, there: FileId | None) -> bool:
    return there is not None and FileId.of(content).is_of(there)


def carried_out(
    propose: Callable[[], Proposal],
    *,
    agree: Callable[[Proposal], bool],
    tell: Callable[[str], object] = lambda text: None,
) -> Published | None:
    """Propose, ask, and send; where somebody else has committed meanwhile, propose anew on top of that.

    None where the answer was no. Who has agreed is not asked again.

    Raises:
        InputError: others go on committing there.
    """
    agreed = False
    for _ in range(MOST_ATTEMPTS):
        proposal = propose()
        facts = proposal.to_json()
        if proposal.shipment.is_empty:
            return Published(None, facts)
        if not agreed and not agree(proposal):
            return None
        agreed = True
        try:
            commit = send(proposal.repository, proposal.shipment, proposal.head, private=proposal.private, tell=tell)
        except HeadMoved:
            continue
        return Published(commit, facts)
    raise InputError(
        f"{proposal.repository.id} on the Hub got a new commit from somebody else {MOST_ATTEMPTS} times while this was "
        "sent. Nothing of it is there. Publish again when they are done."
    )


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
