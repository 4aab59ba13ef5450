"""Who is let in: host, origin, rate, token; and what every answer carries besides its body."""

import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_app.adapters.gateway_instruments import GatewayInstruments
from stream_app.gateway.problems import CLOSE, Refused, problem, unavailable
from stream_app.settings import GatewaySettings

ROUTE: Final = "nextclick.route"
"""Key of the scope under which a request's route stands once it is known."""
OTHER: Final = "other"
"""Route of the page's files, and of paths that are none."""

PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Asked by whoever keeps the process going, under any name."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
CLIENTS_MAX: Final = 10_000
"""Addresses whose rate is remembered."""

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Envelope:
    """Outermost: security headers on every answer, and a count of it."""

    def __init__(self, app: ASGIApp, instruments: GatewayInstruments) -> None:
        self._app, self._instruments = app, instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("cache-control", "no-store")
                else:
                    headers.setdefault("cache-control", "no-cache")
            await send(message)

        try:
            await self._app(scope, receive, send_dressed)
        finally:
            route = scope.get(ROUTE, OTHER)
            self._instruments.requests.labels(route, str(status)).inc()
            self._instruments.request_duration.labels(route).observe(time.perf_counter() - began)


class Guard:
    """Turns requests away before anything is done for them."""

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, instruments: GatewayInstruments
    ) -> None:
        self._app, self._instruments = app, instruments
        self._token = settings.token.encode()
        self._origins = frozenset(settings.cors_origins)
        self._hosts = frozenset(settings.hosts)
        if not self._hosts and settings.host in LOOPBACK:
            self._hosts = LOOPBACK
        self._rate = ClientRate(settings.requests_per_second_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            headers = Headers(scope=scope)
            for reason, refused in (
                ("connections", self._crowded(scope)),
                ("host", self._foreign_host(scope, headers)),
                ("origin", self._foreign_origin(scope, headers)),
                ("rate", self._too_many(scope)),
                ("token", self._without_token(scope, headers)),
            ):
                if refused is not None:
                    self._instruments.turned_away.labels(reason).inc()
                    answer = problem(
                        refused.status, refused.kind, refused.message, refused.headers | CLOSE
                    )
                    await answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _crowded(self, scope: Scope) -> Refused | None:
        if not scope.get("nextclick.is_crowded"):
            return None
        return unavailable("TooManyConnections", "too many connections: try again later")

    def _foreign_host(self, scope: Scope, headers: Headers) -> Refused | None:
        """A page of a stranger must not reach us under a name of its own that points here."""
        if not self._hosts or scope["path"] == "/metrics":
            return None
        name = _without_port(headers.get("host", ""))
        if name in self._hosts:
            return None
        return Refused(
            403, "ForeignHost", "this gateway is not called by that name: see gateway.hosts"
        )

    def _foreign_origin(self, scope: Scope, headers: Headers) -> Refused | None:
        """A page of another origin may only write if it is in the list."""
        origin = headers.get("origin")
        if origin is None or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        if origin in self._origins or urlsplit(origin).netloc == headers.get("host"):
            return None
        return Refused(
            403, "ForeignOrigin", "pages of that origin may not click: see gateway.cors_origins"
        )

    def _too_many(self, scope: Scope) -> Refused | None:
        client = scope.get("client")
        if self._rate.allows(client[0] if client else "", time.monotonic()):
            return None
        return Refused(
            429, "TooManyRequests", "too many requests of this address", {"retry-after": "1"}
        )

    def _without_token(self, scope: Scope, headers: Headers) -> Refused | None:
        path = scope["path"]
        if not self._token or not (path.startswith("/v1/") or path == "/metrics"):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        asked = {"www-authenticate": "Bearer"}
        if scheme.lower() != "bearer" or not token:
            return Refused(401, "TokenMissing", "send Authorization: Bearer TOKEN", asked)
        if not hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token):
            return Refused(401, "TokenWrong", "that is not the token", asked)
        return None


class ClientRate:
    """So many requests a second of each client, and as many at once after a pause; 0: no limit."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._at_once = max(per_second, 1.0)
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What a client has left, and when that was."""

    def allows(self, client: str, now: float) -> bool:
        """now: seconds of a clock that never runs backwards."""
        if not self._per_second:
            return True
        left, at = self._clients.pop(client, (self._at_once, now))
        left = min(left + (now - at) * self._per_second, self._at_once)
        is_allowed = left >= 1
        self._clients[client] = (left - 1 if is_allowed else left, now)
        if len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)
        return is_allowed


def _without_port(host: str) -> str:
    """`[::1]:80` -> `[::1]`; a name in capitals is the same name."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
