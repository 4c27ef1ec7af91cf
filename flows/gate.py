"""Prefect's server behind a gate: it answers at addresses of its own, and of web pages to its own alone.

Prefect lets every origin in and asks for no `Host`. So any page that a browser
shows could read what is deployed and deploy more; and a page whose name is
rebound to 127.0.0.1 would be the server's own in the browser's eyes.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.flows.database import lay_out_database
from tidemill.flows.names import LOOPBACK

PROTECTION = {"content-security-policy": "frame-ancestors 'none'", "cross-origin-resource-policy": "same-origin"}
"""No page shows this server's in a frame, where a click may be led astray, or takes its answers for scripts."""


def own_origins(port: int, *, more: Sequence[str] = ()) -> list[str]:
    """The addresses of a server on loopback, as browsers write them, and `more`; `*` names none."""
    end = "" if port == 80 else f":{port}"
    given = [origin.strip().rstrip("/").lower() for origin in more]
    return [*(f"http://{name}{end}" for name in LOOPBACK), *(origin for origin in given if origin not in ("", "*"))]


class Gate:
    """Refuses requests and websockets that name another host than `origins` have, or come from another origin."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app, self._origins = app, frozenset(origins)
        self._hosts = frozenset(origin.partition("://")[2] for origin in origins)
        self._refusal = PlainTextResponse(
            f"This server answers at {', '.join(sorted(self._origins))}, and to no other site's pages. "
            "Name another address of it in PREFECT_SERVER_CORS_ALLOWED_ORIGINS.\n",
            status_code=403,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif self._admits(Headers(scope=scope)):
            await self._app(scope, receive, _protected(send))
        else:
            await self._refusal(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        """A browser always says where a page's websocket or write comes from; other clients say nothing."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        return (
            len(hosts) == 1
            and hosts[0].lower() in self._hosts
            and all(origin.lower() in self._origins for origin in origins)
        )


def _protected(send: Send) -> Send:
    async def send_protected(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(PROTECTION)
        await send(message)

    return send_protected


def serve() -> None:
    """Prefect's server as `prefect server start` runs it, by Prefect's own settings, behind the gate."""
    import uvicorn
    from prefect.settings import PREFECT_SERVER_CORS_ALLOWED_ORIGINS, get_current_settings, temporary_settings

    server = get_current_settings().server
    _lay_out_own_database()
    from prefect.server.api.server import create_app

    origins = own_origins(server.api.port, more=server.api.cors_allowed_origins.split(","))
    with temporary_settings({PREFECT_SERVER_CORS_ALLOWED_ORIGINS: ",".join(origins)}):
        uvicorn.run(
            Gate(create_app(final=True), origins),
            host=server.api.host,
            port=server.api.port,
            timeout_keep_alive=server.api.keepalive_timeout,
            ws_ping_interval=server.api.websocket_ping_interval,
            ws_ping_timeout=server.api.websocket_ping_timeout,
            log_level=server.logging_level.lower(),
        )


def _lay_out_own_database() -> None:
    """Where there is none in Prefect's folder yet, and its settings name no other."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    database, url = settings.home / "prefect.db", settings.server.database.connection_url
    if url and url.get_secret_value() == f"sqlite+aiosqlite:///{database}" and not database.exists():
        settings.home.mkdir(parents=True, exist_ok=True)
        lay_out_database(database)


if __name__ == "__main__":
    serve()
