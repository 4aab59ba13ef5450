"""A batch of clicks to answers and states: against one click at a time, under every disturbance."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.pipeline import BatchOutcome, Judgement, ServingRules, recommend_batch
from stream_app.core.ranking import hashes_of
from stream_app.core.records import DeadLetter, Recommendation, ScoredItem
from stream_app.core.session import SessionState, event_hash
from tests.doubles import FakeScorer, FixedPopularity
from tests.strategies import KNOWN_ITEMS, POISON, START_MS, TIGHT, Record, batches_of, shop_logs
from tests.stream_app.core.reference import Reference, Session

OLD_MODEL = FakeScorer("m1", KNOWN_ITEMS, seed=1)
NEW_MODEL = FakeScorer("m2", "hgfedcx", seed=2)
POPULARITY = FixedPopularity("dcbaxyefgh", version=7)
RULES = ServingRules(limits=TIGHT, top_k=3)

rules_of_any_kind = st.builds(
    ServingRules,
    limits=st.just(TIGHT),
    top_k=st.sampled_from((1, 3, 50)),
    filter_seen=st.booleans(),
)
any_model = st.sampled_from((None, OLD_MODEL, NEW_MODEL))


@dataclass
class Run:
    """A worker's life in memory: what it said, and what it remembers."""

    rules: ServingRules = RULES
    newest_only: bool = False
    popularity: FixedPopularity = POPULARITY
    store: MemorySessions = field(default_factory=MemorySessions)
    said: list[Recommendation] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    judged: dict[str, Judgement] = field(default_factory=dict)
    rebuilt: int = 0

    def batch(
        self, records: Sequence[Record], scorer: FakeScorer | None, *, now_ms: int = START_MS
    ) -> BatchOutcome:
        outcome = recommend_batch(
            records,
            self.store,
            scorer,
            self.popularity,
            self.rules,
            now_ms=now_ms,
            newest_only=self.newest_only,
        )
        assert outcome.outcomes.total() == len(records), "every click is accounted for"
        assert outcome.outcomes["recommended"] == len(outcome.recommendations)
        assert outcome.outcomes["dead_lettered"] == len(outcome.dead_letters)
        self.store.put_many(outcome.states)
        self.said += outcome.recommendations
        self.dead += outcome.dead_letters
        self.outcomes += outcome.outcomes
        self.rebuilt += outcome.rebuilt_sessions
        for version, judgement in outcome.judgements.items():
            so_far = self.judged.setdefault(version, Judgement())
            so_far.predictions += judgement.predictions
            so_far.hits += judgement.hits
            so_far.reciprocal_rank += judgement.reciprocal_rank
        return outcome

    def answer_to(self, partition: int, offset: int) -> list[Recommendation]:
        return [
            r for r in self.said if (r.source.partition, r.source.offset) == (partition, offset)
        ]


def view(
    session: str = "s0", item: str = "a", after_ms: int = 0, offset: int = 0, **more: Any
) -> Record:
    """A click record of partition 0; more: other fields of the JSON."""
    fields = {"session_id": session, "item_id": item, "event_time": START_MS + after_ms, **more}
    return Record(offset, json.dumps(fields).encode(), timestamp=START_MS + 10)


def views(
    session: str, items: str, *, first_offset: int = 0, step_ms: int = 20_000
) -> list[Record]:
    return [
        view(session, item, after_ms=(first_offset + i) * step_ms, offset=first_offset + i)
        for i, item in enumerate(items)
    ]


def item_ids(recommendation: Recommendation) -> list[str]:
    return [item.item_id for item in recommendation.items]


def _assert_same_state(state: SessionState, expected: Session) -> None:
    assert state.last_offset == expected.offset
    assert (state.start_ms, state.last_event_ms) == (expected.first_ms, expected.latest_ms)
    assert state.click_count == expected.clicks
    assert state.window_start_ms == expected.minute_start_ms
    assert state.window_clicks == expected.minute_clicks
    assert list(state.recent_item_ids) == expected.items
    assert list(state.recent_event_hashes) == [event_hash(e) for e in expected.event_ids]
    shown = [ScoredItem(item, 0.0, 0) for item in expected.shown or ()]
    assert state.shown_hashes == hashes_of(shown)
    assert state.shown_model_version == expected.shown_by
    assert state.model_version == expected.model
    assert state.model_state == expected.hidden


