"""Names of topics that nobody else uses."""

import uuid

from stream_app.settings import TopicSettings


def made_up_topics(prefix: str, *, partitions: int, replication: int = 1) -> TopicSettings:
    """All topics; names only, nothing is created."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    return TopicSettings(
        clicks=f"{name}.clicks",
        recommendations=f"{name}.recommendations",
        dead_letters=f"{name}.clicks.dlq",
        releases=f"{name}.releases",
        sessions=f"{name}.sessions",
        statistics=f"{name}.statistics",
        items=f"{name}.items",
        partitions=partitions,
        replication=replication,
    )
