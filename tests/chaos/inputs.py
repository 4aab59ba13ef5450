"""Clicks that are late, early, twice, out of order or unusable, and what their worker made of them."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stream_app.core.pipeline import ServingRules, recommend_batch
from tests.chaos import evidence
from tests.chaos.evidence import ReadRecord
from tests.chaos.lab import Stream, Worker
from tests.chaos.traffic import ITEMS, KeyedClick
from tests.chaos.verdict import ClickPlace, NoPopularity, ReplayedSessions

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
TEN_YEARS_MS: Final = 3_652 * DAY_MS
DEEP: Final = 100_000
"""Brackets within brackets: more than any decoder's stack."""
FAR_AHEAD: Final = '"event_time": 2700000000000'
"""2055: more than a day ahead of any broker's clock."""

Poison = Callable[[str, str], bytes]
"""Session id and a text that is in no other click -> the value."""


def _text(fields: str) -> Poison:
    """JSON with `%S` for the session id and `%U` for the text of its own."""
    return lambda session_id, unique: (
        fields.replace("%S", session_id).replace("%U", unique).encode()
    )


POISONS: Final[dict[str, dict[str, Poison]]] = {
    "EmptyValue": {"no bytes": lambda _, __: b""},
    "NotUtf8": {
        "latin-1": lambda _, unique: b'{"session_id": "gr\xe9", "x": "' + unique.encode() + b'"}',
        "compressed": lambda _, unique: b"\x1f\x8b\x08\x00" + unique.encode(),
    },
    "MalformedJson": {
        "cut short": _text('{"session_id": "%S", "x": "%U", "item_id": '),
        "another format": _text("<click session='%S' item='%U'/>"),
        "nested": lambda _, unique: b'{"x": "' + unique.encode() + b'", "y": ' + b"[" * DEEP,
    },
    "WrongType": {
        "a list for an id": _text(
            '{"session_id": "%S", "item_id": ["%U"], "event_time": 1700000000000}'
        ),
        "no object": _text('["%S", "%U"]'),
        "out of range": _text('{"session_id": "%S", "item_id": "%U", "event_time": 1e400}'),
    },
    "MissingField": {
        "no session": _text('{"item_id": "%U", "event_time": 1700000000000}'),
        "no item": _text('{"session_id": "%S", "x": "%U", "event_time": 1700000000000}'),
        "no time": _text('{"session_id": "%S", "item_id": "%U"}'),
    },
    "BadId": {
        "empty": _text('{"session_id": "", "item_id": "%U", "event_time": 1700000000000}'),
        "a page": lambda session_id, unique: json.dumps(
            {"session_id": session_id, "item_id": unique * 2_000, "event_time": 1700000000000}
        ).encode(),
    },
    "BadEventTime": {
        "seconds": _text('{"session_id": "%S", "item_id": "%U", "event_time": 1700000000}'),
        "words": _text('{"session_id": "%S", "item_id": "%U", "event_time": "yesterday"}'),
        "far ahead": _text('{"session_id": "%S", "item_id": "%U", ' + FAR_AHEAD + "}"),
        "no such year": _text('{"session_id": "%S", "item_id": "%U", "event_time": 1e300}'),
    },
}
"""Ways to be unusable, by the reason that the dead letter must give (`core.clicks.decode_click`)."""


class Poisoned:
    """Good clicks with a share of unusable ones of the given kinds between them."""

    def __init__(self, good: Iterator[KeyedClick], *, seed: str) -> None:
        self._good = good
        self._rng = random.Random(seed)
        self.sent: dict[bytes, str] = {}
        """The reason expected, by value; each value is sent once, but the empty one."""

    def clicks(self, kinds: Sequence[str], share: float = 0.1) -> Iterator[KeyedClick]:
        """`share` of them of each of the kinds, the others good."""
        rng = self._rng
        while True:
            place = rng.random() / share
            yield self._poison(kinds[int(place)]) if place < len(kinds) else next(self._good)

    def _poison(self, kind: str) -> KeyedClick:
        rng = self._rng
        session_id = f"session-{rng.randrange(300)}"
        make = rng.choice(list(POISONS[kind].values()))
        value = make(session_id, f"poison-{rng.getrandbits(64):016x}")
        self.sent[value] = kind
        return session_id.encode(), value


def wild_times(seed: str, *, sessions: int, now_ms: int, jump_ms: int) -> Iterator[KeyedClick]:
    """Clicks of now, one in ten of them `jump_ms` away, a tenth of all sent twice, all in disorder.

    Time runs at a second per click of the stream.  Disorder: each click is moved by up to twelve places,
    so that clicks of one session overtake each other, too.  A duplicate carries the same event id, and
    comes within the same window.
    """
    rng = random.Random(seed)
    number = 0
    while True:
        window = []
        for _ in range(12):
            number += 1
            event_ms = now_ms + number * 1000 + (jump_ms if rng.random() < 0.1 else 0)
            click = _click(rng, f"session-{rng.randrange(sessions)}", event_ms, f"{seed}-{number}")
            window += [click] * (2 if rng.random() < 0.1 else 1)
        rng.shuffle(window)
        yield from window


def one_session(
    seed: str, session_id: str, *, now_ms: int, per_second: float
) -> Iterator[KeyedClick]:
    """Clicks of one session, `per_second` of event time."""
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        event_ms = now_ms + round(number * 1000 / per_second)
        yield _click(rng, session_id, event_ms, f"{session_id}-{number}")


