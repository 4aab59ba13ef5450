"""What is wrong with a set of topics, without a broker."""

import pytest

from stream_app.adapters.kafka_topics import TopicFacts, find_problems, plan_topics
from stream_app.settings import TopicSettings

NAMES = TopicSettings()


def sound(**more: TopicFacts) -> dict[str, TopicFacts]:
    """All topics as we create them, some of them replaced."""
    facts = {
        plan.name: TopicFacts(plan.name, b"\0" * 16, plan.partitions, plan.configs)
        for plan in plan_topics(NAMES, {})
    }
    for attribute, changed in more.items():
        facts[getattr(NAMES, attribute)] = changed
    return facts


def facts(attribute: str, *, partitions: int = 4, **configs: str) -> TopicFacts:
    named = {name.replace("_", "."): value for name, value in configs.items()}
    return TopicFacts(getattr(NAMES, attribute), b"\0" * 16, partitions, named)


def test_topics_as_we_create_them_have_no_problem():
    assert find_problems(NAMES, sound()) == []


@pytest.mark.parametrize(
    ("attribute", "changed", "said"),
    [
        ("clicks", {"partitions": 1}, "clicks.v1 has 1 partitions, nextclick.recommendations.v1 4"),
        ("sessions", {"partitions": 8, "cleanup_policy": "compact"}, "nextclick.sessions.v1 8"),
        ("statistics", {"cleanup_policy": "compact"}, "has 4 partitions and must have 1"),
        ("sessions", {"cleanup_policy": "delete"}, "nextclick.sessions.v1 is not compacted"),
        ("items", {"cleanup_policy": "delete"}, "nextclick.items.v1 is not compacted"),
        ("clicks", {"cleanup_policy": "compact"}, "nextclick.clicks.v1 is compacted"),
        ("dead_letters", {}, "add-config max.message.bytes=1114124"),
        ("clicks", {"max_message_bytes": "3000000"}, "but the largest click and its headers need"),
    ],
)
def test_each_fault_is_said_with_what_to_do(attribute, changed, said):
    problems = find_problems(NAMES, sound(**{attribute: facts(attribute, **changed)}))
    assert any(said in problem.message for problem in problems)
    assert all(problem.missing is None for problem in problems)


def test_compaction_with_deletion_is_compaction():
    changed = facts("sessions", cleanup_policy="compact,delete")
    assert find_problems(NAMES, sound(sessions=changed)) == []


def test_dead_letters_are_planned_larger_than_the_largest_click():
    clicks = {NAMES.clicks: facts("clicks", max_message_bytes="9000000")}
    plans = {plan.name: plan for plan in plan_topics(NAMES, clicks)}
    assert int(plans[NAMES.dead_letters].configs["max.message.bytes"]) > 9_000_000


def test_two_topics_of_one_name_are_refused():
    names = TopicSettings(recommendations="same", dead_letters="same")
    assert any("are equal" in problem.message for problem in find_problems(names, {}))


def test_every_topic_we_write_carries_the_brokers_time():
    """A worker whose clock is an hour ahead would be refused by the broker, and end again and again."""
    by_our_clock = {
        plan.name
        for plan in plan_topics(NAMES, {})
        if plan.configs.get("message.timestamp.type") != "LogAppendTime"
    }
    assert by_our_clock == {NAMES.clicks}
