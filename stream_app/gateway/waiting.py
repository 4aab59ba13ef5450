"""Callers that wait for the answer to the click they sent: request and response over two topics."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Wait:
    """One caller.  Answers to the session may come before Kafka has said where the click is, so they are
    kept until then."""

    def __init__(self) -> None:
        self._answers: dict[str, bytes] = {}
        self._arrived = asyncio.Event()

    async def answer_to(self, recommendation_id: str, seconds: float) -> bytes | None:
        """The answer, as it is on the topic; None if it did not come in time."""
        try:
            async with asyncio.timeout(seconds):
                while recommendation_id not in self._answers:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        return self._answers[recommendation_id]

    def take(self, recommendation_id: str, answer: bytes) -> None:
        # Answered again after a crash: the first one counts, as it would have without waiting.
        self._answers.setdefault(recommendation_id, answer)
        self._arrived.set()


class Waits:
    """All callers that wait now, by session.  For one event loop."""

    def __init__(self) -> None:
        self._by_session: dict[str, list[Wait]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_session.values()))

    @contextmanager
    def expect(self, session_id: str) -> Iterator[Wait]:
        """Answers to the session are kept for the caller from now on; enter before the click is sent."""
        wait = Wait()
        self._by_session.setdefault(session_id, []).append(wait)
        try:
            yield wait
        finally:
            waiting = self._by_session[session_id]
            waiting.remove(wait)
            if not waiting:
                del self._by_session[session_id]

    def take(self, session_id: str, recommendation_id: str, answer: bytes) -> None:
        """An answer came by; most are nobody's."""
        for wait in self._by_session.get(session_id, ()):
            wait.take(recommendation_id, answer)
