"""The boundary to the Hub for whoever writes there: what a repository's head has, and what its refusals mean."""

from __future__ import annotations

import logging
import queue
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from tidemill.errors import ConfigError, InputError, SourceUnavailable, TidemillError, first_line
from tidemill.retry import logger
from tidemill.sources.hub.asking import (
    ASKED_TO_WAIT,
    ask_hub,
    asked_wait,
    bound_answers,
    chain,
    is_offline,
    no_bars,
)

T = TypeVar("T")
Kind = Literal["dataset", "model"]
Content = bytes | Path

READ_BYTES = 2**20
REPO_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?")
WRITE_TOKEN = "Set HF_TOKEN to one with the right to write, or log in: `hf auth login`."
LEFT_BEHIND = threading.Event()
"""Whether a thread was left that may wait for long yet."""
MOVED = 412
CONFLICT = 409


class HeadMoved(TidemillError):
    """Somebody else has committed since the head was looked at."""


@dataclass(frozen=True)
class FileId:
    """What names a file's content: the hash of it where it is large, and git's of it where it is not."""

    sha256: str | None
    blob: str

    @classmethod
    def of(cls, content: Content) -> FileId:
        """Both hashes of what is to be sent: which of them the Hub will know it by, only the Hub can say."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        large, small = sha256(), sha1(f"blob {size}\0".encode())  # As git names files.
        for piece in _pieces(content):
            large.update(piece)
            small.update(piece)
        return cls(large.hexdigest(), small.hexdigest())

    def is_of(self, there: FileId) -> bool:
        """Whether a file of the head has this content."""
        return self.sha256 == there.sha256 if there.sha256 is not None else self.blob == there.blob


def _pieces(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece


@dataclass(frozen=True)
class Head:
    """The latest commit of a repository, None where there is none at all: its files by path."""

    sha: str | None
    files: Mapping[str, FileId]
    is_private: bool


class Repository:
    """One on the Hub, that is to be written to.

    Raises:
        ConfigError: `repo_id` is no OWNER/NAME, the Hub is not to be asked, or there is no token.
    """

    def __init__(self, kind: Kind, repo_id: str) -> None:
        if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
            raise ConfigError(f"--to {repo_id} is not OWNER/NAME, such as your-name/reviews.")
        if is_offline():
            raise ConfigError("HF_HUB_OFFLINE is set, and to publish the Hub has to be asked. Unset it.")
        import huggingface_hub

        if not huggingface_hub.get_token():
            raise ConfigError(f"To publish takes a token of the Hub, and there is none. {WRITE_TOKEN}")
        self.kind, self.id = kind, repo_id
        self._api = huggingface_hub.HfApi()

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    def check_token(self) -> str:
        """Whose token it is.

        Raises:
            ConfigError: the Hub does not know it.
        """
        return ask_hub(lambda: str(self._asked(self._api.whoami)["name"]))

    def head(self) -> Head | None:
        """None where there is no such repository, or none that this token may see."""
        from huggingface_hub import errors

        def look_up() -> Head | None:
            try:
                info = self._asked(
                    lambda: self._api.repo_info(self.id, repo_type=self.kind, revision="main", files_metadata=True),
                    known=errors.RepositoryNotFoundError,
                )
            except errors.RepositoryNotFoundError:
                return None
            files = {
                file.rfilename: FileId(file.lfs.sha256 if file.lfs else None, str(file.blob_id))
                for file in info.siblings or []
            }
            return Head(info.sha, files, bool(info.private))

        return ask_hub(look_up)

    def read(self, path: str, sha: str | None) -> bytes:
        """A small file at a commit."""

        def fetch() -> bytes:
            import huggingface_hub
            from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

            url = huggingface_hub.hf_hub_url(self.id, path, repo_type=self.kind, revision=sha)
            response = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
            hf_raise_for_status(response)
            return bytes(response.content)

        return ask_hub(lambda: self._asked(fetch))

    def create(self, *, private: bool) -> None:
        """Make it; one that is there stays as it is, as it is after an answer that was lost."""
        ask_hub(
            lambda: self._asked(
                lambda: self._api.create_repo(self.id, repo_type=self.kind, private=private, exist_ok=True)
            )
        )

    def upload(self, additions: list[Any]) -> None:
        """Send the contents of large files. What the Hub has already is not sent again, so this may be repeated."""
        ask_hub(
            lambda: self._asked(
                lambda: self._api.preupload_lfs_files(
                    self.id, additions, repo_type=self.kind, revision="main", free_memory=False
                )
            )
        )

    def commit(self, operations: list[Any], *, message: str, parent: str | None) -> str:
        """One commit on top of `parent`; asked once, for after an unclear answer only the head tells what was done.

        Raises:
            HeadMoved: `parent` is not the head any more.
            SourceUnavailable: whether it was made is not known.
        """
        info = self._asked(
            lambda: self._api.create_commit(
                self.id, operations, commit_message=message, repo_type=self.kind, parent_commit=parent
            )
        )
        return str(info.oid)

    def _asked(self, call: Callable[[], T], known: type[Exception] | tuple[()] = ()) -> T:
        """What a call gives, which Ctrl-C leaves at once, whatever it waits for; errors that are `known` go on.

        Raises:
            TidemillError: what the Hub's error means.
        """
        bound_answers()
        with _telling_waits(), no_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return _left_by_ctrl_c(call)
            except known:
                raise
            except Exception as e:
                if (meant := self._meaning(e)) is not None:
                    raise meant from e
                raise

    def _meaning(self, error: Exception) -> TidemillError | None:
        from huggingface_hub import errors
        from huggingface_hub.utils import httpx

        for e in chain(error):
            match e:
                case TidemillError():
                    return e
                case errors.HfHubHTTPError():
                    return self._http_meaning(e)
                case httpx.TransportError() | ConnectionError() | TimeoutError():
                    return SourceUnavailable(f"The Hub cannot be reached: {first_line(e)}.")
        return None

    def _http_meaning(self, error: Any) -> TidemillError:
        status = error.response.status_code if error.response is not None else 0
        what = f"{self.id} on the Hub"
        if status == ASKED_TO_WAIT or status >= 500 or status in (0, CONFLICT):
            wait = asked_wait(error.response)
            return SourceUnavailable(f"{what} was not written: the Hub answered {status}.", wait_seconds=wait)
        if status == MOVED:
            return HeadMoved(f"{what} has a new commit.")
        if status == 401:
            return ConfigError(f"The Hub does not accept the token. {WRITE_TOKEN}")
        if status == 403:
            return ConfigError(
                f"The token may not write to {what}: {first_line(error)}. Give --to a repository of your own. "
                f"{WRITE_TOKEN}"
            )
        if status == 404:
            return ConfigError(f"{what} is not there, or not for this token. Check --to. {WRITE_TOKEN}")
        return InputError(f"{what} was not written: the Hub answered {status}: {first_line(error)}.")


def _left_by_ctrl_c(call: Callable[[], T]) -> T:
    """Call in a thread of its own: `huggingface_hub` waits in threads that nothing interrupts."""
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((call(), None))
        except BaseException as e:  # noqa: BLE001  # Raised where it is waited for.
            answers.put((None, e))

    threading.Thread(target=answer, daemon=True).start()
    try:
        found, error = answers.get()
    except KeyboardInterrupt:
        LEFT_BEHIND.set()
        raise
    if error is not None:
        raise error
    return cast("T", found)


def tell_wait(seconds: float) -> None:
    logger.warning(f"waiting {seconds:.0f} s: the Hub has had too many requests (429). Ctrl-C stops it.")


class _Waits(logging.Handler):
    """Of what `huggingface_hub` says, how long a rate limit makes it wait."""

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.search(r"Rate limited\. Waiting ([\d.]+)s", record.getMessage()):
            tell_wait(float(found[1]))


@contextmanager
def _telling_waits() -> Iterator[None]:
    """Whatever others have made of the library's loggers: Prefect and Alembic switch off those that are there."""
    from huggingface_hub.utils import _http

    library, of_requests = logging.getLogger("huggingface_hub"), logging.getLogger(_http.__name__)
    before = library.handlers, library.level, of_requests.disabled
    library.handlers, of_requests.disabled = [_Waits()], False
    library.setLevel(logging.WARNING)
    try:
        yield
    finally:
        library.handlers, level, of_requests.disabled = before
        library.setLevel(level)
