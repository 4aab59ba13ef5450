"""Readers of the live feed: quick ones get everything, slow ones are cut off and cost little."""

import asyncio
import json

from stream_app.gateway.live import WAITING_EVENTS_MAX, Reader, event


def test_a_reader_gets_what_happened_since_it_last_looked() -> None:
    async def scene() -> list[bytes]:
        reader = Reader(lambda: None)
        reader.give(b"1")
        reader.give(b"2")
        first = await reader.next()
        asyncio.get_running_loop().call_soon(reader.give, b"3")
        return [first, await reader.next()]

    assert asyncio.run(scene()) == [b"12", b"3"]


def test_one_that_does_not_look_is_cut_off_and_nothing_is_kept_for_it() -> None:
    async def scene() -> tuple[list[bool], list[str], bool, bytes]:
        cut_off: list[str] = []
        reader = Reader(lambda: cut_off.append("off"))
        given = [reader.give(b"x") for _ in range(WAITING_EVENTS_MAX + 1)]
        return given, cut_off, reader.is_over, await reader.next()

    given, cut_off, is_over, left = asyncio.run(scene())
    assert given == [True] * WAITING_EVENTS_MAX + [False]
    assert cut_off == ["off"]
    assert is_over
    assert left == b""


def test_an_event_is_one_block_whatever_is_in_it() -> None:
    data = json.dumps({"title": "two\nlines\r\n\n: and a colon"}).encode()
    name, told, *rest = event("answer", data).split(b"\n")
    assert name == b"event: answer"
    assert json.loads(told.removeprefix(b"data: ")) == json.loads(data)
    assert rest == [b"", b""]
