"""What the service says: JSON, and refusals in the two forms that clients expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

OPENAI = "/v1/"
"""Paths below it answer as OpenAI's clients expect."""
KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class Refusal(Exception):
    """A request gets no answer but this: a status, and why. It never repeats what the client sent."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})
        self.code, self.param = code, param

    def answer(self, path: str) -> Response:
        if not path.startswith(OPENAI):
            return answer({"error": self.message}, status=self.status, headers=self.headers)
        kind = KINDS.get(self.status, "invalid_request_error")
        said = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        # OpenAI has no 422.
        return answer({"error": said}, status=400 if self.status == 422 else self.status, headers=self.headers)


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A number that is none becomes null."""
    content = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, dict(headers or {}), media_type="application/json")
