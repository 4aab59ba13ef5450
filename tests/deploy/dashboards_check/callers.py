"""Callers of the gateway: visitors of the simulated shop over HTTP, readers of the live feed, and some that are wrong."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import click
import httpx

from stream_app.core.clicks import encode_click
from stream_app.core.records import Click
from stream_app.shop.shop import Shop

WAIT_MS: Final = 1_000
READ_EVERY: Final = 4
"""One in so many clicks is followed by a look at the session's recommendations."""
WRONG_EVERY_SECONDS: Final = 15.0
READERS: Final = 2
JSON: Final = {"content-type": "application/json"}


@click.command()
@click.argument("url")
@click.option("--seed", default=1, show_default=True, help="Which shop; its catalogue goes by it.")
@click.option("--clicks-per-second", default=15.0, show_default=True)
def main(url: str, seed: int, clicks_per_second: float) -> None:
    """Call the gateway at URL until ended."""
    asyncio.run(_call(url, seed, clicks_per_second))


async def _call(url: str, seed: int, clicks_per_second: float) -> None:
    limits = httpx.Limits(max_connections=200)
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(_visit(client, seed, clicks_per_second))
        tasks.create_task(_be_wrong(client))
        for _ in range(READERS):
            tasks.create_task(_read_the_feed(client))


async def _visit(client: httpx.AsyncClient, seed: int, clicks_per_second: float) -> None:
    """Each click when its time has come, whatever became of the one before."""
    shop = Shop(
        seed=seed, start_ms=time.time_ns() // 1_000_000, clicks_per_second=clicks_per_second
    )
    under_way: set[asyncio.Task[None]] = set()
    number = 0
    while True:
        for visit in shop.clicks_until(time.time() * 1000):
            number += 1
            task = asyncio.create_task(_click(client, visit, looks=number % READ_EVERY == 0))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.02)


async def _click(client: httpx.AsyncClient, visit: Click, *, looks: bool) -> None:
    with suppress(httpx.HTTPError):  # the gateway counts what it could not do
        await client.post(f"/v1/clicks?wait={WAIT_MS}", content=encode_click(visit), headers=JSON)
        if looks:
            await client.get(f"/v1/sessions/{quote(visit.session_id, safe='')}/recommendations")


async def _be_wrong(client: httpx.AsyncClient) -> None:
    """A click that is none, one that is too large, a stranger's host name, and a path that is not there."""
    calls: tuple[Callable[[], Awaitable[httpx.Response]], ...] = (
        lambda: client.post("/v1/clicks", content=b'{"session_id": 1}', headers=JSON),
        lambda: client.post("/v1/clicks", content=b" " * 200_000, headers=JSON),
        lambda: client.get("/v1/models", headers={"host": "stranger.test"}),
        lambda: client.get("/no/such/page"),
    )
    chance = random.Random(1)
    while True:
        for call in calls:
            with suppress(httpx.HTTPError):
                await call()
            await asyncio.sleep(chance.expovariate(len(calls) / WRONG_EVERY_SECONDS))


async def _read_the_feed(client: httpx.AsyncClient) -> None:
    while True:
        with suppress(httpx.HTTPError):
            async with client.stream("GET", "/v1/live", timeout=httpx.Timeout(None)) as feed:
                async for _ in feed.aiter_bytes():
                    pass
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
