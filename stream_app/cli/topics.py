"""`nextclick topics`: create and check what the other commands need on the broker."""

import click

from stream_app.adapters import kafka_topics
from stream_app.cli.options import with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.settings import Settings


@click.group()
def topics() -> None:
    """Create and check the topics.

    \b
    Example:
      nextclick topics create --partitions 8
      nextclick topics check
    """


@topics.command()
@with_settings("kafka.bootstrap_servers", "topics.partitions", "topics.replication")
def create(settings: Settings) -> None:
    """Create the missing topics, leave the others as they are, and check them all.

    \b
    Example:
      nextclick topics create --partitions 8 --replication 3
    """
    for plan in kafka_topics.create_topics(settings.kafka, settings.topics):
        click.echo(f"created {plan.name} ({_partitions(plan.partitions)})")
    _check(settings)


@topics.command()
@with_settings("kafka.bootstrap_servers", "topics.partitions", "topics.replication")
def check(settings: Settings) -> None:
    """Say whether all topics are there and as they must be (exit 2 if not, 69 without a broker).

    \b
    Example:
      nextclick topics check --bootstrap-servers kafka:9092
    """
    _check(settings)


def _check(settings: Settings) -> None:
    problems = kafka_topics.check_topics(settings.kafka, settings.topics)
    if problems:
        raise ConfigurationError("\n".join(_lines(settings, problems)))
    facts = kafka_topics.topic_facts(settings.kafka, settings.topics.clicks)
    count = facts[settings.topics.clicks].partitions
    click.echo(f"all topics are there and fit together ({_partitions(count)} of clicks)")


def _lines(settings: Settings, problems: list[kafka_topics.TopicProblem]) -> list[str]:
    servers, names = settings.kafka.bootstrap_servers, settings.topics
    lines = [problem.message for problem in problems]
    missing = [problem.missing for problem in problems if problem.missing]
    if missing:
        lines.append(
            "create what is missing: nextclick topics create "
            f"--bootstrap-servers {servers} --partitions {names.partitions} "
            f"--replication {names.replication}"
        )
        lines.append("or with Kafka's own tool:")
        lines.extend(f"  {plan.command(servers)}" for plan in missing)
    return lines


def _partitions(count: int) -> str:
    return f"{count} partition{'s' if count != 1 else ''}"