@given(shop_logs(), rules_of_any_kind, st.data())
def test_any_batches_give_what_one_click_at_a_time_gives(
    log: list[Record], rules: ServingRules, data: st.DataObject
) -> None:
    """Answers, states, judgements and counts, with the model swapped between batches at will."""
    run, reference = Run(rules), Reference(rules, POPULARITY)
    for batch in data.draw(batches_of(len(log)), label="batches"):
        scorer = data.draw(any_model, label="model")
        run.batch(log[batch], scorer)
        for record in log[batch]:
            reference.click(record, scorer)

    assert run.outcomes == reference.outcomes
    assert run.rebuilt == reference.rebuilt
    said = {(r.source.partition, r.source.offset): r for r in run.said}
    assert len(said) == len(run.said), "no click is answered twice"
    assert said.keys() == reference.answers.keys()
    for place, expected in reference.answers.items():
        found = said[place]
        assert item_ids(found) == expected["items"]
        assert [item.rank for item in found.items] == list(range(1, len(found.items) + 1))
        assert found.fallback == expected["fallback"]
        assert found.model_version == expected["model_version"]
    assert run.store.states.keys() == reference.sessions.keys()
    for key, state in run.store.states.items():
        _assert_same_state(state, reference.sessions[key])
    assert run.judged.keys() == reference.judged.keys()
    for version, ranks in reference.judged.items():
        judgement = run.judged[version]
        assert judgement.predictions == len(ranks)
        assert judgement.hits == sum(rank > 0 for rank in ranks)
        assert judgement.reciprocal_rank == pytest.approx(sum(1 / rank for rank in ranks if rank))


@given(shop_logs(), rules_of_any_kind, any_model, st.data())
def test_how_a_log_is_cut_into_batches_changes_nothing(
    log: list[Record], rules: ServingRules, scorer: FakeScorer | None, data: st.DataObject
) -> None:
    """Bit for bit: scores and stored states too."""
    one_by_one, batched = Run(rules), Run(rules)
    for record in log:
        one_by_one.batch([record], scorer)
    for batch in data.draw(batches_of(len(log)), label="batches"):
        batched.batch(log[batch], scorer)

    assert batched.said == one_by_one.said
    assert batched.dead == one_by_one.dead
    assert batched.store.states == one_by_one.store.states
    assert batched.outcomes == one_by_one.outcomes
    assert batched.rebuilt == one_by_one.rebuilt


@given(shop_logs(), rules_of_any_kind, any_model, st.data())
def test_partitions_may_be_mixed_in_any_way(
    log: list[Record], rules: ServingRules, scorer: FakeScorer | None, data: st.DataObject
) -> None:
    run, other = Run(rules), Run(rules)
    run.batch(log, scorer)
    first = data.draw(st.sampled_from((0, 1)), label="partition that comes first")
    by_partition = sorted(log, key=lambda record: record.partition != first)
    other.batch(by_partition, scorer)
    assert sorted(run.said, key=lambda r: r.recommendation_id) == sorted(
        other.said, key=lambda r: r.recommendation_id
    )
    assert run.store.states == other.store.states


@given(shop_logs(forget=False), rules_of_any_kind, any_model, st.data())
def test_going_back_to_an_earlier_offset_changes_no_state_and_repeats_no_answer(
    log: list[Record], rules: ServingRules, scorer: FakeScorer | None, data: st.DataObject
) -> None:
    expected = Run(rules)
    expected.batch(log, scorer)

    crash_at = data.draw(st.integers(0, len(log)), label="crash_at")
    resume_at = data.draw(st.integers(0, crash_at), label="resume_at")
    run = Run(rules)
    run.batch(log[:crash_at], scorer)
    before = dict(run.store.states)
    answered = len(run.said)
    again = log[resume_at:crash_at]
    for batch in data.draw(batches_of(len(again)), label="batches"):
        outcome = run.batch(again[batch], scorer)
        assert outcome.recommendations == []
        assert outcome.judgements == {}
        for key, state in outcome.states.items():
            assert state == before[key], "what is written again is what was stored"
        if outcome.outcomes["ignored_redelivered"]:
            assert outcome.states, "the changelog may lack the record: it is written again"
    assert run.store.states == before
    assert len(run.said) == answered

    run.batch(log[crash_at:], scorer)
    assert run.store.states == expected.store.states
    assert run.said == expected.said


