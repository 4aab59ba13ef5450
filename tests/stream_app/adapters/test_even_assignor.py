"""Every history of joins and departures, within bounds, and what each rebalance made of it."""

import copy
from itertools import product

import pytest
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

from stream_app.adapters.even_assignor import EvenAssignor

Group = dict[str, CopartitionedAssignment]
TOPICS = {"clicks"}
PARTITIONS_MAX = 9
MEMBERS_MAX = 5
REBALANCES = 4


def rebalanced(
    members: Group,
    partitions: int,
    replicas: int,
    assignor: type[CopartitionedAssignor] = EvenAssignor,
) -> Group:
    before = copy.deepcopy(members)
    made = assignor(TOPICS, before, num_partitions=partitions, replicas=replicas)
    return dict(made.get_assignment())


def newcomer() -> CopartitionedAssignment:
    return CopartitionedAssignment(topics=set(TOPICS))


def owners(members: Group) -> dict[int, str]:
    return {p: name for name, member in members.items() for p in member.actives}


def spread(members: Group) -> int:
    counts = [len(member.actives) for member in members.values()]
    return max(counts) - min(counts)


def assert_sound(members: Group, partitions: int, replicas: int) -> None:
    owned = [p for member in members.values() for p in member.actives]
    assert sorted(owned) == list(range(partitions)), "each partition has one owner"
    assert spread(members) <= 1
    stood_by = [p for member in members.values() for p in member.standbys]
    copies = min(replicas, len(members) - 1)
    assert sorted(stood_by) == sorted(list(range(partitions)) * copies)
    for member in members.values():
        assert member.actives.isdisjoint(member.standbys)


def moved(before: Group, after: Group) -> int:
    then, now = owners(before), owners(after)
    return sum(then[p] != now[p] for p in now if p in then)


@pytest.mark.parametrize("replicas", [0, 1])
@pytest.mark.parametrize("partitions", range(1, PARTITIONS_MAX + 1))
def test_whoever_comes_and_goes_the_shares_are_even_and_no_more_moves_than_must(
    partitions: int, replicas: int
) -> None:
    # Each digit of a history: 0 someone joins, n > 0 the n-th member leaves.
    for history in product(range(MEMBERS_MAX), repeat=REBALANCES):
        members = rebalanced({"m0": newcomer()}, partitions, replicas)
        for turn, event in enumerate(history, 1):
            before = members
            if event == 0:
                group = {**before, f"m{turn}": newcomer()}
                members = rebalanced(group, partitions, replicas)
                assert moved(before, members) == partitions // len(group)
            elif len(before) >= max(2, event):
                leaver = sorted(before)[event - 1]
                group = {name: member for name, member in before.items() if name != leaver}
                members = rebalanced(group, partitions, replicas)
                assert moved(before, members) == len(before[leaver].actives)
            else:
                break
            assert_sound(members, partitions, replicas)


def test_faust_alone_gives_a_third_worker_nothing() -> None:
    """Why this exists.  Once this fails, Faust does it itself, and we need not."""
    two: Group = rebalanced({"a": newcomer(), "b": newcomer()}, 4, 1, CopartitionedAssignor)
    three = rebalanced({**two, "c": newcomer()}, 4, 1, CopartitionedAssignor)
    assert three["c"].actives == set()
    assert rebalanced({**two, "c": newcomer()}, 4, 1)["c"].actives


def test_a_partition_that_two_members_claim_has_one_owner_afterwards() -> None:
    """A zombie comes back with what it had."""
    claims = {name: CopartitionedAssignment({0, 1, 2}, set(), set(TOPICS)) for name in "ab"}
    assert_sound(rebalanced(claims, 4, 1), 4, 1)
    assert_sound(rebalanced({**claims, "c": newcomer()}, 4, 1), 4, 1)


def test_of_what_a_member_leaves_behind_its_standby_becomes_the_owner() -> None:
    three = rebalanced({name: newcomer() for name in "abc"}, 3, 1)
    standbys = {p: name for name, member in three.items() for p in member.standbys}
    (orphan,) = three["a"].actives
    two = rebalanced({name: three[name] for name in "bc"}, 3, 1)
    assert owners(two)[orphan] == standbys[orphan]
