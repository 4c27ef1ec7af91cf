"""A gate before every route of the app: pages, files, the queue and websockets alike.

Gradio answers whatever `Host` is named, and takes JSON that calls itself text, which
a page of any site may send without asking first. So a request is answered only where it names one
of the app's own hosts, comes from one of its own pages, and shows the cookie that the
token in the printed address gave, once.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"
"""The name of the token in the printed address."""
FORWARDED = (b"forwarded", b"x-real-ip", b"x-script-name")
SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
PROTECTION = {
    "content-security-policy": SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
HAS_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})

Log = Callable[[str], None]


class Gate:
    """`hosts` are names with their ports, in small letters; `proxies` are the addresses whose forwarded headers count.

    Without a `token`, whoever reaches a host of the app is let in. With `secure`, browsers ask for it by https.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Sequence[str],
        token: str | None,
        cookie: str = "tidemill_app",
        proxies: Sequence[str] = (),
        root: str = "",
        secure: bool = False,
        log: Log | None = None,
    ) -> None:
        self._app, self._hosts, self._proxies = app, frozenset(hosts), frozenset(proxies)
        self._token, self._cookie, self._root = token, cookie, root.rstrip("/")
        self._secure, self._log = secure, log
        self._pass = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope = self._without_strangers_headers(scope)
        answer = self._answer(scope)
        sent = self._protected(scope, send)
        if answer is None:
            await self._app(scope, receive, sent)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, sent)

    def _answer(self, scope: Scope) -> Response | None:
        """What the gate says itself; None where the app is to answer."""
        headers, method = Headers(scope=scope), scope.get("method", "")
        if problem := self._wrong_place(headers):
            return _refusal(problem)
        if self._token is not None and not self._is_let_in(scope):
            given = parse_qs(scope["query_string"].decode("latin-1")).get(TOKEN, [""])[-1]
            if method == "GET" and self._token and hmac.compare_digest(given.encode(), self._token.encode()):
                self._token = ""  # The next one who has this address comes too late.
                return self._let_in(scope)
            return _refusal(
                "This app is open to whoever has its address with the token, which works once. Copy the address that "
                "`tidemill app` printed; where it was used already, start the app again."
            )
        if method == "GET" and TOKEN in parse_qs(scope["query_string"].decode("latin-1")):
            return RedirectResponse(self._here(scope), status_code=303)
        if method in HAS_BODY and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return PlainTextResponse("This app takes JSON only: set Content-Type to application/json.\n", 415)
        return None

    def _wrong_place(self, headers: Headers) -> str | None:
        """A browser always says where a page's websocket or write comes from; other clients say nothing."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return f"This app answers at {', '.join(sorted(self._hosts))}. Name another one of its hosts with --host."
        if any(origin.lower().partition("://")[2] not in self._hosts for origin in origins):
            return "This app answers its own pages alone, and not those of another site."
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return "This app answers its own pages alone, and not those of another site."
        return None

    def _is_let_in(self, scope: Scope) -> bool:
        given = HTTPConnection(scope).cookies.get(self._cookie, "")
        return hmac.compare_digest(given.encode(), self._pass.encode())

    def _let_in(self, scope: Scope) -> Response:
        answer = RedirectResponse(self._here(scope), status_code=303)
        answer.set_cookie(
            self._cookie,
            self._pass,
            httponly=True,
            samesite="lax",
            secure=self._secure,
            path=self._root or "/",
        )
        return answer

    def _here(self, scope: Scope) -> str:
        # One slash: two would name a host.
        return f"{self._root}/{scope['path'].lstrip('/')}"

    def _without_strangers_headers(self, scope: Scope) -> Scope:
        """What a proxy says of a request counts only where it is a proxy that was named."""
        peer = (scope.get("client") or ("", 0))[0]
        if peer in self._proxies:
            return scope
        kept = [
            (name, value)
            for name, value in scope["headers"]
            if not name.startswith(b"x-forwarded-") and name not in FORWARDED
        ]
        return {**scope, "headers": kept}

    def _protected(self, scope: Scope, send: Send) -> Send:
        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(PROTECTION)
                if headers.get("content-type", "").partition(";")[0] in ("text/html", "application/json"):
                    headers["cache-control"] = "no-store"
                if self._log is not None:
                    # Never the query: it may hold the token.
                    self._log(
                        f"{(scope.get('client') or ('?',))[0]} {scope['method']} {quote(scope['path'])} "
                        f"{message['status']}"
                    )
            await send(message)

        return send_protected


def _refusal(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=403)
