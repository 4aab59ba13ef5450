"""Made-up clicks, produced at a rate from a thread of its own."""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, Message, Producer

START_MS: Final = 1_700_000_000_000
ITEMS: Final = tuple(f"item-{i}" for i in range(50))
"""All known to every model here, so that popularity, whose answers depend on the moment, has no part."""

KeyedClick = tuple[bytes, bytes]
"""Key and value, as produced."""


def made_up_clicks(
    seed: int,
    *,
    sessions: int = 1,
    only: str = "",
    first: int = 0,
    seconds_apart: float = 1.0,
) -> Iterator[KeyedClick]:
    """Clicks without end: uniform sessions and items, `seconds_apart` of event time between two.

    only: all of this session.
    """
    rng = random.Random(f"{seed}-{first}")
    for number in count(first):
        session_id = only or f"session-{rng.randrange(sessions)}"
        click = {
            "session_id": session_id,
            "item_id": rng.choice(ITEMS),
            "event_time": START_MS + round(number * 1000 * seconds_apart),
            "event_id": f"event-{number}",
        }
        yield session_id.encode(), json.dumps(click).encode()


class Visits(Iterator[KeyedClick]):
    """Clicks of visitors who come, click a few times some minutes apart, and are gone.

    Many are there at the same time.  One in 20 comes back under the old id after so long (event time).
    """

    CLICKS: Final = 5
    MINUTES_APART: Final = 5.0
    """On average, event time."""
    SHARE_BACK: Final = 0.05

    def __init__(self, seed: int, *, seconds_apart: float, back_after_seconds: float) -> None:
        """seconds_apart: event time between two clicks of the stream."""
        self.begun = 0
        """Visits so far, those of visitors who came back included."""
        self._rng = random.Random(f"visits-{seed}")
        self._seconds_apart = seconds_apart
        self._back_after = round(back_after_seconds / seconds_apart)
        self._coming_back: deque[tuple[int, str]] = deque()
        """Number of the click from which on, and who."""
        self._number = self._visitors = 0
        n_visits = max(1, round(self.MINUTES_APART * 60 / seconds_apart))
        self._visits: list[tuple[str, int]] = [("", 0)] * n_visits
        """Who, and how many clicks are left."""

    def __next__(self) -> KeyedClick:
        rng, self._number = self._rng, self._number + 1
        place = rng.randrange(len(self._visits))
        session_id, left = self._visits[place]
        if not left:
            session_id, left = self._next_visitor(), self.CLICKS
        self._visits[place] = session_id, left - 1
        if left == 1 and rng.random() < self.SHARE_BACK:
            self._coming_back.append((self._number + self._back_after, session_id))
        click = {
            "session_id": session_id,
            "item_id": rng.choice(ITEMS),
            "event_time": START_MS + round(self._number * 1000 * self._seconds_apart),
            "event_id": f"event-{self._number}",
        }
        return session_id.encode(), json.dumps(click).encode()

    def _next_visitor(self) -> str:
        self.begun += 1
        if self._coming_back and self._coming_back[0][0] <= self._number:
            return self._coming_back.popleft()[1]
        self._visitors += 1
        return f"visitor-{self._visitors}"


class ClickProducer:
    """An idempotent producer that outlives a broker's absence, and counts what was stored."""

    def __init__(self, bootstrap_servers: str, topic: str, **options: Any) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 2,
                "delivery.timeout.ms": 180_000,
                "log_level": 0,
                **options,
            }
        )
        self.stored = 0
        self.failed = 0

    def send(self, click: KeyedClick) -> None:
        key, value = click
        self._producer.produce(self._topic, key=key, value=value, on_delivery=self._delivered)
        self._producer.poll(0)

    def flush(self, seconds: float = 180) -> None:
        left = self._producer.flush(seconds)
        assert left == 0, f"{left} clicks could not be produced within {seconds} s"

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.stored += 1
        else:
            self.failed += 1


class Load:
    """`rate` clicks per second while the block runs; all are stored when it ends."""

    def __init__(self, producer: ClickProducer, clicks: Iterator[KeyedClick], rate: float) -> None:
        self._producer, self._clicks, self._rate = producer, clicks, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._producer.flush()

    def _run(self) -> None:
        began, sent = time.monotonic(), 0
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * self._rate)
            for click in (next(self._clicks) for _ in range(due - sent)):
                self._producer.send(click)
            sent = due
            self._stop.wait(max(0.01, 1 / self._rate / 2))
