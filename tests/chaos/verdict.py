"""The oracle: what the clicks should have led to, against what the topics and the disks hold.

Each partition's clicks are replayed in offset order, one at a time, through the pure step that serving
uses.  The model that answered a click is the one its last answer names: a click that was answered, lost
its state in a crash and was answered again by a newer model has the newer one's state.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import msgspec

from stream_app.core.codec import applied_offset, decode_state, encode_state
from stream_app.core.errors import StateDecodeError
from stream_app.core.pipeline import ClickRecord, ServingRules, recommend_batch
from stream_app.core.ports import Scorer
from stream_app.core.records import Recommendation, ScoredItem
from stream_app.core.session import SessionState
from tests.chaos.row import Finding

ClickPlace = tuple[int, int]
"""Partition and offset of a click."""
SessionKey = tuple[int, str]
"""Partition and session id."""

EXAMPLES_MAX = 5
TTLS_MAX = 2.5
"""The sweep promises little more than two."""


class GivenAnswer(NamedTuple):
    """What the oracle keeps of an answer."""

    model_version: str | None
    statistics_version: int | None
    digest: bytes
    """Of all that must be the same for the same click.  Popularity's items depend on when it was asked,
    so only the model's own items count."""
    timestamp_ms: int
    """When the broker's record says it was sent."""


class StateRecord(NamedTuple):
    """A record of the changelog."""

    partition: int
    session_id: str
    value: bytes | None


@dataclass
class Evidence:
    """What a run left behind."""

    clicks: Sequence[ClickRecord]
    """Each partition in offset order."""
    answers: Mapping[ClickPlace, Sequence[GivenAnswer]]
    """By click, in the order they were given."""
    dead_letters: Mapping[ClickPlace, int]
    """How often each click was dead-lettered."""
    changelog: Sequence[StateRecord]
    """Each partition in offset order."""
    stores: Mapping[int, Mapping[str, bytes]]
    """Session records by partition, of the worker that owned it last.  A partition that is missing here
    is not compared."""


@dataclass
class Verdict:
    """What is wrong, counted, with a few examples in words."""

    clicks: int = 0
    lost: int = 0
    doubled: int = 0
    repeated: int = 0
    differing: int = 0
    failures: int = 0
    examples: list[str] = field(default_factory=list)
    _by_kind: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, example: str) -> None:
        """kind: lost, doubled, differing or failures."""
        setattr(self, kind, getattr(self, kind) + 1)
        self._by_kind[kind] += 1
        if self._by_kind[kind] <= EXAMPLES_MAX:
            self.examples.append(f"{kind}: {example}")

    def finding(
        self, name: str, runs: int, *, recovery_seconds: Iterable[float] = (), note: str = ""
    ) -> Finding:
        words = "; ".join(part for part in (note, *self.examples) if part)
        return Finding(
            name,
            runs,
            lost=self.lost,
            doubled=self.doubled,
            repeated=self.repeated,
            differing=self.differing,
            recovery_seconds=tuple(recovery_seconds),
            failures=self.failures,
            note=words,
        )


class NoPopularity:
    """Statistics of which nothing was read: what popularity answers is no part of the comparison."""

    version = None

    def top(self, k: int) -> list[ScoredItem]:
        return []

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:
        return [None] * len(sessions)


