"""Recent sessions: what a click follows, the bounds, and that a late start from the anchors changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core import recent_sessions
from stream_app.core.recent_sessions import Anchor, RecentSessions
from stream_app.core.statistics import SessionClick

MINUTE = 60_000
T0 = 1_700_000_000_000


def sessions(sessions_max: int = 100) -> RecentSessions:
    return RecentSessions(positions=4, idle_gap_ms=30 * MINUTE, sessions_max=sessions_max)


def click(offset: int, item: str, minute: float, *, session: str = "s", partition: int = 0):
    return SessionClick(partition, offset, session, item, T0 + int(minute * MINUTE), True)


def test_a_click_follows_the_last_items_of_its_session():
    recent = sessions()
    found = [recent.take(click(n, item, n)) for n, item in enumerate("abcdef")]
    assert found == [
        (),
        ("a",),
        ("a", "b"),
        ("a", "b", "c"),
        ("a", "b", "c", "d"),
        ("b", "c", "d", "e"),
    ]


def test_sessions_of_two_partitions_or_ids_are_not_mixed():
    recent = sessions()
    recent.take(click(0, "a", 0))
    assert recent.take(click(0, "b", 0, partition=1)) == ()
    assert recent.take(click(1, "c", 0, session="t")) == ()


def test_a_silence_longer_than_the_gap_starts_a_new_session():
    recent = sessions()
    recent.take(click(0, "a", 0))
    assert recent.take(click(1, "b", 30)) == ("a",)
    assert recent.take(click(2, "c", 60.1)) == ()


def test_a_late_click_is_taken_in_log_order_and_moves_no_clock_back():
    recent = sessions()
    recent.take(click(0, "a", 20))
    assert recent.take(click(1, "b", 0)) == ("a",)
    assert recent.take(click(2, "c", 45)) == ("a", "b")


def test_a_session_that_its_partition_left_behind_is_over():
    """Otherwise it would have to be remembered for as long as anybody may be late."""
    recent = sessions()
    recent.take(click(0, "a", 0))
    recent.take(click(1, "x", 31, session="other"))
    assert len(recent) == 1
    assert recent.take(click(2, "b", 1)) == ()


def test_above_the_bound_the_longest_untouched_sessions_go():
    recent = sessions(sessions_max=2)
    for n, name in enumerate(["one", "two", "one", "three"]):
        recent.take(click(n, "a", 0, session=name))
    assert len(recent) == 2
    assert recent.take(click(4, "b", 0, session="one")) == ("a", "a")
    assert recent.take(click(5, "b", 0, session="two")) == ()


def test_a_session_without_consent_or_erased_is_forgotten_and_not_followed():
    recent = sessions()
    recent.take(click(0, "a", 0))
    recent.take(SessionClick(0, 1, "s", "b", T0, False))
    assert recent.take(click(2, "c", 0)) == ()
    recent.take(SessionClick(0, 3, "s", None, T0, False))
    assert recent.take(click(4, "d", 0)) == ()


log_of = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["one", "two", "three", "four"]),
        st.integers(-40, 25),
        st.sampled_from(["click", "click", "click", "click", "forget"]),
    ),
    max_size=60,
)


@pytest.mark.parametrize("checkpoint", [1, 3])
@given(log=log_of, data=st.data())
def test_starting_anew_from_the_anchors_of_any_moment_gives_the_same_sessions(
    checkpoint, log, data
):
    """Late clicks, ends of sessions, the bound and forgotten sessions included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_sessions, "CHECKPOINT_CLICKS", checkpoint)
        clicks, minute = [], 0.0
        for offset, (item, session, step, kind) in enumerate(log):
            clicks.append(click(offset, item, minute + step, session=session))
            if kind == "forget":
                clicks[-1] = clicks[-1]._replace(remembered=False)
            minute += max(0, step)
        stop = data.draw(st.integers(0, len(clicks)))
        whole = sessions(sessions_max=3)
        for one in clicks[:stop]:
            whole.take(one)
            if data.draw(st.booleans()):
                whole.anchors()
        anchors = whole.anchors()
        again = sessions(sessions_max=3)
        for partition, anchor in anchors.items():
            again.resume(partition, anchor)
        for one in clicks[:stop]:
            if one.partition in anchors and one.offset >= anchors[one.partition].offset:
                again.take(one)
        assert again.state() == whole.state()
        for one in clicks[stop:]:
            assert again.take(one) == whole.take(one)


def test_anchors_move_on_with_the_sessions():
    """Bounded by the gap: what an aggregator reads again is about as long as its sessions."""
    recent = sessions()
    for n in range(10_000):
        recent.take(click(n, "a", n, session=f"s{n // 5}"))
    anchor = recent.anchors()[0]
    assert isinstance(anchor, Anchor)
    assert 10_000 - 3 * recent_sessions.CHECKPOINT_CLICKS < anchor.offset < 10_000
    assert anchor.clock_ms == T0 + (anchor.offset - 1) * MINUTE
