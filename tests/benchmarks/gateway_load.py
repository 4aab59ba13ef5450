"""Callers of the gateway in a process of their own: clicks at a fixed rate, each waiting for its answer.

Latency is taken from the moment a click *should* have been sent, as in `load`.  Requests are written and
answers read as bytes, since an HTTP client in Python would measure itself.
"""

import asyncio
import gc
import json
import random
import sys
import time
from collections import deque
from typing import Any

import uvloop


class Caller(asyncio.Protocol):
    """A connection that is kept: one request at a time."""

    def __init__(self, idle: "deque[Caller]") -> None:
        self._idle = idle
        self._buffer = b""
        self._done: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result((0, repr(exc).encode()))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        at = head.index(b"content-length: ") + len(b"content-length: ")
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return
        self._buffer = b""
        assert self._done is not None
        self._done.set_result((int(head[9:12]), body))
        self._idle.append(self)

    def call(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done


async def main() -> None:
    """Arguments as one JSON object; prints one JSON object."""
    options = json.loads(sys.argv[1])
    port, count, rate = options["port"], options["clicks"], options["clicks_per_second"]
    rng = random.Random(options["seed"])
    idle: deque[Caller] = deque()
    loop = asyncio.get_running_loop()

    async def connect() -> Caller:
        _, caller = await loop.create_connection(lambda: Caller(idle), "127.0.0.1", port)
        return caller

    for _ in range(options["connections"]):
        idle.append(await connect())
    milliseconds: list[float] = []
    statuses: dict[str, int] = {}
    gc.disable()  # or we would time its pauses
    began = time.perf_counter() + 0.2

    async def one(number: int, due: float) -> None:
        session = f"gateway-{options['seed']}-{rng.randrange(options['sessions'])}"
        fields = {
            "session_id": session,
            "item_id": f"item-{rng.randrange(options['n_items'])}",
            "event_time": int(time.time() * 1000),
            "event_id": f"{options['seed']}:{number}",
        }
        body = json.dumps(fields).encode()
        caller = idle.popleft() if idle else await connect()
        status, answer = await caller.call(
            b"POST /v1/clicks?wait=5000 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        if status == 200:
            milliseconds.append(1000 * (time.perf_counter() - due))
            assert session.encode() in answer
        statuses[str(status)] = statuses.get(str(status), 0) + 1

    calls = []
    for number in range(count):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        calls.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*calls)
    settled = sorted(milliseconds[len(milliseconds) // 10 :])
    percentiles = {
        p: settled[min(len(settled) - 1, int(len(settled) * p / 100))] for p in (50.0, 99.0, 99.9)
    }
    print(json.dumps({"statuses": statuses, "ms": percentiles, "connections": len(idle)}))


if __name__ == "__main__":
    uvloop.run(main())