class ReplayedSessions:
    """The replay's own store.  States go through their record, since what is stored is the state."""

    def __init__(self, topic_id: bytes) -> None:
        self._topic_id = topic_id
        self.states: dict[SessionKey, SessionState] = {}
        self.popular: set[SessionKey] = set()
        """Sessions that popularity answered last: which items it showed depends on when it was asked."""

    def get_many(self, keys: Sequence[SessionKey]) -> list[SessionState | None]:
        return [self.states.get(key) for key in keys]

    def put_many(self, states: Mapping[SessionKey, SessionState | None]) -> None:
        for key, state in states.items():
            if state is None:
                self.states.pop(key, None)
            else:
                self.states[key] = decode_state(encode_state(state, self._topic_id))[0]

    def living(self) -> dict[SessionKey, SessionState]:
        """Without those of which only the removal is remembered: they have no click."""
        return {key: state for key, state in self.states.items() if state.click_count}

    def idle_ms(self) -> dict[SessionKey, int]:
        """Event time from the last click of each living session to the newest one of its partition."""
        living = self.living()
        clocks: dict[int, int] = {}
        for (partition, _), state in living.items():
            clocks[partition] = max(clocks.get(partition, 0), state.last_event_ms)
        return {key: clocks[key[0]] - state.last_event_ms for key, state in living.items()}

    def note_answer(self, key: SessionKey, answer: Recommendation) -> None:
        if answer.fallback is None:
            self.popular.discard(key)
        else:
            self.popular.add(key)

    def differing_fields(self, key: SessionKey, state: SessionState) -> list[str]:
        """Names of the fields in which a stored state is not the replay's."""
        expected = self.states[key]
        return [
            name
            for name in state.__struct_fields__
            if getattr(state, name) != getattr(expected, name)
            and not (name == "shown_hashes" and key in self.popular)
        ]


def given(answer: Recommendation, timestamp_ms: int) -> GivenAnswer:
    """What to remember of an answer."""
    items = answer.items if answer.fallback is None else []
    content = msgspec.json.encode((answer.session_id, answer.event_id, answer.fallback, items))
    digest = hashlib.blake2b(content, digest_size=12).digest()
    return GivenAnswer(answer.model_version, answer.statistics_version, digest, timestamp_ms)


def judge(
    evidence: Evidence,
    scorer_of: Callable[[str], Scorer],
    rules: ServingRules,
    topic_id: bytes,
    *,
    ttl_ms: float = inf,
) -> Verdict:
    """Compare.

    scorer_of: the model of a version that an answer names.  ttl_ms: after so long without a click (event
    time) a session may be removed, and at `TTLS_MAX` times as long it must be.  One that comes back has to
    begin anew by the rules of the step, whether it was removed or not.
    """
    verdict = Verdict(clicks=len(evidence.clicks))
    sessions = _judge_answers(evidence, scorer_of, rules, topic_id, verdict)
    changelog = _judge_changelog(evidence, sessions, topic_id, verdict, ttl_ms)
    _judge_stores(evidence, changelog, verdict)
    return verdict


def _judge_answers(
    evidence: Evidence,
    scorer_of: Callable[[str], Scorer],
    rules: ServingRules,
    topic_id: bytes,
    verdict: Verdict,
) -> ReplayedSessions:
    """Replay the clicks, each answer against the replay's; returns the final states."""
    sessions = ReplayedSessions(topic_id)
    expected_places = set()
    model_version: dict[int, str | None] = {}
    for record in evidence.clicks:
        place = (record.partition, record.offset)
        answers = evidence.answers.get(place, ())
        if answers:
            model_version[record.partition] = answers[-1].model_version
        version = model_version.get(record.partition)
        scorer = scorer_of(version) if version is not None else None
        outcome = recommend_batch(
            [record], sessions, scorer, NoPopularity(), rules, now_ms=max(record.timestamp, 0)
        )
        sessions.put_many(outcome.states)
        if outcome.dead_letters and not evidence.dead_letters.get(place):
            verdict.add("lost", f"dead letter of click {place}")
        if not outcome.recommendations:
            continue
        expected_places.add(place)
        expected = outcome.recommendations[0]
        sessions.note_answer((record.partition, expected.session_id), expected)
        if answers:
            _judge_one(place, answers, given(expected, 0), verdict)
        else:
            verdict.add("lost", f"answer to click {place} of session {expected.session_id}")
    for place in evidence.answers.keys() - expected_places:
        verdict.add("failures", f"an answer to click {place}, which wants none or does not exist")
    return sessions


