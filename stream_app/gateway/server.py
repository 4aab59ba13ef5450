"""`nextclick gateway`: wires the gateway together, serves it, and ends it cleanly."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from stream_app.adapters import http_endpoints
from stream_app.adapters.click_sender import ClickSender
from stream_app.adapters.gateway_instruments import GatewayInstruments
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.releases import ReleaseFollower
from stream_app.core.errors import ConfigurationError, InvariantError
from stream_app.gateway.app import build_app
from stream_app.gateway.descriptions import Descriptions
from stream_app.gateway.endpoints import Endpoints
from stream_app.gateway.http_protocol import limited
from stream_app.gateway.live import FiguresMaker, LiveFeed
from stream_app.gateway.memory import ItemMemory, SessionMemory
from stream_app.gateway.models import ModelRoom
from stream_app.gateway.open_files import allow_open_files
from stream_app.gateway.stream import StreamReading
from stream_app.logging_setup import get_logger
from stream_app.settings import GatewaySettings, Settings

TELL_SECONDS: Final = 1.0
FILES_BESIDE: Final = 300
"""Open files besides connections: Kafka, models, the page, and those above the limit that are told so."""
CLOSE_SECONDS: Final = 2
"""Requests under way get so much longer than a wait may take, when the process is told to end."""

log = get_logger("gateway")


async def run_gateway(settings: Settings, registry: CollectorRegistry, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; then let the requests under way finish.

    Raises `ServiceAwayError` without a broker, `ConfigurationError` where port or topics cannot be used.
    """
    allow_open_files(settings.gateway.connections_max + FILES_BESIDE)
    await asyncio.to_thread(ensure_topics, settings.kafka, settings.topics)
    instruments = GatewayInstruments(registry)
    with _listening(settings.gateway) as listener:
        async with AsyncExitStack() as stack:
            gateway = Gateway(settings, instruments)
            await stack.enter_async_context(gateway.running())
            endpoints = http_endpoints.serve(
                settings.metrics.host,
                settings.metrics.port,
                registry=registry,
                is_ready=gateway.stream.readiness,
                is_healthy=gateway.stream.health,
            )
            stack.callback(endpoints.close)
            server = _Server(_config(gateway.app, settings.gateway))
            connections = server.server_state.connections
            instruments.connections.set_function(lambda: len(connections))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            log.info(
                "gateway_serves", address=_address(listener), metrics=f"{endpoints.url}/metrics"
            )
            await _first_of(stop, serving, gateway.working)
            gateway.live.end()
            server.should_exit = True
            await serving
            if gateway.working.done():
                raise InvariantError(
                    "reading the stream failed: start the gateway again"
                ) from gateway.working.exception()


class Gateway:
    """All parts of a running gateway."""

    def __init__(self, settings: Settings, instruments: GatewayInstruments) -> None:
        limits = settings.gateway
        self._instruments = instruments
        self._descriptions = Descriptions(settings.kafka, settings.topics.items)
        sessions = SessionMemory(limits.remembered_answers_max)
        items = ItemMemory(self._descriptions.find)
        self.live = LiveFeed(
            instruments,
            sessions,
            items,
            readers_max=limits.live_clients_max,
            name_sessions=limits.live_session_ids,
        )
        self.stream = StreamReading(settings, instruments, self.live, sessions, items)
        self._sender = ClickSender(settings.kafka, settings.topics.clicks)
        self._models = ModelRoom(
            settings.registry, ReleaseFollower(settings.kafka, settings.topics.releases)
        )
        self._figures = FiguresMaker(
            self.stream.numbers, self._models.live_version, limits.simulator_report
        )
        self.working: asyncio.Task[None]
        """Ends only if it fails."""
        self.app = build_app(
            limits,
            instruments,
            Endpoints(
                settings,
                instruments,
                sender=self._sender,
                stream=self.stream,
                sessions=sessions,
                items=items,
                live=self.live,
                models=self._models,
            ),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything but the HTTP server.  Raises `ServiceAwayError`, `ConfigurationError`."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._sender.close)
            await self._sender.start()
            stack.push_async_callback(self.stream.close)
            await self.stream.start()
            self._models.start()
            stack.callback(self._models.close)
            self._descriptions.start()
            stack.callback(self._descriptions.close)
            self.working = asyncio.create_task(self._work())
            try:
                yield
            finally:
                self.working.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await self.working

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.stream.run())
            tasks.create_task(self._tell())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            self.live.tell(self._figures.figures(time.monotonic()))


class _Server(uvicorn.Server):
    """uvicorn, with the process's signals left to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, settings: GatewaySettings) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not a line for each bad request
    return uvicorn.Config(
        app,
        http=limited(
            idle_seconds=settings.idle_seconds_max, connections_max=settings.connections_max
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=max(1, round(settings.idle_seconds_max)),
        timeout_graceful_shutdown=CLOSE_SECONDS
        + -(-max(settings.store_ms_max, settings.wait_ms_max) // 1000),
    )


@contextmanager
def _listening(settings: GatewaySettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            f"gateway.port {settings.port} on {settings.host} cannot be used "
            f"({error.strerror or error}): give another --port, or 0 for a free one"
        ) from error
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _first_of(
    stop: asyncio.Event, serving: asyncio.Task[None], working: asyncio.Task[None]
) -> None:
    """Until we are told to stop, or one of the others ends, which it should not."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, serving, working}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


def serve_until_told(settings: Settings, registry: CollectorRegistry) -> None:
    """`run_gateway` with an event loop and the process's signals."""
    import uvloop  # noqa: PLC0415 - not on every platform

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run_gateway(settings, registry, stop)

    uvloop.run(main())
