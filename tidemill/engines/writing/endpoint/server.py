"""One OpenAI-compatible server: how it is asked, and what its refusals mean. Its key is in no error and in no fact."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.utils import httpx

from tidemill.config import Endpoint
from tidemill.engines.writing.endpoint.failures import Busy, Mistake, NotThere, Refusal, Trouble, Unusable
from tidemill.errors import ConfigError
from tidemill.masking import MASK, masked

CONNECT_SECONDS = 10.0
LOOK_SECONDS = 10.0
"""How long a server may take to say which models it has."""
MOST_ANSWER_BYTES = 64 * 2**20
MOST_SAID = 200
"""Characters of a server's own message that are kept."""
MODELS = "models"
JSON = {"Content-Type": "application/json"}


class Server:
    """The server at `inference.endpoint.base_url`.

    `base` is the address that its routes follow: with `/v1` where the one that was given lacks it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises:
        ConfigError: there is no such address, or the environment lacks the key.
        """
        self.base = _address(endpoint.base_url)
        self.timeout_seconds = endpoint.timeout_seconds
        self._declared_key, self._key = endpoint.api_key, key_of(endpoint.api_key)
        headers = {"Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(endpoint.timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency),
            follow_redirects=False,
            # To load the authorities takes longer than many requests, and plain HTTP asks none of them.
            verify=self.base.scheme == "https",
        )

    def __str__(self) -> str:
        return f"{self.base.scheme}://{self.place}{self.base.path.rstrip('/')}"

    @property
    def place(self) -> str:
        """Its host and port."""
        return str(self.base.netloc.decode("ascii"))

    async def close(self) -> None:
        await self._client.aclose()

    async def find(self) -> list[dict[str, Any]]:
        """What it says of its models, which settles `base`; nothing where it does not say.

        Raises:
            Failure: it does not answer well.
        """
        *others, last = _candidates(self.base)
        for self.base in others:
            with suppress(Refusal, Mistake, NotThere):
                return _models(await self.ask("GET", MODELS, seconds=LOOK_SECONDS))
        self.base = last
        with suppress(Refusal, Mistake, NotThere):
            return _models(await self.ask("GET", MODELS, seconds=LOOK_SECONDS))
        return []

    async def is_up(self) -> bool:
        """Whether it answers at all, be it that it does not say which models it has."""
        try:
            await self.ask("GET", MODELS, seconds=LOOK_SECONDS)
        except (Refusal, Mistake, Unusable):
            return True
        except (Busy, Trouble):
            return False
        return True

    async def ask(
        self, method: str, route: str, body: Mapping[str, Any] | None = None, *, seconds: float | None = None
    ) -> Any:
        """The JSON that it answers.

        Raises:
            Busy: it is at its limit, or nobody is there.
            Trouble: the same request may go well another time; a Mistake where the server answered.
            Refusal: this request never will.
            Unusable: none will.
        """
        most = self.timeout_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(most):
                status, headers, content = await self._exchange(method, route, body)
        except TimeoutError:
            raise Trouble(f"there was no answer within {most:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as e:
            raise _broken(e) from None
        if not 200 <= status < 300:
            raise self._refused(route, status, headers, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Mistake("what it answered is no JSON") from None

    async def _exchange(
        self, method: str, route: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = self.base.copy_with(path=f"{self.base.path.rstrip('/')}/{route}")
        sent = None if body is None else json.dumps(body).encode()
        content = bytearray()
        async with self._client.stream(method, url, content=sent, headers=JSON) as response:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MOST_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError("the answer has no end")
        return response.status_code, response.headers, bytes(content)

    def _refused(self, route: str, status: int, headers: Mapping[str, str], content: bytes) -> Exception:
        said = self._said(content)
        answered = f"it answered {status}{f': {said}' if said else ''}"
        wait_seconds = seconds_asked(headers)
        if status in (429, 503):
            return Busy(answered, wait_seconds=wait_seconds)
        if status in (502, 504):
            return Trouble(answered, wait_seconds=wait_seconds)
        if status in (408, 409) or status >= 500:
            return Mistake(answered, wait_seconds=wait_seconds)
        if status not in (401, 403, 404, 405) and status >= 400:
            return Refusal(answered)
        kind = NotThere if status in (404, 405) else Unusable
        return kind(f"The server {self} {answered.removeprefix('it ')} to /{route}. {self._remedy(status)}")

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            where = f"the key in {self._declared_key[1:]}" if self._declared_key else "inference.endpoint.api_key"
            return f"Set {where} to one that it accepts, and that may use the model of model.path."
        if status < 400:
            return "It sends us elsewhere, and no key is sent there: set inference.endpoint.base_url to that address."
        return (
            "Set model.path to the name of a model that it serves, and inference.endpoint.base_url to the address that "
            "its routes follow, which mostly ends in /v1."
        )

    def _said(self, content: bytes) -> str:
        """Its own message, on one line."""
        text = " ".join(_message_in(content).split())
        if self._key is not None:
            text = text.replace(self._key, MASK)
        text = masked(text)
        return text if len(text) <= MOST_SAID else f"{text[: MOST_SAID - 3]}..."


def key_of(declared: str | None) -> str | None:
    """The key that `inference.endpoint.api_key` names.

    Raises:
        ConfigError: the environment has none of that name, or one that no server can be told.
    """
    if declared is None:
        return None
    name = declared.removeprefix("$")
    if name == declared:
        raise ConfigError(
            'inference.endpoint.api_key names a variable of the environment, such as "$OPENAI_API_KEY": a key that '
            "stands in the file is shown to whoever reads it. Set the variable, and give its name."
        )
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"inference.endpoint.api_key = {declared}, and the environment has no {name}. Set it; leave api_key out "
            "for a server that asks for none."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"The key in {name} holds characters that no key has. Set {name} to the key alone.")
    return key


def seconds_asked(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """What `Retry-After` asks for, as seconds or as a date; None where it is not there or is neither."""
    asked = headers.get("Retry-After", "").strip()
    if not asked:
        return None
    try:
        return max(0.0, float(asked)) if float(asked) < float("inf") else None
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(asked)
    except (TypeError, ValueError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.fromtimestamp(time.time() if now is None else now, UTC)).total_seconds())


def _address(base_url: str | None) -> Any:
    if base_url is None:
        raise ConfigError(
            "The model was computed by a server, and inference.endpoint.base_url does not say which. Set it to its "
            'address, such as "http://127.0.0.1:8000/v1".'
        )
    try:
        host, url = urlsplit(base_url).hostname, httpx.URL(base_url)
    except (httpx.InvalidURL, ValueError):
        host, url = None, httpx.URL("")
    if url.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f'inference.endpoint.base_url = "{masked(base_url)}" is no address of a server. Set it to one such as '
            '"http://127.0.0.1:8000/v1".'
        )
    return url.copy_with(path=url.path.rstrip("/") or "/", fragment=None)


def _candidates(given: Any) -> list[Any]:
    """Where its routes may be: as it was given, and then under /v1."""
    path = given.path.rstrip("/")
    return [given] if path.endswith("/v1") else [given, given.copy_with(path=f"{path}/v1")]


def _models(listed: Any) -> list[dict[str, Any]]:
    entries = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _broken(error: Exception) -> Busy | Trouble | Unusable:
    """What an error of the client's means. Its own message may hold what was sent, and is left out."""
    kind = type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Unusable(
            "The server's certificate cannot be verified. Set SSL_CERT_FILE to the file of the authority that signed "
            "it, or inference.endpoint.base_url to the name that it was made for."
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Busy(f"nobody answers there ({kind})")
    if isinstance(error, httpx.TimeoutException):
        return Trouble(f"there was no answer in time ({kind})")
    return Trouble(f"the connection broke ({kind})")


def _message_in(content: bytes) -> str:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        found = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if found:
            return found if isinstance(found, str) else json.dumps(found)
    return ""
