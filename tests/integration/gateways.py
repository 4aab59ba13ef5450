"""A gateway in this process, on a thread of its own, and a plain client for it."""

import asyncio
import http.client
import json
import socket
import threading
import time
from typing import Any, NamedTuple, Self

from prometheus_client import CollectorRegistry

from stream_app.gateway.server import run_gateway
from stream_app.settings import Settings
from tests.integration.processes import wait_until


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Of an error."""
        kind: str = self.json["error"]["kind"]
        return kind


class GatewayThread:
    """Serves from entering to leaving.  limits: settings of the group `gateway`."""

    def __init__(self, settings: Settings, **limits: Any) -> None:
        self.port = free_port()
        gateway = settings.gateway.model_copy(update={"port": self.port, **limits})
        self.settings = settings.model_copy(update={"gateway": gateway})
        self.registry = CollectorRegistry()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway")

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until("the gateway serves", self._is_up)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "it ends when it is told to"
        assert self._failure is None, self._failure

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """headers: `_` for `-`."""
        return call(self.port, method, path, body, **headers)

    def click(self, session_id: str, item_id: str, wait: int = 0, **more: Any) -> Answer:
        return self.call("POST", f"/v1/clicks?wait={wait}", made_click(session_id, item_id, **more))

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def run_here(self) -> None:
        """On this thread, until it is told to stop, or fails."""

        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await run_gateway(self.settings, self.registry, self._stop)

        asyncio.run(main())

    def _run(self) -> None:
        try:
            self.run_here()
        except BaseException as error:  # noqa: BLE001 - told by whoever waits
            self._failure = error

    def _is_up(self) -> bool:
        if self._failure is not None:
            raise self._failure
        try:
            return self.call("GET", "/healthz").status == 200
        except OSError:
            return False


def made_click(session_id: str, item_id: str, **more: Any) -> bytes:
    fields = {"session_id": session_id, "item_id": item_id, "event_time": int(time.time() * 1000)}
    return json.dumps(fields | more).encode()


def call(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, named)
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, told, response.read())
    finally:
        connection.close()
