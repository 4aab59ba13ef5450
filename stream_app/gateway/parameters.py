"""What a request says: its body, within size and time, and its parameters, within bounds."""

import asyncio
from typing import Final
from urllib.parse import unquote_plus

from starlette.requests import ClientDisconnect, Request

from stream_app.gateway.problems import CLOSE, Refused

JSON: Final = "application/json"
DRAIN_BYTES_MAX: Final = 32 * 2**20
"""Of a body that is too large, so much is read and thrown away: a client that is still sending when the
connection closes would not see why."""


async def read_json_body(request: Request, *, bytes_max: int, seconds: float) -> bytes:
    """The body's bytes.  Raises `Refused`: not JSON by its header, too large, too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refused(415, "NotJson", f"send Content-Type: {JSON}", CLOSE)
    declared = request.headers.get("content-length", "")
    is_too_large = declared.isdecimal() and int(declared) > bytes_max
    if is_too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_large(bytes_max)  # it asks before it sends
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                is_too_large = is_too_large or size > bytes_max
                if not is_too_large:
                    body += chunk
                elif size > DRAIN_BYTES_MAX:
                    break
    except TimeoutError:
        raise Refused(408, "SlowBody", f"the body took more than {seconds:g} s", CLOSE) from None
    except ClientDisconnect:
        raise Refused(400, "Disconnected", "the client went away", CLOSE) from None
    if is_too_large:
        raise _too_large(bytes_max)
    return bytes(body)


def _too_large(bytes_max: int) -> Refused:
    return Refused(413, "BodyTooLarge", f"a click has at most {bytes_max} bytes", CLOSE)


def whole_number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A parameter of the query.  Raises `Refused` if it is no number from low to high."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise Refused(400, "BadQuery", f"{name} is a whole number from {low} to {high}")


def yes_or_no(request: Request, name: str) -> bool:
    """A parameter of the query, absent: no.  Raises `Refused` if it is neither true nor false."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise Refused(400, "BadQuery", f"{name} is true or false")
    return text == "true"


def several(request: Request, name: str, count_max: int) -> list[str]:
    """A parameter of the query that holds ids: `a,b`, each percent-encoded, since an id may hold a comma.

    Raises `Refused` if there are more than `count_max`.
    """
    for part in request.scope["query_string"].decode("ascii", "replace").split("&"):
        key, _, text = part.partition("=")
        if key == name and text:
            ids = text.split(",")
            if len(ids) > count_max:
                raise Refused(400, "BadQuery", f"{name} are at most {count_max}")
            return [unquote_plus(each) for each in ids]
    return []
