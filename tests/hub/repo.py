"""Repositories as the Hub keeps them: commits of files, named by their content.

Nothing here knows HTTP. The same commits get the same hashes in every process.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, Literal

import yaml

LFS_BYTES = 10 * 1024 * 1024
LFS_SUFFIXES = (".parquet", ".safetensors")
PIECE_BYTES = 64 * 1024
FIRST_COMMIT_DATE = datetime(2024, 1, 1, tzinfo=UTC)

RepoKind = Literal["datasets", "models"]


@dataclass(frozen=True)
class Blob:
    """A file's content. `oid` is git's name for it, or for the LFS pointer in its place."""

    content: bytes | Path
    size: int
    oid: str
    lfs: Mapping[str, Any] | None
    modified_ns: int

    @property
    def etag(self) -> str:
        return f'"{self.lfs["sha256"] if self.lfs else self.oid}"'

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        end = min(end, self.size)
        if isinstance(self.content, bytes):
            for at in range(start, end, PIECE_BYTES):
                yield self.content[at : min(at + PIECE_BYTES, end)]
            return
        if self.content.stat().st_mtime_ns != self.modified_ns:
            raise RuntimeError(f"{self.content} was changed after it was committed.")
        with self.content.open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(PIECE_BYTES, end - start))):
                start += len(piece)
                yield piece


def make_blob(path: str, content: bytes | Path) -> Blob:
    modified_ns = 0 if isinstance(content, bytes) else content.stat().st_mtime_ns
    data = stored = content if isinstance(content, bytes) else content.read_bytes()
    lfs = None
    if path.endswith(LFS_SUFFIXES) or len(data) > LFS_BYTES:
        digest = sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\n"
        stored = f"{pointer}size {len(data)}\n".encode()
        lfs = {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": len(stored)}
    oid = sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
    return Blob(content, len(data), oid, lfs, modified_ns)


def files_in(folder: Path) -> dict[str, Path]:
    """The files below a folder by their path in it: what `Repo.commit` takes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def timestamp(date: datetime) -> str:
    return date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class Commit:
    sha: str
    files: Mapping[str, Blob]
    message: str
    date: datetime
    parent: "Commit | None"

    def history(self) -> Iterator["Commit"]:
        """This commit and those before it, newest first."""
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent

    def describe(self) -> dict[str, Any]:
        """The commit in the words of the API's `commits`."""
        authors = [{"user": "tester"}]
        told = {"id": self.sha, "title": self.message, "message": "", "authors": authors}
        return {**told, "date": timestamp(self.date)}

    def below(self, path: str) -> dict[str, str]:
        """Names and oids of the files at or below `path`."""
        inside = f"{path}/" if path else ""
        return {name: blob.oid for name, blob in self.files.items() if name == path or name.startswith(inside)}

    def listing(self, folder: str, *, recursive: bool) -> list[str]:
        """Paths of the files and folders in `folder`, sorted."""
        depth = folder.count("/") + 1 if folder else 0
        found = set()
        for name in self.below(folder):
            parts = name.split("/")
            deepest = len(parts) if recursive else min(len(parts), depth + 1)
            found |= {"/".join(parts[:end]) for end in range(depth + 1, deepest + 1)}
        return sorted(found)

    def entry(self, path: str, *, expand: bool) -> dict[str, Any]:
        """A file or folder in the words of the API's `tree`."""
        entry: dict[str, Any]
        if blob := self.files.get(path):
            entry = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
            entry |= {"lfs": blob.lfs} if blob.lfs else {}
        else:
            oid = sha1(repr(sorted(self.below(path).items())).encode()).hexdigest()
            entry = {"type": "directory", "oid": oid, "size": 0, "path": path}
        if expand:
            last = self
            while last.parent and last.parent.below(path) == self.below(path):
                last = last.parent
            date = timestamp(last.date)
            entry["lastCommit"] = {"id": last.sha, "title": last.message, "date": date}
        return entry


