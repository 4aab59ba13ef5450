"""What the gateway remembers stays within bounds, and what is asked for most stays longest."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.records import Click, ItemId
from stream_app.gateway.memory import (
    CLICKS_MAX,
    HALVING_SECONDS,
    ItemMemory,
    RememberedClick,
    SessionMemory,
)

ANSWERS_MAX = 200


def answered(memory: SessionMemory, session_id: str, count: int = 1, first: int = 0) -> None:
    for number in range(first, first + count):
        memory.add_answer(session_id, f"{session_id}-{number}", b"%d" % number)


def held(memory: SessionMemory, session_ids: list[str]) -> int:
    traces = [memory.find(session_id) for session_id in session_ids]
    return sum(len(trace.answers) for trace in traces if trace)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.integers(1, 60), st.sampled_from(["answer", "own", "forget"])
        ),
        max_size=60,
    )
)
def test_no_more_answers_are_held_than_was_said(steps: list[tuple[int, int, str]]) -> None:
    memory = SessionMemory(ANSWERS_MAX)
    for session, count, what in steps:
        if what == "answer":
            answered(memory, f"s{session}", count)
        elif what == "own":
            memory.adopt(f"s{session}")
        else:
            memory.forget(f"s{session}")
            assert memory.find(f"s{session}") is None
        assert held(memory, [f"s{n}" for n in range(31)]) <= ANSWERS_MAX
        assert len(memory) <= ANSWERS_MAX


def test_many_sessions_with_many_answers_are_too_much_to_be_held() -> None:
    memory = SessionMemory(ANSWERS_MAX)
    names = [f"s{number}" for number in range(20)]
    for name in names:
        answered(memory, name, CLICKS_MAX)
    assert 0 < held(memory, names) <= ANSWERS_MAX
    assert memory.find(names[-1]) is not None, "the one touched last is there"


def test_a_session_that_clicks_here_outlives_the_traffic_of_others() -> None:
    memory = SessionMemory(ANSWERS_MAX)
    answered(memory, "mine")
    memory.adopt("mine")
    for number in range(10 * ANSWERS_MAX):
        answered(memory, f"other-{number}")
    trace = memory.find("mine")
    assert trace is not None
    assert list(trace.answers) == ["mine-0"], "what was known before it was adopted came along"
    assert memory.find("other-0") is None


def test_of_one_session_the_newest_clicks_and_answers_are_kept() -> None:
    memory = SessionMemory(ANSWERS_MAX)
    for number in range(CLICKS_MAX + 5):
        answered(memory, "s", first=number)
        memory.add_click("s", RememberedClick(f"s-{number}", "item", number, None))
    trace = memory.find("s")
    assert trace is not None
    assert list(trace.answers) == [f"s-{n}" for n in range(5, CLICKS_MAX + 5)]
    assert [click.recommendation_id for click in trace.clicks] == list(trace.answers)


def test_an_answer_given_again_replaces_the_one_before() -> None:
    memory = SessionMemory(ANSWERS_MAX)
    memory.add_answer("s", "same", b"first")
    memory.add_answer("s", "same", b"second")
    trace = memory.find("s")
    assert trace is not None
    assert dict(trace.answers) == {"same": b"second"}


def click(item_id: str, properties: bytes = b"") -> Click:
    return Click(
        session_id="s",
        item_id=ItemId(item_id),
        event_time_ms=1,
        properties=msgspec.Raw(properties),
    )


def test_recent_clicks_count_more_than_old_ones() -> None:
    items = ItemMemory()
    for _ in range(10):
        items.add_click(click("old"), now=0.0)
    for _ in range(6):
        items.add_click(click("new"), now=HALVING_SECONDS)
    assert [item_id for item_id, _ in items.most_popular(5)] == ["new", "old"]
    assert items.most_popular(1) == [("new", 6 / 11)]


def test_names_are_taken_from_the_first_click_that_has_them() -> None:
    items = ItemMemory()
    for properties in (
        b"",
        b'{"title": 7}',
        b"[1]",
        b'{"title": "Tent", "category": "Out"}',
        b'{"title": "X"}',
    ):
        items.add_click(click("i", properties), now=0.0)
    assert (items.title_of("i"), items.category_of("i")) == ("Tent", "Out")
    assert items.title_of("unheard of") is None
    assert items.popularity_of(["unheard of"]) == [("unheard of", 0.0)]
