"""The verdict itself: a run that is right has nothing to find, and each thing that can go wrong is found.

Made-up logs of an honest worker, then one thing in them changed.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import msgspec
import pytest

from stream_app.core.codec import encode_state
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.records import Recommendation
from tests.chaos.evidence import ReadRecord
from tests.chaos.traffic import ITEMS, START_MS, made_up_clicks
from tests.chaos.verdict import (
    Evidence,
    GivenAnswer,
    NoPopularity,
    ReplayedSessions,
    StateRecord,
    Verdict,
    given,
    judge,
)
from tests.doubles import FakeScorer

TOPIC_ID = bytes(range(16))
RULES = ServingRules(top_k=5)
MODELS = {name: FakeScorer(name, ITEMS, seed=seed) for seed, name in enumerate(("m1", "m2"))}
CLICKS = 60
SWAP_AT = 40
PLACE = (0, 11)
"""A click in the middle of a partition; the model was not swapped yet."""


def honest_run() -> Evidence:
    """What two partitions of clicks lead to: answered one by one, the model swapped once."""
    evidence = Evidence(clicks=[], answers={}, dead_letters={}, changelog=[], stores={0: {}, 1: {}})
    sessions = ReplayedSessions(TOPIC_ID)
    for number, (key, value) in enumerate(islice(made_up_clicks(7, sessions=6), CLICKS)):
        partition = int(key[-1:]) % 2
        offset = sum(click.partition == partition for click in evidence.clicks)
        record = ReadRecord("clicks", partition, offset, 1_700_000_000_000, key, value, ())
        model = MODELS["m1" if number < SWAP_AT else "m2"]
        outcome = recommend_batch([record], sessions, model, NoPopularity(), RULES, now_ms=number)
        sessions.put_many(outcome.states)
        (answer,) = outcome.recommendations
        (state,) = outcome.states.values()
        assert state is not None
        stored = encode_state(state, TOPIC_ID)
        evidence.clicks.append(record)
        evidence.answers[partition, offset] = [given(answer, number)]
        evidence.changelog.append(StateRecord(partition, key.decode(), stored))
        evidence.stores[partition][key.decode()] = stored
    by_partition = sorted(evidence.clicks, key=lambda click: click.partition)
    return replace(evidence, clicks=by_partition)


@pytest.fixture
def run() -> Any:
    return honest_run()


def judged(evidence: Evidence) -> Verdict:
    return judge(evidence, MODELS.__getitem__, RULES, TOPIC_ID)


def counts(evidence: Evidence) -> dict[str, int]:
    """What is not zero."""
    verdict = judged(evidence)
    names = ("lost", "doubled", "repeated", "differing", "failures")
    return {name: getattr(verdict, name) for name in names if getattr(verdict, name)}


def some_session(evidence: Evidence) -> tuple[int, str]:
    return evidence.changelog[-1].partition, evidence.changelog[-1].session_id


def other_content(answer: GivenAnswer) -> GivenAnswer:
    return answer._replace(digest=b"another list")


def test_an_honest_run_has_nothing_to_find(run: Evidence) -> None:
    verdict = judged(run)
    assert counts(run) == {}
    assert verdict.clicks == CLICKS
    assert verdict.finding("honest", 1).is_good


def test_a_click_without_an_answer_is_lost(run: Evidence) -> None:
    del run.answers[PLACE]
    assert counts(run)["lost"] == 1
    assert "(0, 11)" in judged(run).examples[0]


def test_an_unusable_click_without_a_dead_letter_is_lost(run: Evidence) -> None:
    place = (1, len(run.clicks))
    run.clicks.append(ReadRecord("clicks", *place, 0, b"s", b"{", ()))
    assert counts(run) == {"lost": 1}
    run.dead_letters[place] = 1
    assert counts(run) == {}


def test_the_same_answer_given_again_is_only_repeated(run: Evidence) -> None:
    run.answers[PLACE].append(run.answers[PLACE][0]._replace(timestamp_ms=99))
    assert counts(run) == {"repeated": 1}


@pytest.mark.parametrize("position", [0, 1])
def test_an_answer_given_again_with_other_content_differs(run: Evidence, position: int) -> None:
    run.answers[PLACE].insert(position, other_content(run.answers[PLACE][0]))
    found = counts(run)
    assert found["repeated"] == 1
    assert found["differing"] >= 1


def test_an_answer_that_is_not_the_replays_differs(run: Evidence) -> None:
    run.answers[PLACE] = [other_content(run.answers[PLACE][0])]
    assert counts(run) == {"differing": 1}


def test_an_answer_to_no_click_is_a_failure(run: Evidence) -> None:
    run.answers[0, 999] = run.answers[PLACE]
    assert counts(run) == {"failures": 1}


def test_a_click_answered_again_by_the_next_model_is_judged_by_its_last_answer() -> None:
    """It lost its state in a crash; the answer before it was right then, and is allowed."""
    run = honest_run()
    last = max(place for place in run.answers if place[0] == 0)
    run.answers[last].insert(0, GivenAnswer("m1", None, b"what m1 said", 0))
    assert counts(run) == {"repeated": 1}


def rewrite(run: Evidence, change: Callable[[Any], Any]) -> None:
    """Change a session's final state, on the disk and in the changelog alike."""
    partition, session_id = some_session(run)
    sessions = ReplayedSessions(TOPIC_ID)
    for click in run.clicks:
        model = MODELS[run.answers[click.partition, click.offset][-1].model_version or ""]
        outcome = recommend_batch([click], sessions, model, NoPopularity(), RULES, now_ms=0)
        sessions.put_many(outcome.states)
    stored = encode_state(change(sessions.states[partition, session_id]), TOPIC_ID)
    run.changelog.append(StateRecord(partition, session_id, stored))
    run.stores[partition][session_id] = stored


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("nothing", lambda state: state),
        ("click_count", lambda s: msgspec.structs.replace(s, click_count=s.click_count + 1)),
        (
            "recent_item_ids",
            lambda s: msgspec.structs.replace(s, recent_item_ids=s.recent_item_ids[::-1]),
        ),
        ("last_offset", lambda s: msgspec.structs.replace(s, last_offset=s.last_offset + 1)),
        (
            "model_state",
            lambda s: msgspec.structs.replace(
                s, model_state=bytes([s.model_state[0] ^ 1]) + s.model_state[1:]
            ),
        ),
        ("shown_hashes", lambda s: msgspec.structs.replace(s, shown_hashes=s.shown_hashes[:-4])),
    ],
)
def test_a_state_that_is_not_the_replays_is_doubled_to_the_last_bit(
    run: Evidence, what: str, change: Callable[[Any], Any]
) -> None:
    rewrite(run, change)
    if what == "nothing":
        assert counts(run) == {}
    else:
        assert counts(run) == {"doubled": 1}
        assert what in judged(run).examples[0]


