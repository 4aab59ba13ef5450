"""A broker that cannot be reached for a while ends no worker."""

from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from stream_app.adapters import kafka_topics
from stream_app.adapters.faust_transport import ClickApp
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.stream_reader import uncommitted
from stream_app.core.errors import ServiceAwayError
from stream_app.services.worker import run_worker
from stream_app.settings import KafkaSettings, MetricsSettings, Settings, TopicSettings
from tests.integration.processes import NextclickProcess, wait_until
from tests.integration.test_worker import (
    all_answered,
    assert_exact,
    made_up_clicks,
    produce,
    publish_model,
)
from tests.topics import made_up_topics


def test_a_worker_outlives_an_outage_that_is_longer_than_its_looks_at_the_changelog(
    kafka: Any,
    tmp_path: Path,
) -> None:
    with LocalKafka(tmp_path / "kafka") as broker:
        settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=broker.bootstrap_servers),
            topics=TopicSettings(partitions=1),
            registry=str(tmp_path / "registry"),
            data_dir=tmp_path / "worker",
        )
        kafka_topics.create_topics(settings.kafka, settings.topics)
        scorer = publish_model(settings, tmp_path)
        clicks = made_up_clicks(200)
        with NextclickProcess("worker", settings, tmp_path) as worker:
            worker.wait_for_event("partitions_assigned")
            produce(settings, clicks[:100])
            all_answered(settings, 100)
            group = (settings.kafka, settings.topics.clicks, settings.kafka.group_id)
            wait_until("all are committed", lambda: uncommitted(*group) == 0)
            broker.stop()
            worker.wait_for_event("changelog_not_audited")
            broker.start()
            produce(settings, clicks[100:])
            all_answered(settings, 200)
            assert worker.process.poll() is None, worker.log
            assert worker.terminate() == 0
        assert_exact(settings, scorer, 200)


def test_a_broker_that_goes_away_while_a_worker_starts_is_said_to_be_away(
    kafka: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients of before found it; Faust's own does not any more."""

    async def nobody_there(_: ClickApp) -> None:
        raise KafkaConnectionError("Unable to bootstrap")

    monkeypatch.setattr(ClickApp, "start", nobody_there)
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers),
        topics=made_up_topics("away", partitions=1),
        registry=str(tmp_path / "registry"),
        data_dir=tmp_path / "worker",
        metrics=MetricsSettings(port=0),
    )
    kafka_topics.create_topics(settings.kafka, settings.topics)
    with pytest.raises(ServiceAwayError, match="no broker answers"):
        run_worker(settings)
