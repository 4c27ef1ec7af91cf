"""Who is let in: whoever has the token, by the service's own name, and no other site's page."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import traceback
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.serving.answering.calls import BUSY
from tidemill.serving.http.said import Refusal

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPEN = ("/health", "/ready", "/docs", "/openapi.json")
"""What probes and people may ask without the token: none of it says anything of texts or answers."""
PROTECTION = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
OTHER = "other"
"""What metrics call a path that is no route's."""

Observe = Callable[[str, str, int, float], None]
"""Told the route's template, the method, the status and the seconds of each answer."""

logger = logging.getLogger("tidemill")


class Gate:
    """Refuses requests of strangers, adds what protects answers, and turns whatever fails into one."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        hosts: Sequence[str],
        observe: Observe,
        is_ending: Callable[[], bool] = lambda: False,
        seconds_until_room: Callable[[], int] = lambda: 0,
    ) -> None:
        """`hosts` are names by which it may be asked beside those of loopback and its own IP address.

        While `seconds_until_room` says so many, nobody is let in who would have to wait: a flood costs little, and
        whoever asks how the service is still gets an answer.
        """
        self._app, self._observe, self._is_ending = app, observe, is_ending
        self._seconds_until_room = seconds_until_room
        self._token = _digest(token.encode())
        self._hosts = frozenset([*LOOPBACK, *(host.lower() for host in hosts)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def send_protected(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(PROTECTION)
                if self._is_ending():
                    headers["connection"] = "close"
            await send(message)

        try:
            try:
                self._admit(scope)
                await self._app(scope, receive, send_protected)
            except Refusal as e:
                await e.answer(scope["path"])(scope, receive, send_protected)
            except Exception as e:  # noqa: BLE001
                _tell(e)
                if not status:  # Else the answer is begun, and its rest is missing.
                    await BROKEN.answer(scope["path"])(scope, receive, send_protected)
        finally:
            route = getattr(scope.get("route"), "path", OTHER)
            self._observe(route, scope["method"], status, time.monotonic() - started)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_own(hosts[0], scope):
            raise Refusal(
                421, "This service is not asked by this name. Name it by --allow-host.", headers={"connection": "close"}
            )
        if any(origin.lower() != f"{scope['scheme']}://{hosts[0].lower()}" for origin in origins):
            raise Refusal(403, "Pages of other sites may not ask this service.")
        if scope["path"] not in OPEN and not self._has_token(headers.getlist("authorization")):
            raise Refusal(
                401,
                "The token is missing or wrong. Send it as Authorization: Bearer TOKEN.",
                headers={"www-authenticate": "Bearer"},
                code="invalid_api_key",
            )

        if scope["method"] == "POST" and (seconds := self._seconds_until_room()):
            raise Refusal(429, BUSY.format(seconds=seconds), headers={"retry-after": str(seconds)})

    def _is_own(self, host: str, scope: Scope) -> bool:
        """Whether a `Host` names this service: a page's own name never does, whatever address it is bound to."""
        name = host.lower()
        name = name.rpartition(":")[0] if ":" in name and not name.endswith("]") else name
        own = (scope.get("server") or ("",))[0]
        return name in self._hosts or name == (f"[{own}]" if ":" in own else own)

    def _has_token(self, given: Sequence[str]) -> bool:
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        found = _digest(token.strip().encode("latin-1", "replace"))
        return kind.lower() == "bearer" and hmac.compare_digest(found, self._token)


BROKEN = Refusal(500, "The service failed at this request. Its log says where.")


def _tell(error: Exception) -> None:
    """Where it failed, without what the error says: that may repeat a text."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    at = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
    logger.error("A request failed: %s at %s", type(error).__name__, at)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
