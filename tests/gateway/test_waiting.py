"""Callers get the answer to their own click, whichever comes first: it, or the news where the click is."""

import asyncio

from stream_app.gateway.waiting import Waits


def test_an_answer_that_comes_before_the_clicks_place_is_known_is_kept_for_it() -> None:
    async def scene() -> bytes | None:
        waits = Waits()
        with waits.expect("s") as wait:
            waits.take("s", "t-0-7", b"of another click")
            waits.take("s", "t-0-8", b"ours")
            return await wait.answer_to("t-0-8", 0.0)

    # Even a wait of no time finds what is there already.
    assert asyncio.run(scene()) == b"ours"


def test_callers_of_one_session_get_each_their_own() -> None:
    async def scene() -> list[bytes | None]:
        waits = Waits()

        async def caller(place: str) -> bytes | None:
            with waits.expect("s") as wait:
                return await wait.answer_to(place, 60)

        callers = [asyncio.create_task(caller(f"t-0-{n}")) for n in range(3)]
        await asyncio.sleep(0)
        assert len(waits) == 3
        for number in (2, 0, 1):
            waits.take("other session", f"t-0-{number}", b"not this")
            waits.take("s", f"t-0-{number}", b"%d" % number)
        found = await asyncio.gather(*callers)
        assert len(waits) == 0, "nothing is left of those who went"
        return found

    assert asyncio.run(scene()) == [b"0", b"1", b"2"]


def test_a_wait_ends_without_an_answer() -> None:
    async def scene() -> bytes | None:
        waits = Waits()
        with waits.expect("s") as wait:
            waits.take("s", "t-0-1", b"another")
            return await wait.answer_to("t-0-2", 0.01)

    assert asyncio.run(scene()) is None


def test_of_an_answer_given_twice_the_first_counts() -> None:
    async def scene() -> bytes | None:
        waits = Waits()
        with waits.expect("s") as wait:
            waits.take("s", "t-0-1", b"first")
            waits.take("s", "t-0-1", b"again, after a crash")
            return await wait.answer_to("t-0-1", 1)

    assert asyncio.run(scene()) == b"first"
