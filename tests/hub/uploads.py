"""Writing to the Hub on loopback: repositories made, files sent before their commit, and commits.

What `huggingface_hub` does without Xet: it asks how each file is to be sent
(`preupload`), sends large ones as Git LFS objects, whole or in parts, and names
them in a commit, which says on which one it stands.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from tests.hub.repo import LFS_BYTES, LFS_SUFFIXES, Repo, RepoKind

WRITING = re.compile(
    r"/api/(repos/create|validate-yaml|(datasets|models)/.+/(preupload|commit)/[^/]+)|.*\.git/info/.+|/lfs/.+"
)
OF_REPO = re.compile(r"/api/(datasets|models)/([^/]+/[^/]+)/(preupload|commit)/([^/]+)")
BATCH = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
OBJECT = re.compile(r"/lfs/(datasets|models)/([^/]+/[^/]+)/([0-9a-f]{64})(?:/(\d+|complete|verify))?")

Found = tuple[int, Any, Mapping[str, str]]
"""Status, JSON and headers of an answer."""


class Denied(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def writes(method: str, path: str) -> bool:
    return method in ("POST", "PUT") and WRITING.fullmatch(path) is not None


def is_large(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_BYTES)


@dataclass
class Uploads:
    """What was sent: Git LFS objects by repository and hash. `part_bytes` sends larger ones in parts of that size.

    Whose namespace is in `foreign` lets nobody else write there.
    """

    url: Callable[[], str]
    repos: dict[tuple[str, str], Repo]
    add: Callable[[RepoKind, str], Repo]
    part_bytes: int | None = None
    foreign: set[str] = field(default_factory=set)
    objects: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    parts: dict[tuple[str, str, str], dict[int, bytes]] = field(default_factory=dict)

    def answer(self, path: str, query: str, body: bytes) -> Found:
        """
        Raises:
            Denied: the Hub would not do it.
        """
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := OF_REPO.fullmatch(path):
            kind, repo_id, verb, revision = match.groups()
            repo = self._writable(kind, repo_id)
            return (
                self._preupload(repo, json.loads(body)) if verb == "preupload" else self._commit(repo, revision, body)
            )
        if match := BATCH.fullmatch(path):
            return self._batch(self._writable(match[1] or "models", match[2]), json.loads(body))
        if match := OBJECT.fullmatch(path):
            kind, repo_id, oid, what = match.groups()
            return self._object((kind, repo_id, oid), what, parse_qs(query), body)
        raise Denied(404, "Sorry, we can't find the page you are looking for.")

    def _writable(self, kind: str, repo_id: str) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None:
            raise Denied(404, "Repository not found", "RepoNotFound")
        if repo_id.split("/")[0] in self.foreign:
            raise Denied(403, "Forbidden: you don't have the rights to write to this repository.")
        return repo

    def _validate(self, asked: dict[str, Any]) -> Found:
        _, _, rest = asked["content"].partition("---\n")
        try:
            yaml.safe_load(rest.partition("\n---")[0])
        except yaml.YAMLError as e:
            return 400, {"errors": [{"message": str(e)}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def _create(self, asked: dict[str, Any]) -> Found:
        owner = asked.get("organization") or "tester"
        kind: RepoKind = "datasets" if asked.get("type") == "dataset" else "models"
        repo_id = f"{owner}/{asked['name']}"
        if owner in self.foreign:
            raise Denied(403, f'You don\'t have the rights to create a repository under the namespace "{owner}".')
        prefix = "datasets/" if kind == "datasets" else ""
        told = {"url": f"{self.url()}/{prefix}{repo_id}", "name": repo_id}
        if (kind, repo_id) in self.repos:
            return 409, {**told, "error": "You already created this repository"}, {}
        repo = self.add(kind, repo_id)
        repo.private = asked.get("visibility") == "private"
        return 200, told, {}

    def _preupload(self, repo: Repo, asked: dict[str, Any]) -> Found:
        head = repo.commits[repo.branches["main"]]
        files = []
        for file in asked["files"]:
            there = head.files.get(file["path"])
            oid = there and (there.lfs["sha256"] if there.lfs else there.oid)
            mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}, {}

    def _batch(self, repo: Repo, asked: dict[str, Any]) -> Found:
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            there = {"oid": oid, "size": size}
            objects.append(there if self._has(repo, oid) else {**there, "actions": self._actions(repo, oid, size)})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _actions(self, repo: Repo, oid: str, size: int) -> dict[str, Any]:
        at = f"{self.url()}/lfs/{repo.kind}/{repo.id}/{oid}"
        verify = {"verify": {"href": f"{at}/verify"}}
        if self.part_bytes is None or size <= self.part_bytes:
            return {"upload": {"href": at}, **verify}
        numbers = range(1, -(-size // self.part_bytes) + 1)
        header = {"chunk_size": str(self.part_bytes), **{f"{number:05}": f"{at}/{number}" for number in numbers}}
        return {"upload": {"href": f"{at}/complete", "header": header}, **verify}

    def _has(self, repo: Repo, oid: str) -> bool:
        committed = (
            blob.lfs["sha256"] for commit in repo.commits.values() for blob in commit.files.values() if blob.lfs
        )
        return (repo.kind, repo.id, oid) in self.objects or oid in committed

    def _object(self, key: tuple[str, str, str], what: str | None, query: dict[str, list[str]], body: bytes) -> Found:
        if what == "verify":
            known = key in self.objects and len(self.objects[key]) == json.loads(body)["size"]
            return (200, {}, {}) if known else (404, {"error": "the object is not there"}, {})
        if what == "complete":
            sent = self.parts.pop(key, {})
            return self._keep(key, b"".join(sent[number] for number in sorted(sent)))
        if what is not None:
            self.parts.setdefault(key, {})[int(what)] = body
            return 200, {}, {"ETag": f'"{sha1(body).hexdigest()}"'}
        return self._keep(key, body)

    def _keep(self, key: tuple[str, str, str], content: bytes) -> Found:
        if sha256(content).hexdigest() != key[2]:
            return 400, {"error": "the content is not the one that was announced"}, {}
        self.objects[key] = content
        return 200, {}, {}

    def _commit(self, repo: Repo, revision: str, body: bytes) -> Found:
        head = repo.branches[unquote(revision)]
        header, *operations = map(json.loads, body.splitlines())
        parent = header["value"].get("parentCommit")
        if parent not in (None, head):
            raise Denied(412, "A commit has happened since. Please refresh and try again.")
        changes: dict[str, Any] = {}
        for operation in operations:
            key, value = operation["key"], operation["value"]
            changes[value["path"]] = self._content(repo, key, value)
        missing = [
            path for path, content in changes.items() if content is None and path not in repo.commits[head].files
        ]
        if missing:
            raise Denied(404, f"A file with this name doesn't exist: {missing[0]}", "EntryNotFound")
        sha = repo.commit(changes, message=header["value"]["summary"], branch=unquote(revision))
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.url()}/{repo.id}/commit/{sha}"}, {}

    def _content(self, repo: Repo, key: str, value: dict[str, Any]) -> bytes | None:
        if key == "deletedFile":
            return None
        if key == "file":
            return base64.b64decode(value["content"])
        found = self.objects.get((repo.kind, repo.id, value["oid"]))
        if found is None:
            raise Denied(400, f"The object of {value['path']} was not sent.")
        return found