@given(shop_logs(), rules_of_any_kind, any_model, st.data())
def test_going_back_ends_in_the_same_states_also_where_sessions_were_forgotten(
    log: list[Record], rules: ServingRules, scorer: FakeScorer | None, data: st.DataObject
) -> None:
    """A forgotten session knows no offsets, so its clicks may be answered again; no other's are."""
    expected = Run(rules)
    expected.batch(log, scorer)

    crash_at = data.draw(st.integers(0, len(log)), label="crash_at")
    resume_at = data.draw(st.integers(0, crash_at), label="resume_at")
    run = Run(rules)
    run.batch(log[:crash_at], scorer)
    alive = set(run.store.states)
    outcome = run.batch(log[resume_at:crash_at], scorer)
    assert not alive & {(r.source.partition, r.session_id) for r in outcome.recommendations}
    run.batch(log[crash_at:], scorer)

    assert run.store.states == expected.store.states
    # Not equal: what was a bot's or a duplicate the first time may be neither in a shorter session.
    assert {r.recommendation_id for r in run.said} >= {r.recommendation_id for r in expected.said}


@given(shop_logs(), rules_of_any_kind, any_model, st.data())
def test_poisoned_clicks_harm_nobody(
    log: list[Record], rules: ServingRules, scorer: FakeScorer | None, data: st.DataObject
) -> None:
    """Others are answered as if the poison had never been sent."""
    poisoned = {i for i in range(len(log)) if data.draw(st.booleans(), label=f"poison click {i}")}
    with_poison = [
        replace(record, value=POISON[i % len(POISON)]) if i in poisoned else record
        for i, record in enumerate(log)
    ]
    without = [record for i, record in enumerate(log) if i not in poisoned]

    run, expected = Run(rules), Run(rules)
    for batch in data.draw(batches_of(len(log)), label="batches"):
        run.batch(with_poison[batch], scorer)
    expected.batch(without, scorer)

    assert run.said == expected.said
    assert run.store.states == expected.store.states
    letters = [letter for letter in run.dead if letter not in expected.dead]
    assert len(run.dead) == len(expected.dead) + len(poisoned)
    for letter in letters:
        assert letter.headers == (("trace", b"\x00\xff"),)
        assert letter.key == b"key"


@given(shop_logs(), rules_of_any_kind, any_model, st.data())
def test_answering_only_the_newest_leaves_states_exact(
    log: list[Record], rules: ServingRules, scorer: FakeScorer | None, data: st.DataObject
) -> None:
    full, newest = Run(rules), Run(rules, newest_only=True)
    for batch in data.draw(batches_of(len(log)), label="batches"):
        everything = full.batch(log[batch], scorer)
        some = newest.batch(log[batch], scorer)
        assert newest.store.states == full.store.states
        last = {(r.source.partition, r.session_id): r for r in everything.recommendations}
        assert {(r.source.partition, r.session_id): r for r in some.recommendations} == last
        assert len(some.recommendations) == len(last)
    skipped = full.outcomes["recommended"] - newest.outcomes["recommended"]
    assert newest.outcomes["ignored_superseded"] == skipped


@given(shop_logs(), any_model, st.integers(0, 2**41))
def test_the_wall_clock_stamps_answers_and_influences_nothing(
    log: list[Record], scorer: FakeScorer | None, now_ms: int
) -> None:
    run, other = Run(), Run()
    run.batch(log, scorer)
    other.batch(log, scorer, now_ms=now_ms)
    stamps = {"generated_at": "", "latency_ms": 0}
    assert [msgspec.structs.replace(r, **stamps) for r in run.said] == [
        msgspec.structs.replace(r, **stamps) for r in other.said
    ]
    assert run.store.states == other.store.states
    assert all(r.latency_ms >= 0 for r in other.said)


