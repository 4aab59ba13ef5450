"""A TCP proxy between a worker and its broker that can do to a connection what networks do.

It runs in a thread of its own.  What a fault swallowed is gone for good, so a connection that lost
bytes stays silent after the fault is over, as one does whose peer or firewall forgot it: only the
client's own timeouts can tell, and they are what is tested.
"""

import asyncio
import enum
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from stream_app.adapters.local_kafka import HOST, LocalKafka
from tests.chaos.cluster import free_ports

CHUNK_BYTES: Final = 64 * 1024
CHUNKS_WAITING_MAX: Final = 256
DELAY_SECONDS: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Fault(enum.Enum):
    """What happens to the connections while it lasts."""

    RESPONSES_DROPPED = "requests arrive, answers do not"
    BLACK_HOLE = "nothing arrives, either way"
    HELD = "everything arrives only when the fault is over"
    RESET = "connections are reset, and new ones too"
    DELAYED = "everything arrives 2 s later, each way"
    HALF_OPEN = "the broker forgot the connections there were; new ones work"


@dataclass(eq=False)
class _Connection:
    """A client's connection and ours to the broker."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    deaf: bool = False
    """Nothing that the client says arrives any more."""
    mute: bool = False
    """Nothing that the broker says arrives any more."""

    def reset(self) -> None:
        for writer in (self.client, self.broker):
            _reset(writer)


@dataclass(eq=False)
class _Way:
    """One direction of a connection."""

    connection: _Connection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    to_broker: bool
    waiting: "asyncio.Queue[tuple[float, bytes]]" = field(
        default_factory=lambda: asyncio.Queue(CHUNKS_WAITING_MAX)
    )
    """When to deliver (loop time), and what; empty bytes: the sender closed."""

    @property
    def swallowed(self) -> bool:
        return self.connection.deaf if self.to_broker else self.connection.mute


class TcpProxy:
    """Forwards connections to `upstream_port` on loopback.  A context manager.

    `during(fault)` does harm for the length of a block; `inject` and `heal` are its two halves.
    """

    def __init__(
        self, upstream_port: int, *, port: int = 0, delay_seconds: float = DELAY_SECONDS
    ) -> None:
        self.upstream_port = upstream_port
        self.port = port
        self._delay_seconds = delay_seconds
        self.connections_made = 0
        self._fault: Fault | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tcp-proxy", daemon=True
        )

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, HOST, self.port), self._loop
        ).result()
        self._healed = asyncio.Event()
        self._healed.set()
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def inject(self, fault: Fault) -> None:
        """Begin the fault for the connections there are and, except half-open, for new ones."""
        asyncio.run_coroutine_threadsafe(self._begin(fault), self._loop).result()

    def heal(self) -> None:
        """End it.  Connections that lost bytes stay silent; new ones work."""
        asyncio.run_coroutine_threadsafe(self._begin(None), self._loop).result()

    @contextmanager
    def during(self, fault: Fault) -> Iterator[None]:
        self.inject(fault)
        try:
            yield
        finally:
            self.heal()

    async def _begin(self, fault: Fault | None) -> None:
        self._fault = fault
        if fault is Fault.HELD:
            self._healed.clear()
        else:
            self._healed.set()
        for connection in list(self._connections):
            if fault is Fault.RESET:
                connection.reset()
            elif fault is Fault.HALF_OPEN:
                connection.deaf = connection.mute = True
                _reset(connection.broker)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        if self._fault is Fault.RESET:
            _reset(writer)
            return
        try:
            from_broker, to_broker = await asyncio.open_connection(HOST, self.upstream_port)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(client=writer, broker=to_broker)
        self._connections.add(connection)
        for way in (
            _Way(connection, reader, to_broker, to_broker=True),
            _Way(connection, from_broker, writer, to_broker=False),
        ):
            for run in (self._read, self._deliver):
                task = self._loop.create_task(run(way))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _read(self, way: _Way) -> None:
        while True:
            try:
                chunk = await way.reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""
            if chunk and self._swallows(way):
                continue
            delay = self._delay_seconds if self._fault is Fault.DELAYED else 0.0
            await way.waiting.put((self._loop.time() + delay, chunk))
            if not chunk:
                return

    def _swallows(self, way: _Way) -> bool:
        """Whether what just came is lost; if so, so is everything after it."""
        if self._fault is Fault.BLACK_HOLE:
            way.connection.deaf = way.connection.mute = True
        elif self._fault is Fault.RESPONSES_DROPPED and not way.to_broker:
            way.connection.mute = True
        return way.swallowed

    async def _deliver(self, way: _Way) -> None:
        while True:
            due, chunk = await way.waiting.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._healed.wait()
            if not chunk:
                break
            with suppress(OSError):
                way.writer.write(chunk)
                await way.writer.drain()
        # Nobody learns of the end of a connection across which nothing arrives.
        if not way.swallowed:
            way.writer.close()
        if way.to_broker:
            way.connection.client.close()
        if way.connection.broker.is_closing() and way.connection.client.is_closing():
            self._connections.discard(way.connection)

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            connection.reset()
        await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST instead of a FIN."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


class ProxiedKafka:
    """A broker with two doors: a direct one, and one whose advertised address is a proxy's.

    A context manager.  Workers go through `proxy.bootstrap_servers`; whoever watches or produces uses
    `bootstrap_servers`, which no fault reaches.
    """

    def __init__(self, directory: Path) -> None:
        direct, behind = free_ports(2)
        self.proxy = TcpProxy(behind)
        self._directory = directory
        self._direct, self._behind = direct, behind

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self._direct}"

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        (controller,) = free_ports(1)
        self._broker = LocalKafka(
            self._directory,
            port=self._direct,
            settings={
                "controller.quorum.voters": f"1@{HOST}:{controller}",
                "listeners": (
                    f"PLAINTEXT://{HOST}:{self._direct},PROXIED://{HOST}:{self._behind},"
                    f"CONTROLLER://{HOST}:{controller}"
                ),
                "advertised.listeners": (
                    f"PLAINTEXT://{HOST}:{self._direct},PROXIED://{self.proxy.bootstrap_servers}"
                ),
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
                ),
                "inter.broker.listener.name": "PLAINTEXT",
            },
        )
        try:
            self._broker.start()
        except BaseException:
            self.proxy.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.kill()
        self.proxy.__exit__()
