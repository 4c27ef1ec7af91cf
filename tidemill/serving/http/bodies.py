"""Bodies: counted as they come, read as strict JSON, checked against a model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from tidemill.serving.answering.limits import Limits
from tidemill.serving.http.said import Refusal

ROOM_BYTES = 256 * 2**20
"""Of all bodies that are on their way at one time."""
MOST_NAMED = 5
"""Errors of one body that are told."""
CLOSE = {"connection": "close"}
"""What is left of a body that is refused is not read."""

Body = TypeVar("Body", bound="Asked")


class Asked(BaseModel):
    """What a client says: no field that is not known, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Bodies:
    """Reads bodies of at most `limits.body_bytes`, and of all together no more than there is room for."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._num_bytes = limits, 0

    async def read(self, request: Request, kind: type[Body]) -> Body:
        """
        Raises:
            Refusal: it is too large, too slow, no JSON, or not what `kind` says.
        """
        _require_json(request.headers)
        return checked(kind, _parsed(await self._bytes(request)))

    async def _bytes(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > most:
            raise self._too_large()
        found = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for part in request.stream():
                    self._take(len(part))
                    found += part
                    if len(found) > most:
                        raise self._too_large()
        except TimeoutError:
            raise Refusal(
                408, f"The body did not come within {self._limits.body_seconds:g} s.", headers=CLOSE
            ) from None
        except ClientDisconnect:
            raise Refusal(400, "The body was cut off.", headers=CLOSE) from None
        finally:
            self._num_bytes -= len(found)
        return bytes(found)

    def _take(self, num_bytes: int) -> None:
        if self._num_bytes + num_bytes > ROOM_BYTES:
            raise Refusal(429, "Too many bodies come at one time.", headers={**CLOSE, "retry-after": "1"})
        self._num_bytes += num_bytes

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"A body may have {self._limits.body_bytes:,} bytes (--max-body). Send fewer rows.", headers=CLOSE
        )


def _require_json(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "The body has to be JSON: send Content-Type: application/json.", headers=CLOSE)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "The body has to come as it is, without a Content-Encoding.", headers=CLOSE)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise Refusal(400, f"The body is no JSON: line {e.lineno}, column {e.colno}: {e.msg.split(':')[0]}.") from None


def checked(kind: type[Body], value: Any) -> Body:
    """
    Raises:
        Refusal: the value is not what `kind` says; the message names the places, and no values.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as e:
        problems = e.errors(include_url=False, include_context=False, include_input=False)
        said = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in problems[:MOST_NAMED])
        more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        param = _place(problems[0]["loc"])
        raise Refusal(422, f"{said}{more}.", param=param) from None


def _place(loc: tuple[int | str, ...]) -> str:
    """Where in the body, as `parameters.stop[0]`; what a client calls a field is cut where it is long."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part[:60]}" for part in loc]
    return "".join(parts).lstrip(".") or "the body"
