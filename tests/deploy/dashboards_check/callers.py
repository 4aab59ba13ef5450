"""Callers of the gateway: visitors of the simulated shop over HTTP, readers of the live feed, and some that are wrong."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import aiohttp
import click

from stream_app.core.clicks import encode_click
from stream_app.core.records import Click
from stream_app.shop.shop import Shop

WAIT_MS: Final = 1_000
READ_EVERY: Final = 4
"""One in so many clicks is followed by a look at the session's recommendations."""
WRONG_EVERY_SECONDS: Final = 15.0
READERS: Final = 2
CALLERS_MAX: Final = 200
"""At once; on a machine that is too busy, visits beyond it are left out rather than piled up."""


@click.command()
@click.argument("url")
@click.option("--seed", default=1, show_default=True, help="Which shop; its catalogue goes by it.")
@click.option("--clicks-per-second", default=15.0, show_default=True)
def main(url: str, seed: int, clicks_per_second: float) -> None:
    """Call the gateway at URL until ended."""
    asyncio.run(_call(url, seed, clicks_per_second))


async def _call(url: str, seed: int, clicks_per_second: float) -> None:
    async with (
        aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=CALLERS_MAX),
            timeout=aiohttp.ClientTimeout(30),
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(_visit(client, seed, clicks_per_second))
        tasks.create_task(_be_wrong(client))
        for _ in range(READERS):
            tasks.create_task(_read_the_feed(client))


async def _visit(client: aiohttp.ClientSession, seed: int, clicks_per_second: float) -> None:
    """Each click when its time has come, whatever became of the one before."""
    shop = Shop(
        seed=seed, start_ms=time.time_ns() // 1_000_000, clicks_per_second=clicks_per_second
    )
    under_way: set[asyncio.Task[None]] = set()
    number = 0
    while True:
        for visit in shop.clicks_until(time.time() * 1000):
            number += 1
            if len(under_way) >= CALLERS_MAX:
                continue
            task = asyncio.create_task(_click(client, visit, looks=number % READ_EVERY == 0))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.02)


async def _click(client: aiohttp.ClientSession, visit: Click, *, looks: bool) -> None:
    await _request(client, "POST", f"/v1/clicks?wait={WAIT_MS}", encode_click(visit))
    if looks:
        session = quote(visit.session_id, safe="")
        await _request(client, "GET", f"/v1/sessions/{session}/recommendations")


async def _request(
    client: aiohttp.ClientSession,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    host: str | None = None,
) -> None:
    headers = {"content-type": "application/json"} if body else {}
    if host:
        headers["host"] = host
    with suppress(aiohttp.ClientError, TimeoutError):  # the gateway counts what it could not do
        async with client.request(method, path, data=body, headers=headers) as answer:
            await answer.read()


async def _be_wrong(client: aiohttp.ClientSession) -> None:
    """A click that is none, one that is too large, a stranger's host name, and a path that is not there."""
    calls: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: _request(client, "POST", "/v1/clicks", b'{"session_id": 1}'),
        lambda: _request(client, "POST", "/v1/clicks", b" " * 200_000),
        lambda: _request(client, "GET", "/v1/models", host="stranger.test"),
        lambda: _request(client, "GET", "/no/such/page"),
    )
    chance = random.Random(1)
    while True:
        for call in calls:
            await call()
            await asyncio.sleep(chance.expovariate(len(calls) / WRONG_EVERY_SECONDS))


async def _read_the_feed(client: aiohttp.ClientSession) -> None:
    without_end = aiohttp.ClientTimeout(total=None)
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with client.get("/v1/live", timeout=without_end) as feed:
                async for _ in feed.content.iter_any():
                    pass
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
