"""Every interleaving of the order of effects, within bounds: nothing is lost, doubled or revived.

How to read it: `protocol.Rules` are the rules of the worker's loop, each of which can be broken;
`order_of_effects.py` says what can happen in which state, `promises.py` what must hold, `search.py` visits every
reachable state, nearest first.  What the check found when the rules were written down is in FINDINGS.md.
`pytest tests/model -s` prints the shortest way to each broken promise.

Bounds are small on purpose: two workers, one partition, two sessions, three clicks, one or two faults.  A
mistake in an order of effects shows with so few.  Assumed, not checked: a broker stores the sends of one
producer in order, at most once, and an acknowledged record stays (acks=all, idempotence); a commit of a stale
generation is refused; RocksDB keeps a written batch whole.
"""

from dataclasses import replace

import pytest

from tests.model.order_of_effects import order_of_effects
from tests.model.protocol import Bounds, Click, Rules, State
from tests.model.search import Explored, Found, explore

A, B = Click(0), Click(1)
ERASE_A = Click(0, erases=True)

HEAL = Rules()
EXIT = Rules(on_gap="exit", group=False)

STATES_MAX = 400_000

SAFE = {
    "a kill and a zombie": (Bounds((A, A), kills=1, zombies=1, batches_in_flight=1), 10_000),
    "two kills": (Bounds((A, A), kills=2, batches_in_flight=1), 4_000),
    "a zombie between two sessions": (Bounds((A, B, A), zombies=1, batches_in_flight=1), 3_000),
    "a kill and a foreign record": (
        Bounds((A, B, A), kills=1, foreign_records=1, batches_in_flight=1),
        10_000,
    ),
    "a kill, a zombie, and a tombstone that vanishes": (
        Bounds((A, ERASE_A), kills=1, zombies=1, vanishing=1, batches_in_flight=1),
        10_000,
    ),
    "two kills, and a tombstone that vanishes": (
        Bounds((A, ERASE_A), kills=2, vanishing=1, batches_in_flight=1),
        4_000,
    ),
    "a click after an erasure": (Bounds((A, ERASE_A, A), kills=1, vanishing=1), 10_000),
    "a kill while a session expires": (Bounds((A, B), kills=1, expiries=1), 30_000),
    "a zombie while a session expires": (
        Bounds((A, B), zombies=1, expiries=1, batches_in_flight=1),
        7_000,
    ),
    "nothing is ever compacted": (
        Bounds((A, A), zombies=1, foreign_records=1, compacts="never", batches_in_flight=1),
        3_000,
    ),
}
"""What may happen at most, and a floor for the states that must be seen."""

HEALING_ONLY = {
    "a zombie, batches overlapping": (Bounds((A, B, A), zombies=1), 40_000),
    "a kill, batches of two": (Bounds((A, B, A), kills=1, batch_clicks=2), 25_000),
    "a zombie around an erasure": (Bounds((A, ERASE_A, A), zombies=1, batches_in_flight=1), 3_000),
}


@pytest.mark.parametrize("what", SAFE)
@pytest.mark.parametrize("rules", [HEAL, EXIT], ids=["heals and groups", "exits"])
def test_no_interleaving_breaks_a_promise(rules: Rules, what: str) -> None:
    bounds, floor = SAFE[what]
    assert_safe(explore(order_of_effects(rules, bounds), states_max=STATES_MAX), floor)


@pytest.mark.parametrize("what", HEALING_ONLY)
def test_no_interleaving_breaks_a_promise_while_the_owner_heals_in_place(what: str) -> None:
    bounds, floor = HEALING_ONLY[what]
    assert_safe(explore(order_of_effects(HEAL, bounds), states_max=STATES_MAX), floor)


def test_healing_may_also_adopt_nothing_and_send_ours_again() -> None:
    """What a zombie computed further on was answered; adopting it saves work, and is not needed."""
    bounds = Bounds((A, A), kills=1, zombies=1, batches_in_flight=1)
    rules = replace(HEAL, adopts="never")
    assert_safe(explore(order_of_effects(rules, bounds), states_max=STATES_MAX), 10_000)


def test_changelog_before_answers_loses_an_answer() -> None:
    broken(Rules(answers_first=False), Bounds((A,), kills=1), "never answered")


def test_commit_before_the_changelogs_ack_loses_a_state() -> None:
    broken(Rules(done_when_logged=False), Bounds((A,), kills=1), "without it")


def test_a_redelivered_clicks_record_must_be_sent_again() -> None:
    broken(Rules(resends_redelivered=False), Bounds((A,), kills=1), "without it")


@pytest.mark.parametrize("rules", [HEAL, EXIT], ids=["heals", "exits"])
def test_a_restore_must_send_again_what_the_changelog_has_in_an_older_version(rules: Rules) -> None:
    bounds = Bounds((A, A), kills=1, foreign_records=1)
    broken(replace(rules, resends_restored=False), bounds, "without it")


