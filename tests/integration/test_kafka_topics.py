"""Topics on a real broker: created as planned, and what is wrong with them is found."""

import pytest
from click.testing import CliRunner

from stream_app.adapters import kafka_topics
from stream_app.cli.options import settings_as_flags
from stream_app.cli.topics import topics as topics_command
from stream_app.core.errors import ConfigurationError
from stream_app.settings import Settings


def test_missing_topics_are_created_and_then_fit(kafka, make_topics):
    names = make_topics.name(partitions=3)
    problems = kafka_topics.check_topics(kafka.settings, names)
    assert {p.missing.name for p in problems} == set(kafka_topics.names_of(names))

    facts = kafka_topics.ensure_topics(kafka.settings, names)

    assert kafka_topics.check_topics(kafka.settings, names) == []
    assert {n: f.partitions for n, f in facts.items()} == {
        names.clicks: 3,
        names.recommendations: 3,
        names.dead_letters: 3,
        names.sessions: 3,
        names.releases: 1,
        names.statistics: 1,
        names.items: 1,
    }
    assert facts[names.sessions].is_compacted
    assert not facts[names.clicks].is_compacted
    assert facts[names.dead_letters].message_bytes_max > facts[names.clicks].message_bytes_max


def test_creating_twice_creates_nothing_the_second_time(kafka, make_topics):
    names = make_topics.name(partitions=1)
    assert len(kafka_topics.create_topics(kafka.settings, names)) == 7
    assert kafka_topics.create_topics(kafka.settings, names) == []


def test_a_recreated_topic_has_another_id(kafka, make_topics):
    names = make_topics(partitions=1)
    before = kafka_topics.topic_id(kafka.settings, names.clicks)
    assert len(before) == 16
    assert kafka_topics.topic_id(kafka.settings, names.clicks) == before
    with kafka_topics.admin_client(kafka.settings) as admin:
        admin.delete_topics([names.clicks])
    kafka_topics.create_topics(kafka.settings, names)
    assert kafka_topics.topic_id(kafka.settings, names.clicks) != before


def test_the_click_topics_own_partition_count_decides_over_the_setting(kafka, make_topics):
    names = make_topics.name(partitions=4)
    with kafka_topics.admin_client(kafka.settings) as admin:
        admin.create_topics({names.clicks: {"num_partitions": 2, "replication_factor": 1}})
        admin.wait_for_topics([names.clicks])
    facts = kafka_topics.ensure_topics(kafka.settings, names)
    assert facts[names.sessions].partitions == 2


def test_different_partition_counts_are_refused_by_name(kafka, make_topics):
    names = make_topics.name(partitions=1)
    with kafka_topics.admin_client(kafka.settings) as admin:
        admin.create_topics({names.recommendations: {"num_partitions": 4, "replication_factor": 1}})
        admin.wait_for_topics([names.recommendations])
    with pytest.raises(ConfigurationError, match=r"clicks has 1 partitions, .*recommendations 4"):
        kafka_topics.ensure_topics(kafka.settings, names)


def test_more_replicas_than_brokers_are_refused_with_the_commands_to_run(kafka, make_topics):
    names = make_topics.name(partitions=1).model_copy(update={"replication": 3})
    with pytest.raises(ConfigurationError) as refused:
        kafka_topics.create_topics(kafka.settings, names)
    assert f"--create --topic {names.clicks} --partitions 1 --replication-factor 3" in str(
        refused.value
    )
    assert "--config min.insync.replicas=2" in str(refused.value)


def test_a_missing_topic_has_no_id(kafka, make_topics):
    with pytest.raises(ConfigurationError, match="is missing: run `nextclick topics create`"):
        kafka_topics.topic_id(kafka.settings, make_topics.name().clicks)


def test_the_commands_say_what_they_did_and_what_is_missing(kafka, make_topics):
    settings = Settings(kafka=kafka.settings, topics=make_topics.name(partitions=2))
    flags = settings_as_flags(settings)
    runner = CliRunner()

    before = runner.invoke(topics_command, ["check", *flags], standalone_mode=False)
    assert isinstance(before.exception, ConfigurationError)
    assert f"topic {settings.topics.clicks} is missing" in str(before.exception)
    assert "nextclick topics create --bootstrap-servers" in str(before.exception)
    assert f"--create --topic {settings.topics.sessions} --partitions 2" in str(before.exception)

    created = runner.invoke(topics_command, ["create", *flags], standalone_mode=False)
    assert created.exception is None
    assert f"created {settings.topics.clicks} (2 partitions)" in created.output
    after = runner.invoke(topics_command, ["check", *flags], standalone_mode=False)
    assert "all topics are there and fit together (2 partitions of clicks)" in after.output