def test_a_redelivered_click_has_its_sessions_record_written_again() -> None:
    """The record's changelog message may be what the crash lost."""
    run = Run()
    run.batch([*views("s0", "ab"), *views("s1", "c", first_offset=2)], OLD_MODEL)
    outcome = run.batch(views("s0", "a"), OLD_MODEL)
    assert outcome.outcomes == {"ignored_redelivered": 1}
    assert outcome.states == {(0, "s0"): run.store.states[0, "s0"]}


def test_an_answer_says_where_it_comes_from() -> None:
    run = Run()
    record = replace(view("s0", "a", offset=41, event_id="e9"), partition=3)
    run.batch([record], OLD_MODEL, now_ms=START_MS + 25)
    (answer,) = run.said
    assert answer.recommendation_id == "clicks-3-41"
    assert msgspec.structs.astuple(answer.source) == ("clicks", 3, 41)
    assert (answer.session_id, answer.event_id) == ("s0", "e9")
    assert (answer.model_version, answer.statistics_version) == ("m1", 7)
    assert (answer.generated_at, answer.latency_ms) == ("2025-11-24T16:00:00.025Z", 15)
    assert [item.rank for item in answer.items] == [1, 2, 3]
    for item in answer.items:
        assert item.score == float(f"{item.score:.5g}")


def test_before_the_first_model_popularity_answers() -> None:
    run = Run()
    run.batch(views("s0", "ab"), None)
    assert [r.fallback for r in run.said] == ["no_model"] * 2
    assert [r.model_version for r in run.said] == [None] * 2
    assert item_ids(run.said[0]) == ["d", "c", "b"]
    assert run.judged == {"none": Judgement(predictions=1, hits=1, reciprocal_rank=1 / 3)}


def test_the_first_model_takes_a_running_session_over() -> None:
    run, fresh = Run(), Run()
    run.batch(views("s0", "ab"), None)
    run.batch(views("s0", "c", first_offset=2), OLD_MODEL)
    fresh.batch(views("s0", "abc"), OLD_MODEL)
    assert run.said[-1] == fresh.said[-1]
    assert run.rebuilt == 1


def test_after_a_swap_a_session_is_rebuilt_from_its_recent_items_under_the_new_model() -> None:
    run, fresh = Run(), Run()
    run.batch(views("s0", "bacd"), OLD_MODEL)
    run.batch(views("s0", "ef", first_offset=4), NEW_MODEL)
    # TIGHT remembers three items: c, d, e were there when the new model met the session.
    fresh.batch(views("s0", "cdef", first_offset=2), NEW_MODEL)
    (state,), (expected,) = run.store.states.values(), fresh.store.states.values()
    assert state.model_state == expected.model_state
    assert state.model_version == "m2"
    assert run.rebuilt == 1
    assert item_ids(run.said[-1]) == item_ids(fresh.said[-1])


def test_the_answer_of_the_old_model_is_judged_under_its_own_version() -> None:
    run = Run(ServingRules(limits=TIGHT, top_k=50))
    run.batch(views("s0", "a"), OLD_MODEL)
    run.batch(views("s0", "b", first_offset=1), NEW_MODEL)
    assert run.judged.keys() == {"m1"}
    assert run.judged["m1"].hits == 1


def test_popularity_is_judged_by_the_very_clicks_that_judge_the_model() -> None:
    run = Run(ServingRules(limits=TIGHT, top_k=3))
    outcome = run.batch(views("s0", "abeb"), OLD_MODEL)
    # Popularity says d, c, b: of the clicks b, e and b again it hits two, at rank 3.
    assert outcome.judgements["m1"].predictions == 3
    assert outcome.popularity_judgements == {"m1": Judgement(3, 2, 2 / 3)}