def test_a_click_that_changed_no_state_is_doubled(run: Evidence) -> None:
    """Answered, and its state lost: the changelog lacks what the replay has."""
    partition, session_id = some_session(run)
    last = next(
        c for c in reversed(run.clicks) if c[1] == partition and c.key == session_id.encode()
    )
    lost = run.changelog.pop()
    before = next(r for r in reversed(run.changelog) if r[:2] == (partition, session_id))
    run.stores[partition][session_id] = before.value or b""
    assert lost.session_id == session_id
    assert (partition, last.offset) in run.answers
    assert counts(run) == {"doubled": 1}
    assert "click_count" in judged(run).examples[0]


def test_an_old_record_behind_the_newest_is_doubled(run: Evidence) -> None:
    """Compaction would keep it."""
    partition, session_id = some_session(run)
    oldest = next(r for r in run.changelog if r[:2] == (partition, session_id))
    run.changelog.append(oldest)
    assert counts(run)["doubled"] >= 1
    assert any("newest by position" in example for example in judged(run).examples)


def test_a_missing_a_removed_and_a_foreign_session_are_doubled(run: Evidence) -> None:
    partition, session_id = some_session(run)
    mine = (partition, session_id)
    honest = list(run.changelog)
    for changelog in (
        [record for record in honest if record[:2] != mine],
        [*honest, StateRecord(partition, session_id, None)],
        [*honest, StateRecord(partition, "nobody", honest[-1].value)],
    ):
        assert counts(replace(run, changelog=changelog, stores={})) == {"doubled": 1}