class Repo:
    """A repository that begins, as on the Hub, with the commit that adds `.gitattributes`.

    `info` joins what the API tells of the repository: `tags`, `cardData`,
    `pipeline_tag`. A gated repository lists its files and refuses to send them;
    a private one does not exist for those who come without the server's token.
    """

    def __init__(self, kind: RepoKind, repo_id: str) -> None:
        self.kind = kind
        self.id = repo_id
        self.gated = False
        self.private = False
        self.info: dict[str, Any] = {}
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        attributes = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES)
        self.commit({".gitattributes": attributes.encode()}, message="initial commit")

    def commit(
        self,
        changes: Mapping[str, bytes | Path | None],
        *,
        message: str = "Update",
        date: datetime | None = None,
        branch: str = "main",
    ) -> str:
        """Add, replace and (None) delete files, move the branch, and return the new hash.

        A file given as a `Path` is read whenever it is asked for, and must stay as
        it is. Without a date, a commit is a minute younger than its parent.
        """
        parent = self.commits.get(self.branches.get(branch, ""))
        files = dict(parent.files) if parent else {}
        for path, content in changes.items():
            if content is None:
                del files[path]
            else:
                files[path] = make_blob(path, content)
        date = date or (parent.date + timedelta(minutes=1) if parent else FIRST_COMMIT_DATE)
        oids = sorted((path, blob.oid) for path, blob in files.items())
        named = (self.kind, self.id, parent and parent.sha, message, timestamp(date), oids)
        sha = sha1(repr(named).encode()).hexdigest()
        self.commits[sha] = Commit(sha, files, message, date, parent)
        self.branches[branch] = sha
        return sha

    def branch(self, name: str, sha: str) -> None:
        self.branches[name] = self.commits[sha].sha

    def tag(self, name: str, sha: str) -> None:
        self.tags[name] = self.commits[sha].sha

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a full hash names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def describe(self, commit: Commit, *, blobs: bool) -> dict[str, Any]:
        """The repository in the words of the API's `/api/datasets/{id}`."""
        siblings: list[dict[str, Any]] = []
        for path, blob in sorted(commit.files.items()):
            known = {"size": blob.size, "blobId": blob.oid, "lfs": blob.lfs} if blobs else {}
            siblings.append({"rfilename": path, **known})
        return {
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.sha,
            "lastModified": timestamp(commit.date),
            "createdAt": timestamp(FIRST_COMMIT_DATE),
            "private": self.private,
            "gated": "auto" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
            **({"cardData": card} if (card := _card_of(commit)) else {}),
            **self.info,
        }

    def listed(self) -> dict[str, Any]:
        """The repository as a search for models tells of it, with what the Hub reads from its files."""
        commit = self.commits[self.branches["main"]]
        told = {**self.describe(commit, blobs=False), **_told_by_files(commit)}
        told["tags"] = [*dict.fromkeys([*told["tags"], *self.info.get("tags", [])])]
        del told["siblings"]
        return {**told, **{key: value for key, value in self.info.items() if key != "tags"}}

    def describe_refs(self) -> dict[str, Any]:
        def described(folder: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": sha} for name, sha in refs.items()]

        return {
            "branches": described("heads", self.branches),
            "tags": described("tags", self.tags),
            "converts": [],
            "pullRequests": [],
        }


def _told_by_files(commit: Commit) -> dict[str, Any]:
    """What the Hub takes from a model's card, configuration and weights: tags, task, number of parameters."""
    card, config = _card_of(commit), _json_of(commit, "config.json")
    architectures = config.get("architectures") or []
    classifies = any(name.endswith("ForSequenceClassification") for name in architectures)
    task = card.get("pipeline_tag") or ("text-classification" if classifies else None)
    library = card.get("library_name") or ("transformers" if config.get("model_type") else None)
    parameters = _num_parameters(commit)
    tags = [library, *(["safetensors"] if parameters else []), config.get("model_type"), task]
    tags += [*_listed(card.get("tags")), *_listed(card.get("language"))]
    tags += [f"license:{card['license']}"] if "license" in card else []
    told = {"tags": [tag for tag in tags if tag], "pipeline_tag": task, "library_name": library, "cardData": card}
    return {
        **told,
        "safetensors": {"parameters": parameters, "total": sum(parameters.values())} if parameters else None,
    }


def _card_of(commit: Commit) -> dict[str, Any]:
    blob = commit.files.get("README.md")
    _, _, rest = _text_of(blob).partition("---\n") if blob else ("", "", "")
    try:
        return yaml.safe_load(rest.partition("\n---")[0]) or {}
    except yaml.YAMLError:
        return {}


def _json_of(commit: Commit, name: str) -> dict[str, Any]:
    blob = commit.files.get(name)
    return dict(json.loads(_text_of(blob))) if blob else {}


def _text_of(blob: Blob) -> str:
    return b"".join(blob.pieces(0, blob.size)).decode()


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _num_parameters(commit: Commit) -> dict[str, int]:
    """By dtype, from the headers of the weights."""
    counts: dict[str, int] = {}
    for path, blob in commit.files.items():
        if "/" not in path and path.endswith(".safetensors"):
            size = int.from_bytes(b"".join(blob.pieces(0, 8)), "little")
            if 8 + size > blob.size:  # Some tests' weights are a few bytes of nothing.
                continue
            header = json.loads(b"".join(blob.pieces(8, 8 + size)))
            for name, tensor in header.items():
                if name != "__metadata__":
                    counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    return counts