def _judge_one(
    place: ClickPlace, answers: Sequence[GivenAnswer], expected: GivenAnswer, verdict: Verdict
) -> None:
    verdict.repeated += len(answers) - 1
    if answers[-1].digest != expected.digest:
        verdict.add("differing", f"answer to click {place} is not the replay's")
    by_version: dict[tuple[str | None, int | None], bytes] = {}
    for answer in answers:
        versions = (answer.model_version, answer.statistics_version)
        if by_version.setdefault(versions, answer.digest) != answer.digest:
            verdict.add("differing", f"click {place} has two answers under {versions}")


def _judge_changelog(
    evidence: Evidence,
    sessions: ReplayedSessions,
    topic_id: bytes,
    verdict: Verdict,
    ttl_ms: float,
) -> dict[SessionKey, bytes]:
    """The changelog's newest records, by position (what compaction keeps), against the replay's states."""
    newest: dict[SessionKey, bytes] = {}
    highest: dict[SessionKey, int] = {}
    for partition, session_id, value in evidence.changelog:
        key = (partition, session_id)
        state = None if value is None else _readable(value, topic_id)
        if value is None or (state is not None and not state.click_count):
            newest.pop(key, None)
            highest.pop(key, None)  # a session that begins anew after a removal is another one
            continue
        newest[key] = value
        if state is not None:
            highest[key] = max(highest.get(key, -1), state.last_offset)
    expected = sessions.living()
    idle_ms = sessions.idle_ms()
    for key in sorted(expected.keys() | newest.keys()):
        value = newest.get(key)
        if value is None and idle_ms.get(key, 0) > ttl_ms:
            continue
        if value is not None and idle_ms.get(key, 0) > TTLS_MAX * ttl_ms:
            verdict.add("failures", f"session {key} was not removed, idle for {idle_ms[key]} ms")
        problem = _difference(key, value, sessions, highest.get(key, -1), topic_id)
        if problem:
            verdict.add("doubled", f"session {key} in the changelog: {problem}")
    return newest


def _readable(value: bytes, topic_id: bytes) -> SessionState | None:
    """None for what a worker would refuse: an unreadable record, or one of another topic."""
    try:
        state, belongs_to = decode_state(value)
    except StateDecodeError:
        return None
    return state if belongs_to == topic_id else None


def _difference(
    key: SessionKey,
    value: bytes | None,
    sessions: ReplayedSessions,
    highest: int,
    topic_id: bytes,
) -> str | None:
    """In words, None where all is as it should be.  highest: offset applied by any record of the session."""
    if value is None:
        return "missing"
    expected = sessions.states.get(key)
    if expected is None or not expected.click_count:
        return "there, and the replay has none"
    state = _readable(value, topic_id)
    if state is None:
        return "its newest record cannot be read"
    fields = sessions.differing_fields(key, state)
    if not fields:
        return None
    if state.last_offset < highest:
        return f"newest by position has offset {state.last_offset}, another one {highest}"
    return ", ".join(f"{f} {_short(state, f)}, not {_short(expected, f)}" for f in fields)


def _short(state: SessionState, name: str) -> str:
    return repr(getattr(state, name))[:60]


def _judge_stores(
    evidence: Evidence, changelog: Mapping[SessionKey, bytes], verdict: Verdict
) -> None:
    """RocksDB of each partition's last owner holds the changelog's newest records, byte for byte."""
    for partition, store in evidence.stores.items():
        logged = {key[1]: value for key, value in changelog.items() if key[0] == partition}
        for session_id in sorted(store.keys() | logged.keys()):
            ours, theirs = store.get(session_id), logged.get(session_id)
            if ours != theirs:
                sides = f"{_size(ours)} in RocksDB, {_size(theirs)} in the changelog"
                verdict.add("doubled", f"session {(partition, session_id)}: {sides}")


def _size(value: bytes | None) -> str:
    return "none" if value is None else f"offset {applied_offset(value)} ({len(value)} bytes)"