def test_the_models_lists_are_told_as_item_indexes_and_popularitys_are_not() -> None:
    run = Run(ServingRules(limits=TIGHT, top_k=3, filter_seen=True))
    listed = run.batch([*views("s0", "ab"), *views("s1", "?", first_offset=2)], OLD_MODEL).listed
    assert listed is not None
    assert (listed.model_version, listed.n_items) == ("m1", len(OLD_MODEL.vocabulary))
    assert listed.item_indexes.shape == (2, 3), "what is asked for beyond the list is no part of it"
    assert run.batch(views("s2", "ab", first_offset=3), None).listed is None


def test_popularity_gets_no_credit_for_what_it_would_have_left_out() -> None:
    run = Run(ServingRules(limits=TIGHT, top_k=3, filter_seen=True))
    outcome = run.batch(views("s0", "abeb"), OLD_MODEL)
    assert outcome.popularity_judgements == {"m1": Judgement(3, 1, 1 / 3)}


def test_a_session_of_unknown_items_gets_popularity_until_one_is_known() -> None:
    """All within one batch."""
    run, fresh = Run(), Run()
    run.batch(views("s0", "xyaxb"), OLD_MODEL)
    assert [r.fallback for r in run.said] == ["unknown_item", "unknown_item", None, None, None]
    assert {r.model_version for r in run.said} == {"m1"}
    fresh.batch(views("s0", "a"), OLD_MODEL)
    assert item_ids(run.said[2]) == item_ids(run.said[3]) == item_ids(fresh.said[0])
    assert item_ids(run.said[4]) != []


def test_without_consent_nothing_is_kept_and_popularity_answers() -> None:
    run = Run()
    run.batch(views("s0", "ab"), OLD_MODEL)
    outcome = run.batch([view("s0", "c", 60_000, offset=2, consent=False)], OLD_MODEL)
    assert outcome.states[0, "s0"].is_removed
    assert run.store.states == {}
    assert run.said[-1].fallback == "no_consent"
    assert item_ids(run.said[-1]) == ["d", "c", "b"]
    assert outcome.judgements == {}


def test_a_consent_withdrawn_on_an_event_that_is_no_click_removes_the_session() -> None:
    run = Run()
    run.batch(views("s0", "ab"), OLD_MODEL)
    cart = view("s0", "b", 60_000, offset=2, consent=False, event_type="add_to_cart")
    outcome = run.batch([cart], OLD_MODEL)
    assert run.store.states == {}
    assert outcome.recommendations == []
    assert outcome.outcomes == {"ignored_event_type": 1}


def test_a_withdrawn_consent_is_written_even_where_nothing_is_stored() -> None:
    """After a crash the changelog may still hold what RocksDB has dropped."""
    outcome = Run().batch([view(consent=False)], OLD_MODEL)
    assert outcome.states[0, "s0"].is_removed


def test_an_erasure_within_a_batch_ends_the_session_there() -> None:
    run, fresh = Run(), Run()
    log = [*views("s0", "ab"), view("s0", offset=2, event_type="erase", after_ms=50_000)]
    log += views("s0", "c", first_offset=3)
    outcome = run.batch(log, OLD_MODEL)
    assert outcome.outcomes == {"recommended": 3, "ignored_erased": 1}
    assert outcome.judgements["m1"].predictions == 1
    fresh.batch(views("s0", "c", first_offset=3), OLD_MODEL)
    assert run.store.states == fresh.store.states
    assert run.said[-1] == fresh.said[-1]


def test_an_erasure_has_the_last_word() -> None:
    run = Run()
    run.batch([*views("s0", "ab"), view("s0", offset=2, event_type="erase")], OLD_MODEL)
    assert run.store.states == {}


def test_an_erasure_delivered_again_does_not_erase_what_came_after_it() -> None:
    run = Run()
    log = [view("s0", event_type="erase"), *views("s0", "ab", first_offset=1)]
    run.batch(log, OLD_MODEL)
    before = dict(run.store.states)
    outcome = run.batch(log[:1], OLD_MODEL)
    assert outcome.outcomes == {"ignored_redelivered": 1}
    assert run.store.states == before


