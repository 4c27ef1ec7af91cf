"""The one boundary to the Hugging Face Hub: what is asked of it, and what its errors mean.

`huggingface_hub` and `datasets` find repositories, commits, configs and splits;
HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are theirs to honour. File
contents are read by range requests of our own, at a commit.
"""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from tidemill.errors import DatasetError, InputError, ModelError, SourceUnavailable, TidemillError
from tidemill.retry import retrying
from tidemill.shards import SourceFile

LISTING_RETRIES = 8
RANGE_RETRIES = 4
PATHS_ASKED_AT_ONCE = 500
LONGEST_WAIT_SECONDS = 5.0
FILE_URL = re.compile(r"hf://datasets/(?P<repo>[^/@]+(?:/[^/@]+)?)@(?P<commit>[0-9a-f]{40})/(?P<path>.+)")
ADDRESS = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.+))?")
ASKED_TO_WAIT = 429
LOG_IN = "log in: `hf auth login`, or set HF_TOKEN."


@dataclass(frozen=True)
class HubListing:
    commit: str
    files: tuple[SourceFile, ...]
    features: Any
    """`datasets.Features` if the dataset's card declares them, else None."""


def list_split(repo: str, *, config: str | None, revision: str, split: str) -> HubListing:
    """The files of a split at the commit that `revision` names now.

    Raises:
        DatasetError: there is no such dataset, revision, config or split, or it may not be read.
        SourceUnavailable: the Hub did not answer well for long.
    """
    commit = _commit("dataset", repo, revision)

    def resolve() -> tuple[dict[str, list[str]], Any]:
        import datasets

        # Listed here in whole, so that `datasets` finds every folder in the file system's memory. A prepared copy
        # in its own cache would answer for another revision when the Hub does not: hence a cache of our own.
        with _translated("dataset", repo, revision), _quiet(datasets), tempfile.TemporaryDirectory() as empty:
            _file_system().find(f"datasets/{repo}@{commit}")
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{repo}", name=config, revision=commit, cache_dir=empty
            )
            files = {str(name): list(paths) for name, paths in (builder.config.data_files or {}).items()}
            return files, builder.info.features

    splits, features = retrying(resolve, retries=LISTING_RETRIES)
    if split not in splits:
        raise DatasetError(_no_such("split", split, splits, f"The dataset {repo}", "dataset.split"))
    urls = [str(url) for url in splits[split]]
    return HubListing(commit, tuple(retrying(lambda: _describe(repo, commit, urls), retries=LISTING_RETRIES)), features)


def list_address(address: str) -> tuple[str, tuple[SourceFile, ...]]:
    """(commit, files) of an hf:// address that names files, perhaps by a glob."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise DatasetError(f"dataset.path = {address!r}: give hf://datasets/OWNER/NAME[@REVISION]/FILES.")
    repo, revision, pattern = match["repo"], match["revision"] or "main", match["path"]
    commit = _commit("dataset", repo, revision)

    def find() -> list[SourceFile]:
        with _translated("dataset", repo, revision):
            paths = _file_system().glob(f"datasets/{repo}@{commit}/{pattern}")
        return _describe(repo, commit, [f"hf://{path}" for path in paths])

    return commit, tuple(retrying(find, retries=LISTING_RETRIES))


def read_range(url: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file at a commit, in one request.

    Raises:
        SourceUnavailable: after retries; a body that is too short counts as one that was cut.
    """
    match = FILE_URL.fullmatch(url)
    assert match is not None, url
    return retrying(
        lambda: _request_range(match, start, stop), retries=RANGE_RETRIES, longest_wait_seconds=LONGEST_WAIT_SECONDS
    )


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
        for info in retrying(partial(_paths_info, repo, commit, list(paths)), retries=LISTING_RETRIES)
        if info.last_commit is not None
    }