def test_a_restore_must_not_count_as_done_before_what_it_sends_again_is_stored() -> None:
    """FINDINGS 1."""
    bounds = Bounds((A, A), kills=1, foreign_records=1)
    broken(replace(EXIT, notes_after_resend=False), bounds, "without it")


def test_without_the_contiguity_check_a_foreign_record_loses_a_state() -> None:
    bounds = Bounds((A, A, B), foreign_records=1)
    broken(replace(EXIT, checks_gaps=False), bounds, "without it")
    broken(replace(HEAL, checks_gaps=False), bounds, "without it")


def test_an_owner_that_looks_only_when_it_writes_leaves_a_zombies_last_word() -> None:
    """FINDINGS 2."""
    bounds = Bounds((A, A), zombies=1)
    broken(replace(EXIT, watches_end=False), bounds, "restored after compaction")
    broken(replace(HEAL, watches_end=False), bounds, "restored after compaction")


def test_compaction_must_not_be_faster_than_the_owner_looks() -> None:
    """FINDINGS 2: `min.compaction.lag.ms`."""
    broken(HEAL, Bounds((A, A), foreign_records=1, compacts="anything"), "without it")


def test_healing_must_not_adopt_older_records() -> None:
    broken(Rules(adopts="any"), Bounds((A, A), foreign_records=1), "without it")


def test_healing_without_asking_who_the_owner_is_never_ends() -> None:
    """Neither state nor answers are lost by it: owner and zombie mend behind each other, for ever."""
    broken(Rules(verifies_owner=False), Bounds((A,), zombies=1), "endless")


def test_healing_must_send_what_is_written_and_not_what_is_only_computed() -> None:
    """FINDINGS 5: the answer of what is only computed may never arrive."""
    bounds = Bounds((A, A, A), kills=1, foreign_records=1)
    broken(Rules(heals_from="staged"), bounds, "never answered")


def test_a_tombstone_without_the_offset_lets_a_click_be_answered_with_other_content() -> None:
    """FINDINGS 3: one kill is enough."""
    bounds = Bounds((A, A, ERASE_A), kills=1)
    broken(Rules(tombstones_carry_offset=False), bounds, "other content")


def test_a_tombstone_without_the_offset_lets_an_older_record_revive_its_session() -> None:
    bounds = Bounds((A, ERASE_A), foreign_records=1)
    broken(Rules(tombstones_carry_offset=False), bounds, "without it")


def test_a_disk_older_than_the_tombstones_revives_an_erased_session() -> None:
    """FINDINGS 4."""
    bounds = Bounds((A, ERASE_A), kills=2, vanishing=1, batches_in_flight=1)
    broken(Rules(wipes_old_disk=False), bounds, "on the owner's disk")


def test_a_writer_must_not_sleep_longer_than_tombstones_are_kept() -> None:
    """A limit of the rules: `delete.retention.ms` must be longer than any worker can be frozen."""
    bounds = Bounds((A, ERASE_A), foreign_records=1, vanishing=1, sleeps_longer=True)
    broken(HEAL, bounds, "without it")


def test_knowing_nothing_of_a_session_is_knowledge_too() -> None:
    """FINDINGS 5: else healing adopts a forgotten session's old record, although its erasure is committed."""
    bounds = Bounds(
        (A, ERASE_A), foreign_records=1, vanishing=1, sleeps_longer=True, only_in_the_end=True
    )
    broken(Rules(absent_counts_as_committed=False), bounds, "all clicks are committed")
    assert_safe(explore(order_of_effects(HEAL, bounds), states_max=STATES_MAX), 100)


def assert_safe(explored: Explored[State], floor: int) -> None:
    """No promise broken, and enough seen for that to mean something."""
    if explored.found is not None:
        pytest.fail(told(explored.found), pytrace=False)
    assert explored.states >= floor, "the model has become too small to find anything"
    assert explored.settled >= 5, "hardly anything ever settles"


def broken(rules: Rules, bounds: Bounds, problem: str) -> None:
    """The search must find the broken promise; the way there is printed."""
    found = explore(order_of_effects(rules, bounds), states_max=STATES_MAX).found
    assert found is not None, "the broken order was not found"
    print(f"\n{told(found)}")
    assert problem in found.problem


def told(found: Found[State]) -> str:
    """A way, line by line; the workers keep their names although the model has forgotten them."""
    names = ["first worker", "second worker"]
    lines = []
    for step, swapped in found.steps:
        lines.append(f"  {names[step.who] if step.who >= 0 else 'network':13} {step.what}")
        if swapped:
            names.reverse()
    return "\n".join((*lines, f"  => {found.problem}"))