def test_a_new_session_within_a_batch_starts_afresh() -> None:
    run, fresh = Run(), Run()
    later = [view("s0", "c", after_ms=3_000_000, offset=2)]
    run.batch([*views("s0", "ab"), *later], OLD_MODEL)
    fresh.batch(later, OLD_MODEL)
    assert run.store.states == fresh.store.states
    assert run.said[-1] == fresh.said[-1]
    assert run.judged["m1"].predictions == 1, "the answer before the silence judges nobody"


def test_what_the_session_clicked_is_left_out_where_asked() -> None:
    run = Run(ServingRules(limits=TIGHT, top_k=8, filter_seen=True))
    run.batch(views("s0", "abcd"), OLD_MODEL)
    assert set(item_ids(run.said[-1])) == set(KNOWN_ITEMS) - set("bcd")  # TIGHT remembers three
    run.batch(views("s1", "ab", first_offset=9), None)
    assert item_ids(run.said[-1]) == list("dcxyefgh")


def test_a_short_list_is_filled_from_below_when_seen_items_leave_it() -> None:
    run = Run(ServingRules(limits=TIGHT, top_k=3, filter_seen=True))
    run.batch(views("s0", "abc"), OLD_MODEL)
    assert [len(r.items) for r in run.said] == [3, 3, 3]


def test_clicks_of_other_event_types_leave_the_session_alone() -> None:
    run = Run()
    outcome = run.batch([view("s0", event_type="add_to_cart")], OLD_MODEL)
    assert outcome.outcomes == {"ignored_event_type": 1}
    assert outcome.states == {}
    run = Run(ServingRules(event_types=frozenset({"add_to_cart"})))
    outcome = run.batch([view("s0"), view("s0", offset=1, event_type="add_to_cart")], OLD_MODEL)
    assert outcome.outcomes == {"recommended": 1, "ignored_event_type": 1}


def test_a_dead_letter_carries_the_message_untouched_and_the_reason() -> None:
    record = Record(5, b"\xffnot json", 1, timestamp=123, key=None, headers=(("h", b"\x00"),))
    (letter,) = Run().batch([record], OLD_MODEL).dead_letters
    assert letter.value == b"\xffnot json"
    assert letter.key is None
    assert letter.all_headers() == [
        ("h", b"\x00"),
        ("nextclick-error", b"NotUtf8"),
        ("nextclick-message", letter.message.encode()),
        ("nextclick-original-topic", b"clicks"),
        ("nextclick-original-partition", b"1"),
        ("nextclick-original-offset", b"5"),
        ("nextclick-original-timestamp", b"123"),
    ]


def test_a_message_without_a_timestamp_is_not_compared_with_one() -> None:
    outcome = Run().batch([replace(view(), timestamp=-1)], OLD_MODEL)
    assert outcome.outcomes == {"recommended": 1}


def test_sessions_of_the_same_name_in_two_partitions_are_two() -> None:
    run = Run()
    run.batch([view("s0", "a"), replace(view("s0", "b"), partition=1)], OLD_MODEL)
    assert run.store.states.keys() == {(0, "s0"), (1, "s0")}
    assert {s.click_count for s in run.store.states.values()} == {1}


def test_nothing_is_asked_of_the_model_for_an_empty_batch() -> None:
    assert Run().batch([], OLD_MODEL).outcomes == {}
    assert Run().batch([Record(0, b"{")], OLD_MODEL).outcomes == {"dead_lettered": 1}


def test_a_round_steps_all_sessions_that_still_have_an_item() -> None:
    """One call of the model per round, not one per session."""
    scorer = FakeScorer("m3", KNOWN_ITEMS)
    log = [
        *views("s0", "abcd"),
        *views("s1", "ab", first_offset=4),
        *views("s2", "a", first_offset=6),
    ]
    Run().batch(log, scorer)
    assert scorer.rows_stepped == [3, 2, 1, 1]


def test_without_any_statistics_the_answer_is_an_empty_list() -> None:
    run = Run(popularity=FixedPopularity((), version=None))
    run.batch([view()], None)
    (answer,) = run.said
    assert answer.items == []
    assert answer.statistics_version is None
    run.batch([view(offset=1)], None)
    assert run.judged == {"none": Judgement(predictions=1)}
