"""What a caller is told when he does not get what he asked for: one form for all of it."""

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from stream_app.gateway.records import ErrorAnswer, Problem
from stream_app.logging_setup import get_logger

CLOSE: Final = {"connection": "close"}
"""What is left of the request is not read."""

log = get_logger("gateway")


class Refused(Exception):  # noqa: N818 - an answer rather than an error
    """Ends the handling of a request with this answer.  Never leaves the gateway."""

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.headers = dict(headers or {})


def unavailable(kind: str, message: str, *, retry_seconds: int = 1) -> Refused:
    """Status 503: the fault is ours or Kafka's, and asking again later may help."""
    return Refused(503, kind, message, {"retry-after": str(retry_seconds)})


def problem(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = msgspec.json.encode(ErrorAnswer(Problem(kind, message)))
    return Response(body, status, headers, "application/json")


async def on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error.status, error.kind, error.message, error.headers)


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method."""
    assert isinstance(error, HTTPException)
    kinds = {404: "NotFound", 405: "MethodNotAllowed"}
    kind = kinds.get(error.status_code, "Refused")
    return problem(
        error.status_code, kind, f"{error.detail}: see /openapi.json", dict(error.headers or {})
    )


def fault(error: Exception) -> Response:
    """A fault of ours: the log has it, the caller does not."""
    log.error("request_failed", exc_info=error)
    return problem(500, "Failed", "something is wrong here: see the gateway's log")
