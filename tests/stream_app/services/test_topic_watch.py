"""What counts as a change of the topics, and what it says."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from stream_app.adapters.kafka_topics import Incarnation
from stream_app.adapters.served_topics import CommittedOffset, ServedTopics
from stream_app.core.errors import TopicsChangedError
from stream_app.services.topic_watch import (
    TopicWatch,
    changes_since,
    refuse_changed_disk,
    served_topics,
)
from stream_app.settings import KafkaSettings, TopicSettings

TOPICS = TopicSettings(
    clicks="clicks", recommendations="recommendations", sessions="sessions", partitions=4
)
CLICKS, ANSWERS, SESSIONS, OTHER = (bytes([n]) * 16 for n in range(1, 5))
AS_SERVED = {
    "clicks": Incarnation(CLICKS, 4),
    "recommendations": Incarnation(ANSWERS, 4),
    "sessions": Incarnation(SESSIONS, 4),
}
SERVED = served_topics(TOPICS, AS_SERVED)


def watch() -> TopicWatch:
    return TopicWatch(KafkaSettings(), "group", TOPICS, SERVED, on_finding=print)


def finding(**changed: Incarnation) -> str | None:
    return watch().look({**AS_SERVED, **changed})


def without(name: str) -> Mapping[str, Incarnation]:
    return {other: facts for other, facts in AS_SERVED.items() if other != name}


def test_topics_as_they_were_are_no_finding() -> None:
    assert finding() is None


def test_a_recreated_click_topic_is_found_by_its_id_and_says_how_to_begin_afresh() -> None:
    found = finding(clicks=Incarnation(OTHER, 4))
    assert found is not None
    assert "clicks was deleted and made anew" in found
    assert "--delete --group group" in found


def test_recreated_recommendations_with_the_same_count_are_no_finding() -> None:
    assert finding(recommendations=Incarnation(OTHER, 4)) is None


def test_a_recreated_changelog_is_a_finding() -> None:
    assert "sessions was deleted and made anew" in str(finding(sessions=Incarnation(OTHER, 4)))


@pytest.mark.parametrize("name", ["clicks", "recommendations", "sessions"])
def test_another_partition_count_says_how_to_migrate(name: str) -> None:
    found = str(finding(**{name: Incarnation(AS_SERVED[name].topic_id, 6)}))
    assert f"{name} now has 6 partitions, it had 4" in found
    assert "To go on with this count" in found


@pytest.mark.parametrize("name", ["clicks", "recommendations", "sessions"])
def test_a_topic_is_missing_when_two_looks_in_a_row_do_not_find_it(name: str) -> None:
    watching = watch()
    assert watching.look(without(name)) is None
    assert watching.look(AS_SERVED) is None
    assert watching.look(without(name)) is None
    assert f"{name} is missing" in str(watching.look(without(name)))


def test_the_group_remembers_what_it_served_in_the_note_of_its_offsets() -> None:
    committed = {0: CommittedOffset(7, ServedTopics.from_note(SERVED.note()))}
    assert list(changes_since(committed, TOPICS, SERVED, "group")) == []


@pytest.mark.parametrize(
    ("before", "says"),
    [
        (ServedTopics(OTHER, SESSIONS, 4), "it was deleted and made anew"),
        (ServedTopics(CLICKS, SESSIONS, 2), "of 2 partitions, but the topic now has 4"),
        (ServedTopics(CLICKS, OTHER, 4), "the sessions were deleted with it"),
    ],
)
def test_offsets_committed_for_other_topics_are_refused(before: ServedTopics, says: str) -> None:
    (problem,) = changes_since({2: CommittedOffset(7, before)}, TOPICS, SERVED, "group")
    assert "clicks[2] up to 7" in problem
    assert says in problem


def test_offsets_set_with_kafkas_own_tools_carry_no_note_and_are_taken() -> None:
    committed = {0: CommittedOffset(7, ServedTopics.from_note(""))}
    assert list(changes_since(committed, TOPICS, SERVED, "group")) == []


@pytest.mark.parametrize(
    "now",
    [
        ServedTopics(OTHER, SESSIONS, 4),
        ServedTopics(CLICKS, OTHER, 4),
        ServedTopics(CLICKS, SESSIONS, 5),
    ],
)
def test_a_disk_with_sessions_of_other_topics_is_refused_though_the_group_has_forgotten(
    tmp_path: Path, now: ServedTopics
) -> None:
    """The offsets noted on it would be taken for those of the new changelog."""
    refuse_changed_disk(tmp_path, TOPICS, SERVED)
    refuse_changed_disk(tmp_path, TOPICS, SERVED)
    with pytest.raises(TopicsChangedError, match="remove it"):
        refuse_changed_disk(tmp_path, TOPICS, now)
