"""Datasets on the Hub: which files a split, a folder or a pattern names at a commit."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import date
from glob import has_magic
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tidemill.errors import ChoiceMissing, DatasetError
from tidemill.shards import SourceFile
from tidemill.sources.hub.asking import ADDRESS, ask_hub, commit_of, meaning, quiet, translated
from tidemill.sources.hub.ranges import FILE_URL
from tidemill.sources.listing import Listing, not_entered
from tidemill.sources.splits import Splits, beside_split, find_splits, no_such

PATHS_ASKED_AT_ONCE = 500
CONVERTED = "refs/convert/parquet"
_CONVERTED_FILE = re.compile(r"@[0-9a-f]{40}/(?P<config>[^/]+)/(?P<split>[^/]+)/\d+\.parquet$")
INSTEAD_OF_SCRIPT = (
    'The Hub keeps many of these as Parquet: set dataset.revision = "refs/convert/parquet", or convert what the script '
    "makes to Parquet."
)


def list_split(repo: str, *, config: str | None, revision: str, split: str) -> Listing:
    """The files of a split at the commit that `revision` names now.

    Raises:
        DatasetError: there is no such dataset, revision, config or split, or it may not be read.
        SourceUnavailable: the Hub did not answer well for long.
    """
    import datasets  # noqa: F401 — for seconds, which are none of the Hub's.

    revision = named_revision(revision)
    commit = commit_of("dataset", repo, revision)

    def resolve() -> tuple[Splits, list[str]]:
        # Listed here in whole, so that `datasets` finds every folder in the file system's memory.
        with translated("dataset", repo, revision), quiet():
            paths = _file_system().find(f"datasets/{repo}@{commit}")
            converted = _converted_splits(paths, config, repo) if revision == CONVERTED else None
            splits = converted or find_splits(
                f"hf://datasets/{repo}",
                config=config,
                revision=commit,
                what=f"The dataset {repo}",
                instead_of_script=INSTEAD_OF_SCRIPT,
                read_card=lambda: _cached_card(repo, commit),
                known=functools.partial(meaning, kind="dataset", repo=repo, revision=revision),
            )
        return splits, [f"hf://{path}" for path in paths]

    splits, urls = ask_hub(resolve)
    paths = {name: [_path_of(url) for url in files] for name, files in splits.files.items()}
    beside = [] if splits.by_card else list(map(_path_of, urls))
    left_out = list(beside_split(paths, split, beside, where=f"hf://datasets/{repo}@{revision}"))
    if split not in paths:
        message = " ".join([no_such("split", split, paths, f"The dataset {repo}"), *map(str, left_out)])
        raise ChoiceMissing(message, noun="split", existing=paths)
    files = ask_hub(lambda: _describe(repo, commit, splits.files[split]))
    return Listing(commit, tuple(files), tuple(left_out), splits.options, splits.notes)


def list_address(address: str) -> Listing:
    """The files that an hf:// address names now: a file, a folder with all below it, or a pattern."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise DatasetError(f"dataset.path = {address!r}: give hf://datasets/OWNER/NAME[@REVISION]/FILES.")
    repo, revision, pattern = match["repo"], named_revision(match["revision"] or "main"), match["path"]
    commit = commit_of("dataset", repo, revision)

    def find() -> Listing:
        with translated("dataset", repo, revision):
            where = f"datasets/{repo}@{commit}/{pattern}"
            matched = _file_system().glob(where, detail=True) if has_magic(pattern) else {}
            found = matched or _below(where)
        urls = [f"hf://{path}" for path, info in found.items() if info["type"] == "file"]
        folders = [_path_of(f"hf://{path}") for path, info in found.items() if info["type"] == "directory"]
        return Listing(commit, tuple(_describe(repo, commit, urls)), not_entered(folders, pattern))

    return ask_hub(find)