def _paths_info(repo: str, commit: str, paths: Sequence[str]) -> list[Any]:
    import huggingface_hub

    found: list[Any] = []
    with _translated("dataset", repo, commit):
        for i in range(0, len(paths), PATHS_ASKED_AT_ONCE):
            asked = list(paths[i : i + PATHS_ASKED_AT_ONCE])
            found += huggingface_hub.HfApi().get_paths_info(
                repo, asked, repo_type="dataset", revision=commit, expand=True
            )
    return found


def model_commit(repo: str, revision: str) -> str:
    """The commit that a model's branch or tag points to now; offline, the one in the local cache."""
    return _commit("model", repo, revision)


def model_contents(repo: str, commit: str) -> dict[str, str]:
    """Content id by name of the files at the top of a model's repository; offline, of those in the local cache.

    Raises:
        ModelError: the repository or the commit is gone.
        SourceUnavailable: the Hub did not answer well for long.
    """

    def ask() -> dict[str, str]:
        import huggingface_hub

        with _translated("model", repo, commit):
            if _is_offline():
                folder = huggingface_hub.snapshot_download(repo, revision=commit, local_files_only=True)
                # A snapshot's files are links to blobs, which are named by their content.
                return {path.name: path.resolve().name for path in Path(folder).iterdir() if path.is_file()}
            info = huggingface_hub.HfApi().repo_info(repo, revision=commit, files_metadata=True)
            return {
                file.rfilename: str(file.lfs.sha256 if file.lfs else file.blob_id)
                for file in info.siblings or []
                if "/" not in file.rfilename
            }

    return retrying(ask, retries=LISTING_RETRIES)


def model_snapshot(repo: str, commit: str, patterns: Sequence[str]) -> Path:
    """A local folder with a model's files at a commit; what the local cache has is not fetched again."""

    def fetch() -> Path:
        import huggingface_hub

        with _translated("model", repo, commit), _no_bars():
            return Path(
                huggingface_hub.snapshot_download(
                    repo, revision=commit, allow_patterns=list(patterns), ignore_patterns=["*/*"]
                )
            )

    return retrying(fetch, retries=LISTING_RETRIES)


def _commit(kind: str, repo: str, revision: str) -> str:
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision

    def ask() -> str:
        import huggingface_hub

        with _translated(kind, repo, revision):
            if _is_offline() and kind == "model":
                cached = huggingface_hub.snapshot_download(
                    repo, revision=revision, allow_patterns=["config.json"], local_files_only=True
                )
                return Path(cached).name
            info = huggingface_hub.HfApi().repo_info(repo, repo_type=kind, revision=revision)
            return str(info.sha)

    return retrying(ask, retries=LISTING_RETRIES)


def _describe(repo: str, commit: str, urls: Sequence[str]) -> list[SourceFile]:
    """Sizes and content ids, from the listing that found the files."""
    file_system, prefix = _file_system(), f"hf://datasets/{repo}@{commit}/"
    files = []
    with _translated("dataset", repo, commit):
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


def _request_range(match: re.Match[str], start: int, stop: int) -> bytes:
    import huggingface_hub
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = huggingface_hub.hf_hub_url(match["repo"], match["path"], repo_type="dataset", revision=match["commit"])
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with _translated("dataset", match["repo"], match["commit"]):
        response = get_session().get(url, headers=headers, follow_redirects=True)
        hf_raise_for_status(response)
        body = bytes(response.content)
    if response.status_code == 200:
        body = body[start:stop]
    if len(body) != stop - start:
        raise SourceUnavailable(f"{match['path']}: the Hub sent {len(body)} of {stop - start} bytes.")
    return body


@contextmanager
def _translated(kind: str, repo: str, revision: str) -> Iterator[None]:
    try:
        yield
    except TidemillError:
        raise
    # `datasets` raises ValueError, its own tree and the Hub's; what none of the rules knows goes on as it is.
    except Exception as e:
        meaning = _meaning(e, kind, repo, revision)
        if meaning is None:
            raise
        raise meaning from e


