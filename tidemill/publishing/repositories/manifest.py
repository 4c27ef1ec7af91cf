"""What Tidemill put into a repository, as a file there: by it the next publication knows what is new, and what somebody
else has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill.errors import InputError
from tidemill.publishing.repositories.writing import FileId, Head, Repository

MANIFEST = "tidemill.json"
CARD = "README.md"
FORMAT = 1
NOT_OURS = (".gitattributes", ".gitignore", CARD)
"""What may be in a repository to which nothing was published yet."""
MOST_NAMED = 5


@dataclass(frozen=True)
class PublishedFile:
    """`of` names what the file was made of: where that is the same, the file is not made again."""

    of: str
    id: FileId
    num_rows: int | None = None

    def to_json(self) -> dict[str, Any]:
        rows = {} if self.num_rows is None else {"rows": self.num_rows}
        return {"of": self.of, "sha256": self.id.sha256, "blob": self.id.blob, **rows}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> PublishedFile:
        return cls(facts["of"], FileId(facts["sha256"], facts["blob"]), facts.get("rows"))


@dataclass(frozen=True)
class Part:
    """What one publication put there: of a dataset one split of one config, of a model all of it."""

    facts: Mapping[str, Any]
    files: Mapping[str, PublishedFile]

    def to_json(self) -> dict[str, Any]:
        return {**self.facts, "files": {path: file.to_json() for path, file in sorted(self.files.items())}}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Part:
        files = {path: PublishedFile.from_json(file) for path, file in facts["files"].items()}
        return cls({key: value for key, value in facts.items() if key != "files"}, files)


@dataclass(frozen=True)
class Manifest:
    parts: Mapping[str, Part] = field(default_factory=dict)
    card: str | None = None
    """Git's name of a model's card that was the folder's own; None where people had written one in the repository."""

    def to_bytes(self) -> bytes:
        parts = {name: part.to_json() for name, part in sorted(self.parts.items())}
        return (json.dumps({"format": FORMAT, "card": self.card, "parts": parts}, indent=1) + "\n").encode()

    @property
    def files(self) -> dict[str, PublishedFile]:
        return {path: file for part in self.parts.values() for path, file in part.files.items()}


def read_manifest(repository: Repository, head: Head | None) -> Manifest:
    """What was published, of which nothing was changed there since; nothing for a repository that is missing or empty.

    Raises:
        InputError: the repository has other files where these are to go, or somebody changed some of them.
    """
    if head is None:
        return Manifest()
    if MANIFEST not in head.files:
        if others := sorted(path for path in head.files if path not in NOT_OURS and not path.startswith("LICENSE")):
            raise InputError(
                f"{repository.id} on the Hub has files that Tidemill did not put there: {_named(others)}. Nothing was "
                "sent. Give --to a repository that is empty, or one that is not there yet."
            )
        return Manifest()
    manifest = _parsed(repository, repository.read(MANIFEST, head.sha))
    _refuse_changes(repository, manifest, head)
    return manifest


def _parsed(repository: Repository, content: bytes) -> Manifest:
    try:
        facts = json.loads(content)
        if facts["format"] == FORMAT:
            parts = {name: Part.from_json(part) for name, part in facts["parts"].items()}
            return Manifest(parts, facts["card"])
        why = f"is of format {facts['format']}, and this Tidemill writes {FORMAT}. Use a newer Tidemill"
    except (ValueError, KeyError, TypeError, AttributeError):
        why = "cannot be read. Put it back as it was, by reverting the commit that changed it"
    raise InputError(f"{MANIFEST} of {repository.id} on the Hub {why}, or give --to another repository.")


def _refuse_changes(repository: Repository, manifest: Manifest, head: Head) -> None:
    known = manifest.files
    differences = [
        *(f"{path} is gone" for path in sorted(known) if path not in head.files),
        *(
            f"{path} has another content"
            for path, file in sorted(known.items())
            if path in head.files and not file.id.is_of(head.files[path])
        ),
        *(f"{path} was added" for path in sorted(head.files) if path not in known and path.startswith("data/")),
    ]
    if differences:
        raise InputError(
            f"{repository.id} on the Hub was changed since Tidemill published there: {_named(differences, '; ')}. "
            "Nothing was sent. Revert those commits on the Hub, or give --to another repository."
        )


def _named(things: Iterable[str], separator: str = ", ") -> str:
    first, others = (listed := list(things))[:MOST_NAMED], len(listed) - MOST_NAMED
    return separator.join(first) + (f" and {others:,} more" if others > 0 else "")