def named_revision(revision: str) -> str:
    """What a revision is called at the Hub: an address may have it percent-encoded, or `~parquet` as DuckDB has it."""
    named = unquote(revision)
    return CONVERTED if named == "~parquet" else named


def _converted_splits(paths: Sequence[str], config: str | None, repo: str) -> Splits | None:
    """The splits of what the Hub converted, where folders say config and split; None if there are no such folders.

    Raises:
        DatasetError: there is no such config, or there are several to choose from.
    """
    configs: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        if found := _CONVERTED_FILE.search(path):
            configs.setdefault(found["config"], {}).setdefault(found["split"], []).append(f"hf://{path}")
    what = f"The dataset {repo} at {CONVERTED}"
    if not configs:
        return None
    if config is None and len(configs) > 1 and "default" not in configs:
        raise DatasetError(f"{what} has several configs: {', '.join(configs)}. Set dataset.config to one of them.")
    chosen = config or ("default" if "default" in configs else next(iter(configs)))
    if chosen not in configs:
        raise DatasetError(no_such("config", chosen, configs, what))
    return Splits({split: tuple(urls) for split, urls in configs[chosen].items()}, by_card=True)


def _cached_card(repo: str, commit: str) -> str:
    """The dataset's card, which `datasets` has just fetched if there is one."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repo, "README.md", revision=commit, repo_type="dataset")
    return Path(found).read_text(encoding="utf-8") if isinstance(found, str) else ""


def _below(where: str) -> dict[str, Any]:
    """The file at a path on the Hub, or all below the folder there; nothing if neither is there."""
    try:
        found: dict[str, Any] = _file_system().find(where, detail=True)
    except FileNotFoundError:
        return {}
    return found


def _path_of(url: str) -> str:
    """A file's path in its repository."""
    match = FILE_URL.fullmatch(url)
    assert match is not None, url
    return match["path"]


def last_commit_dates(urls: Sequence[str]) -> dict[str, date]:
    """hf:// file URL → the day of the commit that last changed the file, at the URL's own commit.

    Raises:
        DatasetError: the repository may not be read, or is gone.
        SourceUnavailable: the Hub did not answer well for long.
    """
    by_revision: dict[tuple[str, str], dict[str, str]] = {}
    for url in urls:
        match = FILE_URL.fullmatch(url)
        assert match is not None, url
        by_revision.setdefault((match["repo"], match["commit"]), {})[match["path"]] = url
    return {
        paths[info.path]: info.last_commit.date.date()
        for (repo, commit), paths in by_revision.items()
        for info in ask_hub(functools.partial(_paths_info, repo, commit, list(paths)))
        if info.last_commit is not None
    }


def _paths_info(repo: str, commit: str, paths: Sequence[str]) -> list[Any]:
    import huggingface_hub

    found: list[Any] = []
    with translated("dataset", repo, commit):
        for i in range(0, len(paths), PATHS_ASKED_AT_ONCE):
            asked = list(paths[i : i + PATHS_ASKED_AT_ONCE])
            found += huggingface_hub.HfApi().get_paths_info(
                repo, asked, repo_type="dataset", revision=commit, expand=True
            )
    return found


def _describe(repo: str, commit: str, urls: Sequence[str]) -> list[SourceFile]:
    """Sizes and content ids, from the listing that found the files."""
    file_system, prefix = _file_system(), f"hf://datasets/{repo}@{commit}/"
    files = []
    with translated("dataset", repo, commit):
        for url in sorted(urls):
            info = file_system.info(url.removeprefix("hf://"))
            lfs = info.get("lfs")
            content = f"sha256:{lfs['sha256']}" if lfs else f"blob:{info['blob_id']}"
            files.append(SourceFile(url.removeprefix(prefix), url, int(info["size"]), content))
    return files


def _file_system() -> Any:
    """The very instance that `datasets` lists with, so that its listing is not asked for again."""
    import datasets
    import huggingface_hub

    return huggingface_hub.HfFileSystem(token=None, endpoint=datasets.config.HF_ENDPOINT)
