"""`/metrics`, `/healthz` and `/readyz` of a process, on a thread of their own; nothing else is served."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stream_app.core.errors import ConfigurationError

Check = Callable[[], tuple[bool, str]]
"""Whether it is so, and why (not); called on a thread of the server for every request."""

_JSON: Final = "application/json"


class EndpointServer:
    """A running server.  `close` ends it; the threads are daemons and never hold a process up."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.host = str(server.server_address[0])
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.1,), name="http-endpoints", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


def serve(
    host: str,
    port: int,
    *,
    registry: CollectorRegistry,
    is_ready: Check,
    is_healthy: Check = lambda: (True, "alive"),
) -> EndpointServer:
    """Serve until closed.  port: 0 takes a free one (`EndpointServer.port`).

    /healthz answers 200 while the process makes progress (restart it otherwise), /readyz 200 once it
    does its work; 503 with the reason if not.  Raises `ConfigurationError` if the port is taken.
    """

    class Handler(_Handler):
        checks: ClassVar[dict[str, Check]] = {"/healthz": is_healthy, "/readyz": is_ready}
        metrics = registry

    try:
        server = _Server((host, port), Handler)
    except OSError as error:
        raise ConfigurationError(
            f"metrics.port {port} on {host} cannot be used ({error.strerror or error}): give another "
            "--metrics-port, or 0 for a free one"
        ) from error
    return EndpointServer(server)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that hangs up is no event of ours."""


class _Handler(BaseHTTPRequestHandler):
    checks: ClassVar[dict[str, Check]] = {}
    metrics: ClassVar[CollectorRegistry]
    protocol_version = "HTTP/1.1"
    server_version = "nextclick"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.metrics))
        elif path in self.checks:
            self._check(self.checks[path])
        else:
            self._answer(404, _JSON, b'{"error": "there are /metrics, /healthz and /readyz"}')

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def _check(self, check: Check) -> None:
        try:
            good, reason = check()
        except Exception as error:  # noqa: BLE001 - a check that fails is the answer "no"
            good, reason = False, f"{type(error).__name__}: {error}"
        body = json.dumps({"status": "ok" if good else "unavailable", "reason": reason})
        self._answer(200 if good else 503, _JSON, body.encode())

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """One line per scrape would drown the log."""