def test_an_erased_session_is_one_that_has_nothing_left(run: Evidence) -> None:
    partition, session_id = some_session(run)
    event = {"session_id": session_id, "event_time": START_MS, "event_type": "erase"}
    erase = ReadRecord(
        "clicks",
        partition,
        len(run.clicks),
        START_MS,
        session_id.encode(),
        msgspec.json.encode(event),
        (),
    )
    erased = replace(run, clicks=[*run.clicks, erase])
    assert counts(erased) == {"doubled": 1}, "it is still there"
    erased.changelog.append(StateRecord(partition, session_id, None))
    del erased.stores[partition][session_id]
    assert counts(erased) == {}


def longest_idle(run: Evidence) -> tuple[tuple[int, str], int]:
    """The session that is idle for longest at the end, and for how many ms."""
    sessions = ReplayedSessions(TOPIC_ID)
    for click in run.clicks:
        outcome = recommend_batch([click], sessions, None, NoPopularity(), RULES, now_ms=0)
        sessions.put_many(outcome.states)
    return max(sessions.idle_ms().items(), key=lambda entry: entry[1])


def expired(run: Evidence, ttl_ms: float) -> Verdict:
    return judge(run, MODELS.__getitem__, RULES, TOPIC_ID, ttl_ms=ttl_ms)


def test_a_session_may_be_gone_once_it_was_idle_for_longer_than_the_ttl(run: Evidence) -> None:
    (partition, session_id), idle_ms = longest_idle(run)
    run.changelog.append(StateRecord(partition, session_id, None))
    del run.stores[partition][session_id]
    assert expired(run, idle_ms - 1).finding("expired", 1).is_good
    assert expired(run, idle_ms).doubled == 1


def test_a_session_that_is_never_removed_is_a_failure(run: Evidence) -> None:
    _, idle_ms = longest_idle(run)
    assert expired(run, idle_ms / 2).finding("in time", 1).is_good
    assert expired(run, idle_ms / 3).failures == 1


def test_junk_and_records_of_another_topic_are_no_states(run: Evidence) -> None:
    partition, session_id = some_session(run)
    newest = run.changelog[-1].value
    assert newest is not None
    for value in (b"junk", newest.replace(TOPIC_ID, TOPIC_ID[::-1])):
        changelog = [*run.changelog, StateRecord(partition, session_id, value)]
        assert counts(replace(run, changelog=changelog, stores={})) == {"doubled": 1}


@pytest.mark.parametrize("stored", [None, "an older one"])
def test_rocksdb_that_is_not_the_changelog_is_doubled(run: Evidence, stored: str | None) -> None:
    partition, session_id = some_session(run)
    if stored is None:
        del run.stores[partition][session_id]
    else:
        oldest = next(r.value for r in run.changelog if r[:2] == (partition, session_id))
        run.stores[partition][session_id] = oldest
    assert counts(run) == {"doubled": 1}


def test_a_digest_tells_apart_whatever_the_same_click_must_have_the_same(run: Evidence) -> None:
    model = MODELS["m1"]
    outcome = recommend_batch(
        run.clicks[:1], ReplayedSessions(TOPIC_ID), model, NoPopularity(), RULES, now_ms=0
    )
    (answer,) = outcome.recommendations
    first = given(answer, 0)

    def changed(**fields: Any) -> GivenAnswer:
        other: Recommendation = msgspec.structs.replace(answer, **fields)
        return given(other, 0)

    assert changed(generated_at="later", latency_ms=7) == first
    for fields in (
        {"session_id": "other"},
        {"event_id": "other"},
        {"fallback": "unknown_item"},
        {"items": answer.items[::-1]},
        {"items": answer.items[:-1]},
    ):
        assert changed(**fields) != first