def mixed(*sources: tuple[float, Iterator[KeyedClick]], seed: str) -> Iterator[KeyedClick]:
    """One stream of several, each by its share of the clicks."""
    rng = random.Random(seed)
    weights = [weight for weight, _ in sources]
    while True:
        (picked,) = rng.choices(sources, weights)
        yield next(picked[1])


def _click(rng: random.Random, session_id: str, event_ms: int, event_id: str) -> KeyedClick:
    click = {
        "session_id": session_id,
        "item_id": rng.choice(ITEMS),
        "event_time": event_ms,
        "event_id": event_id,
    }
    return session_id.encode(), json.dumps(click).encode()


@dataclass(frozen=True)
class Records:
    """Clicks and dead letters of a stream as they lie on the topics, and each click's fate by replay."""

    clicks: Sequence[ReadRecord]
    letters: Sequence[ReadRecord]
    fates: Counter[str]
    """Outcome -> clicks, as `nextclick_clicks_total` has them."""

    @classmethod
    def of(cls, stream: Stream, rules: ServingRules) -> "Records":
        servers, topics = stream.kafka.bootstrap_servers, stream.topics
        clicks = evidence.read_topic(servers, topics.clicks)
        sessions = ReplayedSessions(stream.topic_id)
        fates: Counter[str] = Counter()
        for record in clicks:  # which model answers changes nobody's fate
            outcome = recommend_batch([record], sessions, None, NoPopularity(), rules, now_ms=0)
            sessions.put_many(outcome.states)
            fates += outcome.outcomes
        return cls(clicks, evidence.read_topic(servers, topics.dead_letters), fates)


def accounting_problems(records: Records, worker: Worker) -> list[str]:
    """Each click is recommended, dead-lettered or ignored for a reason, and the worker counted it so.

    For a worker that has met every click of the stream, and is still there to be asked.
    """
    prefix = 'nextclick_clicks_total{outcome="'
    counted = {
        name.removeprefix(prefix).removesuffix('"}'): int(value)
        for name, value in worker.samples.items()
        if name.startswith(prefix)
    }
    problems = [
        f"{outcome}: the worker counted {counted.get(outcome, 0)}, the replay {records.fates[outcome]}"
        for outcome in sorted(counted.keys() | records.fates.keys())
        if counted.get(outcome, 0) != records.fates[outcome]
    ]
    if sum(counted.values()) != len(records.clicks):
        problems.append(f"{sum(counted.values())} accounted for, {len(records.clicks)} came in")
    return problems


def letter_problems(records: Records, sent: dict[bytes, str]) -> list[str]:
    """Each unusable click lies in the dead-letter topic once, untouched, with its reason; no other does."""
    clicks = {(record.partition, record.offset): record for record in records.clicks}
    expected = {
        place: sent[record.value or b""]
        for place, record in clicks.items()
        if (record.value or b"") in sent
    }
    problems = []
    seen: set[ClickPlace] = set()
    for letter in records.letters:
        headers = dict(letter.headers)
        place = (
            int(headers["nextclick-original-partition"]),
            int(headers["nextclick-original-offset"]),
        )
        original, reason = clicks[place], headers["nextclick-error"].decode()
        if place in seen:
            problems.append(f"click {place} was dead-lettered twice")
        seen.add(place)
        if (letter.key, letter.value or b"") != (original.key, original.value or b""):
            problems.append(f"the dead letter of click {place} is not what came in")
        if expected.get(place) != reason:
            problems.append(f"click {place} was refused as {reason}, not {expected.get(place)}")
        if not headers["nextclick-message"]:
            problems.append(f"the dead letter of click {place} does not say why")
    missing = expected.keys() - seen
    return problems + [f"click {place} is in no dead letter" for place in sorted(missing)]


@dataclass
class Latencies:
    """Milliseconds from click to answer, by phase of a run; both times are Kafka's."""

    phases: list[tuple[str, float, float]] = field(default_factory=list)
    """Name, first and last moment (ms since the epoch) in which clicks were produced."""

    def p99_by_phase(
        self, stream: Stream, clicks: Sequence[ReadRecord], wanted: Callable[[ReadRecord], bool]
    ) -> dict[str, list[float]]:
        """One p99 per time that the phase ran, over the answered clicks that are wanted."""
        answers = stream.answers.answers
        found: dict[str, list[float]] = {}
        for name, first_ms, last_ms in self.phases:
            took = sorted(
                answers[record.partition, record.offset][0].timestamp_ms - record.timestamp
                for record in clicks
                if first_ms <= record.timestamp <= last_ms
                and wanted(record)
                and (record.partition, record.offset) in answers
            )
            if took:
                found.setdefault(name, []).append(float(took[math.ceil(0.99 * len(took)) - 1]))
        return found


def in_words(p99_ms: dict[str, list[float]]) -> str:
    """Median of each phase's p99s, and how many there were."""

    def median(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    return ", ".join(
        f"{name} {median(values):.0f} ms (of {len(values)}: {min(values):.0f}-{max(values):.0f})"
        for name, values in p99_ms.items()
    )


def note_of(problems: Sequence[str], *words: Any) -> str:
    """Words for the table, the first problems after them."""
    return "; ".join([*map(str, words), *problems[:5]])