def _meaning(error: Exception, kind: str, repo: str, revision: str) -> TidemillError | None:
    import datasets.data_files
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    wrong: type[InputError] = DatasetError if kind == "dataset" else ModelError
    what = f"The {kind} {repo}"
    for e in _chain(error):
        match e:
            case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
                if _is_offline():
                    return wrong(
                        f"{what} is not in the local cache and HF_HUB_OFFLINE is set. Unset it, or use local files."
                    )
                continue  # An outage while downloading looks like this; its cause says which.
            case errors.GatedRepoError():
                return wrong(f"{what} is gated. Accept its conditions on its page on the Hub, then {LOG_IN}")
            case errors.RevisionNotFoundError():
                return wrong(
                    f"{what} has no revision {revision!r}. Set {kind}.revision to a branch, tag or commit that exists."
                )
            case errors.RepositoryNotFoundError():
                return wrong(f"{what} does not exist or is private. Check {kind}.path; if it is private, {LOG_IN}")
            case errors.HFValidationError():
                return wrong(f"{kind}.path = {repo!r} is neither a local path nor a Hub id: {_line(e)}")
            case errors.HfHubHTTPError():
                return _http_meaning(e, wrong, what)
            case ConnectionError() if _is_offline():
                return wrong(f"{what} is read from the Hub, and HF_HUB_OFFLINE is set. Unset it, or use local files.")
            case httpx.TransportError() | ConnectionError() | TimeoutError():
                return SourceUnavailable(f"{what} cannot be reached: {_line(e)}")
            case ValueError() if found := re.search(r"BuilderConfig '(.*)' not found\. Available: \[(.*)\]", str(e)):
                return wrong(_no_such("config", found[1], re.findall(r"'([^']*)'", found[2]), what, "dataset.config"))
            case ValueError() if "Config name is missing" in str(e):
                configs = re.findall(r"'([^']*)'", str(e).partition("available configs:")[2].partition("]")[0])
                return wrong(f"{what} has several configs: {', '.join(configs)}. Set dataset.config to one of them.")
    match error:
        case errors.LocalEntryNotFoundError():
            return SourceUnavailable(f"{what} cannot be reached: {_line(error)}")
        case datasets.exceptions.DatasetNotFoundError() if "gated" in str(error):
            return wrong(f"{what} is gated. Accept its conditions on its page on the Hub, then {LOG_IN}")
        case datasets.exceptions.DatasetNotFoundError():
            return wrong(f"{what} does not exist or may not be read: {_line(error)} Check {kind}.path; {LOG_IN}")
        case (
            datasets.exceptions.DataFilesNotFoundError() | datasets.data_files.EmptyDatasetError() | FileNotFoundError()
        ):
            return wrong(f"{what} has no data files that can be read: {_line(error)}")
    return None


def _http_meaning(error: Any, wrong: type[InputError], what: str) -> TidemillError:
    response = error.response
    status = response.status_code if response is not None else 0
    if status == ASKED_TO_WAIT or status >= 500 or status == 0:
        return SourceUnavailable(f"{what}: the Hub answered {status}.", wait_seconds=_asked_wait(response))
    if status in (401, 403):
        return wrong(f"{what} may not be read (the Hub answered {status}). To read it, {LOG_IN}")
    return wrong(f"{what}: the Hub answered {status}: {_line(error)}")


def _asked_wait(response: Any) -> float | None:
    """Seconds that the server asks for: `Retry-After`, or the reset of the Hub's `RateLimit` header."""
    if response is None:
        return None
    if (after := response.headers.get("Retry-After", "")).isdigit():
        return float(after)
    found = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    return float(found[1]) if found and response.status_code == ASKED_TO_WAIT else None


def _no_such(noun: str, asked: str, existing: Sequence[str] | dict[str, Any], what: str, option: str) -> str:
    names = [str(name) for name in existing]
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0)
    return f"{what} has no {noun} {asked!r}; it has {', '.join(names)}. Set {option} = {(near or names)[0]!r}."


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    datasets.logging.set_verbosity_error()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    with _no_bars():
        yield


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
